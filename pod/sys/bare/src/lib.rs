//! System calls and entry point for programs without libc: what the pod holder is made of.
//!
//! A process that sleeps for as long as its pod lives should cost a few pages. This crate has no heap, no
//! thread-local storage, no relocation and no feature of std: the program that uses it is `no_std`, `no_main`, linked
//! static without start files, and names its main function with [`entry!`]. Callers need no unsafe: what a wrapper
//! takes are slices, C strings and descriptors.
#![no_std]
#![expect(
    unsafe_code,
    reason = "system calls, the entry point and the memory functions that the compiler calls"
)]

#[cfg(not(target_os = "linux"))]
compile_error!("holdfast-bare speaks to Linux only");

#[cfg_attr(target_arch = "x86_64", path = "arch/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "arch/aarch64.rs")]
mod arch;
mod call;
pub mod mount;
pub mod net;
pub mod process;
pub mod start;
pub mod text;

pub use call::{Errno, Fd, Open, Result, close_from, open_at};
