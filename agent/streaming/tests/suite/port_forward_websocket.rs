//! Port-forward over WebSocket: SPDY in a tunnel, and channels.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use futures_util::{SinkExt, StreamExt};

use crate::port_forward::{echo, many};
use crate::spdy_client;
use crate::support::{soon, start};
use crate::websocket_client::connect;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A byte stream through the tunnel, cut into messages at odd places.
async fn tunnel(url: &str) -> spdy_client::Client {
    let (mut sink, mut stream) = connect(url, TUNNEL).await.socket.split();
    let (near, far) = duplex(64 * 1024);
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = vec![0; 777];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            sink.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
        }
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(data) => {
                    if write.write_all(&data).await.is_err() {
                        return;
                    }
                }
                Message::Close(frame) => assert_eq!(frame.unwrap().code, CloseCode::Normal),
                other => panic!("{other:?}"),
            }
        }
        let _ = write.shutdown().await;
    });
    spdy_client::Client::new(near)
}

#[tokio::test]
async fn two_hundred_connections_through_the_tunnel() {
    let running = start();
    let client = tunnel(&running.server.port_forward_url("p", &[]).unwrap()).await;
    many(&client, echo().await, 200).await;
    drop(client);
    running.idle().await;
}

#[tokio::test]
async fn the_tunnel_closes_with_the_server() {
    let mut running = start();
    let client = tunnel(&running.server.port_forward_url("p", &[]).unwrap()).await;
    many(&client, echo().await, 1).await;
    running.stop().await;
    client.closed().await;
}

#[tokio::test]
async fn channels_in_each_subprotocol() {
    let running = start();
    let (port, refused) =
        (echo().await, TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port());
    for name in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ] {
        let ports = [i32::from(port), i32::from(refused)];
        let mut client = connect(&running.server.port_forward_url("p", &ports).unwrap(), name).await;
        client.send(0, b"hello").await;
        let greeting = |port: u16| port.to_le_bytes().to_vec();
        let echoed = [&greeting(port)[..], b"hello"].concat();
        while client.got.get(&0) != Some(&echoed) || client.got.get(&3).is_none_or(|text| text.len() < 10) {
            assert!(client.next().await);
        }
        assert_eq!(client.got[&1], greeting(port));
        assert_eq!(client.got[&2], greeting(refused));
        let text = String::from_utf8_lossy(&client.got[&3][2..]).into_owned();
        assert!(text.starts_with(&format!("forward port {refused}: ")), "{text}");
        if name.starts_with("v5") {
            // A half close is the socket's as well, and with the last port's end the connection's.
            client.close_channel(0).await;
            client.read_all().await;
            assert_eq!(client.got[&0], [&greeting(port)[..], b"hellobye"].concat());
        }
        drop(client);
        soon(running.idle()).await;
    }
}

#[tokio::test]
async fn ports_of_the_query() {
    let running = start();
    let port = echo().await;
    let url = format!("{}?port={port}", running.server.port_forward_url("p", &[]).unwrap());
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    assert!(client.next().await && client.next().await);
    assert_eq!(client.got[&0], port.to_le_bytes());
}
