//! Mounts below the shim's run directory that nobody else sees.
//!
//! Who starts a container by paths needs its root at one, in a mount namespace that is otherwise the host's: volumes
//! with propagation have to be peers of the host's mounts. A namespace of its own is a copy whose shared mounts are
//! peers of the originals, so a mount made there shows on the host as well, and stays. The one mount that the run
//! directory lies on is therefore taken out of its peer group while ours are attached below it, and then put back.
//! They go with the last process of the namespace, however that ends: there is nothing to record and to undo.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_sys::mount::{self, Change, Propagation};
use holdfast_sys::ns;
use holdfast_sys::path::Kind;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use crate::fault::{OrFail, Result, internal};

const STAGE: &str = "make mounts that the host does not see";

/// A directory in a mount namespace of our own.
pub struct Unseen {
    dir: PathBuf,
    /// The mount that `dir` lies on: the host's, and its copy, which is private for now. `None`: it has no peers.
    peers: Option<(OwnedFd, OwnedFd)>,
}

impl Unseen {
    /// Leaves the mount namespace for a copy of it. `dir` is an absolute path.
    pub fn begin(dir: &Path) -> Result<Self> {
        let outside = mount_root(dir)?;
        ns::unshare(ns::NEWNS).or_fail("copy the mount namespace")?;
        let inside = mount_root(dir)?;
        let peers = if mount::peers_of(&inside).or_fail(STAGE)?.shared {
            let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
            mount::set_attributes(&inside, false, private).or_fail(STAGE)?;
            Some((outside, inside))
        } else {
            None
        };
        Ok(Self { dir: dir.to_owned(), peers })
    }

    /// Attaches a mount of a directory at one of that name, which is made.
    pub fn attach(&self, mount: impl AsFd, name: &str) -> Result<PathBuf> {
        self.attach_at(mount, name, Kind::Directory)
    }

    /// Attaches a mount of a directory or a file at one of that name, which is made.
    pub fn attach_at(&self, mount: impl AsFd, name: &str, kind: Kind) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let stage = format!("attach {}", path.display());
        let made = match kind {
            Kind::Directory => fs::create_dir(&path),
            Kind::File => fs::File::create_new(&path).map(drop),
        };
        match made {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e).or_fail(&stage),
            _ => {}
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(CWD, &path, flags, Mode::empty()).or_fail(&stage)?;
        mount::attach(mount, target).or_fail(&stage)?;
        Ok(path)
    }

    /// Everything is attached. Returns what a log should say.
    pub fn end(self) -> Result<Option<String>> {
        let Some((outside, inside)) = self.peers else { return Ok(None) };
        match mount::join_peers(&outside, &inside) {
            Ok(()) => Ok(None),
            // Before Linux 5.15: what the host mounts there from now on does not show in the container.
            Err(e) if e.is(Errno::INVAL) => {
                let dir = self.dir.display();
                Ok(Some(format!("mounts beside {dir} do not propagate to this container before Linux 5.15")))
            }
            other => other.map(|()| None).or_fail(STAGE),
        }
    }
}

/// The root of the mount that a directory lies on.
fn mount_root(dir: &Path) -> Result<OwnedFd> {
    /// Longer than any path.
    const MOST: usize = 4096;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, dir, flags, Mode::empty()).or_fail(STAGE)?;
    let id = mount::id_of(&at).or_fail(STAGE)?;
    for _ in 0..MOST {
        let above = openat(&at, "..", flags, Mode::empty()).or_fail(STAGE)?;
        let here = fstat(&at).or_fail(STAGE)?;
        let there = statat(&above, "", AtFlags::EMPTY_PATH).or_fail(STAGE)?;
        let is_top = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino);
        if is_top || mount::id_of(&above).or_fail(STAGE)? != id {
            return Ok(at);
        }
        at = above;
    }
    Err(internal(STAGE, format!("{} has no mount above it", dir.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_sys::clone::{Birth, Forked, fork};
    use holdfast_sys::mount::FileSystem;
    use holdfast_sys::pidfd::{self, Exit};
    use holdfast_sys::process::exit_now;
    use std::time::Duration;

    fn tmpfs() -> OwnedFd {
        FileSystem::open("tmpfs").unwrap().mount(0).unwrap()
    }

    /// In a process whose namespace is a host with shared mounts; its child makes a mount there.
    fn on_a_host(dir: &Path) -> Result<()> {
        ns::unshare(ns::NEWNS).or_fail("t")?;
        mount::make_all_private().or_fail("t")?;
        let desk = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).or_fail("t")?;
        let host = tmpfs();
        mount::attach(&host, desk).or_fail("t")?;
        let shared = Change { propagation: Some(Propagation::Shared), ..Change::default() };
        mount::set_attributes(&host, false, shared).or_fail("t")?;
        let run = dir.join("run");
        fs::create_dir(&run).or_fail("t")?;
        let child = match fork(Birth::default()).or_fail("t")? {
            Forked::Child => exit_now(i32::from(inside(&run).is_err())),
            Forked::Parent(child) => child,
        };
        pidfd::wait_exit(&child.pidfd, Duration::from_secs(10)).or_fail("t")?;
        let fine = pidfd::reap(&child.pidfd).or_fail("t")? == Some(Exit::Code(0));
        let seen = fs::read_to_string("/proc/self/mountinfo").or_fail("t")?;
        // The mount of the desk, and what the child mounted when it had ended; not the one in the run directory.
        let expected = fine
            && !seen.contains(&format!("{}", run.join("rootfs").display()))
            && seen.contains(&format!("{}", dir.join("late").display()));
        if expected { Ok(()) } else { Err(internal("t", seen)) }
    }

    fn inside(run: &Path) -> Result<()> {
        let unseen = Unseen::begin(run)?;
        let path = unseen.attach(tmpfs(), "rootfs")?;
        unseen.end()?;
        fs::write(path.join("file"), "").or_fail("t")?;
        let late = run.with_file_name("late");
        fs::create_dir(&late).or_fail("t")?;
        let late = openat(CWD, &late, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).or_fail("t")?;
        mount::attach(tmpfs(), late).or_fail("t")
    }

    #[test]
    fn the_host_sees_none_of_it_and_stays_a_peer() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // A process of its own, for its mount namespace.
        let child = match fork(Birth::default()).unwrap() {
            Forked::Child => exit_now(match on_a_host(dir.path()) {
                Ok(()) => 0,
                Err(e) => {
                    let _ = rustix::io::write(rustix::stdio::stderr(), e.to_string().as_bytes());
                    1
                }
            }),
            Forked::Parent(child) => child,
        };
        assert!(pidfd::wait_exit(&child.pidfd, Duration::from_secs(20)).unwrap());
        assert_eq!(pidfd::reap(&child.pidfd).unwrap(), Some(Exit::Code(0)));
    }
}
