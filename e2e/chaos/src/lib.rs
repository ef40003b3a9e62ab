//! Faults under churn. Clients run pods over CRI and check all that they are told, while something kills, fills, starves or
//! hangs; in the end an oracle asks the kernel what is left. Nothing here knows more of the runtime than its socket, its
//! directories and the names of its programs, so that another runtime can be put to the same.
//!
//! What clients call and when faults come is decided by a seed. What a kernel schedules is not, so a replay makes the same
//! calls and the same kills, each relative to its own client or to the number of calls sent, but not the same interleaving.

#![deny(clippy::disallowed_methods)]
#![expect(clippy::large_futures, reason = "a run makes a handful of them, once each")]

pub mod ask;
pub mod claims;
pub mod client;
pub mod daemon;
pub mod events;
pub mod faults;
pub mod finish;
pub mod kernel;
pub mod ledger;
pub mod left;
pub mod plan;
pub mod report;
pub mod rpc;
pub mod seed;
pub mod specs;
pub mod stage;
pub mod verify;
pub mod wire;
pub mod world;
