//! Links the program `holdfast-shim` without shared libraries: there is one process for each container, and every page
//! that a dynamic linker relocates is memory of each of them, four times as much in all.
//!
//! `-C target-feature=+crt-static` would do the same, but cargo passes it to every package, and on a gnu target there
//! are no proc-macros with it. So the arguments go to this program only. The libraries that rustc names for the
//! standard library (`-Bdynamic -lgcc_s ... -lc`) are found in a directory of ours first, where they are linker scripts
//! that name the archives: those that rustc takes with crt-static.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Static archives that replace each library.
const LIBRARIES: [(&str, &[&str]); 7] = [
    ("gcc_s", &["libgcc_eh.a", "libgcc.a", "libc.a"]),
    ("c", &["libc.a", "libgcc_eh.a", "libgcc.a"]),
    ("m", &["libm.a"]),
    // Empty since glibc 2.34, which has them in libc.
    ("util", &["libutil.a"]),
    ("rt", &["librt.a"]),
    ("pthread", &["libpthread.a"]),
    ("dl", &["libdl.a"]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is =
        |name: &str, value: &str| env::var(name).unwrap_or_default().split(',').any(|word| word == value);
    // Elsewhere the target, or who builds, has said already how C libraries are linked.
    if !is("CARGO_CFG_TARGET_ENV", "gnu") || is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    match write_scripts(&out) {
        Ok(()) => {
            // Without -no-pie the program would relocate itself at each start.
            let mut arguments =
                vec!["-static".to_owned(), "-no-pie".to_owned(), format!("-L{}", out.display())];
            // lld, which rustc takes by itself, lays what is written to on one page more of each process.
            if ask(&["-fuse-ld=bfd", "-Wl,--version"]).is_ok() {
                arguments.push("-fuse-ld=bfd".to_owned());
            }
            for argument in arguments {
                println!("cargo::rustc-link-arg-bin=holdfast-shim={argument}");
            }
        }
        Err(reason) => println!(
            "cargo::warning=holdfast-shim is linked dynamically and takes four times the memory for each container: \
             {reason}; install the static C library (Debian: libc6-dev, Fedora: glibc-static)"
        ),
    }
}

fn write_scripts(out: &Path) -> Result<(), String> {
    for (library, archives) in LIBRARIES {
        let paths = archives.iter().map(|archive| find(archive)).collect::<Result<Vec<_>, _>>()?;
        let script = out.join(format!("lib{library}.a"));
        fs::write(&script, format!("GROUP ( {} )\n", paths.join(" ")))
            .map_err(|error| format!("write {}: {error}", script.display()))?;
    }
    Ok(())
}

/// The path of an archive, quoted for a linker script: the compiler that links knows where its own ones lie.
fn find(archive: &str) -> Result<String, String> {
    let answer = ask(&[&format!("-print-file-name={archive}")])?;
    // It answers with the bare name if there is none.
    let path = Path::new(answer.trim());
    path.is_absolute()
        .then(|| format!("\"{}\"", path.display()))
        .ok_or_else(|| format!("there is no {archive}"))
}

/// Standard output of the compiler driver that links, run with these arguments.
fn ask(arguments: &[&str]) -> Result<String, String> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let output = Command::new(&linker)
        .args(arguments)
        .output()
        .map_err(|error| format!("run {}: {error}", linker.display()))?;
    let words = || format!("{} {}: {}", linker.display(), arguments.join(" "), output.status);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()).ok_or_else(words)
}
