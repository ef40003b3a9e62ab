//! Exec sessions: latency, throughput in both directions, and many at once that are all alive at one barrier.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use crate::{
    Options,
    client::Client,
    figure::{Figure, milliseconds},
    memory,
    spdy::Spdy,
    websocket::WebSocket,
};

/// Bytes of one message to standard input.
const CHUNK: usize = 32 * 1024;

/// What a session is spoken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// SPDY/3.1, v4.channel.k8s.io: what the kubelet speaks to a runtime.
    Spdy,
    /// WebSocket, v5.channel.k8s.io.
    Websocket,
}

/// What came from the server.
#[derive(Debug)]
pub enum Came {
    /// So many bytes of standard output.
    Output(usize),
    /// The status, as JSON text.
    Status(String),
}

/// One exec.
enum Session {
    Spdy(Box<Spdy>),
    WebSocket(Box<WebSocket>),
}

impl Session {
    async fn open(
        client: &mut Client,
        transport: Transport,
        container: &str,
        stdin: bool,
        command: &[&str],
    ) -> Result<Self> {
        let url = client.exec_url(container, stdin, command).await?;
        let rest = url.strip_prefix("http://").with_context(|| format!("{url} is no http URL"))?;
        let address = rest.split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(match transport {
            Transport::Spdy => Self::Spdy(Box::new(Spdy::open(stream, rest, stdin).await?)),
            Transport::Websocket => Self::WebSocket(Box::new(WebSocket::open(stream, rest).await?)),
        })
    }

    /// The next bytes of standard output; `None`: over, with success.
    async fn output(&mut self) -> Result<Option<usize>> {
        let came = match self {
            Self::Spdy(session) => session.next().await,
            Self::WebSocket(session) => session.next().await,
        };
        match came? {
            Came::Output(count) => Ok(Some(count)),
            Came::Status(status) => {
                ensure!(status.contains("\"Success\""), "{status}");
                Ok(None)
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

    async fn input(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Spdy(session) => session.input(bytes).await,
            Self::WebSocket(session) => session.input(bytes).await,
        }
    }

    async fn finish_input(&mut self) -> Result<()> {
        match self {
            Self::Spdy(session) => session.finish_input().await,
            Self::WebSocket(session) => session.finish_input().await,
        }
    }
}

/// All that was asked for, in one container.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Vec<Figure>> {
    if options.transports.is_empty() {
        return Ok(Vec::new());
    }
    let (pod, config) = client.run_pod().await?;
    let container = client.start(&pod, &config).await?;
    let measured = measure_in(client, options, &container).await;
    client.end_container(&container).await?;
    client.end_pod(&pod).await?;
    measured
}

async fn measure_in(client: &mut Client, options: &Options, container: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &transport in &options.transports {
        let name = match transport {
            Transport::Spdy => "SPDY",
            Transport::Websocket => "WebSocket",
        };
        figures.extend(latency(client, options, transport, container, name).await?);
        if options.stream_mib > 0 {
            let rate = stdout(client, options, transport, container).await;
            figures.extend(throughput(format!("exec stdout over {name}"), rate));
            let rate = stdin(client, options, transport, container).await;
            figures.extend(throughput(format!("exec stdin over {name}"), rate));
        }
    }
    if let (Some(&first), true) = (options.transports.first(), options.sessions > 0) {
        figures.extend(at_once(client, options, first, container).await?);
    }
    Ok(figures)
}

/// A long stream that breaks off has no figure, and the others are worth having all the same.
fn throughput(name: String, rate: Result<f64>) -> Option<Figure> {
    match rate {
        Ok(rate) => Some(Figure::single(name, "MiB/s", rate)),
        Err(error) => {
            eprintln!("{name}: {error:#}");
            None
        }
    }
}

async fn latency(
    client: &mut Client,
    options: &Options,
    transport: Transport,
    container: &str,
    name: &str,
) -> Result<Option<Figure>> {
    let mut times = Vec::new();
    for _ in 0..options.rounds {
        let begin = Instant::now();
        Session::open(client, transport, container, false, &["true"]).await?.until_end().await?;
        times.push(milliseconds(begin));
    }
    Ok(Figure::step(format!("exec of true over {name}"), times))
}

async fn stdout(
    client: &mut Client,
    options: &Options,
    transport: Transport,
    container: &str,
) -> Result<f64> {
    let wanted = options.stream_mib << 20;
    let begin = Instant::now();
    let command = ["head", "-c", &wanted.to_string(), "/dev/zero"];
    let count = Session::open(client, transport, container, false, &command).await?.until_end().await?;
    ensure!(count == wanted, "{count} bytes of {wanted} arrived");
    Ok(options.stream_mib as f64 / begin.elapsed().as_secs_f64())
}

async fn stdin(client: &mut Client, options: &Options, transport: Transport, container: &str) -> Result<f64> {
    let begin = Instant::now();
    // A shell that has more to do stays, with standard output open: when that ends, containerd ends the input as well, and
    // a shell that has nothing else to do becomes the cat.
    let command = ["sh", "-c", "cat > /dev/null; true"];
    let mut session = Session::open(client, transport, container, true, &command).await?;
    if let Err(error) = feed(&mut session, options.stream_mib << 20).await {
        // A server that ends a session early has said why, before it closed the connection.
        return Err(session.until_end().await.err().unwrap_or(error));
    }
    // It has read all when it ends.
    session.until_end().await?;
    Ok(options.stream_mib as f64 / begin.elapsed().as_secs_f64())
}

/// So many bytes of standard input, and its end.
async fn feed(session: &mut Session, bytes: usize) -> Result<()> {
    let chunk = vec![0; CHUNK];
    for _ in 0..bytes / CHUNK {
        session.input(&chunk).await?;
    }
    session.finish_input().await
}

async fn at_once(
    client: &mut Client,
    options: &Options,
    transport: Transport,
    container: &str,
) -> Result<[Figure; 2]> {
    let before = memory::daemon_kib(options)?;
    let begin = Instant::now();
    let command = ["sh", "-c", "echo in; read word; echo $word"];
    let mut all = Vec::new();
    for _ in 0..options.sessions {
        all.push(Session::open(client, transport, container, true, &command).await?);
    }
    for session in &mut all {
        ensure!(session.output().await?.is_some(), "an exec ended before the barrier");
    }
    let seconds = begin.elapsed().as_secs_f64();
    let growth = memory::daemon_kib(options)? as f64 - before as f64;
    for session in &mut all {
        session.input(b"out\n").await?;
    }
    for session in &mut all {
        session.until_end().await?;
    }
    let count = options.sessions;
    Ok([
        Figure::single(format!("{count} execs alive at once, after"), "s", seconds),
        Figure::single(format!("daemon's growth by {count} execs, PSS"), "KiB", growth),
    ])
}
