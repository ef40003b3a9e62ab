//! What a client knows of its pod, and whether what CRI and the kernel say agrees with it.

use std::{fs, path::Path, path::PathBuf};

use holdfast_cri::v1;
use serde_json::Value;

use crate::{
    kernel::Process,
    ledger::Fault,
    plan::{PodShape, Script},
};

/// What has been told of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// CreateContainer was answered.
    Created,
    /// StartContainer was.
    Started,
    /// StopContainer with a grace period was.
    Stopped,
    /// StopContainer without one, or StopPodSandbox, was.
    Killed,
    /// Its pod was stopped before it was started.
    Over,
}

/// A container that has been told as created, and not as removed.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its number in the pod.
    pub number: usize,
    /// What it runs.
    pub script: Script,
    /// The word in all that it prints.
    pub token: String,
    /// Its log.
    pub log: PathBuf,
    /// How far it is.
    pub told: Told,
    /// Its first process, as the kernel had it after the start.
    pub process: Option<Process>,
    /// When CRI says that it started; 0: not known yet.
    pub started_at: i64,
    /// Memory limit that an update was answered for, in bytes.
    pub memory: Option<i64>,
}

/// A pod that has been told as run, and not as removed.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// Its name and uid.
    pub uid: String,
    /// What it was made from.
    pub config: v1::PodSandboxConfig,
    /// Its shape.
    pub shape: PodShape,
    /// Its addresses.
    pub ips: Vec<String>,
    /// The process that holds its namespaces.
    pub holder: Option<Process>,
    /// StopPodSandbox was answered.
    pub stopped: bool,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// Something that disagrees.
pub type Wrong = (Fault, String);

impl Container {
    /// Compares a status with what has been told. `alive`: whether the kernel has its process still.
    pub fn judge(&self, status: &v1::ContainerStatus, alive: Option<bool>) -> Result<(), Wrong> {
        use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let wrong = |fault, text: &str| Err((fault, format!("container {}: {text}: {status:?}", self.token)));
        let ends_itself = matches!(self.script, Script::Ender { .. });
        match (self.told, status.state()) {
            (Told::Created, ContainerCreated) | (Told::Over, ContainerCreated | ContainerExited) => Ok(()),
            (Told::Started, ContainerRunning) => {
                if alive == Some(false) && !ends_itself {
                    return wrong(Fault::WrongState, "RUNNING, and its process is gone");
                }
                Ok(())
            }
            (Told::Started, ContainerExited) if !ends_itself => {
                wrong(Fault::ContainerLost, "EXITED, and nobody asked it to end")
            }
            (Told::Started | Told::Stopped | Told::Killed, ContainerExited) => {
                if alive == Some(true) {
                    return wrong(Fault::NotGone, "EXITED, and its process runs");
                }
                self.judge_end(status)
            }
            _ => wrong(Fault::WrongState, &format!("told as {:?}", self.told)),
        }?;
        if self.started_at != 0 && status.started_at != self.started_at {
            return wrong(Fault::WrongState, &format!("started at {} before", self.started_at));
        }
        Ok(())
    }

    fn judge_end(&self, status: &v1::ContainerStatus) -> Result<(), Wrong> {
        let killed = self.told == Told::Killed;
        let own = self.script.code();
        let right = match (killed, self.script) {
            (false, _) => status.exit_code == own,
            (true, Script::Sleeper { .. }) => status.exit_code == KILLED,
            // It may have ended by itself before.
            (true, Script::Ender { .. }) => status.exit_code == KILLED || status.exit_code == own,
        };
        if right {
            return Ok(());
        }
        Err((Fault::WrongExit, format!("container {}: not {own}: {status:?}", self.token)))
    }

    /// Compares the log of one that has ended, or been told so, with what it prints.
    pub fn judge_log(&self) -> Result<(), Wrong> {
        let whole = self.script.lines(&self.token, self.told != Told::Killed);
        let text = fs::read(&self.log).unwrap_or_default();
        let wrong = |text: String| Err((Fault::WrongLog, format!("{}: {text}", self.log.display())));
        let found = match lines(&String::from_utf8_lossy(&text)) {
            Ok(found) => found,
            Err(text) => return wrong(text),
        };
        let right = match (self.told, self.script) {
            // Whatever it had printed by then.
            (Told::Killed, Script::Ender { .. }) => whole.starts_with(&found),
            _ => found == whole,
        };
        if right {
            return Ok(());
        }
        let at = whole.iter().zip(&found).take_while(|(one, other)| one == other).count();
        wrong(format!("{} of {} lines, the first {at} of them right", found.len(), whole.len()))
    }
}

/// 128 and SIGKILL.
const KILLED: i32 = 137;

impl Pod {
    /// Compares a status with what has been told.
    pub fn judge(&self, status: &v1::PodSandboxStatus, alive: Option<bool>) -> Result<(), Wrong> {
        let ready = status.state() == v1::PodSandboxState::SandboxReady;
        let wrong = |fault, text: &str| Err((fault, format!("pod {}: {text}: {status:?}", self.uid)));
        match (self.stopped, ready) {
            (false, false) => return wrong(Fault::PodLost, "NOTREADY, and nobody stopped it"),
            (true, true) => return wrong(Fault::NotGone, "READY after it was told as stopped"),
            (false, true) if alive == Some(false) => {
                return wrong(Fault::WrongState, "READY, and its first process is gone");
            }
            (true, false) if alive == Some(true) => {
                return wrong(Fault::NotGone, "stopped, and its first process runs");
            }
            _ => {}
        }
        if !self.stopped && ips(status) != self.ips {
            return wrong(Fault::WrongState, &format!("its addresses were {:?}", self.ips));
        }
        Ok(())
    }
}

/// All addresses of a pod.
pub fn ips(status: &v1::PodSandboxStatus) -> Vec<String> {
    let network = status.network.iter();
    network
        .flat_map(|network| {
            let more = network.additional_ips.iter().map(|more| more.ip.clone());
            std::iter::once(network.ip.clone()).chain(more)
        })
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// The process that a verbose status names.
pub fn process(info: &std::collections::BTreeMap<String, String>) -> Option<Process> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    let pid = u32::try_from(info["pid"].as_u64()?).ok().filter(|pid| *pid > 0)?;
    Process::find(pid)
}

/// The lines of a log in CRI's format, parts joined; an error for what is no record. What ends without an end of line is a
/// torn record.
pub fn lines(text: &str) -> Result<Vec<String>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(format!("the last record is torn: {:?}", text.lines().last()));
    }
    let (mut whole, mut line) = (Vec::new(), String::new());
    for record in text.lines() {
        let parts: Vec<&str> = record.splitn(4, ' ').collect();
        let [_, "stdout" | "stderr", tag @ ("F" | "P"), content] = parts.as_slice() else {
            return Err(format!("{record:?} is no record"));
        };
        line.push_str(content);
        if *tag == "F" {
            whole.push(std::mem::take(&mut line));
        }
    }
    if !line.is_empty() {
        whole.push(line);
    }
    Ok(whole)
}

/// Whether a log has a line yet.
pub fn has_printed(log: &Path) -> bool {
    fs::metadata(log).is_ok_and(|meta| meta.len() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(told: Told, script: Script) -> Container {
        Container {
            id: "1a".into(),
            number: 0,
            script,
            token: "t".into(),
            log: PathBuf::new(),
            told,
            process: None,
            started_at: 0,
            memory: None,
        }
    }

    fn status(state: v1::ContainerState, exit_code: i32) -> v1::ContainerStatus {
        v1::ContainerStatus { state: state.into(), exit_code, ..Default::default() }
    }

    #[test]
    fn every_told_state_allows_what_may_follow_and_nothing_else() {
        use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let sleeper = Script::Sleeper { code: 3 };
        let ender = Script::Ender { lines: 1, pause: std::time::Duration::ZERO, code: 4 };
        for (told, script, state, code, alive, fault) in [
            (Told::Created, sleeper, ContainerCreated, 0, None, None),
            (Told::Created, sleeper, ContainerRunning, 0, None, Some(Fault::WrongState)),
            (Told::Started, sleeper, ContainerRunning, 0, Some(true), None),
            (Told::Started, sleeper, ContainerRunning, 0, Some(false), Some(Fault::WrongState)),
            (Told::Started, sleeper, ContainerExited, 255, Some(false), Some(Fault::ContainerLost)),
            (Told::Started, ender, ContainerExited, 4, None, None),
            (Told::Started, ender, ContainerExited, 255, None, Some(Fault::WrongExit)),
            (Told::Stopped, sleeper, ContainerExited, 3, Some(false), None),
            (Told::Stopped, sleeper, ContainerExited, 3, Some(true), Some(Fault::NotGone)),
            (Told::Stopped, sleeper, ContainerExited, 137, None, Some(Fault::WrongExit)),
            (Told::Stopped, sleeper, ContainerRunning, 0, None, Some(Fault::WrongState)),
            (Told::Killed, sleeper, ContainerExited, 137, None, None),
            (Told::Killed, sleeper, ContainerExited, 3, None, Some(Fault::WrongExit)),
            (Told::Killed, ender, ContainerExited, 4, None, None),
            (Told::Over, sleeper, ContainerExited, 137, None, None),
            (Told::Over, sleeper, ContainerRunning, 0, None, Some(Fault::WrongState)),
        ] {
            let judged = container(told, script).judge(&status(state, code), alive);
            assert_eq!(judged.err().map(|(fault, _)| fault), fault, "{told:?} {state:?} {code} {alive:?}");
        }
    }

    #[test]
    fn a_container_starts_once() {
        let told = Container { started_at: 5, ..container(Told::Started, Script::Sleeper { code: 0 }) };
        let mut status = status(v1::ContainerState::ContainerRunning, 0);
        status.started_at = 5;
        assert!(told.judge(&status, None).is_ok());
        status.started_at = 6;
        assert!(told.judge(&status, None).is_err());
    }

    #[test]
    fn logs_are_read_as_a_kubelet_does() {
        let time = "2026-12-01T00:00:00.000000000Z";
        let text = format!("{time} stdout P a\n{time} stdout F b\n{time} stderr F c d\n");
        assert_eq!(lines(&text), Ok(vec!["ab".into(), "c d".into()]));
        assert!(lines(&format!("{time} stdout F a")).is_err());
        assert!(lines("nothing\n").is_err());
    }
}
