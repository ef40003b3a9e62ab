//! End-to-end tests. One executable, so that they run one after the other: `cargo x test` says --test-threads=1, and
//! a scene waits for its turn anyhow.

#![allow(clippy::unwrap_used)]

mod fixtures;
