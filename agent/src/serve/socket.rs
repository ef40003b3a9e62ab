//! The socket that CRI is served on: one of systemd's, or one that is made here.

use std::{
    fmt, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdListener},
    path::Path,
};

use listenfd::ListenFd;
use tokio::net::{UnixListener, UnixStream};

use super::ServeError;
use crate::config::Config;

/// A listening socket that the service manager has handed over (sd_listen_fds(3)).
pub struct Activation(Option<ListenFd>);

impl fmt::Debug for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Activation").field(&self.0.as_ref().map(ListenFd::len)).finish()
    }
}

impl Activation {
    /// Takes what is there. It changes the environment, so it has to be called before the first thread is started.
    pub fn take() -> Self {
        Self(Some(ListenFd::from_env()).filter(|sockets| sockets.len() > 0))
    }
}

/// The listening socket, and whether its file is ours to remove.
#[derive(Debug)]
pub struct Listening {
    pub listener: UnixListener,
    pub is_ours: bool,
}

/// systemd's socket if there is one, else a new one.
pub async fn listen(config: &Config, path: &Path, activation: Activation) -> Result<Listening, ServeError> {
    match activation.0 {
        Some(sockets) => Ok(Listening { listener: activated(sockets, path)?, is_ours: false }),
        None => Ok(Listening { listener: bind(config, path).await?, is_ours: true }),
    }
}

fn activated(mut sockets: ListenFd, path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Activation { source };
    if sockets.len() > 1 {
        return Err(ServeError::TooManySockets { count: sockets.len() });
    }
    let listener: Option<StdListener> = sockets.take_unix_listener(0).map_err(failed)?;
    let listener = listener.ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
    let given = listener.local_addr().map_err(failed)?;
    if given.as_pathname() != Some(path) {
        return Err(ServeError::OtherSocket { given: format!("{given:?}"), path: path.to_owned() });
    }
    // Programs that we start must not have it.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

/// A socket that nobody answers on is stale and is replaced.
async fn bind(config: &Config, path: &Path) -> Result<UnixListener, ServeError> {
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
