//! System calls and entry point for programs without libc: what the pod holder is made of.
