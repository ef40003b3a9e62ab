//! Lists in pieces (KEP-5825): a list of any length passes a client's limit on one message.

use futures_util::stream;
use tonic::codegen::BoxStream;

/// Items in one message. A container with long annotations is some tens of KiB, and a message may have 16 MiB.
const CHUNK: usize = 100;

/// A stream of messages.
pub type Chunks<M> = BoxStream<M>;

/// Cuts `items` into messages.
pub fn chunks<I: Send + 'static, M: Send + 'static>(items: Vec<I>, message: fn(Vec<I>) -> M) -> Chunks<M> {
    let mut items = items.into_iter();
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let chunk: Vec<I> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then(|| Ok(message(chunk)))
    })))
}
