//! One layer: downloaded by a task, unpacked by a thread while the bytes come in.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc};

use crate::blocking::{DISK_LIMIT, stalled};
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::registry::{Endpoint, Piece, Session, Sink};
use crate::store::{Home, Staged};
use crate::task::{Stop, ended};
use crate::{Error, ErrorKind};

/// Pieces between the two; each is what the HTTP client reads at once, some 400 KiB at most.
const QUEUE: usize = 16;

/// A layer to fetch.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub blob: Descriptor,
    pub diff_id: Digest,
    /// For messages.
    pub object: String,
    /// The records have it, and the disk has not.
    pub damaged: bool,
}

/// Downloads and unpacks a layer from the first host that can deliver it. The wait for a slot has no limit of its own:
/// all that hold one have.
pub(super) async fn fetch(
    home: Arc<Home>,
    session: Arc<Session>,
    slots: Arc<Semaphore>,
    wanted: Wanted,
    received: Arc<AtomicU64>,
) -> Result<Staged, Error> {
    let slot = slots.acquire_owned().await;
    let _slot = slot.map_err(|_| Error::Cancelled { object: wanted.object.clone() })?;
    let mut hosts = session.hosts_that_pull();
    while let Some(endpoint) = hosts.next() {
        let answer = fetch_from(endpoint, &home, &wanted, &received).await;
        if let Some(staged) = hosts.judge(endpoint, answer)? {
            return Ok(staged);
        }
    }
    Err(hosts.verdict())
}

async fn fetch_from(
    endpoint: &Endpoint,
    home: &Arc<Home>,
    wanted: &Wanted,
    received: &AtomicU64,
) -> Result<Staged, Error> {
    received.store(0, Ordering::Relaxed);
    let (pieces, incoming) = mpsc::channel(QUEUE);
    let object = format!("{} from {}", wanted.object, endpoint.name());
    let stop = Stop(Arc::default());
    let unpacking = tokio::task::spawn_blocking({
        let (home, wanted, stopped) = (Arc::clone(home), wanted.clone(), Arc::clone(&stop.0));
        let object = object.clone();
        let source = Incoming { pieces: incoming, current: Vec::new(), position: 0, ended: false };
        move || Staged::unpack(&home, source, Some(&wanted.blob), &wanted.diff_id, &object, &stopped)
    });
    let sink = Sink { pieces, received };
    let downloaded = endpoint.download(&wanted.blob, &wanted.object, &sink).await;
    // Without its end the unpacker stops where it is.
    drop(sink);
    let unpacked = match tokio::time::timeout(DISK_LIMIT, unpacking).await {
        Ok(Ok(unpacked)) => unpacked,
        Ok(Err(error)) => Err(ended(error, &object)),
        Err(_) => Err(stalled(&object, "the unpacker")),
    };
    match downloaded {
        // The unpacker has stopped listening, and knows why.
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(unpacked.err().unwrap_or(error)),
        Err(error) => Err(error),
        Ok(()) => unpacked,
    }
}

/// The blob as the unpacker reads it.
struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => (self.current, self.position) = (data, 0),
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was cut")),
            }
        }
        let rest = &self.current[self.position..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}
