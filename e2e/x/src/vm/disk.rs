//! The second disk: programs, tests, tools and images go in, results and logs come out.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::Options;
use crate::{
    run::{command, quiet},
    test::Executable,
    work::Work,
};

/// Fills a new disk and returns its path.
pub fn payload(
    work: &Work,
    dir: &Path,
    executables: &[Executable],
    options: &Options,
    slowness: u32,
) -> Result<PathBuf> {
    let tree = dir.join("payload");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("remove the old payload")?;
    }
    for part in ["bin", "tests", "results", "cache/logs"] {
        fs::create_dir_all(tree.join(part)).with_context(|| format!("make {part}"))?;
    }
    let log = work.dir("logs")?.join("payload.log");
    if !executables.is_empty() {
        for program in ["holdfast", "holdfast-pod", "holdfast-shim"] {
            let from = work.release(program);
            fs::copy(&from, tree.join("bin").join(program))
                .with_context(|| format!("copy {}", from.display()))?;
        }
        for part in parts(work)? {
            quiet(command("cp", ["-a"]).arg(&part).arg(tree.join("cache")), &log)?;
        }
    }
    for (number, executable) in executables.iter().enumerate() {
        let to = tree.join("tests").join(test_name(number, executable));
        fs::copy(&executable.path, &to).with_context(|| format!("copy {}", executable.path.display()))?;
    }
    if !executables.is_empty() {
        let source = work.repo.join("agent/spec/tests/seccomp_probe.c");
        quiet(
            command("cc", ["-O1", "-static", "-o"]).arg(tree.join("tests/seccomp_probe")).arg(source),
            &log,
        )?;
    }
    let script = script(executables, options, slowness);
    fs::write(tree.join("run.sh"), script).context("write run.sh")?;
    let disk = dir.join("payload.ext4");
    let _ = fs::remove_file(&disk);
    quiet(
        command("mkfs.ext4", ["-q", "-F", "-L", "payload", "-d"]).arg(&tree).arg(&disk).arg("1536M"),
        &log,
    )?;
    fs::remove_dir_all(&tree).context("remove the payload's tree")?;
    Ok(disk)
}

/// What of the cache the tests use: tools, images, and a filled registry if there is one.
fn parts(work: &Work) -> Result<Vec<PathBuf>> {
    let mut parts = vec![work.tools(), work.images()];
    for entry in fs::read_dir(&work.cache).context("list the cache")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("registry-") && !name.contains(".tmp") {
            parts.push(entry.path());
        }
    }
    Ok(parts)
}

fn test_name(number: usize, executable: &Executable) -> String {
    let package = executable.dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{number:02}-{package}")
}

fn script(executables: &[Executable], options: &Options, slowness: u32) -> String {
    let mut text = String::from(
        "set -u\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0\n\
         export HOLDFAST_E2E_BIN=/e2e/bin HOLDFAST_E2E_CACHE=/e2e/cache HOLDFAST_SECCOMP_PROBE=/e2e/tests/seccomp_probe\n\
         { uname -sr; . /etc/os-release; echo \"$PRETTY_NAME\"; systemctl --version | head -n 1\n\
         echo \"cgroups: $(stat -fc %T /sys/fs/cgroup): $(cat /sys/fs/cgroup/cgroup.controllers)\"\n\
         echo \"AppArmor: $(cat /sys/module/apparmor/parameters/enabled)\"\n\
         echo \"capabilities: $(grep CapEff /proc/self/status)\"; } > /e2e/results/machine.txt\n\
         cat /e2e/results/machine.txt\n",
    );
    let _ = writeln!(text, "export HOLDFAST_E2E_SLOWNESS={slowness}");
    let filter =
        options.filter.as_deref().map(|filter| format!("'{}'", filter.replace('\'', ""))).unwrap_or_default();
    for (number, executable) in executables.iter().enumerate() {
        let name = test_name(number, executable);
        let threads = if executable.end_to_end { "--test-threads=1" } else { "" };
        let _ = writeln!(
            text,
            "echo '==> {name}'; cd /e2e/tests\n\
             {{ ./{name} {filter} --show-output {threads}; echo $? > /e2e/results/{name}.status; }} 2>&1 \
             | tee /e2e/results/{name}.log"
        );
    }
    text.push_str(
        "journalctl -b --no-pager > /e2e/results/journal.txt 2>&1\ncp -r /e2e/cache/logs /e2e/results/\n\
         touch /e2e/results/done\nsync\n",
    );
    text
}

/// Reads the results out of the disk, without a mount.
pub fn results(dir: &Path, disk: &Path) -> Result<PathBuf> {
    let results = dir.join("results");
    if results.exists() {
        fs::remove_dir_all(&results).context("remove the old results")?;
    }
    let request = format!("rdump /results {}", dir.display());
    // The machine was switched off with the disk mounted: its journal is replayed first.
    let log = dir.join("e2fsck.log");
    let _ = quiet(command("e2fsck", ["-f", "-y"]).arg(disk), &log);
    quiet(command("debugfs", ["-R", &request]).arg(disk), &dir.join("debugfs.log"))?;
    Ok(results)
}
