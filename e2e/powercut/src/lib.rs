//! Power cuts. An agent works on a file system whose disk is a program that logs every write and flush. Afterwards the
//! log is played up to some point, with only some of what was not flushed by then, as a disk that loses its power may keep it. An
//! agent is started on that, and must serve, have kept what was told as done, and use nothing that is wrong.

#![deny(clippy::disallowed_methods)]

pub mod agent;
pub mod check;
pub mod cuts;
pub mod device;
pub mod image;
pub mod journal;
pub mod lie;
pub mod log;
pub mod record;
pub mod reference;
pub mod replay;
pub mod report;
pub mod site;
pub mod workload;
