//! The shim with a real holder, driven as the agent drives it. Needs root; skips visibly without.
#![allow(clippy::unwrap_used, missing_docs)]

mod attach;
mod death;
mod devices;
mod exec;
mod harness;
mod identity;
mod images;
mod isolation;
mod log;
mod newer;
mod pids;
mod race;
mod record;
mod refused;
mod scene;
mod start;
mod stdio;
mod terminal;
mod userns;
mod walk;
