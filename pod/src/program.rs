//! The two halves of the holder program.

pub mod args;
mod child;
pub mod fault;
pub mod parent;
mod root;
