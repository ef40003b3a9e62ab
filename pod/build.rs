//! Links the holder without libc, and so without start files. The arguments go to this program only.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let pages = format!("-Wl,-z,max-page-size={}", largest_page());
    for arg in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        // Addresses in the file as they are in memory: nobody would relocate them.
        "-no-pie",
        // Few pages: no note, no page of zeros between sections, no table for an unwinder.
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        &pages,
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
    ] {
        println!("cargo::rustc-link-arg-bin=holdfast-pod={arg}");
    }
}

/// The largest pages that a kernel of this architecture may have, in bytes. Of each segment, the offset in the file and
/// the address have to be equal modulo the kernel's page, or execve(2) fails with EINVAL; it costs addresses, not file.
fn largest_page() -> u32 {
    match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => 4096,
        // aarch64: 4, 16 or 64 KiB (CONFIG_ARM64_64K_PAGES).
        _ => 65536,
    }
}
