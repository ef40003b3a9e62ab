//! The store against a registry on loopback, good and bad, and against its own past.
#![allow(clippy::unwrap_used, missing_docs)]

mod bed;
mod found;
mod full_disk;
mod hostile;
mod images;
mod import;
mod leases;
mod legacy;
mod overlay;
mod pull;
mod recover;
mod registry;
mod remove;
mod share;
