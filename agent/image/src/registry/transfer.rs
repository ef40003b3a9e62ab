//! One blob, streamed; broken connections are resumed where they broke.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::endpoint::{Endpoint, backoff};
use super::http::{Body, Subject};
use super::sent::Sent;
use crate::blocking::DISK_LIMIT;
use crate::manifest::Descriptor;
use crate::{Error, ErrorKind};

const ATTEMPTS: u32 = 5;
/// So much progress forgives earlier failures.
const FORGIVING: u64 = 1 << 20;

/// What the receiver of a blob gets; a channel that ends without `End` was cut.
pub(crate) enum Piece {
    Data(Vec<u8>),
    End,
}

/// Where a download puts its bytes, and counts them.
pub(crate) struct Sink<'a> {
    pub pieces: mpsc::Sender<Piece>,
    pub received: &'a AtomicU64,
}

impl Endpoint {
    /// Downloads the blob into the sink. More or fewer bytes than the descriptor says are an error; the digest is the
    /// receiver's to check.
    pub(crate) async fn download(
        &self,
        blob: &Descriptor,
        object: &str,
        sink: &Sink<'_>,
    ) -> Result<(), Error> {
        let subject = self.subject(object);
        let mut received = 0;
        let (mut failures, mut last_failure) = (0, 0);
        loop {
            match self.download_from(blob, &subject, &mut received, sink).await {
                Ok(()) => break,
                // The connection broke behind the last byte; there is no range to ask for.
                Err(error)
                    if error.kind() == ErrorKind::Unavailable && received == blob.size && blob.size > 0 =>
                {
                    break;
                }
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
        let response = self.blob(&blob.digest, *received, subject).await?;
        let object = format!("{} from {}{}", subject.object, self.name(), Sent::of(&response).hint());
        let wrong_size =
            |actual: u64| Error::SizeMismatch { object: object.clone(), expected: blob.size, actual };
        let mut position = begins_at(&response, *received).map_err(wrong_size)?;
        if let Some(length) = response.content_length()
            && position.saturating_add(length) != blob.size
        {
            return Err(wrong_size(position.saturating_add(length)));
        }
        let mut body = Body::new(response, subject);
        while let Some(chunk) = body.chunk().await? {
            let chunk = chunk.as_ref();
            let end = position + chunk.len() as u64;
            if end > blob.size {
                return Err(wrong_size(end));
            }
            let known =
                usize::try_from(received.saturating_sub(position)).unwrap_or(usize::MAX).min(chunk.len());
            position = end;
            if known < chunk.len() {
                let pause = Instant::now();
                send(sink, Piece::Data(chunk[known..].to_vec()), subject).await?;
                body.excuse(pause.elapsed());
                *received = end;
                sink.received.store(end, Ordering::Relaxed);
            }
        }
        if *received < blob.size {
            return Err(wrong_size(*received));
        }
        Ok(())
    }
}

/// Where the body stands in the blob. A server without ranges begins again; what we have is then passed over.
fn begins_at(response: &Response, asked: u64) -> Result<u64, u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start =
        range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
    match start {
        Some(start) if start != asked => Err(start),
        _ => Ok(asked),
    }
}

/// The wait is for our own disk, so it has a limit of its own.
async fn send(sink: &Sink<'_>, piece: Piece, subject: &Subject) -> Result<(), Error> {
    match tokio::time::timeout(DISK_LIMIT, sink.pieces.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        // The unpacker is gone: it has the reason.
        Ok(Err(_)) => Err(Error::Cancelled { object: subject.object.clone() }),
        Err(_) => {
            let stage = "the disk of the image store".to_owned();
            Err(Error::Stalled { object: subject.object.clone(), stage, timeout: DISK_LIMIT })
        }
    }
}
