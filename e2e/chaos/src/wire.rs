//! CRI over a unix socket whose server comes and goes: what a call came to, told apart by whether the server answered.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_cri::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Both services over one connection, which is made anew whenever the old one is lost.
#[derive(Debug, Clone)]
pub struct Cri {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub image: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects with the first call.
    pub fn to(socket: &Path) -> Self {
        let path = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_LIMIT)
            .connect_with_connector_lazy(service_fn(move |_: Uri| connect(path.clone())));
        Self { runtime: RuntimeServiceClient::new(channel.clone()), image: ImageServiceClient::new(channel) }
    }
}

async fn connect(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(path).await.map(TokioIo::new)
}

/// What one call came to.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The server did it.
    Answer(T),
    /// The server refused.
    Refused(Status),
    /// No answer: the connection broke, or there was none. The server may have done it or not.
    Lost(String),
    /// No answer within the limit, and the call was given up.
    Cut,
}

/// What tonic says of a channel that has no connection.
const NOT_READY: &str = "Service was not ready";

/// Waits for an answer, `limit` at the longest. A future that is dropped resets its HTTP/2 stream, as a client does
/// whose deadline has passed.
pub async fn outcome<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    limit: Duration,
) -> Outcome<T> {
    match timeout(limit, call).await {
        Err(_) => Outcome::Cut,
        Ok(Ok(answer)) => Outcome::Answer(answer.into_inner()),
        // A status that the server sent has no cause; one that was made of a broken connection has.
        Ok(Err(status)) if status.source().is_some() || status.message().starts_with(NOT_READY) => {
            Outcome::Lost(status.message().to_owned())
        }
        Ok(Err(status)) => Outcome::Refused(status),
    }
}

/// An error's text without what differs from one object to the next, so that equal errors are counted together.
pub fn kind_of(method: &str, status: &Status) -> String {
    format!("{method}: {:?}: {}", status.code(), normal(status.message()))
}

/// Ids, numbers and quoted words are replaced.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for letter in text.chars().chain([' ']) {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        let is_hex = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
        out.push_str(if is_hex {
            "<id>"
        } else if has_digit {
            "<n>"
        } else {
            &word
        });
        word.clear();
        out.push(letter);
    }
    let out = out.trim();
    out.char_indices().nth(KIND_LENGTH).map_or(out, |(at, _)| &out[..at]).to_owned()
}

/// Letters of an error's text that are kept.
const KIND_LENGTH: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_errors_are_one_kind() {
        let one = Status::not_found(format!("container {} of c3-7: mount: EBUSY", "1a".repeat(32)));
        let two = Status::not_found(format!("container {} of c1-12: mount: EBUSY", "2b".repeat(32)));
        assert_eq!(kind_of("StopContainer", &one), kind_of("StopContainer", &two));
        assert_eq!(
            kind_of("StopContainer", &one),
            "StopContainer: NotFound: container <id> of <n>-<n>: mount: EBUSY"
        );
    }
}
