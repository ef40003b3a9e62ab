//! An archive on its way to the agent: a file, stdin, or a directory that is packed while it travels.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use holdfast_model::Image;
use tokio::sync::{mpsc, oneshot};

use super::ImageCliError;
use crate::cri::client::Client;

/// Bytes of one message, far below the agent's limit for a request.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for the socket.
const QUEUE: usize = 4;

/// How long a reader may take to say that it failed, once the agent has given up.
const READER_LIMIT: Duration = Duration::from_secs(1);

/// Sends what is at `source` and returns the images that the agent made of it.
pub(super) async fn send(
    client: &Client,
    source: &Path,
    name: Option<String>,
) -> Result<Vec<Image>, ImageCliError> {
    let (chunks, receiver) = mpsc::channel(QUEUE);
    let (done, read_done) = oneshot::channel();
    let path = source.to_owned();
    // A thread of its own: nobody waits for one that is stuck in a read of stdin when the program ends.
    std::thread::spawn(move || drop(done.send(read(&path, &mut Chunks { chunks }))));
    match client.import(name, receiver).await {
        Ok(images) => Ok(images),
        // The agent gives up when the archive stops coming: what stopped it is the better answer.
        Err(error) => match tokio::time::timeout(READER_LIMIT, read_done).await {
            Ok(Ok(Err(cause))) if cause.kind() != io::ErrorKind::BrokenPipe => {
                Err(ImageCliError::Read { path: source.to_owned(), source: cause })
            }
            _ => Err(error.into()),
        },
    }
}

/// Reads all of it and then says that this was all.
fn read(path: &Path, chunks: &mut Chunks) -> io::Result<()> {
    if path == Path::new("-") {
        copy(&mut io::stdin().lock(), chunks)?;
    } else if path.is_dir() {
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, &mut *chunks));
        archive.append_dir_all(".", path)?;
        archive.into_inner()?.flush()?;
    } else {
        copy(&mut File::open(path)?, chunks)?;
    }
    chunks.send(None)
}

fn copy(from: &mut impl Read, to: &mut Chunks) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Every write is a chunk.
struct Chunks {
    chunks: mpsc::Sender<Option<Vec<u8>>>,
}

impl Chunks {
    fn send(&self, chunk: Option<Vec<u8>>) -> io::Result<()> {
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK);
        self.send(Some(bytes[..length].to_vec()))?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What goes over the channel for a path.
    fn sent(path: &Path) -> (Vec<Option<Vec<u8>>>, io::Result<()>) {
        let (chunks, mut receiver) = mpsc::channel(64);
        let result = read(path, &mut Chunks { chunks });
        let mut all = Vec::new();
        while let Ok(chunk) = receiver.try_recv() {
            all.push(chunk);
        }
        (all, result)
    }

    #[test]
    fn a_file_goes_in_chunks_and_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, vec![7; CHUNK + 1]).unwrap();
        let (chunks, result) = sent(&path);
        result.unwrap();
        let lengths: Vec<_> = chunks.iter().map(|chunk| chunk.as_ref().map(Vec::len)).collect();
        assert_eq!(lengths, [Some(CHUNK), Some(1), None]);
    }

    #[test]
    fn a_directory_is_packed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
        let (chunks, result) = sent(dir.path());
        result.unwrap();
        assert_eq!(chunks.last(), Some(&None));
        let bytes: Vec<u8> = chunks.into_iter().flatten().flatten().collect();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert!(names.iter().any(|name| name.ends_with("oci-layout")), "{names:?}");
    }

    #[test]
    fn what_cannot_be_read_has_no_end() {
        let (chunks, result) = sent(Path::new("/nonexistent/archive.tar"));
        assert!(chunks.is_empty() && result.is_err());
    }
}
