//! holdfast.v1.Images: import, tag, and pull with progress, for our own command line.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use holdfast_cri::holdfast::{self as wire, images_server::Images};
use holdfast_image::{ImportSource, Progress, Store};
use holdfast_model::{Credentials, Image};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::image::failed;

/// A client that sends nothing for so long is given up, so that an import never waits for ever.
const IMPORT_IDLE: Duration = Duration::from_mins(1);

/// Chunks of an archive, and messages of a pull, that wait for their reader.
const QUEUE: usize = 8;

/// Serves an image store.
#[derive(Clone)]
pub struct ImagesServer {
    store: Store,
}

impl ImagesServer {
    /// For that store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

#[tonic::async_trait]
impl Images for ImagesServer {
    async fn import(
        &self,
        request: Request<Streaming<wire::ImportRequest>>,
    ) -> Result<Response<wire::ImportResponse>, Status> {
        let mut archive = request.into_inner();
        let first =
            next(&mut archive).await?.ok_or_else(|| Status::invalid_argument("the archive is empty"))?;
        let name = Some(first.name.clone()).filter(|name| !name.is_empty());
        let (to_reader, chunks) = mpsc::channel(QUEUE);
        let feeder = tokio::spawn(feed(first, archive, to_reader));
        let reader = Box::new(ChunkReader { chunks, current: Vec::new(), position: 0, ended: false });
        let imported = self.store.import(ImportSource::Reader(reader), name).await;
        feeder.abort();
        let images =
            imported.map_err(|source| failed("Import", "import an image archive".to_owned(), source))?;
        Ok(Response::new(wire::ImportResponse {
            images: images.iter().map(|image| to_wire(image)).collect(),
        }))
    }

    async fn pull(
        &self,
        request: Request<wire::PullRequest>,
    ) -> Result<Response<BoxStream<wire::PullResponse>>, Status> {
        let wire::PullRequest { reference, credentials } = request.into_inner();
        if reference.is_empty() {
            return Err(Status::invalid_argument("reference is missing"));
        }
        let credentials = credentials.map(|given| Credentials {
            username: given.username,
            password: given.password,
            ..Default::default()
        });
        let (messages, stream) = mpsc::channel(QUEUE);
        let store = self.store.clone();
        tokio::spawn(async move {
            let progress = messages.clone();
            // Progress that the client does not keep up with is left out; the next one says more.
            let tell = Arc::new(move |state: Progress| drop(progress.try_send(Ok(progress_to_wire(state)))));
            let pulled = tokio::select! {
                pulled = store.pull(&reference, credentials, Some(tell)) => pulled,
                // A client that goes away stops the pull, as it does with CRI's PullImage.
                () = messages.closed() => return,
            };
            let last = pulled
                .map(|image| wire::PullResponse { progress: None, image: Some(to_wire(&image)) })
                .map_err(|source| failed("Pull", format!("pull image {reference:?}"), source));
            let _ = messages.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn tag(&self, request: Request<wire::TagRequest>) -> Result<Response<wire::TagResponse>, Status> {
        let wire::TagRequest { image, reference } = request.into_inner();
        for (field, value) in [("image", &image), ("reference", &reference)] {
            if value.is_empty() {
                return Err(Status::invalid_argument(format!("{field} is missing")));
            }
        }
        let tagged = self.store.tag(&image, &reference).await;
        let image = tagged.map_err(|source| failed("Tag", format!("tag image {image:?}"), source))?;
        Ok(Response::new(wire::TagResponse { image: Some(to_wire(&image)) }))
    }
}

async fn next(archive: &mut Streaming<wire::ImportRequest>) -> Result<Option<wire::ImportRequest>, Status> {
    tokio::time::timeout(IMPORT_IDLE, archive.message()).await.map_err(|_| {
        Status::deadline_exceeded(format!("import: no data from the client for {} s", IMPORT_IDLE.as_secs()))
    })?
}

/// Hands the chunks on. What ends without its last message was cut off, and the reader learns it as an error.
async fn feed(
    first: wire::ImportRequest,
    mut archive: Streaming<wire::ImportRequest>,
    to_reader: mpsc::Sender<io::Result<Option<Vec<u8>>>>,
) {
    let mut message = first;
    loop {
        let end = message.end;
        if to_reader.send(Ok(Some(message.chunk))).await.is_err() {
            return;
        }
        if end {
            let _ = to_reader.send(Ok(None)).await;
            return;
        }
        message = match next(&mut archive).await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                let _ = to_reader.send(Err(io::Error::other(status.message().to_owned()))).await;
                return;
            }
        };
    }
}

/// The archive as the store reads it, on a blocking thread.
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Option<Vec<u8>>>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Ok(Some(chunk))) => (self.current, self.position) = (chunk, 0),
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client went away")),
            }
        }
        let rest = &self.current[self.position..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

fn progress_to_wire(state: Progress) -> wire::PullResponse {
    let progress = wire::Progress {
        reference: state.reference,
        layers_done: state.layers_done as u64,
        layers: state.layers as u64,
        bytes: state.bytes,
        total_bytes: state.total_bytes,
    };
    wire::PullResponse { progress: Some(progress), image: None }
}

fn to_wire(image: &Image) -> wire::Image {
    wire::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size_bytes: image.size_bytes,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a reader gets from these messages, then the sender goes.
    fn read(messages: Vec<io::Result<Option<Vec<u8>>>>) -> io::Result<Vec<u8>> {
        let (sender, chunks) = mpsc::channel(16);
        for message in messages {
            sender.try_send(message).unwrap();
        }
        drop(sender);
        let mut bytes = Vec::new();
        ChunkReader { chunks, current: Vec::new(), position: 0, ended: false }.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn chunks_are_one_stream() {
        let messages =
            vec![Ok(Some(b"ab".to_vec())), Ok(Some(Vec::new())), Ok(Some(b"c".to_vec())), Ok(None)];
        assert_eq!(read(messages).unwrap(), b"abc");
    }

    #[test]
    fn an_archive_without_its_end_is_an_error() {
        assert_eq!(read(vec![Ok(Some(b"ab".to_vec()))]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let failed = vec![Ok(Some(b"ab".to_vec())), Err(io::Error::other("reset"))];
        assert_eq!(read(failed).unwrap_err().to_string(), "reset");
    }
}
