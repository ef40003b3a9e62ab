//! The versions of remotecommand, and what each of them can do.

/// Names over SPDY, the best one first. v5 is for WebSocket alone.
pub(crate) const SPDY_NAMES: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// The version of a name out of [`SPDY_NAMES`].
pub(crate) fn version(name: &str) -> u8 {
    match name.split('.').next() {
        Some("v4") => 4,
        Some("v3") => 3,
        Some("v2") => 2,
        _ => 1,
    }
}

/// Whether a terminal's client opens a resize stream.
pub(super) fn resizes(version: u8) -> bool {
    version >= 3
}

/// Whether the error stream is a Status in JSON.
pub(super) fn json_status(version: u8) -> bool {
    version >= 4
}
