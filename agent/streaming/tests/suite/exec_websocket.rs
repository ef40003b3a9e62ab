//! Exec over WebSocket, in every subprotocol.

use futures_util::{SinkExt, StreamExt};
use holdfast_streaming::session::Wanted;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{ALL, IN_OUT, OUT, TTY, pattern, reaches, soon, start};
use crate::websocket_client::connect;

const NAMES: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
const V5: &str = NAMES[0];
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

#[tokio::test]
async fn streams_and_exit_codes_in_each_subprotocol() {
    let running = start();
    for name in NAMES {
        for code in [0, 3] {
            let script = format!("head -n 1; echo problem >&2; exit {code}");
            let mut client = connect(&running.shell(&script, ALL), name).await;
            client.send(0, b"hello\n").await;
            client.read_all().await;
            assert_eq!(client.text(1), "hello\n", "{name}");
            assert_eq!(client.text(2), "problem\n");
            assert_eq!(client.close.as_ref().map(|frame| frame.code), Some(CloseCode::Normal));
            let status = client.text(3);
            match (name.starts_with('v'), code) {
                (true, 0) => assert_eq!(status, SUCCESS),
                (false, 0) => assert_eq!(status, ""),
                (true, _) => assert!(status.contains(r#""message":"3""#), "{status}"),
                (false, _) => {
                    assert_eq!(status, "command terminated with non-zero exit code: exit status 3");
                }
            }
        }
    }
    running.idle().await;
}

#[tokio::test]
async fn an_empty_message_says_that_it_is_there() {
    let running = start();
    let mut client = connect(&running.shell("sleep 60", TTY), V5).await;
    assert_eq!(soon(client.socket.next()).await.unwrap().unwrap(), Message::binary(vec![1]));
}

#[tokio::test]
async fn v5_half_closes_stdin() {
    let running = start();
    let mut client = connect(&running.shell("cat", IN_OUT), V5).await;
    client.send(0, b"one").await;
    client.close_channel(0).await;
    // A second time, and what comes after it, does nothing.
    client.close_channel(0).await;
    client.send(0, b"two").await;
    client.read_all().await;
    assert_eq!((client.text(1), client.text(3)), ("one", SUCCESS));
}

#[tokio::test]
async fn a_close_that_closes_nothing_ends_the_connection() {
    let running = start();
    for message in [vec![255], vec![255, 9], vec![255, 0, 0]] {
        let mut client = connect(&running.shell("cat", TTY), V5).await;
        client.socket.send(Message::binary(message)).await.unwrap();
        while soon(client.socket.next()).await.is_some_and(|message| message.is_ok()) {}
    }
    reaches(&running.seen.hung_up, |count| *count == 3).await;
}

#[tokio::test]
async fn a_failure_is_told() {
    let running = start();
    let mut client = connect(&running.exec("missing", OUT), V5).await;
    client.read_all().await;
    assert!(client.text(3).contains("container missing is not running"), "{}", client.text(3));
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let running = start();
    let mut client = connect(&running.shell("head -n 1", TTY), V5).await;
    client.send(4, br#"{"Width":80,"Height":24}"#).await;
    client.send(4, br#"{"Width":100,"Height":50}"#).await;
    reaches(&running.seen.sizes, |sizes| sizes == &[(80, 24), (100, 50)]).await;
    // Channels that nobody reads are harmless.
    for channel in [1, 2, 3, 5, 99] {
        client.send(channel, b"x").await;
    }
    client.socket.send(Message::binary(vec![])).await.unwrap();
    client.send(0, b"\n").await;
    client.read_all().await;
    assert_eq!(client.text(3), SUCCESS);
}

#[tokio::test]
async fn pings_are_answered() {
    let running = start();
    let mut client = connect(&running.shell("cat", TTY), V5).await;
    client.socket.send(Message::Ping("there?".into())).await.unwrap();
    soon(async { while client.socket.next().await.unwrap().unwrap() != Message::Pong("there?".into()) {} })
        .await;
}

#[tokio::test]
async fn a_process_that_does_not_read_does_not_silence_the_connection() {
    let running = start();
    let client = connect(&running.shell("sleep 60", Wanted { tty: true, ..IN_OUT }), V5).await;
    let message = client.message(0, &[0; 8 * 1024]);
    let (mut sink, mut stream) = client.socket.split();
    let flood = tokio::spawn(async move { while sink.send(message.clone()).await.is_ok() {} });
    // client-go gives up after 61 s without one.
    soon(async { while !stream.next().await.unwrap().unwrap().is_pong() {} }).await;
    flood.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_there_and_back() {
    let running = start();
    let mut client = connect(&running.shell("cat", IN_OUT), V5).await;
    let sent = pattern(64 << 20);
    let (mut sink, mut stream) = client.socket.split();
    let pieces = sent.clone();
    let writer = tokio::spawn(async move {
        // Messages of a mebibyte, which some clients send.
        for piece in pieces.chunks(1 << 20) {
            sink.send(Message::binary([&[0], piece].concat())).await.unwrap();
        }
        sink.send(Message::binary(vec![255, 0])).await.unwrap();
        sink
    });
    let mut got = Vec::new();
    while let Some(Ok(message)) = soon(stream.next()).await {
        match message {
            Message::Binary(data) if data[0] == 1 => got.extend_from_slice(&data[1..]),
            Message::Binary(data) => assert_eq!(data[1..], *SUCCESS.as_bytes()),
            _ => {}
        }
    }
    assert!(got == sent);
    client.socket = writer.await.unwrap().reunite(stream).unwrap();
}
