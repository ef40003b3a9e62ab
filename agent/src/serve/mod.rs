//! `holdfast serve`: the daemon from its start to its end.

mod reload;
mod socket;
mod systemd;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use reload::Source;
pub use socket::Activation;

use crate::{
    config::Config,
    cri,
    runtime::{Runtime, StartError},
};

/// How long requests may take to end after SIGTERM. What they do to containers is done by tasks and shims, so a
/// client that holds on loses nothing but its answer.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error("start")]
    Start(#[source] Box<StartError>),
    #[error("listen on {path:?}: another server answers there; stop it or set `listen` to another path")]
    Taken { path: PathBuf },
    #[error("{operation} {path:?}")]
    Socket { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("take the socket that the service manager has passed: it is no listening unix socket")]
    Activation { source: io::Error },
    #[error("the service manager has passed {count} sockets; one is wanted, for CRI")]
    TooManySockets { count: usize },
    #[error(
        "the service manager has passed a socket at {given}, but `listen` is {path:?}: set ListenStream= of the socket unit to it"
    )]
    OtherSocket { given: String, path: PathBuf },
    #[error("group {group:?} of listen_group does not exist")]
    NoSuchGroup { group: String },
    #[error("streaming")]
    Streaming(#[from] holdfast_streaming::Error),
    #[error("[streaming] tls_cert and tls_key belong together: set both or neither")]
    HalfTls,
    #[error("watch signals")]
    Signals { source: io::Error },
    #[error("serve")]
    Serve { source: tonic::transport::Error },
}

/// Serves CRI until SIGTERM or SIGINT. Containers go on when it ends. SIGHUP reads the configuration again from `source`.
pub async fn serve(config: &Config, source: Source, activation: Activation) -> Result<(), ServeError> {
    let mut signals = Signals::new().map_err(|source| ServeError::Signals { source })?;
    let streaming = streaming_config(config)?;
    let started = systemd::extending(Box::pin(Runtime::start(config))).await;
    let runtime = started.map_err(|error| ServeError::Start(Box::new(error)))?;
    let streaming = holdfast_streaming::Server::bind(streaming, Arc::new(runtime.clone()))?;
    let path = config.listen_path();
    let socket = socket::listen(config, &path, activation).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %path.display(), "holdfast serves");
    systemd::ready();
    systemd::watch(&runtime);
    let (stopped, mut when_stopped) = tokio::sync::watch::channel(false);
    let sessions = tokio::spawn({
        let (streaming, mut stopping) = (streaming.clone(), stopped.subscribe());
        async move {
            let stop = async {
                let _ = stopping.wait_for(|stopped| *stopped).await;
            };
            if let Err(error) = streaming.run(stop).await {
                tracing::error!(%error, "the streaming server has ended");
            }
        }
    });
    let server = cri::serve(runtime.clone(), streaming.clone(), socket.listener, async move {
        signals.wait_for_end(&source, config, &runtime, &streaming).await;
        systemd::stopping();
        let _ = stopped.send(true);
    });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => ended.map_err(|source| ServeError::Serve { source })?,
        () = async {
            let _ = when_stopped.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(SHUTDOWN_LIMIT).await;
        } => tracing::warn!("open requests did not end in time"),
    }
    // It ends sessions in a bounded time, and has begun to when the server was told to stop.
    let _ = sessions.await;
    if socket.is_ours {
        // The lock says that nobody else has it.
        let _ = std::fs::remove_file(&path);
    }
    tracing::info!("holdfast ends; containers go on");
    Ok(())
}

fn streaming_config(config: &Config) -> Result<holdfast_streaming::Config, ServeError> {
    let streaming = &config.streaming;
    let tls = match (streaming.tls_cert.clone(), streaming.tls_key.clone()) {
        (Some(cert), Some(key)) => Some(holdfast_streaming::Tls { cert, key }),
        (None, None) => None,
        _ => return Err(ServeError::HalfTls),
    };
    Ok(holdfast_streaming::Config {
        address: streaming.listen,
        advertise: streaming.advertise.clone(),
        tls,
        ..holdfast_streaming::Config::default()
    })
}

/// SIGTERM and SIGINT end the daemon, SIGHUP reloads its configuration.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn wait_for_end(
        &mut self,
        source: &Source,
        started_with: &Config,
        runtime: &Runtime,
        streaming: &holdfast_streaming::Server,
    ) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload::reload(source, started_with, runtime, streaming).await,
            }
        }
    }
}
