//! Tokens, paths, methods, negotiation, and clients that dawdle.

use std::process::Command;
use std::time::Duration;

use holdfast_streaming::session::{ExecRequest, Wanted};
use holdfast_streaming::{Config, Error, Kind, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::spdy_client::{UPGRADE, connect, upgrade};
use crate::support::{ALL, OUT, TTY, dial, request, soon, start, start_with, status};
use crate::websocket_client;

const V4: (&str, &str) = ("X-Stream-Protocol-Version", "v4.channel.k8s.io");

fn with_v4() -> Vec<(&'static str, &'static str)> {
    [&UPGRADE[..], &[V4]].concat()
}

#[tokio::test]
async fn a_url_works_once() {
    let running = start();
    let url = running.shell("exit 0", OUT);
    assert!(url.starts_with(&format!("http://127.0.0.1:{}/exec/", running.server.address().port())), "{url}");
    let _client = connect(&url, "v4.channel.k8s.io").await;
    assert_eq!(status("POST", &url, &with_v4()).await, 404);
    assert_eq!(running.server.sessions(), 1);
}

#[tokio::test]
async fn unknown_urls_and_methods() {
    let running = start();
    let url = running.shell("exit 0", OUT);
    let base = url.split("/exec/").next().unwrap();
    for path in ["/", "/exec", "/exec/", "/exec/nonsense", "/other/x", "/exec/a/b"] {
        assert_eq!(status("GET", &format!("{base}{path}"), &with_v4()).await, 404, "{path}");
    }
    assert_eq!(status("GET", &url.replace("/exec/", "/attach/"), &with_v4()).await, 404);
    let head = request(&mut dial(&url).await, "PUT", &url, &with_v4()).await;
    assert_eq!((head.status, head.header("allow")), (405, Some("GET, POST")));
    // None of them used it up.
    assert_eq!(status("GET", &url, &with_v4()).await, 101);
}

#[tokio::test]
async fn negotiation() {
    let running = start();
    let url = || running.shell("exit 0", OUT);
    assert_eq!(status("GET", &url(), &[]).await, 400);
    assert_eq!(status("GET", &url(), &[V4]).await, 400);
    assert_eq!(status("GET", &url(), &UPGRADE).await, 400);
    let (head, _client) = upgrade(&url(), &["v9", "v8.channel.k8s.io, v5.channel.k8s.io"]).await;
    assert_eq!(head.status, 403);
    assert_eq!(head.headers["x-accepted-stream-protocol-versions"].len(), 4);
    let (head, _client) = upgrade(&url(), &["v9,v2.channel.k8s.io", "v4.channel.k8s.io"]).await;
    assert_eq!((head.status, head.header("x-stream-protocol-version")), (101, Some("v2.channel.k8s.io")));
    assert_eq!((head.header("connection"), head.header("upgrade")), (Some("Upgrade"), Some("SPDY/3.1")));
    assert_eq!(websocket_client::upgrade(&url(), "v9.channel.k8s.io").await.0.status, 403);
    let (head, _io) = websocket_client::upgrade(&url(), "v9, v4.channel.k8s.io, v5.channel.k8s.io").await;
    assert_eq!((head.status, head.header("sec-websocket-protocol")), (101, Some("v4.channel.k8s.io")));
    let ports = || running.server.port_forward_url("p", &[]).unwrap();
    assert_eq!(upgrade(&ports(), &["v4.channel.k8s.io"]).await.0.status, 403);
    // Channels need ports.
    assert_eq!(websocket_client::upgrade(&ports(), "v4.channel.k8s.io").await.0.status, 400);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let running = start();
    let url = running.shell("exit 0", OUT);
    let mut io = dial(&url).await;
    let head = request(&mut io, "GET", &url, &[]).await;
    assert_eq!(head.header("connection"), Some("close"));
    let mut body = String::new();
    soon(io.read_to_string(&mut body)).await.unwrap();
    assert!(body.contains("SPDY/3.1") && body.ends_with('\n'), "{body}");
    // client-go would take it for YAML.
    assert!(!body.contains(": "), "{body}");
}

#[tokio::test]
async fn tokens_expire_and_are_limited() {
    let config = Config { token_ttl: Duration::from_millis(50), max_tokens: 2, ..Config::default() };
    let running = start_with(config);
    let url = running.shell("exit 0", OUT);
    let _second = running.shell("exit 0", OUT);
    let error = running.server.port_forward_url("p", &[]).unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: 2 }));
    assert_eq!(error.kind(), Kind::Exhausted);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(status("GET", &url, &with_v4()).await, 404);
    running.shell("exit 0", OUT);
}

#[tokio::test]
async fn requests_are_checked() {
    let running = start();
    let exec = |id: &str, command: &[&str], wanted| {
        let command = command.iter().map(|text| (*text).to_owned()).collect();
        let error =
            running.server.exec_url(ExecRequest { container_id: id.into(), command, wanted }).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        error.to_string()
    };
    assert!(exec("", &["true"], OUT).contains("container_id"));
    assert!(exec("c", &[], OUT).contains("cmd"));
    assert!(exec("c", &["true"], Wanted::default()).contains("stdout"));
    assert!(exec("c", &["true"], Wanted { tty: true, ..ALL }).contains("stderr"));
    running.shell("exit 0", TTY);
    assert!(matches!(running.server.port_forward_url("", &[]), Err(Error::NoSandbox)));
    assert!(matches!(running.server.port_forward_url("p", &[80, 0]), Err(Error::Port(0))));
    assert!(matches!(running.server.port_forward_url("p", &[65_536]), Err(Error::Port(65_536))));
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let config = Config { head_timeout: Duration::from_millis(200), ..Config::default() };
    let running = start_with(config);
    let url = running.shell("exit 0", OUT);
    let mut silent = dial(&url).await;
    let mut slow = dial(&url).await;
    slow.write_all(b"GET /exec/x HTTP/1.1\r\nHost: ").await.unwrap();
    let mut nothing = Vec::new();
    for io in [&mut silent, &mut slow] {
        // Closed or reset, without a response.
        let _ = soon(io.read_to_end(&mut nothing)).await;
        assert_eq!(nothing, b"");
    }
}

#[tokio::test]
async fn half_open_connections_are_limited() {
    let running = start_with(Config { max_half_open: 2, ..Config::default() });
    let url = running.shell("exit 0", OUT);
    let mut first = dial(&url).await;
    let _second = dial(&url).await;
    // Nobody who says nothing keeps it out: the oldest makes way, long before its time is over.
    let _client = connect(&url, "v4.channel.k8s.io").await;
    let mut nothing = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), first.read_to_end(&mut nothing)).await.unwrap();
    // One that is upgraded is not half-open.
    let sessions: Vec<_> = (0..4).map(|_| running.shell("exit 0", OUT)).collect();
    let mut clients = Vec::new();
    for url in &sessions {
        clients.push(connect(url, "v4.channel.k8s.io").await);
    }
    assert_eq!(running.server.sessions(), 5);
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let running = start();
    let url = running.shell("exit 0", OUT);
    let mut io = dial(&url).await;
    let _ = io.write_all(b"GET /exec/x HTTP/1.1\r\nA: ").await;
    let flood = async { while io.write_all(&[b'a'; 8 * 1024]).await.is_ok() {} };
    soon(flood).await;
}

#[tokio::test]
async fn over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-days",
            "2",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("SKIP: no openssl to make a certificate");
        return;
    }
    let missing = Tls { cert: directory.path().join("none.pem"), key: key.clone() };
    let refused = holdfast_streaming::Server::bind(
        Config { tls: Some(missing), ..Config::default() },
        std::sync::Arc::new(crate::backend::Fake::default()),
    );
    assert!(matches!(refused.err(), Some(Error::Pem { .. })));
    let running = start_with(Config { tls: Some(Tls { cert: cert.clone(), key }), ..Config::default() });
    let url = running.shell("echo hello", OUT);
    assert!(url.starts_with("https://"), "{url}");
    let mut io = tls(&url, &cert).await;
    let head = request(&mut io, "POST", &url, &with_v4()).await;
    assert_eq!(head.status, 101);
    let client = crate::spdy_client::Client::new(io);
    let mut error = client.typed("error").await.unwrap();
    let mut stdout = client.typed("stdout").await.unwrap();
    assert_eq!(stdout.text().await, "hello\n");
    assert!(error.text().await.contains("Success"));
}

async fn tls(url: &str, cert: &std::path::Path) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    soon(connector.connect(ServerName::try_from("localhost").unwrap(), dial(url).await)).await.unwrap()
}
