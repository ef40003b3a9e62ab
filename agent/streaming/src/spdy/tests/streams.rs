use tokio::time::timeout;

use super::super::frame::{Control, status};
use super::super::{Limits, Outgoing, serve};
use super::client::{SOON, Seen, connect, next, one_stream, read_all};
use crate::channel::{Gone, Incoming};

#[tokio::test]
async fn a_stream_is_opened_with_its_headers() {
    let (mut client, _connection, mut accept) = connect(4096, Limits::default());
    let block = client.block(&[("streamtype", "data"), ("port", "8080")]);
    client.send(Control::SynStream { id: 5, fin: true, unidirectional: false, block }).await;
    let stream = next(&mut accept).await;
    assert_eq!((stream.id(), stream.fin()), (5, true));
    assert_eq!((stream.header("streamType"), stream.header("port")), (Some("data"), Some("8080")));
    let (mut incoming, _outgoing) = stream.accept().await.expect("accept");
    client.reply(5).await;
    assert_eq!(incoming.read().await, None);
}

#[tokio::test]
async fn both_directions_are_half_closed_on_their_own() {
    let (mut client, connection, _accept, mut incoming, mut outgoing) =
        one_stream(4096, Limits::default()).await;
    client.data(1, b"to the server", true).await;
    assert_eq!(read_all(&mut incoming).await, b"to the server");
    outgoing.write(b"to the client").await.expect("write");
    assert_eq!(client.seen().await, Seen::Data { id: 1, bytes: b"to the client".to_vec(), fin: false });
    outgoing.finish().await.expect("finish");
    outgoing.finish().await.expect("finish again");
    assert_eq!(client.seen().await, Seen::Data { id: 1, bytes: Vec::new(), fin: true });
    assert_eq!(outgoing.write(b"more").await, Err(Gone));
    assert_eq!(connection.open_streams(), 0);
    drop((incoming, outgoing));
    client.ping(1).await;
}

#[tokio::test]
async fn the_server_may_finish_first() {
    let (mut client, connection, _accept, mut incoming, mut outgoing) =
        one_stream(4096, Limits::default()).await;
    outgoing.finish().await.expect("finish");
    drop(outgoing);
    assert_eq!(client.seen().await, Seen::Data { id: 1, bytes: Vec::new(), fin: true });
    client.data(1, b"still ", false).await;
    client.data(1, b"here", false).await;
    let block = client.block(&[("ignored", "yes")]);
    client.send(Control::Headers { id: 1, fin: true, block }).await;
    assert_eq!(read_all(&mut incoming).await, b"still here");
    assert_eq!(connection.open_streams(), 0);
}

#[tokio::test]
async fn a_refused_stream_is_reset() {
    let (mut client, _connection, mut accept) = connect(4096, Limits::default());
    client.open(1, "a").await;
    next(&mut accept).await.refuse().await;
    client.reset(1, status::REFUSED_STREAM).await;
    client.open(3, "b").await;
    drop(next(&mut accept).await);
    client.reset(3, status::REFUSED_STREAM).await;
    drop(accept);
    client.open(5, "c").await;
    client.reset(5, status::REFUSED_STREAM).await;
}

#[tokio::test]
async fn a_reset_of_the_peer_ends_both_directions() {
    let (mut client, connection, _accept, mut incoming, mut outgoing) =
        one_stream(4096, Limits::default()).await;
    client.data(1, b"before", false).await;
    client.send(Control::Reset { id: 1, status: status::CANCEL }).await;
    assert_eq!(read_all(&mut incoming).await, b"before");
    assert_eq!(outgoing.write(b"x").await, Err(Gone));
    assert_eq!(outgoing.finish().await, Err(Gone));
    drop((incoming, outgoing));
    client.ping(1).await;
    assert_eq!(connection.reason(), None);
}

#[tokio::test]
async fn our_reset_ends_both_directions() {
    let (mut client, _connection, _accept, mut incoming, outgoing) =
        one_stream(4096, Limits::default()).await;
    outgoing.reset().await;
    client.reset(1, status::CANCEL).await;
    assert_eq!(read_all(&mut incoming).await, b"");
    client.data(1, b"late", false).await;
    client.ping(1).await;
}

#[tokio::test]
async fn data_for_a_consumer_that_left_is_reset_once() {
    let (mut client, _connection, _accept, incoming, mut outgoing) =
        one_stream(4096, Limits::default()).await;
    drop(incoming);
    client.data(1, b"nobody reads this", false).await;
    client.ping(1).await;
    outgoing.finish().await.expect("the other direction goes on");
    assert_eq!(client.seen().await, Seen::Data { id: 1, bytes: Vec::new(), fin: true });
    drop(outgoing);
    client.data(1, &[0; 10_000], false).await;
    client.reset(1, status::INVALID_STREAM).await;
    client.data(1, &[0; 10_000], true).await;
    client.ping(3).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_unfinished_is_reset() {
    let (mut client, connection, _accept, incoming, outgoing) = one_stream(4096, Limits::default()).await;
    drop(outgoing);
    client.ping(1).await;
    drop(incoming);
    client.reset(1, status::CANCEL).await;
    assert_eq!(connection.open_streams(), 0);
}

#[tokio::test]
async fn many_streams_at_a_time() {
    const STREAMS: u32 = 200;
    let (mut client, _connection, mut accept) = connect(16 * 1024, Limits::default());
    let server = tokio::spawn(async move {
        let mut echoes = Vec::new();
        for _ in 0..STREAMS {
            let (mut incoming, mut outgoing) = next(&mut accept).await.accept().await.expect("accept");
            echoes.push(tokio::spawn(async move {
                while let Some(bytes) = incoming.read().await {
                    outgoing.write(&bytes).await.expect("write");
                }
                outgoing.finish().await.expect("finish");
            }));
        }
        for echo in echoes {
            echo.await.expect("echo");
        }
        accept
    });
    for number in 0..STREAMS {
        client.open(number * 2 + 1, "echo").await;
        client.reply(number * 2 + 1).await;
    }
    for round in 0..3_u8 {
        for number in 0..STREAMS {
            client.data(number * 2 + 1, &[round, number as u8], round == 2).await;
        }
    }
    let mut got = vec![Vec::new(); STREAMS as usize];
    let mut open = STREAMS;
    while open > 0 {
        let Seen::Data { id, bytes, fin } = client.seen().await else { panic!("data") };
        got[id as usize / 2].extend_from_slice(&bytes);
        open -= u32::from(fin);
    }
    for (number, bytes) in got.iter().enumerate() {
        let number = number as u8;
        assert_eq!(bytes, &[0, number, 1, number, 2, number]);
    }
    timeout(SOON, server).await.expect("in time").expect("server");
}

#[tokio::test]
async fn the_turns_are_fair() {
    let (mut client, _connection, mut accept) = connect(1024, Limits::default());
    let mut streams = Vec::new();
    for id in [1, 3] {
        client.open(id, "out").await;
        streams.push(next(&mut accept).await.accept().await.expect("accept"));
        client.reply(id).await;
    }
    let write = |(incoming, mut outgoing): (Incoming, Outgoing)| async move {
        outgoing.write(&vec![0; 1 << 20]).await.expect("write");
        outgoing.finish().await.expect("finish");
        drop(incoming);
    };
    let writers: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(write(stream))).collect();
    // At the first one's end the second one has all but its last frames.
    let mut got = [0, 0];
    loop {
        let Seen::Data { id, bytes, fin } = client.seen().await else { panic!("data") };
        got[id as usize / 2] += bytes.len();
        if fin {
            break;
        }
    }
    assert!(got.iter().all(|bytes| *bytes >= (1 << 20) - 3 * 32 * 1024), "{got:?}");
    while !matches!(client.seen().await, Seen::Data { fin: true, .. }) {}
    for writer in writers {
        writer.await.expect("writer");
    }
}

#[tokio::test]
async fn over_a_real_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let mut peer = tokio::net::TcpStream::connect(address).await.expect("connect");
    let (connection, _accept) = serve(listener.accept().await.expect("accept").0, Limits::default());
    let ping = Control::Ping { id: 9 }.encode();
    peer.write_all(&ping).await.expect("write");
    let mut echo = vec![0; ping.len()];
    timeout(SOON, peer.read_exact(&mut echo)).await.expect("in time").expect("read");
    assert_eq!(echo, ping);
    drop(peer);
    timeout(SOON, connection.closed()).await.expect("in time");
    assert_eq!(connection.reason().as_deref(), Some("the peer closed the connection"));
}
