//! Debian packages: what is missing, installing it, and unpacking one without installing it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    run::{command, loud, output, quiet, step},
    work::Work,
};

/// What building the programs needs.
pub const BUILD: &[&str] = &["gcc", "libc6-dev", "libseccomp-dev"];
/// Packages that the tests need as well: for the wire test, for the image builder, for disks that log, and to look at the machine.
pub const TESTS: &[&str] = &[
    "btrfs-progs",
    "busybox-static",
    "bzip2",
    "e2fsprogs",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "libprotobuf-dev",
    "libseccomp-dev",
    "make",
    "nftables",
    "pkg-config",
    "protobuf-compiler",
    "python3-venv",
    "qemu-system-common",
    "util-linux",
    "xfsprogs",
    "zstd",
];

/// Those of `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &str| {
        let query = output(&mut command("dpkg-query", ["-W", "-f", "${db:Status-Status}\n", package]));
        query.is_ok_and(|text| text.lines().any(|line| line == "installed"))
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

/// Installs what is missing of `packages`.
pub fn install(work: &Work, packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing {}", missing.join(", ")), || {
        let log = work.dir("logs")?.join("apt.log");
        let args = || ["install", "-y", "--no-install-recommends"].into_iter().chain(missing.iter().copied());
        let attempt = || quiet(command("apt-get", args()).env("DEBIAN_FRONTEND", "noninteractive"), &log);
        // A fresh machine has no package lists, or old ones.
        attempt().or_else(|_| {
            loud(&mut command("apt-get", ["update", "-qq"]))?;
            attempt()
        })
    })
}

/// Unpacks a package into `dir` without installing it, so that nothing of it starts by itself.
pub fn unpack(work: &Work, package: &str, dir: &Path) -> Result<()> {
    let debs = work.dir(&format!("debs/{package}"))?;
    let log = work.dir("logs")?.join(format!("apt-{package}.log"));
    let attempt = || quiet(command("apt-get", ["download", package]).current_dir(&debs), &log);
    attempt().or_else(|_| {
        loud(&mut command("apt-get", ["update", "-qq"]))?;
        attempt()
    })?;
    let deb = newest(&debs, ".deb")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    quiet(command("dpkg-deb", ["-x"]).arg(&deb).arg(dir), &log)
}

/// Libraries that an unpacked package asks for, told by the names in its Depends.
pub fn libraries(work: &Work, package: &str) -> Result<Vec<String>> {
    let deb = newest(&work.dir(&format!("debs/{package}"))?, ".deb")?;
    let text = output(command("dpkg-deb", ["-f"]).arg(&deb).arg("Depends"))?;
    // Alternatives ("a | b") do not come up among libraries; versions stand in brackets.
    let names = text.split(',').filter_map(|part| part.split_whitespace().next());
    Ok(names.filter(|name| name.starts_with("lib") || name.starts_with("zlib")).map(str::to_owned).collect())
}

/// Fetches the upstream archive of a source package into a folder of its own. The machine's sources seldom list
/// source packages, so this asks the same mirrors with lists of our own.
pub fn source(work: &Work, package: &str) -> Result<PathBuf> {
    let dir = work.dir(&format!("sources/{package}"))?;
    if let Ok(archive) = newest(&dir, ".orig.tar.bz2") {
        return Ok(archive);
    }
    let lists = work.dir("apt/lists/partial")?;
    let list = work.cache.join("apt/sources.list");
    let lines = indices("deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)")?;
    fs::write(&list, lines.join("\n") + "\n").with_context(|| format!("write {}", list.display()))?;
    let options = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::lists={}", lists.parent().unwrap_or(&lists).display()),
    ];
    let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
    let log = work.dir("logs")?.join("apt-source.log");
    quiet(command("apt-get", &options).arg("update"), &log)?;
    quiet(command("apt-get", &options).args(["source", "--download-only", package]).current_dir(&dir), &log)?;
    newest(&dir, ".orig.tar.bz2")
}

/// The mirror that apt takes Debian itself from.
pub fn mirror() -> Result<String> {
    let lines = indices("$(REPO_URI) $(LABEL) $(CODENAME) $(RELEASE)")?;
    let debian = lines.iter().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The main suite, not its updates or security.
        matches!(words.as_slice(), [_, "Debian", codename, release] if codename == release)
            .then(|| words[0].to_owned())
    });
    debian.context("apt is set up with no Debian archive: run apt-get update")
}

/// What apt knows of its binary indices, in a format of its own (apt-get(8), indextargets).
fn indices(format: &str) -> Result<Vec<String>> {
    let text = output(&mut command("apt-get", ["indextargets", "--format", format, "Created-By: Packages"]))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.dedup();
    if lines.is_empty() {
        bail!("apt has no package lists: run apt-get update");
    }
    Ok(lines)
}

fn newest(dir: &Path, ending: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            found.push((path.metadata()?.modified()?, path));
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).with_context(|| format!("no {ending} in {}", dir.display()))
}
