//! /dev: a tmpfs that is filled before anybody can see it.
//!
//! It is made in the initial user namespace, also for a container in another one: device nodes of a tmpfs of its own
//! would not work there, and binding the host's nodes would let the container's root change the host's inodes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_sys::mount::{self, FileSystem, NODEV};
use holdfast_sys::path::{Kind, Root};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, makedev, mknodat, openat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::label;
use super::launch::{Launch, has_user_namespace, linux, mounts};
use super::options::Options;
use crate::fault::{OrFail, Result, invalid};
use crate::link::host_id;

/// Name, major, minor of the devices that every container has (runtime-spec config-linux.md).
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// A filled /dev.
#[derive(Debug)]
pub struct Devices {
    /// Detached mount.
    pub mount: OwnedFd,
}

/// The spec's mount of /dev, if it is a tmpfs that we have to fill.
pub fn is_dev(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("tmpfs")
}

/// Makes and fills /dev, if the spec has it as a tmpfs. The umask has to be 0: mknod(2) takes it off the mode.
pub fn make(launch: &Launch) -> Result<Option<Devices>> {
    const STAGE: &str = "make /dev";
    let Some(mount) = mounts(launch).iter().find(|mount| is_dev(mount)) else { return Ok(None) };
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let fs = FileSystem::open("tmpfs").or_fail(STAGE)?;
    super::mounts::configure(&fs, &options, label::of_mounts(launch), STAGE)?;
    let at = fs.mount(options.set & !NODEV).or_fail(STAGE)?;
    let dev = Fill { at: &at, launch };
    dev.chown(Path::new(""), 0, 0)?;
    for (name, major, minor) in DEFAULT {
        dev.node(name, FileType::CharacterDevice, (major, minor), 0o666)?;
        dev.chown(Path::new(name), 0, 0)?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &at, name).or_fail(STAGE)?;
        dev.chown(Path::new(name), 0, 0)?;
    }
    for device in listed(launch) {
        if let Ok(path) = device.path().strip_prefix("/dev") {
            dev.device(path, device)?;
        }
    }
    Ok(Some(Devices { mount: at }))
}

fn listed(launch: &Launch) -> &[LinuxDevice] {
    linux(launch).and_then(|linux| linux.devices().as_deref()).unwrap_or_default()
}

/// A tmpfs being filled. Nobody else can reach it, so names in it are what they were a moment ago.
struct Fill<'a> {
    at: &'a OwnedFd,
    launch: &'a Launch,
}

impl Fill<'_> {
    fn node(&self, name: &str, kind: FileType, number: (u32, u32), mode: u32) -> Result<()> {
        make_node(self.at, Path::new(name), kind, number, mode)
    }

    /// Ids are the container's.
    fn chown(&self, name: &Path, uid: u32, gid: u32) -> Result<()> {
        let uid = host_id(&self.launch.uid_map, uid);
        let gid = host_id(&self.launch.gid_map, gid);
        if (uid, gid) == (0, 0) {
            return Ok(());
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        chownat(self.at, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
            .or_fail(&format!("own /dev/{}", name.display()))
    }

    fn device(&self, path: &Path, device: &LinuxDevice) -> Result<()> {
        let mut above = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            above.push(part);
            match rustix::fs::mkdirat(self.at, &above, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.chown(&above, 0, 0)?,
                Err(Errno::EXIST) => {}
                Err(e) => {
                    return Err(e).or_fail(&format!("make directory of device {}", device.path().display()));
                }
            }
        }
        // The spec may list a default device, or a link's name, with other rights.
        match unlinkat(self.at, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).or_invalid(&stage_of(device), "another device has this path"),
        }
        self.device_node(path, device)
    }

    fn device_node(&self, path: &Path, device: &LinuxDevice) -> Result<()> {
        let (kind, number) = number_of(device)?;
        make_node(self.at, path, kind, number, device.file_mode().unwrap_or(0o666))?;
        self.chown(path, device.uid().unwrap_or(0), device.gid().unwrap_or(0))
    }
}

fn make_node(at: &OwnedFd, path: &Path, kind: FileType, (major, minor): (u32, u32), mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    mknodat(at, path, kind, mode, makedev(major, minor))
        .or_fail(&format!("make device node /dev/{}: are device nodes allowed here?", path.display()))
}

fn stage_of(device: &LinuxDevice) -> String {
    format!("make device {}", device.path().display())
}

fn number_of(device: &LinuxDevice) -> Result<(FileType, (u32, u32))> {
    let stage = stage_of(device);
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(invalid(&stage, "type \"a\" is for cgroup rules, a node is c, b or p"));
        }
    };
    let number =
        |part: i64| u32::try_from(part).map_err(|_| invalid(&stage, format!("{part} is no device number")));
    Ok((kind, (number(device.major())?, number(device.minor())?)))
}

/// Devices of the spec that do not lie in a /dev of ours.
fn outside(launch: &Launch) -> impl Iterator<Item = &LinuxDevice> {
    let ours = mounts(launch).iter().any(is_dev);
    listed(launch).iter().filter(move |device| !ours || !device.path().starts_with("/dev"))
}

/// The name of such a device's node in the file system that [`prepare_outside`] fills.
fn prepared_name(number: usize) -> PathBuf {
    format!("device-{number}").into()
}

/// The nodes of [`outside_dev`] for a pod with a user namespace, which may make none: made on the host, on a file system of
/// their own, and bound later.
pub fn prepare_outside(launch: &Launch, at: &OwnedFd) -> Result<()> {
    if !has_user_namespace(launch) {
        return Ok(());
    }
    let fill = Fill { at, launch };
    outside(launch)
        .enumerate()
        .try_for_each(|(number, device)| fill.device_node(&prepared_name(number), device))
}

/// Devices of the spec that do not lie in a /dev of ours: made in the root as it is then, or bound from `prepared`.
pub fn outside_dev(launch: &Launch, root: &Root, prepared: Option<&OwnedFd>) -> Result<()> {
    for (number, device) in outside(launch).enumerate() {
        match prepared.filter(|_| has_user_namespace(launch)) {
            Some(prepared) => bind_outside(root, device, prepared, number)?,
            None => make_outside(root, device)?,
        }
    }
    Ok(())
}

fn bind_outside(root: &Root, device: &LinuxDevice, prepared: &OwnedFd, number: usize) -> Result<()> {
    let stage = stage_of(device);
    let target = root.ensure(device.path(), Kind::File).or_invalid(&stage, CHOOSE)?;
    let node = mount::copy_tree(prepared.as_fd(), &prepared_name(number), false).or_fail(&stage)?;
    mount::attach(node, target).or_fail(&stage)
}

const CHOOSE: &str = "choose another path for it";

fn make_outside(root: &Root, device: &LinuxDevice) -> Result<()> {
    let stage = stage_of(device);
    let (kind, (major, minor)) = number_of(device)?;
    let (parent, name) = root.ensure_parent(device.path()).or_invalid(&stage, CHOOSE)?;
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    match mknodat(&parent, name, kind, mode, makedev(major, minor)) {
        Ok(()) => {}
        // The image's, or the host's in a bound /dev: theirs stays.
        Err(Errno::EXIST) => return Ok(()),
        Err(e) => return Err(e).or_fail(&stage),
    }
    let node = made_node(&parent, name, kind, makedev(major, minor), &stage)?;
    let ids = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    let (uid, gid) = (Some(Uid::from_raw(ids.0)), Some(Gid::from_raw(ids.1)));
    chownat(&node, "", uid, gid, AtFlags::EMPTY_PATH).or_fail(&stage)
}

/// The node that was just made. Whoever shares the directory may have put something else in its place, which is not ours
/// to give away.
fn made_node(parent: &OwnedFd, name: &OsStr, kind: FileType, number: u64, stage: &str) -> Result<OwnedFd> {
    let node = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let node = node.or_fail(stage)?;
    let stat = fstat(&node).or_fail(stage)?;
    let numbered = kind != FileType::Fifo;
    if FileType::from_raw_mode(stat.st_mode) != kind || numbered && stat.st_rdev != number {
        return Err(invalid(stage, format!("something else was put in its place: {CHOOSE}")));
    }
    Ok(node)
}
