//! The server's own end.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::spdy_client::connect;
use crate::support::{IN_OUT, OUT, TTY, soon, start, until};
use crate::websocket_client;

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn sessions_are_told_and_closed() {
    let mut running = start();
    let client = connect(&running.shell("cat", IN_OUT), V4).await;
    let mut error = client.typed("error").await.unwrap();
    let _stdin = client.typed("stdin").await.unwrap();
    let mut stdout = client.typed("stdout").await.unwrap();
    let mut websocket = websocket_client::connect(&running.shell("cat", TTY), "v5.channel.k8s.io").await;
    assert!(websocket.next().await);
    // One that has only just begun, and one that has not.
    let _early = connect(&running.shell("cat", IN_OUT), V4).await;
    let url = running.shell("cat", IN_OUT);
    let _half_open = crate::support::dial(&url).await;
    until(|| running.server.sessions() == 3).await;
    let clients = async {
        let told = (stdout.text().await, error.text().await);
        websocket.read_all().await;
        drop(client);
        told
    };
    let (told, ()) = tokio::join!(clients, running.stop());
    assert_eq!(told.0, "");
    assert!(told.1.contains("shutting down"), "{}", told.1);
    assert!(websocket.text(3).contains("shutting down"));
    assert_eq!(running.server.sessions(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_not_waited_for() {
    let mut running = start();
    let client = connect(&running.exec("endless", OUT), V4).await;
    let _error = client.typed("error").await.unwrap();
    let _stdout = client.typed("stdout").await.unwrap();
    let mut idle = websocket_client::connect(&running.shell("cat", TTY), V4).await;
    assert!(idle.next().await);
    let begun = Instant::now();
    soon(running.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(*running.seen.hung_up.borrow(), 2);
}

#[tokio::test]
async fn nobody_is_accepted_any_more() {
    let mut running = start();
    let address = running.server.address();
    running.stop().await;
    let server = running.server.clone();
    drop(running);
    drop(server);
    // All handles of the listener are closed by now.
    assert!(TcpStream::connect(address).await.is_err());
}
