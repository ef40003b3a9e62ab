//! One blob, streamed; broken connections are resumed where they broke.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tokio::sync::{Semaphore, mpsc};

use super::http::{Body, Subject};
use super::{Endpoint, backoff};
use crate::manifest::Descriptor;
use crate::{Error, ErrorKind};

const ATTEMPTS: u32 = 5;
/// So much progress forgives earlier failures.
const FORGIVING: u64 = 1 << 20;
/// An unpacker that takes nothing for so long is stuck (a disk that hangs).
const UNPACK_LIMIT: Duration = Duration::from_secs(600);

/// What the receiver of a blob gets; a channel that ends without `End` was cut.
pub(crate) enum Piece {
    Data(Vec<u8>),
    End,
}

/// Where a download puts its bytes and reports them.
pub(crate) struct Sink<'a> {
    pub pieces: mpsc::Sender<Piece>,
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
    /// Downloads at once, over all pulls.
    pub slots: Arc<Semaphore>,
}

impl Endpoint {
    /// Downloads the blob into the sink. More or fewer bytes than the descriptor says are an error; the digest is the
    /// receiver's to check.
    pub(crate) async fn download(&self, blob: &Descriptor, object: &str, sink: &Sink<'_>) -> Result<(), Error> {
        let subject = self.subject(object);
        let slot = Arc::clone(&sink.slots).acquire_owned().await;
        let _slot = slot.map_err(|_| Error::Cancelled { object: object.to_owned() })?;
        let mut received = 0;
        let (mut failures, mut last_failure) = (0, 0);
        loop {
            match self.download_from(blob, &subject, &mut received, sink).await {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    if received >= last_failure + FORGIVING {
                        failures = 0;
                    }
                    failures += 1;
                    last_failure = received;
                    if failures >= ATTEMPTS {
                        return Err(error);
                    }
                    tracing::debug!(%error, received, "download broke off, resuming");
                    tokio::time::sleep(backoff(failures)).await;
                }
                Err(error) => return Err(error),
            }
        }
        send(sink, Piece::End, &subject).await
    }

    async fn download_from(
        &self,
        blob: &Descriptor,
        subject: &Subject,
        received: &mut u64,
        sink: &Sink<'_>,
    ) -> Result<(), Error> {
        let wrong_size = |actual: u64| Error::SizeMismatch {
            object: format!("{} from {}", subject.object, self.name()),
            expected: blob.size,
            actual,
        };
        let response = self.blob(&blob.digest, *received, subject).await?;
        // A server without ranges begins again; what we have is passed over.
        let mut position = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
            if start.is_some_and(|start| start != *received) {
                return Err(wrong_size(start.unwrap_or_default()));
            }
            *received
        } else {
            0
        };
        if let Some(length) = response.content_length()
            && position + length != blob.size
        {
            return Err(wrong_size(position + length));
        }
        let mut body = Body::new(response, subject);
        while let Some(chunk) = body.chunk().await? {
            let chunk = chunk.as_ref();
            let end = position + chunk.len() as u64;
            if end > blob.size {
                return Err(wrong_size(end));
            }
            let known = usize::try_from(received.saturating_sub(position)).unwrap_or(usize::MAX).min(chunk.len());
            position = end;
            if known < chunk.len() {
                send(sink, Piece::Data(chunk[known..].to_vec()), subject).await?;
                *received = end;
                (sink.progress)((chunk.len() - known) as u64);
                body.resume_after_send();
            }
        }
        if *received < blob.size {
            return Err(wrong_size(*received));
        }
        Ok(())
    }
}

async fn send(sink: &Sink<'_>, piece: Piece, subject: &Subject) -> Result<(), Error> {
    match tokio::time::timeout(UNPACK_LIMIT, sink.pieces.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        // The unpacker is gone: it has the reason.
        Ok(Err(_)) => Err(Error::Cancelled { object: subject.object.clone() }),
        Err(_) => {
            let stage = "the disk of the image store".to_owned();
            Err(Error::Stalled { object: subject.object.clone(), stage, timeout: UNPACK_LIMIT })
        }
    }
}
