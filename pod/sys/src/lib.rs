//! Every unsafe kernel call of Holdfast, wrapped with owned descriptors and typed errors.
//!
//! One module a topic. A wrapper takes borrowed descriptors, returns owned ones with O_CLOEXEC, and fails with the
//! errno and the arguments, as strace would show them.
#![expect(unsafe_code, reason = "this crate is where the project's unsafe code lives")]

pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod clone;
pub mod error;
pub mod failpoint;
pub mod memfd;
pub mod mount;
pub mod ns;
pub mod pages;
pub mod path;
pub mod pidfd;
pub mod proc;
pub mod process;
pub mod socket;
pub mod spawn;
pub mod tty;
