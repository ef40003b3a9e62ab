//! Plugins that an agent before this one has started, or that outlived their limit: their end is awaited before DEL, or an ADD
//! that is still at work would make what nobody knows of after it. They get a grace period: a DEL of the bridge plugin that is
//! killed after it has removed the link leaves the rules of masquerade, which the next DEL does not find without the link's address.
//!
//! They are found by the environment that the specification gives to each, and that their children inherit, whatever
//! process group or session these are in: `CNI_CONTAINERID` of the pod, an id of 64 random digits.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use holdfast_model::PodId;
use holdfast_sys::{failpoint, pidfd};

use crate::Error;

/// Time to end by themselves.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Longest wait until they are dead: one that waits in the kernel for a device or a hung mount can take for ever.
const LIMIT: Duration = Duration::from_secs(5);

/// Waits for the end of whatever has the pod's id in its environment; after `grace` it is killed. Blocks.
pub(super) fn end(pod: &PodId, grace: Duration) -> Result<(), Error> {
    let name = format!("CNI_CONTAINERID={pod}");
    let patience = Instant::now() + grace;
    let deadline = patience + LIMIT;
    let mut pause = Duration::from_millis(1);
    loop {
        // Again and again: a child may have been forked since its parent was looked at.
        let found = find(&name)?;
        let Some((_, first)) = found.first() else { return Ok(()) };
        let left = patience.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let ended = pidfd::wait_exit(first, left);
            ended.map_err(|error| Error::io("wait for the end of a CNI plugin")(error.into()))?;
            continue;
        }
        for (pid, process) in &found {
            tracing::warn!(pod_sandbox_id = %pod, pid, "a CNI plugin of an earlier call is ended");
            let failed = Error::io(format!("end CNI plugin process {pid}"));
            let kill = || failpoint::at("network.plugin.kill").and_then(|()| Ok(pidfd::kill(process)?));
            kill().map_err(failed)?;
        }
        for (_, process) in &found {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = pidfd::wait_exit(process, left);
            ended.map_err(|error| Error::io("wait for the end of a CNI plugin")(error.into()))?;
        }
        if Instant::now() >= deadline {
            let stage = format!("the end of CNI plugin process {}", found[0].0);
            return Err(Error::Timeout { stage, seconds: (grace + LIMIT).as_secs() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The processes with `name` in their environment.
fn find(name: &str) -> Result<Vec<(i32, OwnedFd)>, Error> {
    let entries = fs::read_dir("/proc").map_err(Error::io("read /proc"))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id().cast_signed();
    Ok(pids.filter(|pid| *pid != own).filter_map(|pid| Some((pid, open_if_named(pid, name)?))).collect())
}

/// The environment is looked at once more by who holds the process: the number may have changed hands.
fn open_if_named(pid: i32, name: &str) -> Option<OwnedFd> {
    if !has(pid, name) {
        return None;
    }
    let process = pidfd::open(pid).ok()?;
    has(pid, name).then_some(process)
}

/// A process that has ended has no environment, even before it is reaped.
fn has(pid: i32, name: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn all_of_a_pod_are_ended_and_nobody_else() {
        let (pod, other) = (PodId::random().unwrap(), PodId::random().unwrap());
        let run = |pod: &PodId, program: &[&str]| {
            Command::new(program[0]).args(&program[1..]).env("CNI_CONTAINERID", pod.as_str()).spawn().unwrap()
        };
        // A child in a session of its own, that its parent does not wait for.
        let mut parent = run(&pod, &["sh", "-c", "setsid sleep 1000 & sleep 1000 & wait"]);
        let mut stranger = run(&other, &["sleep", "1000"]);
        let name = format!("CNI_CONTAINERID={pod}");
        let end_of_wait = Instant::now() + LIMIT;
        while find(&name).unwrap().len() < 3 {
            assert!(Instant::now() < end_of_wait, "{:?}", find(&name).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        end(&pod, Duration::ZERO).unwrap();
        assert!(find(&name).unwrap().is_empty());
        assert!(!parent.wait().unwrap().success());
        assert_eq!(stranger.try_wait().unwrap(), None);
        end(&pod, Duration::ZERO).unwrap();
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn one_that_ends_by_itself_is_not_killed() {
        let pod = PodId::random().unwrap();
        let mut command = Command::new("sleep");
        let mut plugin = command.arg("0.3").env("CNI_CONTAINERID", pod.as_str()).spawn().unwrap();
        while find(&format!("CNI_CONTAINERID={pod}")).unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        end(&pod, GRACE).unwrap();
        assert!(plugin.wait().unwrap().success());
    }
}
