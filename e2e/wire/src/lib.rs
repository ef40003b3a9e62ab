//! Wire compatibility with k8s-cri 0.11: bindings of CRI 1.32 that somebody else wrote from somebody else's .proto.
//!
//! Its messages have no descriptors, so what it understood is told from outside: by the bytes that it writes again,
//! and by the names and values that serde shows of its structs.

pub mod client;
pub mod fill;
pub mod level;
pub mod spoken;
