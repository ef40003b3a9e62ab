//! A client of k8s-cri 0.11 against a server of our bindings, over a unix socket: each of its 34 calls with every
//! field set. What is sent must arrive and what is answered must come back, field by field.

#![allow(clippy::unwrap_used)]

mod calls;
mod exchange;
mod fake;
mod limits;
mod tests;
