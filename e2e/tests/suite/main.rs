//! End-to-end tests. One executable, so that they run one after the other: `cargo x test` says --test-threads=1, and
//! a scene waits for its turn anyhow.

#![deny(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used)]

mod bad_input;
mod bad_registry;
mod capabilities;
mod cdi;
mod clients;
mod cni;
mod descriptors;
mod devices;
mod escape;
mod failpoints;
mod fixtures;
mod full_disk;
mod handlers;
mod hooks;
mod hooks_race;
mod hostile;
mod identity;
mod image_records;
mod image_volumes;
mod images;
mod images_found;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod network;
mod owed;
mod pods;
mod recovery;
mod removal;
mod resources;
mod restart;
mod run;
mod security_modules;
mod serve;
mod service;
mod stopped;
mod streaming;
mod systemd;
mod unit;
mod upgrade;
mod walk;
