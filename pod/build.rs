//! Links the holder without libc, and so without start files. The arguments go to this program only.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for arg in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        // Addresses in the file as they are in memory: nobody would relocate them.
        "-no-pie",
        // Few pages: no note, no page of zeros between sections, no table for an unwinder.
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        "-Wl,-z,max-page-size=4096",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-z,norelro",
    ] {
        println!("cargo::rustc-link-arg-bin=holdfast-pod={arg}");
    }
}
