//! Exec over SPDY, in every version.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_streaming::Config;

use crate::spdy_client::{Client, End, Refused, Stream, connect};
use crate::support::{ALL, IN_OUT, OUT, TTY, pattern, reaches, soon, start, start_with, until};

const VERSIONS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const V4: &str = VERSIONS[0];
const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

async fn open<const N: usize>(client: &Client, kinds: [&str; N]) -> [Stream; N] {
    let mut streams = Vec::new();
    for kind in kinds {
        streams.push(client.typed(kind).await.unwrap());
    }
    streams.try_into().ok().unwrap()
}

#[tokio::test]
async fn streams_and_exit_codes_in_each_version() {
    let running = start();
    for version in VERSIONS {
        for code in [0, 3, 255] {
            let script = format!("cat; echo problem >&2; exit {code}");
            let client = connect(&running.shell(&script, ALL), version).await;
            let [mut error, stdin, mut stdout, mut stderr] =
                open(&client, ["error", "stdin", "stdout", "stderr"]).await;
            stdin.write(b"hello").await.unwrap();
            stdin.finish().await;
            assert_eq!(stdout.text().await, "hello");
            assert_eq!(stderr.text().await, "problem\n");
            let status = error.text().await;
            match (version, code) {
                (V4, 0) => assert_eq!(status, SUCCESS),
                (_, 0) => assert_eq!(status, ""),
                (V4, _) => {
                    let cause = format!(
                        r#""reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}"#
                    );
                    assert!(status.contains(&cause), "{status}");
                }
                _ => {
                    let text = format!("command terminated with non-zero exit code: exit status {code}");
                    assert_eq!(status, text);
                }
            }
            client.closed().await;
        }
    }
    running.idle().await;
}

#[tokio::test]
async fn a_failure_is_told() {
    let running = start();
    for version in VERSIONS {
        let client = connect(&running.exec("missing", OUT), version).await;
        let [mut error, mut stdout] = open(&client, ["error", "stdout"]).await;
        assert_eq!(stdout.text().await, "");
        let status = error.text().await;
        assert!(status.contains("exec in container missing: container missing is not running"), "{status}");
        assert_eq!(status.contains(r#""reason":"InternalError""#), version == V4, "{status}");
    }
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let running = start();
    for (round, version) in VERSIONS.into_iter().take(2).enumerate() {
        let client = connect(&running.shell("cat", TTY), version).await;
        let [mut error, stdin, mut stdout, resize] =
            open(&client, ["error", "stdin", "stdout", "resize"]).await;
        resize.write(br#"{"Width":80,"Height":24}{"Width":1"#).await.unwrap();
        resize.write(br#"00,"Height":50}garbage{"Width":1,"Height":1}"#).await.unwrap();
        reaches(&running.seen.sizes, |sizes| sizes.len() == 2 * (round + 1)).await;
        assert!(running.seen.sizes.borrow().ends_with(&[(80, 24), (100, 50)]));
        stdin.finish().await;
        assert_eq!(stdout.text().await, "");
        error.text().await;
    }
    // Before v3 there is no stream for it, and none is waited for.
    let client = connect(&running.shell("exit 0", TTY), "v2.channel.k8s.io").await;
    let [mut error, _stdin, mut stdout] = open(&client, ["error", "stdin", "stdout"]).await;
    assert_eq!((stdout.text().await, error.text().await), (String::new(), String::new()));
}

#[tokio::test]
async fn missing_streams_are_named() {
    let config = Config { stream_creation_timeout: Duration::from_millis(300), ..Config::default() };
    let running = start_with(config);
    let client = connect(&running.shell("exit 0", ALL), V4).await;
    let [mut error, _stdout] = open(&client, ["error", "stdout"]).await;
    let status = error.text().await;
    assert!(status.contains("stdin, stderr missing"), "{status}");
    client.closed().await;
    // Without an error stream there is nobody to tell.
    let client = connect(&running.shell("exit 0", ALL), V4).await;
    client.closed().await;
    running.idle().await;
    assert_eq!(running.seen.execs.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn unknown_and_second_streams_are_refused() {
    let running = start();
    let client = connect(&running.shell("cat", IN_OUT), V4).await;
    let [mut error, stdin] = open(&client, ["error", "stdin"]).await;
    assert_eq!(client.typed("stdin").await.err(), Some(Refused));
    assert_eq!(client.typed("nonsense").await.err(), Some(Refused));
    assert_eq!(client.open(&[]).await.err(), Some(Refused));
    // One that nobody asked for is empty.
    let mut stderr = client.typed("stderr").await.unwrap();
    assert_eq!(stderr.text().await, "");
    let mut stdout = client.typed("stdout").await.unwrap();
    assert_eq!(client.typed("stdout").await.err(), Some(Refused));
    stdin.write(b"x").await.unwrap();
    stdin.finish().await;
    assert_eq!(stdout.text().await, "x");
    assert_eq!(error.text().await, SUCCESS);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_there_and_back() {
    let running = start();
    let client = connect(&running.shell("cat", IN_OUT), V4).await;
    let [mut error, stdin, mut stdout] = open(&client, ["error", "stdin", "stdout"]).await;
    let sent = pattern(64 << 20);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        stdin.write(&sent).await.unwrap();
        stdin.finish().await;
        stdin
    });
    let (got, end) = stdout.read_all().await;
    assert_eq!(end, End::Fin);
    assert!(got == expected);
    assert_eq!(error.text().await, SUCCESS);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_process() {
    let running = start();
    let client = connect(&running.exec("endless", OUT), V4).await;
    let [_error, mut stdout] = open(&client, ["error", "stdout"]).await;
    let taken = || running.seen.taken.load(Ordering::Relaxed);
    until(|| taken() > 0).await;
    // Until the sockets' buffers are full, and then no more.
    let mut before = 0;
    soon(async {
        while before != taken() {
            before = taken();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(before < 32 << 20, "{before}");
    // It goes on when the client does.
    let mut got = 0;
    while got < before + (1 << 20) {
        got += soon(stdout.read()).await.unwrap().len() as u64;
    }
    assert!(taken() > before);
}

/// As with containerd: it gets SIGPIPE, in the place of a reader that throws away for ever.
#[tokio::test]
async fn a_process_that_writes_on_ends_with_its_client() {
    for script in ["echo $$; exec yes", "echo $$; sleep 0.5; exec yes"] {
        let running = start();
        let client = connect(&running.shell(script, OUT), V4).await;
        let [error, mut stdout] = open(&client, ["error", "stdout"]).await;
        let first = soon(stdout.read()).await.unwrap();
        let pid = String::from_utf8_lossy(&first).lines().next().unwrap().to_owned();
        assert!(pid.parse::<u32>().is_ok(), "{pid}");
        drop((client, error, stdout));
        until(|| !std::path::Path::new("/proc").join(&pid).exists()).await;
        running.idle().await;
    }
}

/// One that writes nothing is not ended: a command may go on with its work when nobody looks.
#[tokio::test]
async fn a_process_that_is_silent_outlives_its_client() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("done");
    let running = start();
    let script = format!("echo begun; sleep 0.5; echo done >{}", file.display());
    let client = connect(&running.shell(&script, OUT), V4).await;
    let [error, mut stdout] = open(&client, ["error", "stdout"]).await;
    soon(stdout.read()).await.unwrap();
    drop((client, error, stdout));
    until(|| file.exists()).await;
    running.idle().await;
}

#[tokio::test]
async fn what_is_in_the_pipe_is_delivered_and_a_grandchild_is_not_waited_for() {
    let running = start();
    let script = "sleep 600 & echo $!; head -c 60000 /dev/zero; exit 7";
    let client = connect(&running.shell(script, OUT), V4).await;
    let [mut error, mut stdout] = open(&client, ["error", "stdout"]).await;
    let (got, end) = stdout.read_all().await;
    let pid_length = got.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    assert_eq!((got.len() - pid_length, end), (60_000, End::Fin));
    assert!(error.text().await.contains(r#""message":"7""#));
    let pid = String::from_utf8_lossy(&got[..pid_length]).trim().to_owned();
    std::process::Command::new("kill").arg(pid).status().unwrap();
}

#[tokio::test]
async fn a_process_that_does_not_read_its_stdin_ends() {
    let running = start();
    let client = connect(&running.shell("head -c 5; exec 0<&-; echo; sleep 0.2", IN_OUT), V4).await;
    let [mut error, stdin, mut stdout] = open(&client, ["error", "stdin", "stdout"]).await;
    // More than all queues hold: what the process did not want is dropped, and the client not held up for ever.
    soon(stdin.write(&vec![b'a'; 4 << 20])).await.unwrap();
    assert_eq!(stdout.text().await, "aaaaa\n");
    assert_eq!(error.text().await, SUCCESS);
}
