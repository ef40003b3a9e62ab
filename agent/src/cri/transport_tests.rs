use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::{service::Routes, transport::Server};

use super::*;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const HEADER_TABLE_SIZE: u16 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// HEADERS with END_STREAM and END_HEADERS.
fn headers(stream: u8, block: &[u8]) -> Vec<u8> {
    [&[0, 0, block.len() as u8, HEADERS, 5, 0, 0, 0, stream][..], block].concat()
}

/// Header blocks that Python's grpcio 1.85.3 sends for its first request and for the same request again.
fn c_core() -> [Vec<u8>; 2] {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let literal = |name: &str, value: &str| [vec![0x40], text(name), text(value)].concat();
    let first = [
        literal(":path", "/runtime.v1.RuntimeService/Version"),
        literal(":authority", "run%2Fholdfast%2Fholdfast.sock"),
        vec![0x83, 0x86],
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    [first.concat(), vec![0xc1, 0xc0, 0x83, 0x86, 0xbf, 0xbe]]
}

/// The same of grpc-go, with `/run/x.sock` as authority in Huffman's code.
fn grpc_go() -> [Vec<u8>; 2] {
    let path = b"\x45\x99\x62\xcb\x6a\x49\xa9\x2a\xfd\xc2\xbe\xdb\x6a\x49\xa9\x2e\xe2\xd9\xdc\xc4\x2b\x1c\x4b\x62\x0c\x7a\xbf";
    let authority = b"\x41\x89\x62\xcb\x6a\x63\xca\xe8\x39\x3a\xff";
    [[&b"\x83\x86"[..], path, authority].concat(), b"\x83\x86\xbf\xbe".to_vec()]
}

/// Frames of stream 1 and later until there is one for each of `blocks`: the kind of each.
async fn answers<C>(ours: C, mut theirs: UnixStream, blocks: &[Vec<u8>]) -> Vec<u8>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let connections = tokio_stream::once(Ok::<_, io::Error>(ours)).chain(tokio_stream::pending());
    let server = Server::builder().add_routes(Routes::default()).serve_with_incoming(connections);
    let server = tokio::spawn(server);
    theirs.write_all(&[PREFACE, &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]].concat()).await.unwrap();
    for (number, block) in blocks.iter().enumerate() {
        theirs.write_all(&headers(number as u8 * 2 + 1, block)).await.unwrap();
    }
    let mut kinds = Vec::new();
    while kinds.len() < blocks.len() {
        let mut head = [0; 9];
        theirs.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        theirs.read_exact(&mut payload).await.unwrap();
        if head[3] == SETTINGS {
            // The filter's table has the size that a server has who says nothing.
            let mut settings = payload.chunks(6).map(|setting| u16::from_be_bytes([setting[0], setting[1]]));
            assert!(settings.all(|setting| setting != HEADER_TABLE_SIZE));
        }
        if head[8] != 0 {
            kinds.push(head[3]);
        }
    }
    server.abort();
    kinds
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("an answer within 20 s")
}

#[tokio::test]
async fn streams_of_clients_that_name_a_path_are_answered() {
    for blocks in [c_core(), grpc_go()] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(within(answers(Connection::from(ours), theirs, &blocks)).await, [HEADERS, HEADERS]);
    }
}

/// Once this fails, h2 takes such authorities itself and the filter can go.
#[tokio::test]
async fn without_the_filter_they_are_reset() {
    for blocks in [c_core(), grpc_go()] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(within(answers(ours, theirs, &blocks)).await, [RST_STREAM, RST_STREAM]);
    }
}
