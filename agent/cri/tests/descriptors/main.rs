//! What our descriptors say, against the api.proto that kubelets are built with and against what was said before.

#![allow(clippy::unwrap_used)]

mod facts;
mod own;
mod upstream;
