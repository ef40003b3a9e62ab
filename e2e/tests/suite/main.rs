//! End-to-end tests. One executable, so that they run one after the other: `cargo x test` says --test-threads=1, and
//! a scene waits for its turn anyhow.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod bad_registry;
mod cni;
mod escape;
mod fixtures;
mod image_volumes;
mod images;
mod limits;
mod namespaces;
mod network;
mod restart;
mod run;
mod security_modules;
mod serve;
mod streaming;
mod walk;
