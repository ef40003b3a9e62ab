//! The second half: becomes the holder.

use holdfast_bare::net::loopback_up;
use holdfast_bare::process::flags::{NEWNET, NEWUSER, NEWUTS};
use holdfast_bare::process::{
    clear_groups, drop_bounding_set, drop_capabilities, exit, ignore_children, no_new_privileges,
    not_dumpable, set_domainname, set_hostname, set_ids, sleep_for_ever,
};
use holdfast_bare::{Fd, close_from};

use super::args::Config;
use super::fault::{Fault, Stage, report};
use super::root;

const ROOT: u32 = 0;
/// The pause process's user since Kubernetes' own; no image's user by habit.
const NOBODY: u32 = 65535;
const ENDED_EARLY: i32 = 1;

/// Runs the half; `parent` is the socket to the first one.
pub fn run(config: &Config, parent: &Fd) -> ! {
    let done = become_holder(config, parent);
    let told = report(parent, &done, None);
    if done.is_err() || told.is_err() || close_from(1).is_err() {
        exit(ENDED_EARLY);
    }
    await_commit();
    sleep_for_ever()
}

/// The stages, each where it stands for a reason.
fn become_holder(config: &Config, parent: &Fd) -> Result<(), Fault<'static>> {
    if config.owns(NEWUSER) {
        await_maps(parent)?;
        // Unmapped ids may not own files, not even on a tmpfs of one's own.
        set_ids(ROOT).stage("become root of the user namespace")?;
    }
    if let Some(hostname) = config.hostname {
        set_hostname(hostname.to_bytes()).stage_of("set the host name", hostname)?;
    }
    if config.owns(NEWUTS) {
        set_domainname(b"").stage("clear the domain name")?;
    }
    if config.owns(NEWNET) {
        loopback_up().stage("set lo up")?;
    }
    root::build(config)?;
    // Also in a shared pid namespace, where orphans come to its first process.
    ignore_children().stage("ignore SIGCHLD")?;
    drop_privileges()
}

/// In an order in which each step still may: the bounding set and the ids need capabilities, and changing the ids
/// sets dumpable to what a sysctl says.
fn drop_privileges() -> Result<(), Fault<'static>> {
    no_new_privileges().stage("set no_new_privs")?;
    drop_bounding_set().stage("empty the bounding set")?;
    clear_groups().stage("give up the groups")?;
    set_ids(NOBODY).stage("become user and group 65535, which the id maps have to hold")?;
    drop_capabilities().stage("empty the capability sets")?;
    not_dumpable().stage("become undumpable")
}

fn await_maps(parent: &Fd) -> Result<(), Fault<'static>> {
    match parent.read(&mut [0]).stage("wait for the id maps")? {
        // The parent half has failed, and says so itself.
        0 => exit(ENDED_EARLY),
        _ => Ok(()),
    }
}

/// Until the agent has written down who we are, we live only as long as its end of the socket.
fn await_commit() {
    if !matches!(Fd::STDIN.read(&mut [0]), Ok(1)) || close_from(0).is_err() {
        exit(ENDED_EARLY);
    }
}
