//! Clients that go away in the middle.

use std::sync::atomic::Ordering;

use crate::spdy_client::connect;
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_streaming::Config;
use holdfast_streaming::session::Wanted;

use crate::support::{ALL, IN, IN_OUT, OUT, TTY, reaches, soon, start, start_with, until};
use crate::websocket_client;

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn an_exec_runs_on_without_its_client() {
    let running = start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    // Its stdin ends, and it is not killed. (One that writes on is: exec_spdy.rs.)
    let script = format!("echo ready; cat; sleep 0.3; echo done > {path}");
    for (round, websocket) in [false, true].into_iter().enumerate() {
        std::fs::write(&path, "").unwrap();
        let url = running.shell(&script, ALL);
        if websocket {
            let mut client = websocket_client::connect(&url, V4).await;
            client.until(1, "ready\n").await;
        } else {
            let client = connect(&url, V4).await;
            let _error = client.typed("error").await.unwrap();
            let _stdin = client.typed("stdin").await.unwrap();
            let mut stdout = client.typed("stdout").await.unwrap();
            let _stderr = client.typed("stderr").await.unwrap();
            assert_eq!(soon(stdout.read()).await.unwrap(), b"ready\n");
        }
        reaches(&running.seen.over, |over| *over == round + 1).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "done\n");
        running.idle().await;
    }
    assert_eq!(*running.seen.hung_up.borrow(), 0);
}

#[tokio::test]
async fn a_terminal_hangs_up() {
    let running = start();
    for (round, websocket) in [false, true].into_iter().enumerate() {
        let url = running.shell("echo ready; cat", TTY);
        if websocket {
            let mut client = websocket_client::connect(&url, V4).await;
            client.until(1, "ready\n").await;
        } else {
            let client = connect(&url, V4).await;
            let _error = client.typed("error").await.unwrap();
            let _stdin = client.typed("stdin").await.unwrap();
            let mut stdout = client.typed("stdout").await.unwrap();
            let _resize = client.typed("resize").await.unwrap();
            assert_eq!(soon(stdout.read()).await.unwrap(), b"ready\n");
        }
        reaches(&running.seen.hung_up, |count| *count == round + 1).await;
        running.idle().await;
    }
}

#[tokio::test]
async fn a_terminal_hangs_up_behind_a_client_that_does_not_read() {
    let running = start();
    let url = running.exec("endless", Wanted { tty: true, ..OUT });
    let client = connect(&url, V4).await;
    let error = client.typed("error").await.unwrap();
    let stdout = client.typed("stdout").await.unwrap();
    let resize = client.typed("resize").await.unwrap();
    until(|| running.seen.taken.load(Ordering::Relaxed) > 0).await;
    drop((client, error, stdout, resize));
    reaches(&running.seen.hung_up, |count| *count == 1).await;
    running.idle().await;
}

#[tokio::test]
async fn stdin_that_is_queued_reaches_the_process() {
    let running = start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let url = running.shell(&format!("sleep 0.3; cat > {}", file.path().display()), IN);
    let client = connect(&url, V4).await;
    let error = client.typed("error").await.unwrap();
    let stdin = client.typed("stdin").await.unwrap();
    stdin.write(b"last words").await.unwrap();
    drop((client, error, stdin));
    reaches(&running.seen.over, |over| *over == 1).await;
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "last words");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let config = Config { idle_timeout: Duration::from_millis(300), ..Config::default() };
    let running = start_with(config);
    let client = connect(&running.attach("cat", IN_OUT), V4).await;
    let _error = client.typed("error").await.unwrap();
    let _stdin = client.typed("stdin").await.unwrap();
    let _stdout = client.typed("stdout").await.unwrap();
    let mut websocket = websocket_client::connect(&running.shell("cat", TTY), V4).await;
    client.closed().await;
    // Without a close frame, as the peers do it.
    while soon(websocket.socket.next()).await.is_some_and(|message| message.is_ok()) {}
    reaches(&running.seen.hung_up, |count| *count == 2).await;
    running.idle().await;
}
