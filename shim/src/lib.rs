//! The shim: one process per container, from create to exit record.
//!
//! [`control`] is the long-lived part: one thread that waits for the agent, for its children and for deadlines, and
//! that never touches a disk or a FIFO which could make it wait: the only directory that it reads and writes is its run
//! directory, which is in memory on every node. [`pump`] is a second thread that turns output into the log file, and writes
//! the exit record. [`stage`] is what short-lived children do on the way to the container's command: they alone read the
//! OCI spec, so that the shim stays small.

pub mod cli;
pub mod control;
pub mod fault;
pub mod link;
pub mod pump;
pub mod stage;
