//! An agent in which time is all that passes.

use std::{cell::RefCell, collections::HashMap, fs, path::PathBuf, time::Duration};

use holdfast_model::{ContainerConfig, Image, PodSandboxConfig};
use tokio::time::Instant;

use crate::{
    cri::client::{ClientError, ContainerState, ContainerStatus, ProgressFn},
    standalone::cri::Cri,
};

/// What a container does in each of its lives: run so long, end so.
pub type Lives = Vec<(Duration, i32)>;

/// Runs until it is stopped.
pub const FOR_EVER: Duration = Duration::from_secs(1 << 40);

pub struct Container {
    config: ContainerConfig,
    log: PathBuf,
    started: Option<Instant>,
    life: (Duration, i32),
    /// How long it takes to stop.
    stops_in: Duration,
    stopped: Option<Instant>,
}

/// It does what its lives say.
#[derive(Default)]
pub struct Agent {
    pub lives: HashMap<&'static str, Lives>,
    pub stops_in: Duration,
    pub images: Vec<&'static str>,
    /// Requests, in their order.
    pub asked: RefCell<Vec<String>>,
    pub pods: RefCell<Vec<PodSandboxConfig>>,
    pub containers: RefCell<HashMap<String, Container>>,
    pub begun: Option<Instant>,
    /// The answer to the next status is an error so often.
    pub silent: RefCell<u32>,
    pub failing_removals: RefCell<u32>,
    /// Starts are refused.
    pub no_starts: bool,
}

fn refused(operation: &str) -> ClientError {
    ClientError::Incomplete { operation: operation.to_owned(), what: "wish to do it" }
}

impl Agent {
    fn say(&self, what: impl Into<String>) {
        self.asked.borrow_mut().push(what.into());
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// How often something was asked for.
    pub fn count(&self, what: &str) -> usize {
        self.asked.borrow().iter().filter(|asked| asked.starts_with(what)).count()
    }
}

impl Container {
    fn ended(&self) -> Option<(Instant, i32)> {
        let by_itself = self.started? + self.life.0;
        match self.stopped {
            Some(at) if at < by_itself => Some((at, 143)),
            _ => Some((by_itself, self.life.1)),
        }
    }
}

impl Cri for Agent {
    async fn image(&self, name: &str) -> Result<Option<Image>, ClientError> {
        self.say(format!("image {name}"));
        let id = format!("sha256:{name}");
        let pulled = self.count(&format!("pull {name}")) > 0;
        Ok((pulled || self.images.contains(&name)).then(|| Image { id, ..Image::default() }))
    }

    async fn pull(&self, name: &str, _: ProgressFn) -> Result<Image, ClientError> {
        self.say(format!("pull {name}"));
        if name.contains("absent") { Err(refused(&format!("pull {name}"))) } else { Ok(Image::default()) }
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, ClientError> {
        self.say("run pod");
        let mut pods = self.pods.borrow_mut();
        if !pods.contains(config) {
            pods.push(config.clone());
        }
        Ok(format!("pod-{}", config.metadata.uid))
    }

    async fn pod_ips(&self, _: &str) -> Result<Vec<String>, ClientError> {
        Ok(vec!["10.1.0.2".to_owned()])
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.say(format!("stop {id}"));
        for container in self.containers.borrow_mut().values_mut() {
            container.stopped.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.say(format!("remove {id}"));
        if *self.failing_removals.borrow() > 0 {
            *self.failing_removals.borrow_mut() -= 1;
            return Err(refused("remove pod sandbox"));
        }
        self.pods.borrow_mut().retain(|pod| format!("pod-{}", pod.metadata.uid) != id);
        self.containers.borrow_mut().clear();
        Ok(())
    }

    async fn create_container(
        &self,
        _: &str,
        config: &ContainerConfig,
        pod: &PodSandboxConfig,
    ) -> Result<String, ClientError> {
        let (name, attempt) = (&config.metadata.name, config.metadata.attempt);
        self.say(format!("create {name}"));
        let lives = self.lives.get(name.as_str()).ok_or_else(|| refused("create container"))?;
        let life = lives[(attempt as usize).min(lives.len() - 1)];
        let log = PathBuf::from(&pod.log_directory).join(&config.log_path);
        let id = format!("{name}-{attempt}");
        let container = Container {
            config: config.clone(),
            log,
            started: None,
            life,
            stops_in: self.stops_in,
            stopped: None,
        };
        self.containers.borrow_mut().insert(id.clone(), container);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), ClientError> {
        let at = self.begun.map_or(0, |begun| begun.elapsed().as_secs());
        self.say(format!("start {id} at {at}"));
        if self.no_starts {
            return Err(refused("start container"));
        }
        let mut containers = self.containers.borrow_mut();
        let container = containers.get_mut(id).ok_or_else(|| refused("start container"))?;
        container.started = Some(Instant::now());
        let line = format!("2026-11-24T01:02:03Z stdout F hello from {id}\n");
        fs::write(&container.log, line).map_err(|_| refused("write log"))?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), ClientError> {
        self.say(format!("stop {id} within {grace_s}"));
        let wait = {
            let mut containers = self.containers.borrow_mut();
            let container = containers.get_mut(id).ok_or_else(|| refused("stop container"))?;
            let wait = container.stops_in.min(Duration::from_secs(grace_s.max(0) as u64));
            container.stopped = Some(Instant::now() + wait);
            wait
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), ClientError> {
        self.containers.borrow_mut().remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, ClientError> {
        if *self.silent.borrow() > 0 {
            *self.silent.borrow_mut() -= 1;
            return Err(refused("status of container"));
        }
        let containers = self.containers.borrow();
        let container = containers.get(id).ok_or_else(|| refused("status of container"))?;
        let ended = container.ended().filter(|(at, _)| *at <= Instant::now());
        Ok(ContainerStatus {
            state: match (container.started, ended) {
                (None, _) => ContainerState::Created,
                (_, None) => ContainerState::Running,
                (_, Some(_)) => ContainerState::Exited,
            },
            exit_code: ended.map_or(0, |(_, code)| code),
            reason: String::new(),
            message: String::new(),
            log_path: container.config.log_path.clone(),
        })
    }
}
