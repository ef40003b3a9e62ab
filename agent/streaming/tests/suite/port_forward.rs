//! Port-forward over SPDY.

use std::time::Duration;

use holdfast_streaming::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::spdy_client::{Client, End, Refused, Stream, connect};
use crate::support::{pattern, soon, start, start_with};

const NAME: &str = "portforward.k8s.io";

/// A server in the "pod" that sends back what it gets, and a farewell at the end of it.
pub async fn echo() -> u16 {
    serve(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.write_all(b"bye").await.unwrap();
    })
    .await
}

async fn serve<F: Future<Output = ()> + Send>(
    handler: impl Fn(TcpStream) -> F + Send + Sync + Clone + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let handler = handler.clone();
            tokio::spawn(async move { handler(stream).await });
        }
    });
    port
}

/// A pair, as client-go opens it.
pub async fn pair(client: &Client, port: u16, request: &str) -> (Stream, Stream) {
    let port = port.to_string();
    let header = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
    let error = client.open(&header("error")).await.unwrap();
    error.finish().await;
    (error, client.open(&header("data")).await.unwrap())
}

/// Bytes there and back over many connections at once.
pub async fn many(client: &Client, port: u16, count: usize) {
    let mut all = Vec::new();
    for number in 0..count {
        let (mut error, mut data) = pair(client, port, &number.to_string()).await;
        all.push(tokio::spawn(async move {
            let sent = pattern(10_000 + number);
            data.write(&sent).await.unwrap();
            data.finish().await;
            let (got, end) = data.read_all().await;
            assert!(got == [&sent[..], b"bye"].concat());
            assert_eq!((end, error.text().await.as_str()), (End::Fin, ""));
        }));
    }
    for one in all {
        soon(one).await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_connections_at_once() {
    let running = start();
    let port = echo().await;
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    many(&client, port, 200).await;
    // And as many again: the first ones are not counted any more.
    many(&client, port, 200).await;
    drop(client);
    running.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_there_and_back() {
    let running = start();
    let port = echo().await;
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    let (_error, mut data) = pair(&client, port, "0").await;
    let sent = pattern(64 << 20);
    let (half, expected) = (sent.clone(), [&sent[..], b"bye"].concat());
    let writing = data.writer();
    let writer = tokio::spawn(async move {
        writing.write(&half).await.unwrap();
        writing.finish().await;
    });
    let (got, end) = data.read_all().await;
    assert!(got == expected);
    assert_eq!(end, End::Fin);
    writer.await.unwrap();
}

#[tokio::test]
async fn old_clients_without_request_ids() {
    let running = start();
    let port = echo().await.to_string();
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    for _ in 0..2 {
        let mut error = client.open(&[("streamtype", "error"), ("port", &port)]).await.unwrap();
        let mut data = client.open(&[("streamtype", "data"), ("port", &port)]).await.unwrap();
        data.write(b"x").await.unwrap();
        data.finish().await;
        assert_eq!((data.text().await, error.text().await), ("xbye".into(), String::new()));
    }
}

#[tokio::test]
async fn a_refused_port_is_told() {
    let running = start();
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let client = connect(&running.server.port_forward_url("pod-1", &[]).unwrap(), NAME).await;
    let (mut error, mut data) = pair(&client, port, "0").await;
    let text = error.text().await;
    assert!(text.starts_with(&format!("forward port {port}: connect to pod pod-1: ")), "{text}");
    assert_eq!(data.read_all().await.1, End::Reset);
    // The connection is none the worse for it.
    many(&client, echo().await, 1).await;
}

#[tokio::test]
async fn headers_are_strict() {
    let running = start();
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    for port in ["0", "65536", "+80", "", "http", "-1"] {
        let refused = client.open(&[("streamtype", "error"), ("port", port), ("requestid", "0")]).await;
        assert_eq!(refused.err(), Some(Refused), "{port}");
    }
    assert_eq!(client.open(&[("streamtype", "stdin"), ("port", "80")]).await.err(), Some(Refused));
    assert_eq!(client.open(&[("port", "80")]).await.err(), Some(Refused));
    assert_eq!(client.open(&[("streamtype", "data")]).await.err(), Some(Refused));
    // A second stream of its type is refused, the first one still finds its other half.
    let port = echo().await.to_string();
    let header = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "7")];
    let _error = client.open(&header("error")).await.unwrap();
    assert_eq!(client.open(&header("error")).await.err(), Some(Refused));
    let mut data = client.open(&header("data")).await.unwrap();
    data.finish().await;
    assert_eq!(data.text().await, "bye");
}

#[tokio::test]
async fn half_a_pair_is_given_up() {
    let config = Config { stream_creation_timeout: Duration::from_millis(200), ..Config::default() };
    let running = start_with(config);
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    let header = |kind, request| [("streamtype", kind), ("port", "80"), ("requestid", request)];
    let mut error = client.open(&header("error", "a")).await.unwrap();
    let mut data = client.open(&header("data", "b")).await.unwrap();
    let text = error.text().await;
    assert!(text.contains("port 80") && text.contains("request a"), "{text}");
    assert_eq!(data.read_all().await.1, End::Reset);
    many(&client, echo().await, 1).await;
}

#[tokio::test]
async fn the_pods_end_is_told_while_the_client_sends_on() {
    let running = start();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let port = serve(move |mut stream| {
        let sender = sender.clone();
        async move {
            stream.write_all(b"first").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            sender.send(got).unwrap();
        }
    })
    .await;
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    let (mut error, mut data) = pair(&client, port, "0").await;
    assert_eq!(data.text().await, "first");
    data.write(b"second").await.unwrap();
    data.finish().await;
    assert_eq!(soon(received.recv()).await.unwrap(), "second");
    assert_eq!(error.text().await, "");
}

#[tokio::test]
async fn resets_go_both_ways() {
    let running = start();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let port = serve(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            if byte == *b"r" {
                // Unread bytes make a reset of the close.
                stream.read_exact(&mut byte).await.unwrap();
                return;
            }
            let end = loop {
                match stream.write_all(&[0; 1000]).await {
                    Ok(()) => {}
                    Err(error) => break error,
                }
            };
            sender.send(end.kind()).unwrap();
        }
    })
    .await;
    let client = connect(&running.server.port_forward_url("p", &[]).unwrap(), NAME).await;
    // The pod resets; what it has not read makes it one.
    let (mut error, mut data) = pair(&client, port, "0").await;
    data.write(b"reset me, please").await.unwrap();
    assert_eq!(data.read_all().await, (vec![], End::Reset));
    assert_eq!(error.text().await, "");
    // The client resets.
    let (mut error, data) = pair(&client, port, "1").await;
    data.write(b"x").await.unwrap();
    data.reset().await;
    drop(data);
    soon(received.recv()).await.unwrap();
    assert_eq!(error.text().await, "");
}
