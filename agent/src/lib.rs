//! Holdfast: a Kubernetes node agent. CRI v1 server, image store, networks, standalone pods.

pub mod config;
pub mod cri;
