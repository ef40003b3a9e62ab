//! Pods and containers whose record cannot be used: one that makes no sense, or one of a newer version.
//!
//! They are known by their id, which is the name of their directory, and left alone: what runs goes on, and their network,
//! run directory and images stay. A directory whose record makes no sense is renamed to `<id>.unreadable`, and from then on
//! no start reads it; one of a newer version, or one that is whole and says what we do not know, stays where it is, for the
//! program that can read it. An operator sees and
//! removes them by `holdfast quarantine`; a container among them ends with its pod.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_cgroup::Cgroups;
use holdfast_model::PodId;
use holdfast_pod::executable::{self, Found};
use holdfast_sys::failpoint;

use super::{
    Error, Runtime,
    blocking::{blocking, remove_tree},
    object::Pod,
    record::{self, ContainerRecord, PodPhase, PodRecord, RecordError},
    recovery::load::{self, Fault, Other},
};

/// Ending of the name of a directory that no start reads.
pub(super) const ENDING: &str = ".unreadable";
/// Longest wait for a killed helper.
const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// Largest file that is searched for what a record named, in bytes.
const SEARCH_LIMIT: u64 = 16 << 20;

/// A pod, or a container?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A pod sandbox.
    Pod,
    /// A container.
    Container,
}

impl ObjectKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pod, Self::Container];

    /// Name of the directory of all records of that kind.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Container => "containers",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Container => "container",
        })
    }
}

/// An object whose record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Pod or container.
    pub kind: ObjectKind,
    /// Its id.
    pub id: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Why its record cannot be used.
    pub reason: String,
    /// A container's pod, if its record still tells.
    pub pod: Option<String>,
}

/// Splits the name of a directory into an id and whether no start reads it. `None`: it is no object's.
pub fn split(name: &str) -> Option<(&str, bool)> {
    let (id, is_aside) = name.strip_suffix(ENDING).map_or((name, false), |id| (id, true));
    id.parse::<PodId>().is_ok().then_some((id, is_aside))
}

impl Quarantined {
    /// What can be learnt of a directory whose record cannot be used. Blocking.
    pub fn look(kind: ObjectKind, other: Other) -> Self {
        let Other { dir, id, fault } = other;
        let reason = match fault {
            Fault::Aside => {
                fault_of(kind, &dir, &id).map_or_else(|| fault.to_string(), |fault| fault.to_string())
            }
            fault => fault.to_string(),
        };
        let pod = (kind == ObjectKind::Container)
            .then(|| find_id(&read_some(&dir.join(record::FILE)), b"\"pod_id\":\""))
            .flatten();
        Self { kind, id, dir, reason, pod }
    }

    /// What it takes on disk. Blocking, for as long as its tree is large.
    pub fn usage(&self) -> holdfast_tree::Usage {
        holdfast_tree::usage(&self.dir)
    }

    /// Renames its directory, so that no start reads it again. Blocking.
    fn set_aside(&mut self) {
        let mut aside = self.dir.as_os_str().to_owned();
        aside.push(ENDING);
        let aside = PathBuf::from(aside);
        let renamed = failpoint::at("runtime.quarantine.rename").and_then(|()| fs::rename(&self.dir, &aside));
        match renamed {
            Ok(()) => self.dir = aside,
            // The next start reads it again, to the same end.
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "could not set aside an unreadable record");
            }
        }
    }

    /// Holders of a pod, or shims of a container.
    fn helpers(&self, programs: &Programs) -> Vec<Found> {
        match self.kind {
            ObjectKind::Pod => executable::search(&programs.pod, &["--pod", &self.id]),
            ObjectKind::Container => executable::search(&programs.shim, &["--id", &self.id]),
        }
    }

    /// Pids of what lives of it: its helper, and the processes in its cgroups. Blocking work is done elsewhere.
    pub async fn processes(&self, programs: &Programs, cgroups: &Cgroups) -> Result<BTreeSet<i32>, Error> {
        let groups = cgroups.named(&self.id).await.map_err(failed("find by name the"))?;
        let (this, programs, cgroups) = (self.clone(), programs.clone(), cgroups.clone());
        blocking(move || {
            let mut pids: BTreeSet<i32> = this.helpers(&programs).iter().map(|found| found.pid).collect();
            for group in groups {
                pids.extend(cgroups.pids(&group).map_err(failed("read a quarantined object's"))?);
            }
            Ok(pids)
        })
        .await
    }

    /// Kills what lives of it and removes its cgroups, its run directory and its own directory, which goes last.
    pub async fn remove(&self, programs: &Programs, cgroups: &Cgroups, state: &Path) -> Result<(), Error> {
        cgroups.remove_named(&self.id).await.map_err(failed("remove a quarantined object's"))?;
        let (this, programs, state) = (self.clone(), programs.clone(), state.to_owned());
        blocking(move || {
            for Found { pid, pidfd, .. } in this.helpers(&programs) {
                let ended = holdfast_sys::pidfd::kill(&pidfd)
                    .and_then(|()| holdfast_sys::pidfd::wait_exit(&pidfd, HELPER_LIMIT));
                if !matches!(ended, Ok(true)) {
                    return Err(Error::Timeout {
                        operation: "end",
                        object: format!("process {pid} of {} {}", this.kind, this.id),
                        stage: "wait for the killed process to end",
                        limit: HELPER_LIMIT,
                    });
                }
            }
            remove_tree(&state.join("containers").join(&this.id))?;
            for runtime in fs::read_dir(state.join("runtimes")).into_iter().flatten().flatten() {
                remove_tree(&runtime.path().join(&this.id))?;
            }
            remove_tree(&this.dir)
        })
        .await
    }
}

/// Helper programs, by whose names processes are found.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `holdfast-pod`.
    pub pod: PathBuf,
    /// `holdfast-shim`.
    pub shim: PathBuf,
}

/// All below `root` whose records cannot be used. Blocking.
pub fn scan(root: &Path) -> Result<Vec<Quarantined>, RecordError> {
    let mut others = Vec::new();
    for kind in ObjectKind::ALL {
        let parent = root.join(kind.directory());
        let found = match kind {
            ObjectKind::Pod => load::load::<PodRecord>(&parent).map(|loaded| loaded.others),
            ObjectKind::Container => load::load::<ContainerRecord>(&parent).map(|loaded| loaded.others),
        };
        let found = match found {
            // No agent has ever run here.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Vec::new(),
            found => found?,
        };
        others.extend(found.into_iter().map(|other| (kind, other)));
    }
    // A directory without a record is one that a start removes.
    others.retain(|(_, other)| !matches!(other.fault, Fault::Missing | Fault::Empty));
    Ok(others.into_iter().map(|(kind, other)| Quarantined::look(kind, other)).collect())
}

impl Runtime {
    /// The objects whose records cannot be used, as the start has found them.
    pub fn quarantined(&self) -> &[Quarantined] {
        self.quarantine.get().map_or(&[], Vec::as_slice)
    }

    /// Whether something lives of an object whose record was lost: then it is known, whatever it is.
    pub(super) async fn lives(&self, kind: ObjectKind, id: &str) -> bool {
        let object =
            Quarantined { kind, id: id.to_owned(), dir: PathBuf::new(), reason: String::new(), pod: None };
        // What cannot be told lives: nothing is removed then.
        !matches!(object.processes(&self.programs(), &self.cgroups).await, Ok(pids) if pids.is_empty())
    }

    fn programs(&self) -> Programs {
        Programs { pod: self.pod_program.clone(), shim: self.shim_program.clone() }
    }

    /// Takes note of what the start has found, and renames what makes no sense.
    pub(super) async fn set_quarantine(&self, others: Vec<(ObjectKind, Other)>) {
        let all = blocking(move || {
            let look = |(kind, other): (ObjectKind, Other)| {
                let is_new = matches!(other.fault, Fault::Torn { .. } | Fault::Empty);
                let mut found = Quarantined::look(kind, other);
                if is_new {
                    found.set_aside();
                }
                found
            };
            others.into_iter().map(look).collect()
        });
        let all = self.quarantine.get_or_init({
            let all = all.await;
            move || all
        });
        let all = all.clone();
        // Counting files takes as long as there are files.
        tokio::task::spawn_blocking(move || all.iter().for_each(log));
    }

    /// Ends what a pod's quarantined containers still run: it would keep the pod's network and its cgroup.
    pub(super) async fn end_quarantined_of(&self, pod: &Pod) -> Result<(), Error> {
        for container in self.quarantined() {
            if container.kind == ObjectKind::Container && self.is_in_pod(container, pod).await? {
                self.delete_from_all_runtimes(&container.id).await;
                let removed = self.cgroups.remove_named(&container.id).await;
                removed.map_err(failed("end a quarantined container's"))?;
            }
        }
        Ok(())
    }

    async fn is_in_pod(&self, container: &Quarantined, pod: &Pod) -> Result<bool, Error> {
        if let Some(named) = &container.pod {
            return Ok(named == pod.id.as_str());
        }
        // Its group lies below that of its pod, which another sandbox of the same pod may share.
        let record = pod.record.get();
        let is_shared = self.all_pods().iter().any(|other| {
            other.id != pod.id
                && other.record.get().phase == PodPhase::Ready
                && other.record.get().cgroup == record.cgroup
        });
        let groups = self.cgroups.named(&container.id).await.map_err(failed("find by name the"))?;
        let below =
            |path: &str| path.strip_prefix(record.cgroup.path()).is_some_and(|rest| rest.starts_with('/'));
        Ok(!is_shared && groups.iter().any(|group| below(group.path())))
    }
}

fn log(found: &Quarantined) {
    let holdfast_tree::Usage { bytes, inodes } = found.usage();
    tracing::warn!(
        kind = %found.kind,
        id = found.id,
        reason = found.reason,
        bytes,
        files = inodes,
        "quarantined: left alone until it is removed, see `holdfast quarantine`"
    );
}

fn failed(operation: &'static str) -> impl FnOnce(holdfast_cgroup::Error) -> Error {
    move |source| Error::Cgroup { operation, source }
}

/// The reason for which a start before this one has set a directory aside.
fn fault_of(kind: ObjectKind, dir: &Path, id: &str) -> Option<Fault> {
    let bytes = fs::read(dir.join(record::FILE)).ok()?;
    match kind {
        ObjectKind::Pod => load::parse::<PodRecord>(&bytes, id).err(),
        ObjectKind::Container => load::parse::<ContainerRecord>(&bytes, id).err(),
    }
}

fn read_some(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What was read counts, whatever ended it.
        let _ = io::Read::read_to_end(&mut io::Read::take(file, SEARCH_LIMIT), &mut bytes);
    }
    bytes
}

/// The first id that follows `prefix`.
fn find_id(bytes: &[u8], prefix: &[u8]) -> Option<String> {
    let at = bytes.windows(prefix.len()).position(|window| window == prefix)? + prefix.len();
    let id = std::str::from_utf8(bytes.get(at..at + 64)?).ok()?;
    id.parse::<PodId>().ok().map(|id| id.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_id_or_nobodys() {
        let id = "0a".repeat(32);
        assert_eq!(split(&id), Some((id.as_str(), false)));
        assert_eq!(split(&format!("{id}.unreadable")), Some((id.as_str(), true)));
        for name in ["", "lost+found", ".unreadable", &id[1..], &format!("{id}.old")] {
            assert_eq!(split(name), None, "{name}");
        }
    }

    /// Half a record tells enough to end what still runs with its pod.
    #[test]
    fn a_torn_record_still_names_its_pod() {
        let base = tempfile::tempdir().unwrap();
        let (id, pod) = ("1".repeat(64), "2".repeat(64));
        let dir = base.path().join("containers").join(&id);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(r#"{{"version":1,"id":"{id}","pod_id":"{pod}","ima"#);
        fs::write(dir.join(record::FILE), text).unwrap();
        let found = scan(base.path()).unwrap();
        let [mut found] = <[_; 1]>::try_from(found).unwrap();
        assert_eq!((found.kind, &found.id, found.pod.as_ref()), (ObjectKind::Container, &id, Some(&pod)));
        let reason = found.reason.clone();
        assert!(reason.contains("EOF while parsing"), "{reason}");
        found.set_aside();
        assert_eq!(scan(base.path()).unwrap(), [found.clone()], "with the same reason");
        assert!(found.dir.ends_with(format!("{id}.unreadable")) && found.dir.exists());
        assert!(found.usage().inodes >= 1);
    }
}
