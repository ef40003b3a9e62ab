//! From a container's configuration to an OCI runtime spec and a seccomp program.
