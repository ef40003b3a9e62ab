use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::Limits;
use super::super::frame::{Control, data_head};
use super::client::{SOON, Seen, next, one_stream, read_all};

/// Bytes with a pattern that no shift leaves alone.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn ten_mebibytes_each_way() {
    let (mut client, _connection, _accept, mut incoming, mut outgoing) =
        one_stream(64 * 1024, Limits::default()).await;
    let bytes = pattern(10 << 20);
    let sent = bytes.clone();
    let echo = tokio::spawn(async move {
        let all = read_all(&mut incoming).await;
        outgoing.write(&all).await.expect("write");
        outgoing.finish().await.expect("finish");
    });
    // A single frame, which has 24 bits of length.
    client.data(1, &sent, true).await;
    let mut got = Vec::new();
    loop {
        let Seen::Data { id: 1, bytes, fin } = client.seen().await else { panic!("data") };
        got.extend_from_slice(&bytes);
        if fin {
            break;
        }
    }
    assert!(got == bytes);
    echo.await.expect("echo");
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_and_holds_little() {
    let (mut client, _connection, _accept, mut incoming, _outgoing) =
        one_stream(1024, Limits::default()).await;
    let bytes = pattern(4 << 20);
    let mut wire = Vec::new();
    for piece in bytes.chunks(10_007) {
        wire.extend_from_slice(&data_head(1, piece.len(), false));
        wire.extend_from_slice(piece);
    }
    // While nobody reads, it stops at the queue, a piece and a chunk.
    let mut taken = 0;
    while let Ok(count) = timeout(Duration::from_millis(300), client.io.write(&wire[taken..])).await {
        taken += count.expect("write");
    }
    assert!((64 * 1024..200 * 1024).contains(&taken), "{taken}");
    let feed = async {
        client.raw(&wire[taken..]).await;
        client.data(1, b"", true).await;
    };
    let (got, ()) = tokio::join!(read_all(&mut incoming), feed);
    assert!(got == bytes);
}

#[tokio::test]
async fn a_peer_that_closes_is_noticed_behind_a_full_queue() {
    let limits = Limits { queue: 16, ..Limits::default() };
    let (mut client, connection, _accept, mut incoming, mut outgoing) = one_stream(64 * 1024, limits).await;
    client.data(1, &[1; 2000], false).await;
    client.data(1, &[2; 2000], false).await;
    client.data(1, &[3; 2000], true).await;
    drop(client);
    timeout(SOON, connection.closed()).await.expect("in time");
    assert_eq!(connection.reason().as_deref(), Some("the peer closed the connection"));
    assert!(outgoing.write(b"x").await.is_err());
    // And yet nothing is lost.
    assert_eq!(read_all(&mut incoming).await, [[1; 2000], [2; 2000], [3; 2000]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_far_behind_a_full_queue_is_noticed_by_a_ping() {
    let limits = Limits { queue: 16, ..Limits::default() };
    let (mut client, connection, _accept, mut incoming, _outgoing) = one_stream(1 << 20, limits).await;
    client.data(1, &vec![7; 500_000], true).await;
    // The server asks whether we are there, and goes on asking.
    for _ in 0..2 {
        assert_eq!(client.seen().await, Seen::Control(Control::Ping { id: 2 }));
    }
    drop(client);
    timeout(Duration::from_secs(11), connection.closed()).await.expect("in time");
    let reason = connection.reason().expect("reason");
    assert!(reason.starts_with("write to the peer: "), "{reason}");
    assert_eq!(read_all(&mut incoming).await.len(), 500_000);
}

#[tokio::test]
async fn a_peer_that_closes_is_noticed_while_it_does_not_read() {
    let (client, connection, _accept, _incoming, mut outgoing) = one_stream(1024, Limits::default()).await;
    let writer = tokio::spawn(async move { outgoing.write(&vec![0; 1 << 20]).await });
    tokio::task::yield_now().await;
    drop(client);
    timeout(SOON, connection.closed()).await.expect("in time");
    assert!(timeout(SOON, writer).await.expect("in time").expect("writer").is_err());
}

#[tokio::test]
async fn a_write_cancelled_in_its_frame_takes_the_connection_with_it() {
    let (mut client, connection, _accept, mut incoming, mut outgoing) =
        one_stream(1024, Limits::default()).await;
    assert!(timeout(Duration::from_millis(50), outgoing.write(&[0; 10_000])).await.is_err());
    timeout(SOON, connection.closed()).await.expect("in time");
    assert_eq!(connection.reason().as_deref(), Some("a write was cancelled in the middle of a frame"));
    assert_eq!(read_all(&mut incoming).await, b"");
    while client.seen().await != Seen::End {}
}

#[tokio::test]
async fn a_write_cancelled_before_its_frame_does_no_harm() {
    let (mut client, connection, mut accept, incoming, mut outgoing) =
        one_stream(1024, Limits::default()).await;
    client.open(3, "other").await;
    let (other_incoming, mut other) = next(&mut accept).await.accept().await.expect("accept");
    client.reply(3).await;
    let writer = tokio::spawn(async move {
        outgoing.write(&vec![1; 20_000]).await.expect("write");
        (incoming, outgoing)
    });
    // The first one takes the line.
    tokio::task::yield_now().await;
    // It waits for its turn behind the first one, which the pipe holds up.
    assert!(timeout(Duration::from_millis(50), other.write(b"never")).await.is_err());
    let mut got = 0;
    while got < 20_000 {
        let Seen::Data { id: 1, bytes, .. } = client.seen().await else { panic!("data") };
        got += bytes.len();
    }
    let _handles = writer.await.expect("writer");
    other.write(b"now").await.expect("write");
    assert_eq!(client.seen().await, Seen::Data { id: 3, bytes: b"now".to_vec(), fin: false });
    assert_eq!(connection.reason(), None);
    drop(other_incoming);
}
