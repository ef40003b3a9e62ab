//! Exec sessions over WebSocket: latency, throughput, and many at once that are all alive at one barrier.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::{
    Options,
    client::Client,
    memory,
    rounds::{self, Step},
};

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Channels of the protocol.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const ERROR: u8 = 3;
/// Length of the long stream.
const LONG_MIB: usize = 256;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Sessions {
    /// An exec of `true`, from the call to its status.
    pub exec: Step,
    /// Of standard output, in MiB each second.
    pub throughput_mib_s: f64,
    /// How many were alive at once.
    pub at_once: usize,
    /// From the first call until all were alive, in seconds.
    pub until_all_s: f64,
    /// Proportional set size of the daemon by then, beyond what it had before, in KiB.
    pub growth_kib: i64,
}

/// One exec.
struct Session(WebSocketStream<TcpStream>);

impl Session {
    async fn open(client: &mut Client, container: &str, stdin: bool, script: &str) -> Result<Self> {
        let url = client.exec_url(container, stdin, &["sh", "-c", script]).await?;
        let url = url.replacen("http://", "ws://", 1);
        let mut request = url.as_str().into_client_request().context("a URL that is none")?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(PROTOCOL));
        let address = request.uri().authority().context("a URL without address")?.to_string();
        let stream = TcpStream::connect(&address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (socket, _) = client_async(request, stream).await.context("upgrade to WebSocket")?;
        Ok(Self(socket))
    }

    /// The next bytes of standard output; `None`: over, with success.
    async fn output(&mut self) -> Result<Option<usize>> {
        loop {
            match self.0.next().await.context("the session broke off")?? {
                Message::Binary(bytes) => match bytes.first() {
                    Some(&STDOUT) if bytes.len() > 1 => return Ok(Some(bytes.len() - 1)),
                    Some(&ERROR) if bytes.len() > 1 => {
                        let status = String::from_utf8_lossy(&bytes[1..]).into_owned();
                        ensure!(status.contains("\"Success\""), "{status}");
                        return Ok(None);
                    }
                    _ => {}
                },
                Message::Close(_) => bail!("closed without a status"),
                _ => {}
            }
        }
    }

    async fn until_end(&mut self) -> Result<usize> {
        let mut sum = 0;
        while let Some(count) = self.output().await? {
            sum += count;
        }
        Ok(sum)
    }
}

/// `None` if it was not asked for.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Option<Sessions>> {
    if options.sessions == 0 {
        return Ok(None);
    }
    let (pod, config) = client.run_pod().await?;
    let container = client.start(&pod, &config).await?;
    let measured = measure_in(client, options, &container).await;
    client.end_container(&container).await?;
    client.end_pod(&pod).await?;
    measured.map(Some)
}

async fn measure_in(client: &mut Client, options: &Options, container: &str) -> Result<Sessions> {
    let mut times = Vec::new();
    for _ in 0..options.rounds {
        let begin = Instant::now();
        Session::open(client, container, false, "true").await?.until_end().await?;
        times.push(rounds::milliseconds(begin));
    }
    let begin = Instant::now();
    let script = format!("head -c {} /dev/zero", LONG_MIB << 20);
    let count = Session::open(client, container, false, &script).await?.until_end().await?;
    ensure!(count == LONG_MIB << 20, "{count} bytes of {LONG_MIB} MiB arrived");
    let throughput_mib_s = LONG_MIB as f64 / begin.elapsed().as_secs_f64();

    let daemon = options.processes.first().context("--processes names no daemon")?;
    let before = memory::pss_kib(daemon);
    let begin = Instant::now();
    let mut all = Vec::new();
    for _ in 0..options.sessions {
        all.push(Session::open(client, container, true, "echo in; read word; echo $word").await?);
    }
    for session in &mut all {
        ensure!(session.output().await?.is_some(), "an exec ended before the barrier");
    }
    let until_all_s = begin.elapsed().as_secs_f64();
    let growth_kib = memory::pss_kib(daemon) - before;
    for session in &mut all {
        session.0.send(Message::Binary([&[STDIN], &b"out\n"[..]].concat().into())).await?;
    }
    for session in &mut all {
        session.until_end().await?;
    }
    let exec = rounds::step("Exec(true) over WebSocket", times);
    Ok(Sessions { exec, throughput_mib_s, at_once: all.len(), until_all_s, growth_kib })
}
