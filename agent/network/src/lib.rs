//! Pod networks: the embedded bridge and CNI.
