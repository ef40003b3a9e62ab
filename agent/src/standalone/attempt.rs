//! One life of one container: made, started, followed to its end, removed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use holdfast_model::chain;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    RunError, blocking,
    cri::Cri,
    life::{Life, Running},
    place::{PlaceError, make_dir},
    volumes,
};
use crate::{
    cri::client::{ClientError, ContainerState, ContainerStatus},
    manifest::{Container, ContainerFacts, container_config, log_path},
};

/// How often a container is looked at: often at first, for many are over at once.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(200);
/// How long an agent may be away: it may be restarted while the pod runs.
const SILENCE: Duration = Duration::from_mins(2);
/// How long a slow reader of our output may hold up the next step. Nothing of the output is lost by that.
const PRINT_LIMIT: Duration = Duration::from_secs(2);
/// Longest last words, in bytes, as with a kubelet.
const MESSAGE: usize = 4096;

impl<C: Cri> Life<'_, C> {
    /// Leads a container through one life and returns its exit code. `begun` is told when it has been started.
    pub(super) async fn once(
        &self,
        container: &Container,
        attempt: u32,
        begun: &Notify,
    ) -> Result<u8, RunError> {
        let name = &container.name;
        let running = self.create(container, attempt).await?;
        self.logs.follow(name, &running.log);
        let (step, started) = (self.steps.begin(), Instant::now());
        // Whether its command is to blame its status says: it has ended then, with a code of its own.
        let refused = self.cri.start_container(&running.id).await.err();
        if refused.is_none() {
            step.done(&format!("container {name} started"));
            begun.notify_one();
        }
        let status = self.end_of(&running, refused).await?;
        let _ = timeout(PRINT_LIMIT, self.print_rest(&running)).await;
        let code = exit_code(status.exit_code);
        let message = last_words(&self.place.message(name, attempt));
        self.steps
            .took(started.elapsed(), &format!("container {name} ended{}", how(code, &status, &message)));
        self.remove(&running).await;
        // A container may be started again very often: nothing of its lives is kept.
        let _ = fs::remove_file(self.place.message(name, attempt));
        Ok(code)
    }

    async fn create(&self, container: &Container, attempt: u32) -> Result<Running, RunError> {
        let step = self.steps.begin();
        let (pod, place, ids) = (self.pod.clone(), self.place.clone(), self.ids.to_vec());
        let whose = container.clone();
        let images = self.images.clone();
        let mut mounts =
            blocking(move || volumes::mounts(&pod, &whose, &place, attempt, &ids, &images)).await?;
        let facts = ContainerFacts {
            sandbox: self.sandbox,
            ips: self.ips,
            image: &self.images.named(&container.image),
            attempt,
            mounts: std::mem::take(&mut mounts.list),
            node: self.node.limits,
            masked: &self.node.masked,
        };
        let config = container_config(self.pod, container, facts)?;
        let log = self.place.logs().join(log_path(container, attempt));
        make_log_dir(&log)?;
        let id = self.cri.create_container(self.sandbox_id, &config, self.sandbox).await?;
        // Only now may the sources of sub paths be closed.
        drop(mounts);
        step.done(&format!("container {} made from {}", container.name, container.image));
        let sidecar = self.pod.init_containers.iter().position(|init| container.sidecar && init == container);
        let running = Running { id, name: container.name.clone(), sidecar, log };
        self.running.borrow_mut().push(running.clone());
        Ok(running)
    }

    /// Waits for a container's end. One whose start was refused and that still waits for it has none.
    async fn end_of(
        &self,
        running: &Running,
        mut refused: Option<ClientError>,
    ) -> Result<ContainerStatus, RunError> {
        let mut pause = SHORTEST;
        let mut silent_since: Option<Instant> = None;
        loop {
            match self.cri.container_status(&running.id).await {
                Ok(status) if status.state == ContainerState::Exited => return Ok(status),
                Ok(status) => {
                    silent_since = None;
                    if let Some(error) = refused.take_if(|_| status.state == ContainerState::Created) {
                        return Err(error.into());
                    }
                }
                Err(error) if error.is_not_found() => {
                    return Err(RunError::Gone { container: running.name.clone() });
                }
                Err(source) => {
                    let since = *silent_since.get_or_insert_with(|| {
                        self.steps.note(&format!("the agent does not answer: {}", chain(&source)));
                        Instant::now()
                    });
                    if since.elapsed() > SILENCE {
                        let (container, limit_s) = (running.name.clone(), SILENCE.as_secs());
                        return Err(RunError::Silent { container, limit_s, source });
                    }
                }
            }
            sleep(pause).await;
            pause = LONGEST.min(pause * 3 / 2);
        }
    }

    /// A container that stays goes with its pod.
    async fn remove(&self, running: &Running) {
        match self.cri.remove_container(&running.id).await {
            Ok(()) => self.running.borrow_mut().retain(|other| other != running),
            Err(error) => self.steps.note(&format!("container {} stays: {}", running.name, chain(&error))),
        }
    }

    /// Prints what a container that has ended has written.
    pub(super) async fn print_rest(&self, running: &Running) {
        self.logs.finish(&running.log).await;
    }
}

fn make_log_dir(log: &Path) -> Result<(), PlaceError> {
    match log.parent() {
        Some(dir) if !dir.exists() => make_dir(dir),
        _ => Ok(()),
    }
}

/// A code that says failure must not become 0.
pub(super) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

/// `" with exit code 3 (OOMKilled): message"`.
pub(super) fn how(code: u8, status: &ContainerStatus, message: &str) -> String {
    let mut text = match status.reason.as_str() {
        "" | "Completed" | "Error" => format!(" with exit code {code}"),
        reason => format!(" with exit code {code} ({reason})"),
    };
    for more in [status.message.trim(), message] {
        if !more.is_empty() {
            text.push_str(": ");
            text.push_str(more);
        }
    }
    text
}

/// What a program left at `terminationMessagePath`, as one line.
fn last_words(path: &Path) -> String {
    let bytes = tail(path, MESSAGE).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn tail(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let kept = len.min(most as u64);
    let mut bytes = vec![0; kept as usize];
    file.read_exact_at(&mut bytes, len - kept)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_words() {
        let status = |reason: &str, message: &str| ContainerStatus {
            state: ContainerState::Exited,
            exit_code: 0,
            reason: reason.to_owned(),
            message: message.to_owned(),
            log_path: String::new(),
        };
        for (code, reason, message, words, expected) in [
            (0, "Completed", "", "", " with exit code 0"),
            (3, "Error", "", "", " with exit code 3"),
            (137, "OOMKilled", "", "", " with exit code 137 (OOMKilled)"),
            (128, "StartError", "no such file\n", "", " with exit code 128 (StartError): no such file"),
            (1, "Error", "", "no disk", " with exit code 1: no disk"),
        ] {
            assert_eq!(how(code, &status(reason, message), words), expected);
        }
        assert_eq!([0, 3, 255, 256, -1].map(exit_code), [0, 3, 255, 255, 255]);
    }

    #[test]
    fn last_words_are_the_end_of_a_file_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        assert_eq!(last_words(&path), "");
        fs::write(&path, format!("{}\nend\x1b[1m\n", "x".repeat(2 * MESSAGE))).unwrap();
        let words = last_words(&path);
        assert!(words.ends_with("x end [1m") && words.len() < MESSAGE, "{words}");
    }
}
