use std::time::Duration;

use tokio::time::timeout;

use super::super::Limits;
use super::super::frame::{Control, away, status};
use super::super::tests_support::unhex;
use super::client::{Client, SOON, Seen, connect, next, one_stream};

async fn goodbye(mut client: Client, last: u32) {
    let expected = Control::GoAway { last, status: away::PROTOCOL_ERROR };
    assert_eq!(client.seen().await, Seen::Control(expected));
    assert_eq!(client.seen().await, Seen::End);
}

#[tokio::test]
async fn ids_are_odd_and_grow() {
    let (mut client, connection, mut accept) = connect(4096, Limits::default());
    client.open(2, "even").await;
    client.reset(2, status::PROTOCOL_ERROR).await;
    client.open(7, "good").await;
    let (mut incoming, _outgoing) = next(&mut accept).await.accept().await.expect("accept");
    client.reply(7).await;
    client.open(5, "lower").await;
    client.reset(5, status::PROTOCOL_ERROR).await;
    client.open(7, "again").await;
    client.reset(7, status::PROTOCOL_ERROR).await;
    assert_eq!(incoming.read().await, None);
    assert_eq!(connection.open_streams(), 0);
    client.ping(1).await;
}

#[tokio::test]
async fn too_many_streams_are_refused_and_room_comes_back() {
    let (mut client, _connection, mut accept) = connect(4096, Limits { max_streams: 1, ..Limits::default() });
    client.open(1, "a").await;
    client.open(3, "b").await;
    client.reset(3, status::REFUSED_STREAM).await;
    drop(next(&mut accept).await);
    client.reset(1, status::REFUSED_STREAM).await;
    client.open(5, "c").await;
    assert_eq!(next(&mut accept).await.header("streamtype"), Some("c"));
}

#[tokio::test]
async fn data_of_unknown_streams_is_reset() {
    let (mut client, connection, _accept) = connect(4096, Limits::default());
    client.data(9, b"x", true).await;
    client.reset(9, status::INVALID_STREAM).await;
    client.data(9, b"x", false).await;
    client.data(4, b"", true).await;
    client.reset(4, status::INVALID_STREAM).await;
    client.ping(1).await;
    assert_eq!(connection.reason(), None);
}

#[tokio::test]
async fn data_after_a_half_close_resets() {
    let (mut client, _connection, _accept, _incoming, mut outgoing) =
        one_stream(4096, Limits::default()).await;
    client.data(1, b"", true).await;
    client.data(1, b"x", false).await;
    client.reset(1, status::STREAM_ALREADY_CLOSED).await;
    assert!(outgoing.write(b"x").await.is_err());
}

#[tokio::test]
async fn every_block_goes_through_the_inflater() {
    let (mut client, _connection, mut accept) = connect(4096, Limits { max_streams: 1, ..Limits::default() });
    let upper = client.block(&[("Upper", "x")]);
    client.send(Control::SynStream { id: 1, fin: false, unidirectional: false, block: upper }).await;
    client.reset(1, status::PROTOCOL_ERROR).await;
    let reply = client.block(&[("reply", "to nothing")]);
    client.send(Control::SynReply { id: 8, fin: false, block: reply }).await;
    client.reset(8, status::INVALID_STREAM).await;
    let more = client.block(&[("more", "headers")]);
    client.send(Control::Headers { id: 77, fin: true, block: more }).await;
    client.open(3, "first").await;
    client.open(5, "refused").await;
    client.reset(5, status::REFUSED_STREAM).await;
    drop(next(&mut accept).await);
    client.reset(3, status::REFUSED_STREAM).await;
    client.open(7, "last").await;
    assert_eq!(next(&mut accept).await.header("streamtype"), Some("last"));
}

#[tokio::test]
async fn settings_and_windows_are_ignored_and_pings_echoed() {
    let (mut client, _connection, _accept) = connect(4096, Limits::default());
    client.raw(&unhex("800300040000000c000000010000000700010000800300090000000800000003000003e8")).await;
    client.send(Control::Ping { id: 2 }).await;
    client.ping(0xffff_ffff).await;
}

#[tokio::test]
async fn another_version_is_the_end() {
    let (mut client, connection, mut accept) = connect(4096, Limits::default());
    client.open(1, "a").await;
    client.raw(&unhex("8002000600000004")).await;
    goodbye(client, 1).await;
    timeout(SOON, connection.closed()).await.expect("in time");
    assert_eq!(
        connection.reason().as_deref(),
        Some("protocol error: control frame of SPDY version 2, not 3")
    );
    // The stream that was waiting is dead, and the last one.
    assert!(next(&mut accept).await.accept().await.is_err());
    assert!(accept.next().await.is_none());
}

#[tokio::test]
async fn large_frames_and_large_blocks_are_the_end() {
    let limits = Limits { max_frame: 1024, max_headers: 2048, ..Limits::default() };
    let (mut client, connection, _accept) = connect(4096, limits);
    client.raw(&unhex("8003000100000500")).await;
    goodbye(client, 0).await;
    let reason = connection.reason().expect("reason");
    assert_eq!(reason, "protocol error: control frame of type 1 with 1280 bytes, more than 1024");

    let (mut client, connection, _accept) = connect(4096, limits);
    client.open(1, &"x".repeat(4096)).await;
    goodbye(client, 0).await;
    assert_eq!(
        connection.reason().as_deref(),
        Some("protocol error: a header block of more than 2048 bytes")
    );
}

#[tokio::test]
async fn a_broken_block_is_the_end() {
    let (mut client, connection, _accept) = connect(4096, Limits::default());
    client.send(Control::Headers { id: 1, fin: false, block: b"rubbish".to_vec() }).await;
    goodbye(client, 0).await;
    let reason = connection.reason().expect("reason");
    assert!(reason.starts_with("protocol error: inflate a header block: "), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn the_idle_limit_closes() {
    let idle = Duration::from_mins(10);
    let (mut client, connection, _accept) = connect(4096, Limits { idle, ..Limits::default() });
    tokio::time::sleep(idle / 2).await;
    client.ping(1).await;
    let start = tokio::time::Instant::now();
    assert!(timeout(idle * 99 / 100, connection.closed()).await.is_err());
    connection.closed().await;
    assert!(start.elapsed() < idle * 102 / 100);
    assert_eq!(connection.reason().as_deref(), Some("nothing came or went for the idle limit of 600 s"));
    assert_eq!(client.seen().await, Seen::Control(Control::GoAway { last: 0, status: away::OK }));
    assert_eq!(client.seen().await, Seen::End);
}

#[tokio::test]
async fn a_flood_of_pings_waits_for_a_peer_that_does_not_read() {
    use tokio::io::AsyncWriteExt;
    let (mut client, connection, _accept) = connect(1024, Limits::default());
    let flood = Control::Ping { id: 1 }.encode().repeat(100_000);
    let written = timeout(Duration::from_millis(300), client.io.write_all(&flood)).await;
    assert!(written.is_err(), "more than a megabyte was taken");
    assert_eq!(client.seen().await, Seen::Control(Control::Ping { id: 1 }));
    assert_eq!(connection.reason(), None);
}
