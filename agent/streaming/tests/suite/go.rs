//! The real clients: client-go's, in a small program of `tests/go`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::port_forward::echo;
use crate::support::{ALL, Running, TTY, pattern, reaches, soon, start};

/// Builds the program; `None` when there is no Go, or no module proxy.
async fn program() -> Option<PathBuf> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go");
    let built =
        Command::new("go").arg("build").arg("-o").arg(&out).arg(".").current_dir(source).status().await;
    if built.is_ok_and(|status| status.success()) {
        return Some(out);
    }
    println!("SKIP: tests/go does not build here");
    None
}

async fn client(program: &Path, arguments: [&str; 4], stdin: Vec<u8>) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let writer = tokio::spawn(async move {
        let _ = pipe.write_all(&stdin).await;
    });
    let output = soon(child.wait_with_output()).await.unwrap();
    writer.abort();
    output
}

async fn text(program: &Path, arguments: [&str; 4], stdin: &str) -> (String, String, Option<i32>) {
    let output = client(program, arguments, stdin.into()).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

async fn exec(running: &Running, program: &Path, transport: &str) {
    let url = running.shell("cat; echo problem >&2; exit 7", ALL);
    let got = text(program, ["exec", transport, &url, "plain"], "hello").await;
    assert_eq!(got, ("hello".into(), "problem\n".into(), Some(7)), "{transport}");
    let url = running.shell("head -n 1", TTY);
    let got = text(program, ["exec", transport, &url, "tty"], "line\n").await;
    assert_eq!(got, ("line\n".into(), String::new(), Some(0)), "{transport}");
    reaches(&running.seen.sizes, |sizes| sizes.ends_with(&[(80, 24), (100, 50)])).await;
    let url = running.exec("missing", ALL);
    let (_, error, code) = text(program, ["exec", transport, &url, "plain"], "").await;
    assert!(error.contains("container missing is not running") && code == Some(99), "{error}");
    // A used URL.
    let (_, error, code) = text(program, ["exec", transport, &url, "plain"], "").await;
    assert!(error.contains("404") && code == Some(99), "{error}");
    let sent = pattern(16 << 20);
    let url = running.shell("cat", ALL);
    let output = client(program, ["exec", transport, &url, "plain"], sent.clone()).await;
    assert!(output.stdout == sent, "{} bytes", output.stdout.len());
    assert_eq!((output.stderr.len(), output.status.code()), (0, Some(0)));
}

async fn forward(running: &Running, program: &Path, transport: &str) {
    let port = echo().await.to_string();
    let url = || running.server.port_forward_url("p", &[]).unwrap();
    let sent = pattern(4 << 20);
    let output = client(program, ["forward", transport, &url(), &port], sent.clone()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout == [&sent[..], b"bye"].concat(), "{} bytes, {error}", output.stdout.len());
    assert_eq!((error.as_ref(), output.status.code()), ("", Some(0)));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (_, error, _) = text(program, ["forward", transport, &url(), &free], "x").await;
    assert!(error.contains(&format!("forward port {free}: connect to pod p: ")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds client-go: cargo test -p holdfast-streaming -- --ignored"]
async fn client_go() {
    let Some(program) = program().await else { return };
    let running = start();
    for transport in ["spdy", "websocket"] {
        exec(&running, &program, transport).await;
        forward(&running, &program, transport).await;
    }
    running.idle().await;
}
