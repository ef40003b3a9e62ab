//! Benchmark client: latencies and memory over CRI.
fn main() {}
