//! Attach: the container outlives its clients.

use crate::spdy_client::connect;
use crate::support::{IN_OUT, OUT, reaches, soon, start};
use crate::websocket_client;

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn until_the_container_ends() {
    let running = start();
    let client = connect(&running.attach("cat; echo bye", IN_OUT), V4).await;
    let mut error = client.typed("error").await.unwrap();
    let stdin = client.typed("stdin").await.unwrap();
    let mut stdout = client.typed("stdout").await.unwrap();
    stdin.write(b"hello ").await.unwrap();
    stdin.finish().await;
    assert_eq!(stdout.text().await, "hello bye\n");
    assert!(error.text().await.contains("Success"));
}

#[tokio::test]
async fn the_end_is_waited_for_after_eof() {
    let running = start();
    let client = connect(&running.attach("exec 1>&-; sleep 0.3", OUT), V4).await;
    let mut error = client.typed("error").await.unwrap();
    let mut stdout = client.typed("stdout").await.unwrap();
    assert_eq!(stdout.text().await, "");
    assert_eq!(*running.seen.over.borrow(), 0);
    assert!(error.text().await.contains("Success"));
    assert_eq!(*running.seen.over.borrow(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_lets_go() {
    let running = start();
    let client = connect(&running.attach("echo ready; cat", IN_OUT), V4).await;
    let error = client.typed("error").await.unwrap();
    let stdin = client.typed("stdin").await.unwrap();
    let mut stdout = client.typed("stdout").await.unwrap();
    assert_eq!(soon(stdout.read()).await.unwrap(), b"ready\n");
    drop((client, error, stdin, stdout));
    reaches(&running.seen.hung_up, |count| *count == 1).await;
    let mut client = websocket_client::connect(&running.attach("echo ready; cat", IN_OUT), V4).await;
    client.until(1, "ready\n").await;
    drop(client);
    reaches(&running.seen.hung_up, |count| *count == 2).await;
    running.idle().await;
}
