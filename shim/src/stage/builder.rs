//! An overlay on kernels that take neither `lowerdir+` nor detached layers, nor copy a part of a detached mount: made by
//! mount(2) in a private copy of the host's mount namespace, by a child that hands out the descriptor and ends.

use std::ffi::CString;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use holdfast_pod::launch::{ImageVolume, Rootfs};
use holdfast_pod::protocol::Failure;
use holdfast_sys::clone::{Birth, Forked, fork};
use holdfast_sys::mount::{self, FileSystem};
use holdfast_sys::path::of_descriptor;
use holdfast_sys::process::exit_now;
use holdfast_sys::{ns, pidfd, socket};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::images::look_up;
use super::rootfs::{VOLATILE, is_alone, layer, lowest_last};
use crate::fault::{OrFail, Result, internal};

const STAGE: &str = "make root file system";
/// One page is all that mount(2) takes as options.
const LONGEST_OPTIONS: usize = 4095;

/// Makes the overlay and returns a detached copy of its mount, or of the part of it that a volume is of.
pub fn overlay(
    rootfs: &Rootfs,
    label: Option<&str>,
    user_namespace: Option<&OwnedFd>,
    volume: Option<&ImageVolume>,
) -> Result<OwnedFd> {
    let (here, there) = socket::pair().or_fail(STAGE)?;
    let birth = Birth { namespaces: ns::NEWNS, ..Birth::default() };
    let child = match fork(birth).or_fail("clone root builder")? {
        Forked::Child => {
            let result = build(rootfs, label, user_namespace, volume);
            exit_now(i32::from(answer(&there, result).is_err()));
        }
        Forked::Parent(child) => child,
    };
    drop(there);
    let answer = receive(&here);
    // Our child, which nobody else reaps. Its namespace goes with it, the copy of the mount stays.
    let _ = pidfd::wait_exit(&child.pidfd, LIMIT);
    let _ = pidfd::kill(&child.pidfd);
    let _ = pidfd::wait_exit(&child.pidfd, LIMIT);
    let _ = pidfd::reap(&child.pidfd);
    answer
}

/// mount(2) does not wait for anything but a disk; the shim has the real limit.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

fn answer(there: &OwnedFd, result: Result<OwnedFd>) -> std::result::Result<(), ()> {
    use holdfast_pod::channel::send;
    match result {
        Ok(tree) => send(there, &None::<Failure>, &[tree.as_fd()]).map_err(drop),
        Err(failure) => send(there, &Some(failure), &[]).map_err(drop),
    }
}

fn receive(here: &OwnedFd) -> Result<OwnedFd> {
    use holdfast_pod::channel::{buffer, recv_timeout};
    let lost = |text: String| internal(STAGE, format!("the root's builder said nothing: {text}"));
    match recv_timeout::<Option<Failure>>(here, &mut buffer(), LIMIT) {
        Ok(Some((None, mut fds))) => fds.pop().ok_or_else(|| lost("no descriptor".into())),
        Ok(Some((Some(failure), _))) => Err(failure),
        Ok(None) => Err(lost("it ended".into())),
        Err(e) => Err(lost(e.to_string())),
    }
}

fn build(
    rootfs: &Rootfs,
    label: Option<&str>,
    user_namespace: Option<&OwnedFd>,
    volume: Option<&ImageVolume>,
) -> Result<OwnedFd> {
    mount::make_all_private().or_fail(STAGE)?;
    // Opened before anything is mounted: the tmpfs below may hide the path of one of them.
    let mut held = Vec::new();
    let mut upper = String::new();
    if !rootfs.upper.as_os_str().is_empty() {
        for (key, path) in [("upperdir", &rootfs.upper), ("workdir", &rootfs.work)] {
            let fd = open(path)?;
            let _ = write!(upper, ",{key}={}", of_descriptor(&fd));
            held.push(fd);
        }
    }
    let layers: Vec<OwnedFd> = match user_namespace {
        None => lowest_last(rootfs).map(|path| open(path)).collect::<Result<_>>()?,
        Some(_) => lowest_last(rootfs)
            .map(|path| layer(path, user_namespace).or_fail(STAGE))
            .collect::<Result<_>>()?,
    };
    let fs = FileSystem::open("tmpfs").or_fail(STAGE)?;
    let desk = fs.mount(0).or_fail(STAGE)?;
    let here =
        openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).or_fail(STAGE)?;
    mount::attach(&desk, here).or_fail(STAGE)?;
    let place = |name: &str| -> Result<OwnedFd> {
        rustix::fs::mkdirat(&desk, name, Mode::from_raw_mode(0o700)).or_fail(STAGE)?;
        openat(&desk, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).or_fail(STAGE)
    };
    let mut lower = String::new();
    for (number, layer) in layers.iter().enumerate() {
        if user_namespace.is_some() {
            // overlayfs of these kernels takes no detached mount. The descriptor stays the mount's.
            mount::attach(layer, place(&number.to_string())?).or_fail(STAGE)?;
        }
        let _ = write!(lower, "{}{}", if number == 0 { "" } else { ":" }, of_descriptor(layer));
    }
    if is_alone(rootfs) {
        let bottom = place("bottom")?;
        let _ = write!(lower, ":{}", of_descriptor(&bottom));
        held.push(bottom);
    }
    let mut options = format!("lowerdir={lower}{upper}");
    if let Some(label) = label {
        let _ = write!(options, ",context=\"{label}\"");
    }
    if !upper.is_empty() {
        let _ = write!(options, ",{VOLATILE}");
    }
    if options.len() > LONGEST_OPTIONS {
        let text =
            format!("this kernel cannot stack {} layers: squash the image, or use Linux 6.8", layers.len());
        return Err(crate::fault::invalid(STAGE, text));
    }
    mount_overlay(&place("root")?, &options)?;
    let made = openat(&desk, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_fail(STAGE)?;
    let part = volume.filter(|volume| !volume.sub_path.as_os_str().is_empty());
    let made = part.map_or(Ok(None), |volume| look_up(&made, volume).map(Some))?.unwrap_or(made);
    mount::copy_tree(made.as_fd(), Path::new(""), false).or_fail(STAGE)
}

/// By mount(2). A kernel before 5.10 does not know what spares a sync, and can do without.
fn mount_overlay(target: &OwnedFd, options: &str) -> Result<()> {
    let try_with = |options: &str| {
        let flags = rustix::mount::MountFlags::empty();
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", of_descriptor(target), "overlay", flags, options.as_c_str())
    };
    let lasting = options.strip_suffix(VOLATILE).and_then(|options| options.strip_suffix(','));
    match (try_with(options), lasting) {
        (Err(Errno::INVAL), Some(lasting)) => try_with(lasting),
        (made, _) => made,
    }
    .or_fail(STAGE)
}

fn open(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_fail(&format!("open layer {}", path.display()))
}
