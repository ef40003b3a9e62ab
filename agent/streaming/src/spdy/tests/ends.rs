use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::super::Limits;
use super::super::frame::{Control, away, status};
use super::client::{SOON, Seen, connect, one_stream, read_all};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn closing_flushes_and_waits_for_the_peer() {
    let (mut client, connection, mut accept, mut incoming, mut outgoing) =
        one_stream(64, Limits::default()).await;
    let server = tokio::spawn(async move {
        outgoing.write(&[5; 5000]).await.expect("write");
        outgoing.finish().await.expect("finish");
        connection.close(LIMIT).await;
        connection
    });
    let mut got = 0;
    loop {
        let Seen::Data { id: 1, bytes, fin } = client.seen().await else { panic!("data") };
        got += bytes.len();
        if fin {
            break;
        }
    }
    assert_eq!(got, 5000);
    assert_eq!(client.seen().await, Seen::Control(Control::GoAway { last: 1, status: away::OK }));
    assert_eq!(client.seen().await, Seen::End);
    // It reads on, although nobody reads the stream.
    client.data(1, &vec![0; 1 << 20], false).await;
    assert!(!server.is_finished());
    drop(client);
    let connection = timeout(SOON, server).await.expect("in time").expect("server");
    assert_eq!(connection.reason().as_deref(), Some("closed by this side"));
    assert!(accept.next().await.is_none());
    read_all(&mut incoming).await;
}

#[tokio::test(start_paused = true)]
async fn closing_has_a_limit() {
    // Neither read from nor closed by the peer.
    let (_client, connection, _accept, _incoming, mut outgoing) = one_stream(64, Limits::default()).await;
    let writer = tokio::spawn(async move { outgoing.write(&[0; 5000]).await });
    tokio::task::yield_now().await;
    let start = Instant::now();
    connection.close(LIMIT).await;
    assert!((LIMIT..LIMIT * 2).contains(&start.elapsed()));
    connection.closed().await;
    assert_eq!(connection.reason().as_deref(), Some("closed by this side"));
    assert!(writer.await.expect("writer").is_err());
}

#[tokio::test]
async fn closing_ends_a_wait_for_a_slow_consumer() {
    let limits = Limits { queue: 16, ..Limits::default() };
    let (mut client, connection, _accept, _incoming, _outgoing) = one_stream(1024, limits).await;
    client.data(1, &[0; 2000], false).await;
    client.data(1, &[0; 2000], false).await;
    let closing = connection.clone();
    let close = tokio::spawn(async move { closing.close(LIMIT).await });
    assert_eq!(client.seen().await, Seen::Control(Control::GoAway { last: 1, status: away::OK }));
    client.data(1, &vec![0; 1 << 20], false).await;
    drop(client);
    timeout(SOON, close).await.expect("in time").expect("close");
}

#[tokio::test]
async fn a_close_that_is_cancelled_can_be_had_again() {
    let (mut client, connection, _accept) = connect(1024, Limits::default());
    assert!(timeout(Duration::from_millis(20), connection.close(LIMIT)).await.is_err());
    assert_eq!(client.seen().await, Seen::Control(Control::GoAway { last: 0, status: away::OK }));
    connection.close(Duration::from_millis(20)).await;
    assert_eq!(connection.reason().as_deref(), Some("closed by this side"));
}

#[tokio::test]
async fn the_peer_goes_away_after_its_last_stream() {
    let (mut client, connection, mut accept, incoming, mut outgoing) =
        one_stream(1024, Limits::default()).await;
    client.send(Control::GoAway { last: 0, status: away::OK }).await;
    assert!(timeout(SOON, accept.next()).await.expect("in time").is_none());
    client.open(3, "late").await;
    client.reset(3, status::REFUSED_STREAM).await;
    assert_eq!(connection.reason(), None);
    outgoing.write(b"still").await.expect("write");
    assert_eq!(client.seen().await, Seen::Data { id: 1, bytes: b"still".to_vec(), fin: false });
    client.send(Control::Reset { id: 1, status: status::CANCEL }).await;
    timeout(SOON, connection.closed()).await.expect("in time");
    assert_eq!(connection.reason().as_deref(), Some("the peer went away"));
    assert_eq!(client.seen().await, Seen::End);
    drop((incoming, outgoing));
}

#[tokio::test]
async fn the_last_handle_closes_the_socket() {
    let (mut client, connection, accept, incoming, outgoing) = one_stream(1024, Limits::default()).await;
    drop((connection, accept));
    client.ping(1).await;
    drop(outgoing);
    client.ping(3).await;
    drop(incoming);
    while client.seen().await != Seen::End {}
}

#[tokio::test]
async fn a_peer_that_closes_in_the_middle_of_a_frame() {
    let (mut client, connection, mut accept, mut incoming, mut outgoing) =
        one_stream(1024, Limits::default()).await;
    client.raw(&[0, 0, 0, 1, 0, 0, 0, 9, b'h', b'a']).await;
    drop(client);
    assert_eq!(read_all(&mut incoming).await, b"ha");
    timeout(SOON, connection.closed()).await.expect("in time");
    assert!(accept.next().await.is_none());
    assert!(outgoing.finish().await.is_err());
}
