//! Who answers CRI: the agent that is there, or the same service in this process.

use std::{fs, io, path::Path, time::Duration};

use holdfast_network::Mode;
use tokio::{
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{RunError, leftovers, steps::Steps};
use crate::{
    config::Config,
    cri::{self, client::Client},
    runtime::{Runtime, StartError},
};

/// An agent that has just been started has the lock before it answers.
const STARTING: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
/// How long requests may take to end when all is done.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub struct Service {
    client: Client,
    own: Option<Own>,
}

/// Pods that an agent, which is stopped for a while, has left running are its own: adopted here they would lose their agent again
/// with this run, and it could not start meanwhile.
async fn pods_of_an_agent(config: &Config) -> Result<usize, RunError> {
    let root = config.root.clone();
    let counted = tokio::task::spawn_blocking(move || leftovers::pods_of_an_agent(&root)).await;
    let counted = counted.unwrap_or_else(|error| Err(io::Error::other(error)));
    counted
        .map_err(|source| RunError::Setup { operation: "look for pods of an agent below the root", source })
}

/// Our own: its end, and how to ask for it.
#[derive(Debug)]
struct Own {
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Service {
    /// Finds the agent on `listen`, or starts the service.
    pub async fn open(config: &Config, steps: &Steps) -> Result<Self, RunError> {
        let (listen, begun) = (config.listen_path(), Instant::now());
        let step = steps.begin();
        loop {
            if let Some(client) = Client::connect(&listen).await? {
                check_namespaces(&listen).await?;
                step.done(&format!("agent on {} found", listen.display()));
                return Ok(Self { client, own: None });
            }
            let pods = pods_of_an_agent(config).await?;
            if pods > 0 {
                // It may be about to start again.
                if begun.elapsed() > STARTING {
                    return Err(RunError::PodsOfAgent { listen, root: config.root.clone(), pods });
                }
                sleep(PAUSE).await;
                continue;
            }
            // Nobody is going to install a network add-on for one pod.
            match Runtime::start(&config.clone().with_network_mode(Mode::Embedded)).await {
                Ok(runtime) => {
                    step.done(&format!("no agent on {}: its service runs in this process", listen.display()));
                    return Self::here(runtime);
                }
                Err(StartError::Lock(_)) if begun.elapsed() < STARTING => sleep(PAUSE).await,
                Err(error) => return Err(RunError::Service { listen, source: Box::new(error) }),
            }
        }
    }

    /// A service in this process, for one client.
    fn here(runtime: Runtime) -> Result<Self, RunError> {
        let pair = UnixStream::pair();
        let (ours, theirs) =
            pair.map_err(|source| RunError::Setup { operation: "make a socket pair", source })?;
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let served = cri::serve_one(runtime, theirs, async {
                let _ = stopped.await;
            });
            if let Err(error) = served.await {
                tracing::warn!(%error, "the service of this process has ended");
            }
        });
        Ok(Self { client: Client::over(ours), own: Some(Own { stop, server }) })
    }

    /// Who to ask.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends our own service; what it answered for is on disk and in the shims.
    pub async fn close(self) {
        drop(self.client);
        if let Some(Own { stop, server }) = self.own {
            let _ = stop.send(());
            let _ = tokio::time::timeout(CLOSE_LIMIT, server).await;
        }
    }
}

/// Volumes are paths, and sub paths are names of our descriptors: the agent has to see both as we do. An agent that we
/// may not look at is taken as it is.
async fn check_namespaces(listen: &Path) -> Result<(), RunError> {
    let Ok(stream) = UnixStream::connect(listen).await else { return Ok(()) };
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
    let elsewhere = |namespace| Err(RunError::ElsewhereAgent { listen: listen.to_owned(), namespace });
    if pid == 0 {
        return elsewhere("pid");
    }
    for namespace in ["pid", "mnt"] {
        let ours = fs::read_link(format!("/proc/self/ns/{namespace}"));
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        if let (Ok(ours), Ok(theirs)) = (ours, theirs)
            && ours != theirs
        {
            return elsewhere(namespace);
        }
    }
    Ok(())
}
