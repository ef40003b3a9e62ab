//! The log pump: a thread that reads the container's output and writes its log, and in the end its exit record.
//!
//! It is a thread and not the control loop, because a disk may make it wait for as long as it likes; and a thread and
//! not a process, because that costs a stack page or two instead of page tables and private copies. It allocates and
//! frees nothing between its start and the last record, and ends only behind that, when the control thread forks no more:
//! a fork never copies a locked allocator.

pub mod clients;
pub mod clock;
pub mod file;
pub mod lines;
pub mod record;
pub mod records;
pub mod source;
pub mod thread;

pub use clients::{Client, Gone};
pub use file::LogFile;
pub use record::RecordFile;
pub use thread::{Input, Pump, Reopened};
