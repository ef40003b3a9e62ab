//! CRI v1: the only module of the agent that names a tonic or generated type.

pub mod convert;
