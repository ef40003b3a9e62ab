//! The pod's holder: a process that keeps a pod's namespaces, and else does nothing.
//!
//! The agent starts it with a socket as descriptor 0. This first half clones the second one into the new namespaces,
//! writes its id maps and the pod's sysctls, tells the agent, and ends; the second half becomes the holder. Neither
//! has std, a heap or a thread: 50 holders share most of their few pages.
#![no_std]
#![no_main]

mod program;
mod report;
mod sysctl;

use holdfast_bare::start::Args;
use holdfast_bare::{Fd, entry};
use program::args::{Command, Usage};
use program::parent;

entry!(main);

const HELP: &[u8] = b"\
holdfast-pod: keeps the namespaces of a pod. Started by holdfast, with a socket as descriptor 0.

  --pod ID                 the pod, for whoever reads ps
  --new LIST               new namespaces: net,ipc,uts,pid,user (and a mount namespace always)
  --hostname NAME          with uts
  --shm-size BYTES         of /dev/shm, with ipc (67108864)
  --shm-label LABEL        of /dev/shm, for SELinux
  --sysctl NAME=VALUE      with net or ipc; may be repeated
  --uid-map \"IN OUT COUNT\" with user; may be repeated
  --gid-map \"IN OUT COUNT\" with user; may be repeated
  --help, --version
";

const USAGE_EXIT_CODE: i32 = 2;

fn main(args: Args) -> i32 {
    match Command::parse(args) {
        Ok(Command::Run(config)) => parent::run(&config),
        Ok(Command::Help) => say(&Fd::STDOUT, &[HELP], 0),
        Ok(Command::Version) => {
            let version = concat!("holdfast-pod ", env!("CARGO_PKG_VERSION"), "\n");
            say(&Fd::STDOUT, &[version.as_bytes()], 0)
        }
        Err(Usage { object, text }) => {
            let parts = [b"holdfast-pod: ", object, b" ", text.as_bytes(), b"; see --help\n"];
            say(&Fd::STDERR, &parts, USAGE_EXIT_CODE)
        }
    }
}

/// Writes and returns the exit code.
fn say(to: &Fd, parts: &[&[u8]], exit_code: i32) -> i32 {
    for part in parts {
        if to.write(part).is_err() {
            return 1;
        }
    }
    exit_code
}
