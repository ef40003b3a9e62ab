//! A pod from its images to its removal.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use holdfast_model::{IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace, chain};
use tokio::time::sleep;

use super::{
    RunError, blocking,
    cri::Cri,
    images::Images,
    interrupts::{Interrupts, PIPE},
    leftovers,
    life::Life,
    logs::Logs,
    node::{self, Node},
    place::{Place, PlaceError, Record},
    steps::Steps,
    usage, volumes,
};
use crate::manifest::{Pod, SandboxFacts, hostname, sandbox_config};

/// Ids of a pod with a user namespace, as a kubelet gives them.
const IDS: u32 = 65536;
/// First id of the first range. systemd keeps what lies here for containers (UIDS-GIDS.md), and a kubelet begins at
/// 65536.
const FIRST_ID: u32 = 1 << 30;
/// How often the removal of a pod is tried, and how long to wait between two tries.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A run of a pod, with all that it needs.
#[derive(Debug)]
pub struct PodRun<'a, C> {
    /// Who to ask.
    pub cri: &'a C,
    /// `root` of the configuration.
    pub root: &'a Path,
    /// What to run.
    pub pod: &'a Pod,
    /// Where steps are told.
    pub steps: &'a Steps,
    /// What ends it early.
    pub interrupts: &'a Interrupts,
    /// Where its output goes.
    pub logs: &'a Logs,
}

/// A pod that has been made.
struct Made {
    id: String,
    config: PodSandboxConfig,
    ips: Vec<String>,
    ids: Vec<IdMapping>,
}

impl<C: Cri> PodRun<'_, C> {
    /// Runs the pod and removes it. Returns what the program ends with.
    pub async fn run(&self) -> Result<u8, RunError> {
        leftovers::remove(self.cri, self.root, self.steps).await;
        let images = tokio::select! {
            images = Images::ensure(self.cri, self.pod, self.steps) => images?,
            code = self.interrupts.first() => return Ok(code),
        };
        let uid = match &self.pod.uid {
            Some(uid) => uid.clone(),
            None => random_uid().map_err(|source| RunError::Setup { operation: "make a uid", source })?,
        };
        let place = Place::make(self.root, &uid)?;
        let mut record = Record::default();
        let ended = self.run_in(&place, &mut record, &uid, &images).await;
        let cleaned = self.clean_up(place, &record).await;
        match (ended, cleaned) {
            (Ok(code), cleaned) => cleaned.map(|()| code),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(left)) => {
                self.steps.note(&chain(&left));
                Err(error)
            }
        }
    }

    async fn run_in(
        &self,
        place: &Place,
        record: &mut Record,
        uid: &str,
        images: &Images,
    ) -> Result<u8, RunError> {
        let prepared = {
            let (pod, place) = (self.pod.clone(), place.clone());
            blocking(move || volumes::prepare(&pod, &place))
        };
        // A host path may lie on a server that does not answer.
        tokio::select! {
            prepared = prepared => prepared?,
            code = self.interrupts.first() => return Ok(code),
        }
        let made = self.make(place, record, uid).await?;
        let node = Node::look();
        let life = Life {
            cri: self.cri,
            pod: self.pod,
            sandbox_id: &made.id,
            sandbox: &made.config,
            ips: &made.ips,
            images,
            place,
            node: &node,
            ids: &made.ids,
            steps: self.steps,
            logs: self.logs,
            running: std::cell::RefCell::default(),
        };
        let ended = self.watch(&life, place).await;
        self.stop(&life).await;
        ended
    }

    async fn make(&self, place: &Place, record: &mut Record, uid: &str) -> Result<Made, RunError> {
        let step = self.steps.begin();
        let ids = if self.pod.host_users { Vec::new() } else { id_range(place.reserve_ids(record)?) };
        let users = (!ids.is_empty()).then(|| UserNamespace {
            mode: NamespaceMode::Pod,
            uids: ids.clone(),
            gids: ids.clone(),
        });
        let facts = SandboxFacts { uid, log_dir: &place.logs(), dns: node::dns(self.pod), users };
        let config = sandbox_config(self.pod, facts);
        record.config = Some(config.clone());
        place.write(record)?;
        // Not given up by a signal: what is being made must be known before it can be removed.
        let id = self.cri.run_pod_sandbox(&config).await.inspect_err(|error| {
            if leftovers::is_certain(error) {
                record.config = None;
            }
        })?;
        record.sandbox = Some(id.clone());
        place.write(record)?;
        let ips = self.cri.pod_ips(&id).await?;
        if !self.pod.host_aliases.is_empty() {
            let (path, text) = (place.hosts(), node::hosts(self.pod, &hostname(self.pod), &ips));
            let mode = fs::Permissions::from_mode(0o644);
            let written = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, mode));
            written.map_err(PlaceError::io("write", &path))?;
        }
        step.done(&format!("pod {} made, {}", self.pod.name, addresses(&ips)));
        Ok(Made { id, config, ips, ids })
    }

    /// Leads the pod until it ends by itself or something ends it.
    async fn watch(&self, life: &Life<'_, C>, place: &Place) -> Result<u8, RunError> {
        let limited = volumes::limited(self.pod, place);
        let deadline = async {
            match self.pod.deadline_s {
                Some(seconds) => {
                    sleep(Duration::from_secs(u64::from(seconds))).await;
                    RunError::Deadline { seconds }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            code = self.interrupts.first() => {
                let grace_s = self.pod.grace_s;
                self.steps.note(&format!("interrupted: the pod is stopped within {grace_s} s; once more kills it"));
                Ok(code)
            }
            ended = life.lead() => ended,
            error = deadline => Err(error),
            error = usage::overrun(&limited), if !limited.is_empty() => Err(error),
            () = self.logs.nobody_reads() => Ok(PIPE),
        }
    }

    /// Stops what still runs, with its grace period unless a signal comes once more. What is left ends with the pod.
    async fn stop(&self, life: &Life<'_, C>) {
        let seen = self.interrupts.count();
        tokio::select! {
            () = life.stop() => {}
            _ = self.interrupts.after(seen) => self.steps.note("interrupted once more: the pod is killed"),
        }
        if let Err(error) = self.cri.stop_pod_sandbox(life.sandbox_id).await {
            self.steps.note(&format!("pod {} does not stop: {}", self.pod.name, chain(&error)));
        }
        // Nothing writes any more: all that was written is printed, however slow our reader is, unless a signal comes.
        let rest: Vec<_> = life.running.borrow().iter().map(|running| running.log.clone()).collect();
        let printed = async {
            for log in &rest {
                self.logs.finish(log).await;
            }
            // What was given up before is printed by then as well.
            self.logs.finish(Path::new("")).await;
        };
        let seen = self.interrupts.count();
        tokio::select! {
            () = printed => {}
            _ = self.interrupts.after(seen) => {}
        }
    }

    /// Removes the pod and the directory, in this order: the directory says what there is to remove.
    async fn clean_up(&self, place: Place, record: &Record) -> Result<(), RunError> {
        let step = self.steps.begin();
        for left in (0..TRIES).rev() {
            match leftovers::remove_pod(self.cri, record).await {
                Ok(()) => break,
                Err(_) if left > 0 => sleep(PAUSE).await,
                Err(error) => return Err(error.cleaning(&self.pod.name)),
            }
        }
        place.remove()?;
        if record.sandbox.is_some() {
            step.done(&format!("pod {} removed", self.pod.name));
        }
        Ok(())
    }
}

fn id_range(number: u32) -> Vec<IdMapping> {
    let host_id = FIRST_ID.saturating_add(number.saturating_mul(IDS));
    vec![IdMapping { host_id, container_id: 0, length: IDS }]
}

fn addresses(ips: &[String]) -> String {
    match ips {
        [] => "on the host's network".to_owned(),
        [ip] => format!("address {ip}"),
        ips => format!("addresses {}", ips.join(" and ")),
    }
}

/// A random UUID (RFC 9562, version 4).
fn random_uid() -> std::io::Result<String> {
    let id = holdfast_model::PodId::random()?;
    let hex = &id.as_str()[..32];
    let variant = ["8", "9", "a", "b"][usize::from(id.as_str().as_bytes()[32] & 3)];
    let parts = [&hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]];
    let [first, second, third, fourth, last] = parts;
    Ok(format!("{first}-{second}-4{third}-{variant}{fourth}-{last}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tests/mod.rs"]
mod tests;
