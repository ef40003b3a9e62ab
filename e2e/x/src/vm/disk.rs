//! The second disk: programs, tests, tools and images go in, results and logs come out.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    kind,
    run::{command, quiet},
    test::Executable,
    work::Work,
};

/// critest's name among the results.
pub const CRITEST: &str = "critest";

/// Name of the run of `cargo x kind` among the results.
pub const KIND: &str = "kind";

/// What the machine shall run.
#[derive(Debug, Default)]
pub struct Load {
    /// Test executables.
    pub executables: Vec<Executable>,
    /// Of their tests, only those whose name contains this.
    pub filter: Option<String>,
    /// The program that runs critest.
    pub critest: Option<PathBuf>,
    /// Whether a kind cluster is run.
    pub kind: bool,
}

impl Load {
    /// Nothing but to look.
    pub fn is_empty(&self) -> bool {
        self.executables.is_empty() && self.critest.is_none() && !self.kind
    }
}

/// Fills a new disk and returns its path.
pub fn payload(work: &Work, dir: &Path, load: &Load, slowness: u32) -> Result<PathBuf> {
    let tree = dir.join("payload");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("remove the old payload")?;
    }
    for part in ["bin", "tests", "results", "cache/logs"] {
        fs::create_dir_all(tree.join(part)).with_context(|| format!("make {part}"))?;
    }
    let log = work.dir("logs")?.join("payload.log");
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, to).map(drop).with_context(|| format!("copy {}", from.display()))
    };
    if !load.executables.is_empty() || load.critest.is_some() {
        for program in build::PROGRAMS {
            copy(&Profile::Release.directory(work).join(program), tree.join("bin").join(program))?;
        }
        for part in parts(work)? {
            add_part(work, &part, &tree, &log)?;
        }
    }
    if load.kind {
        copy(&env::current_exe().context("find our own program")?, tree.join("tests").join(KIND))?;
        for part in kind::parts(work) {
            add_part(work, &part, &tree, &log)?;
        }
    }
    for (number, executable) in load.executables.iter().enumerate() {
        copy(&executable.path, tree.join("tests").join(test_name(number, executable)))?;
    }
    if !load.executables.is_empty() {
        let source = work.repo.join("agent/spec/tests/seccomp_probe.c");
        quiet(
            command("cc", ["-O1", "-static", "-o"]).arg(tree.join("tests/seccomp_probe")).arg(source),
            &log,
        )?;
    }
    if let Some(critest) = &load.critest {
        copy(critest, tree.join("tests").join(CRITEST))?;
    }
    fs::write(tree.join("run.sh"), script(load, slowness)).context("write run.sh")?;
    let disk = dir.join("payload.ext4");
    // With room for Docker's images and volumes.
    let size = if load.kind { "10G" } else { "1536M" };
    let _ = fs::remove_file(&disk);
    quiet(command("mkfs.ext4", ["-q", "-F", "-L", "payload", "-d"]).arg(&tree).arg(&disk).arg(size), &log)?;
    fs::remove_dir_all(&tree).context("remove the payload's tree")?;
    Ok(disk)
}

/// Adds a part of the cache at the same place. Hard links: some are large, and all are only read.
fn add_part(work: &Work, part: &Path, tree: &Path, log: &Path) -> Result<()> {
    let place = part.strip_prefix(&work.cache).context("a part of the cache")?;
    let to = tree.join("cache").join(place);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    quiet(command("cp", ["-al"]).arg(part).arg(to), log)
}

/// Parts of the cache that the tests use: tools, images, and a filled registry if there is one.
fn parts(work: &Work) -> Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(work.tools()).context("list the tools")?.flatten() {
        if !NOT_OF_TESTS.contains(&entry.file_name().to_string_lossy().as_ref()) {
            parts.push(entry.path());
        }
    }
    for entry in fs::read_dir(&work.cache).context("list the cache")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let images = ["images", "critest-images"].contains(&name.as_str());
        if images || (name.starts_with("registry-") && !name.contains(".tmp")) {
            parts.push(entry.path());
        }
    }
    Ok(parts)
}

/// Tools of the benchmark's peer and of a cluster, for which the disk has no room.
const NOT_OF_TESTS: [&str; 5] = ["cni-plugins", "containerd", "docker", "kind", "kubernetes"];

fn test_name(number: usize, executable: &Executable) -> String {
    let package = executable.dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{number:02}-{package}")
}

fn script(load: &Load, slowness: u32) -> String {
    let mut text = String::from(
        "set -u\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0\n\
         export HOLDFAST_E2E_BIN=/e2e/bin HOLDFAST_E2E_CACHE=/e2e/cache HOLDFAST_SECCOMP_PROBE=/e2e/tests/seccomp_probe\n\
         mkswap -q /swapfile && swapon /swapfile\n\
         { uname -sr; . /etc/os-release; echo \"$PRETTY_NAME\"; systemctl --version | head -n 1\n\
         echo \"cgroups: $(stat -fc %T /sys/fs/cgroup): $(cat /sys/fs/cgroup/cgroup.controllers)\"\n\
         echo \"security modules: $(cat /sys/kernel/security/lsm)\"\n\
         echo \"swap: $(awk '/SwapTotal/ { print $2, $3 }' /proc/meminfo)\"\n\
         echo \"huge pages: $(awk '/HugePages_Total/ { print $2 }' /proc/meminfo)\"\n\
         echo \"capabilities: $(grep CapEff /proc/self/status)\"; } > /e2e/results/machine.txt\n\
         cat /e2e/results/machine.txt\n",
    );
    let _ = writeln!(text, "export HOLDFAST_E2E_SLOWNESS={slowness}");
    let filter =
        load.filter.as_deref().map(|filter| format!("'{}'", filter.replace('\'', ""))).unwrap_or_default();
    for (number, executable) in load.executables.iter().enumerate() {
        let threads = if executable.end_to_end { "--test-threads=1" } else { "" };
        run_in(&mut text, &test_name(number, executable), &format!("{filter} --show-output {threads}"));
    }
    if load.critest.is_some() {
        run_in(&mut text, CRITEST, "");
    }
    if load.kind {
        run_in(&mut text, KIND, "kind --prepared /e2e/cache --nodes 1");
    }
    text.push_str(
        "journalctl -b --no-pager > /e2e/results/journal.txt 2>&1\ncp -r /e2e/cache/logs /e2e/results/\n\
         touch /e2e/results/done\nsync\n",
    );
    text
}

/// Adds a program's run, with its output and its exit code among the results.
fn run_in(script: &mut String, name: &str, args: &str) {
    let _ = writeln!(
        script,
        "echo '==> {name}'; cd /e2e/tests\n\
         {{ ./{name} {args}; echo $? > /e2e/results/{name}.status; }} 2>&1 | tee /e2e/results/{name}.log"
    );
}

/// Reads the results out of the disk, without a mount.
pub fn results(dir: &Path, disk: &Path, name: &str) -> Result<PathBuf> {
    let (dumped, results) = (dir.join("results"), dir.join(format!("results-{name}")));
    for old in [&dumped, &results] {
        if old.exists() {
            fs::remove_dir_all(old).context("remove the old results")?;
        }
    }
    let request = format!("rdump /results {}", dir.display());
    // The machine was switched off with the disk mounted: its journal is replayed first.
    let log = dir.join("e2fsck.log");
    let _ = quiet(command("e2fsck", ["-f", "-y"]).arg(disk), &log);
    quiet(command("debugfs", ["-R", &request]).arg(disk), &dir.join("debugfs.log"))?;
    fs::rename(&dumped, &results).context("name the results")?;
    Ok(results)
}
