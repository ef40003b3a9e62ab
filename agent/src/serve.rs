//! `holdfast serve`: the daemon from its start to its end.

use std::{
    io,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};

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
    Start(#[from] StartError),
    #[error("listen on {path:?}: another server answers there; stop it or set `listen` to another path")]
    Taken { path: PathBuf },
    #[error("{operation} {path:?}")]
    Socket { operation: &'static str, path: PathBuf, source: io::Error },
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

/// Serves CRI until SIGTERM or SIGINT. Containers go on when it ends.
pub async fn serve(config: &Config) -> Result<(), ServeError> {
    let mut stop = Stop::new().map_err(|source| ServeError::Signals { source })?;
    let streaming = &config.streaming;
    let tls = match (streaming.tls_cert.clone(), streaming.tls_key.clone()) {
        (Some(cert), Some(key)) => Some(holdfast_streaming::Tls { cert, key }),
        (None, None) => None,
        _ => return Err(ServeError::HalfTls),
    };
    let runtime = Runtime::start(config).await?;
    let streaming = holdfast_streaming::Config {
        address: streaming.listen,
        advertise: streaming.advertise.clone(),
        tls,
        ..holdfast_streaming::Config::default()
    };
    let streaming = holdfast_streaming::Server::bind(streaming, Arc::new(runtime.clone()))?;
    let path = config.listen_path();
    let listener = listen(config, &path).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %path.display(), "holdfast serves");
    notify("READY=1");
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
    let server = cri::serve(runtime, streaming, listener, async move {
        stop.wait().await;
        notify("STOPPING=1");
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
    // Only our own socket: the lock says that nobody else has it.
    let _ = std::fs::remove_file(&path);
    tracing::info!("holdfast ends; containers go on");
    Ok(())
}

/// A socket that nobody answers on is stale and is replaced.
async fn listen(config: &Config, path: &Path) -> Result<UnixListener, ServeError> {
    let io = |operation| {
        let path = path.to_owned();
        move |source| ServeError::Socket { operation, path, source }
    };
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
            .map_err(io("make the directory of"))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::Taken { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io("replace stale socket")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(io("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(config.listen_mode))
        .map_err(io("set the mode of"))?;
    if let Some(group) = &config.listen_group {
        let gid = nix::unistd::Group::from_name(group)
            .ok()
            .flatten()
            .ok_or_else(|| ServeError::NoSuchGroup { group: group.clone() })?
            .gid;
        std::os::unix::fs::chown(path, None, Some(gid.as_raw())).map_err(io("set the group of"))?;
    }
    Ok(listener)
}

/// SIGTERM and SIGINT end the daemon; SIGHUP only says that there is no reload.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: the configuration is read at start only; restart holdfast to change it");
                }
            }
        }
    }
}

/// sd_notify(3), where systemd asks for it.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let text = path.to_string_lossy();
        match text.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = sent {
        tracing::warn!(%error, state, "notify systemd");
    }
}
