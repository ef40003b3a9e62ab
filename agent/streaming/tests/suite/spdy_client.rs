//! A client that speaks SPDY as client-go does. What is not read from a stream holds up the whole connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex};

use holdfast_streaming::spdy::frame::{Control, Decoder, Event, data_head};
use holdfast_streaming::spdy::headers::Encoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, split};
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;

use crate::support::{Head, dial, request, soon};

pub const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
const PROTOCOL: &str = "X-Stream-Protocol-Version";

#[derive(Debug)]
enum Item {
    Reply,
    Data(Vec<u8>),
    Fin,
    Reset,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
    /// With its connection.
    Gone,
}

type Routes = Arc<StdMutex<HashMap<u32, mpsc::Sender<Item>>>>;
type Sender = Arc<Mutex<Out>>;

struct Out {
    io: Box<dyn AsyncWrite + Send + Unpin>,
    encoder: Encoder,
    next: u32,
}

pub struct Client {
    out: Sender,
    routes: Routes,
    reader: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

pub struct Stream {
    writer: Writer,
    items: mpsc::Receiver<Item>,
}

/// A stream's direction to the server.
#[derive(Clone)]
pub struct Writer {
    id: u32,
    out: Sender,
}

impl std::ops::Deref for Stream {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

/// A refusal of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused;

/// Asks for an upgrade with the protocols that a client lists.
pub async fn upgrade(url: &str, protocols: &[&str]) -> (Head, Client) {
    let mut io = dial(url).await;
    let mut headers = UPGRADE.to_vec();
    headers.extend(protocols.iter().map(|name| (PROTOCOL, *name)));
    let head = request(&mut io, "POST", url, &headers).await;
    (head, Client::new(io))
}

/// A connection with the protocol that is asked for.
pub async fn connect(url: &str, protocol: &str) -> Client {
    let (head, client) = upgrade(url, &[protocol]).await;
    assert_eq!((head.status, head.header("x-stream-protocol-version")), (101, Some(protocol)));
    client
}

impl Client {
    pub fn new<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Self {
        let (read, write) = split(io);
        let routes = Routes::default();
        let out = Out { io: Box::new(write), encoder: Encoder::default(), next: 1 };
        let reader = tokio::spawn(run(read, routes.clone())).abort_handle();
        Self { out: Arc::new(Mutex::new(out)), routes, reader }
    }

    /// Opens a stream, and waits for the server's word on it.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<Stream, Refused> {
        let (sender, items) = mpsc::channel(8);
        let mut out = self.out.lock().await;
        let id = out.next;
        out.next += 2;
        self.routes.lock().unwrap().insert(id, sender);
        let block = out.encoder.encode(headers);
        out.encoder.sent();
        let frame = Control::SynStream { id, fin: false, unidirectional: false, block };
        out.io.write_all(&frame.encode()).await.unwrap();
        out.io.flush().await.unwrap();
        drop(out);
        let mut stream = Stream { writer: Writer { id, out: self.out.clone() }, items };
        match soon(stream.items.recv()).await {
            Some(Item::Reply) => Ok(stream),
            _ => Err(Refused),
        }
    }

    pub async fn typed(&self, kind: &str) -> Result<Stream, Refused> {
        self.open(&[("streamtype", kind)]).await
    }

    /// Waits until the server has closed.
    pub async fn closed(&self) {
        soon(async {
            while !self.reader.is_finished() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Writer {
    async fn send(&self, head: &[u8], bytes: &[u8]) -> std::io::Result<()> {
        let mut out = self.out.lock().await;
        out.io.write_all(&[head, bytes].concat()).await?;
        out.io.flush().await
    }

    pub async fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        for piece in bytes.chunks(32 * 1024) {
            self.send(&data_head(self.id, piece.len(), false), piece).await?;
        }
        Ok(())
    }

    pub async fn finish(&self) {
        self.send(&data_head(self.id, 0, true), &[]).await.unwrap();
    }

    pub async fn reset(&self) {
        self.send(&Control::Reset { id: self.id, status: 5 }.encode(), &[]).await.unwrap();
    }
}

impl Stream {
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// The next bytes, or the end.
    pub async fn read(&mut self) -> Result<Vec<u8>, End> {
        match self.items.recv().await {
            Some(Item::Data(bytes)) => Ok(bytes),
            Some(Item::Fin) => Err(End::Fin),
            Some(Item::Reset) => Err(End::Reset),
            Some(Item::Reply) => panic!("two replies"),
            None => Err(End::Gone),
        }
    }

    /// All bytes to the end.
    pub async fn read_all(&mut self) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        loop {
            match soon(self.read()).await {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(end) => return (all, end),
            }
        }
    }

    /// All bytes to an orderly end, as text.
    pub async fn text(&mut self) -> String {
        let (bytes, end) = self.read_all().await;
        assert_eq!(end, End::Fin);
        String::from_utf8(bytes).unwrap()
    }
}

async fn run<T: AsyncRead>(mut read: ReadHalf<T>, routes: Routes) {
    let mut decoder = Decoder::new(1 << 20);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = read.read(&mut chunk).await.unwrap_or(0);
        let mut rest = &chunk[..count];
        if count == 0 {
            break;
        }
        while let Some(event) = decoder.decode(&mut rest).unwrap() {
            let (id, items) = match event {
                Event::Control(Control::SynReply { id, .. }) => (id, vec![Item::Reply]),
                Event::Control(Control::Reset { id, .. }) => (id, vec![Item::Reset]),
                Event::Data { id, piece, fin } => {
                    let data = (!piece.is_empty()).then(|| Item::Data(piece.to_vec()));
                    (id, data.into_iter().chain(fin.then_some(Item::Fin)).collect())
                }
                Event::Control(_) => continue,
            };
            let route = routes.lock().unwrap().get(&id).cloned();
            for item in items {
                if let Some(route) = &route {
                    // A stream that the test has dropped.
                    let _ = route.send(item).await;
                }
            }
        }
    }
    routes.lock().unwrap().clear();
}
