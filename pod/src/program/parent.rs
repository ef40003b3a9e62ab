//! The first half: clones the holder, does for it what only the host's root may, and tells the agent.

use holdfast_bare::net::{is_seqpacket, send, socket_pair};
use holdfast_bare::process::flags::{NEWIPC, NEWNET, NEWNS, NEWUSER};
use holdfast_bare::process::{Side, clone_sibling, enter_namespaces, set_ids};
use holdfast_bare::text::Text;
use holdfast_bare::{Errno, Fd, Open, open_at};

use super::args::{Config, Setting};
use super::child;
use super::fault::{Fault, Stage, report};
use crate::report::{MAX_REPORT, Report};
use crate::sysctl::{MAX_SYSCTL_NAME, SysctlNamespace};

/// The holder that was cloned, done or not.
struct Holder {
    pid: i32,
    pidfd: Fd,
    /// Our end of the socket to it.
    socket: Fd,
}

/// Runs the half and returns the exit code.
pub fn run(config: &Config) -> i32 {
    const NOT_STARTED_BY_HOLDFAST: &[u8] =
        b"holdfast-pod: descriptor 0 is no socket: this program is started by holdfast\n";
    if is_seqpacket(&Fd::STDIN) != Ok(true) {
        // Nobody to tell if this fails.
        let _ = Fd::STDERR.write(NOT_STARTED_BY_HOLDFAST);
        return crate::USAGE_EXIT_CODE;
    }
    match clone_holder(config) {
        Ok(holder) => {
            let mut record = [0; MAX_REPORT];
            let done = finish(config, &holder, &mut record);
            // With the descriptor whatever came of it, so that the agent can end it.
            let told = report(&Fd::STDIN, &done, Some((holder.pid, &holder.pidfd)));
            i32::from(done.is_err() || told.is_err())
        }
        Err(fault) => {
            // Nobody else to tell if this fails.
            let _ = report(&Fd::STDIN, &Err(fault), None);
            1
        }
    }
}

fn clone_holder(config: &Config) -> Result<Holder, Fault<'static>> {
    let (socket, theirs) = socket_pair().stage("make a socket pair")?;
    match clone_sibling(config.namespaces | NEWNS).stage("clone the holder into its namespaces")? {
        Side::Parent { pid, pidfd } => Ok(Holder { pid, pidfd, socket }),
        Side::Child => {
            // Else it would itself keep the end open that tells it of our end.
            drop(socket);
            child::run(config, &theirs)
        }
    }
}

/// What the holder cannot do for itself, and its own report.
fn finish<'a>(config: &Config, holder: &Holder, record: &'a mut [u8; MAX_REPORT]) -> Result<(), Fault<'a>> {
    // Before anything enters a namespace: /proc/PID is looked up as the host's root.
    if config.owns(NEWUSER) {
        write_map(holder.pid, b"/uid_map\0", config.uid_maps()).stage("write uid_map")?;
        write_map(holder.pid, b"/gid_map\0", config.gid_maps()).stage("write gid_map")?;
        send(&holder.socket, b"m", None).stage("tell the holder of its id maps")?;
    }
    write_sysctls(config, holder)?;
    let length = holder.socket.read(record).stage("hear from the holder")?;
    match Report::decode(record.get(..length).unwrap_or_default()) {
        Some(Report { stage: b"", .. }) => Ok(()),
        Some(Report { stage, errno, text, .. }) => Err(Fault { errno, stage, object: b"", text }),
        None => Err(Fault {
            errno: 0,
            stage: b"hear from the holder",
            object: b"",
            text: b"it ended without a word",
        }),
    }
}

/// All lines in one write, as the kernel wants it. Not inlined: the holder keeps every page of stack that was touched
/// before it was cloned, and these buffers would be in the one frame.
#[inline(never)]
fn write_map(pid: i32, file: &[u8], lines: impl Iterator<Item = &'static [u8]>) -> holdfast_bare::Result<()> {
    let mut path: Text<32> = Text::new();
    path.push(b"/proc/");
    path.push_number(pid.unsigned_abs());
    path.push(file);
    // The kernel takes less than a page.
    let mut map: Text<4096> = Text::new();
    for line in lines {
        map.push(line);
        map.push(b"\n");
    }
    if map.is_cut() {
        return Err(Errno::INVAL);
    }
    open_at(None, path.c_str().ok_or(Errno::INVAL)?, Open::Write)?.write(map.bytes()).map(drop)
}

/// Through the host's /proc, from inside the pod's namespaces: which table a name leads to depends on who looks.
#[inline(never)]
fn write_sysctls(config: &Config, holder: &Holder) -> Result<(), Fault<'static>> {
    if config.settings().next().is_none() {
        return Ok(());
    }
    let proc_sys = open_at(None, c"/proc/sys", Open::Directory).stage("open /proc/sys")?;
    let own = config.namespaces & (NEWNET | NEWIPC);
    enter_namespaces(&holder.pidfd, own).stage("enter the namespaces for the sysctls")?;
    let is_ipc = |setting: &Setting| setting.sysctl.namespace == SysctlNamespace::Ipc;
    // Before Linux 5.19 the sysctls of an ipc namespace are the host root's to write, since then its user
    // namespace's root's.
    let mut inside = !config.owns(NEWUSER);
    for setting in config.settings().filter(is_ipc) {
        let mut result = write_sysctl(&proc_sys, &setting);
        if !inside && matches!(result, Err(Errno::ACCES | Errno::PERM)) {
            become_root_inside(holder)?;
            inside = true;
            result = write_sysctl(&proc_sys, &setting);
        }
        result.map_err(|errno| refused(&setting, errno))?;
    }
    for setting in config.settings().filter(|setting| !is_ipc(setting)) {
        // Ids in a value (net.ipv4.ping_group_range) count as in the user namespace of whoever writes it.
        if !inside {
            become_root_inside(holder)?;
            inside = true;
        }
        write_sysctl(&proc_sys, &setting).map_err(|errno| refused(&setting, errno))?;
    }
    Ok(())
}

fn become_root_inside(holder: &Holder) -> Result<(), Fault<'static>> {
    enter_namespaces(&holder.pidfd, NEWUSER).stage("enter the user namespace for the sysctls")?;
    set_ids(0).stage("become root of the user namespace for the sysctls")
}

fn refused(setting: &Setting, Errno(errno): Errno) -> Fault<'static> {
    Fault { errno, stage: b"write sysctl", object: setting.name, text: b"" }
}

fn write_sysctl(proc_sys: &Fd, setting: &Setting) -> holdfast_bare::Result<()> {
    let mut path: Text<{ MAX_SYSCTL_NAME + 1 }> = Text::new();
    for byte in setting.sysctl.path().chain([0]) {
        path.push(&[byte]);
    }
    let file = open_at(Some(proc_sys), path.c_str().ok_or(Errno::INVAL)?, Open::Write)?;
    file.write(setting.value).map(drop)
}
