//! The log pump: a thread that reads the container's output and writes its log.
//!
//! It is a thread and not the control loop, because a disk may make it wait for as long as it likes; and a thread and
//! not a process, because that costs a stack page or two instead of page tables and private copies. It allocates
//! nothing after its start, so that a fork of the control thread never copies a locked allocator.

pub mod clients;
pub mod clock;
pub mod file;
pub mod lines;
pub mod records;
pub mod thread;

pub use clients::{Client, Gone};
pub use file::LogFile;
pub use thread::{Input, Pump, Reopened};
