//! What the holder's tests share: configurations, looks into /proc, and a process that does as an agent does.
#![allow(dead_code, clippy::unwrap_used, missing_docs, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_pod::holder::{Holder, HolderConfig, Namespaces, spawn};
use holdfast_pod::launch::IdMap;

pub const LIMIT: Duration = Duration::from_secs(20);

/// Says so where the tests cannot run.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIP: needs root");
    }
    root
}

/// A pod with everything of its own but pids and users. `name` tells its processes from those of other tests.
pub fn config(name: &str) -> HolderConfig {
    HolderConfig {
        program: PathBuf::from(env!("CARGO_BIN_EXE_holdfast-pod")),
        pod_id: format!("test-{name}-{}", std::process::id()),
        hostname: Some(name.to_owned()),
        namespaces: Namespaces { net: true, ipc: true, uts: true, pid: false },
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        sysctls: BTreeMap::new(),
        shm_size: 1 << 20,
        shm_label: String::new(),
        timeout: LIMIT,
    }
}

pub fn with_user_namespace(config: HolderConfig) -> HolderConfig {
    let map = vec![IdMap { inside: 0, outside: 1_000_000, count: 65536 }];
    HolderConfig { uid_map: map.clone(), gid_map: map, ..config }
}

pub fn with_sysctls(config: HolderConfig, sysctls: &[(&str, &str)]) -> HolderConfig {
    let sysctls = sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HolderConfig { sysctls, ..config }
}

/// The number of a namespace, `net:[4026531840]`.
pub fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

pub fn own_namespace(kind: &str) -> String {
    namespace(i32::try_from(std::process::id()).unwrap(), kind)
}

/// A line of /proc/PID/status, its words joined by one space.
pub fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The pids of all processes that have this word in their command line, other than test programs.
pub fn processes_of(pod_id: &str) -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == pod_id.as_bytes())
    })
    .collect()
}

/// Waits until it is so.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const ACT: &str = "HOLDFAST_TEST_ACT";

/// Is this the process that [`alone`] started for this test?
pub fn acting() -> bool {
    std::env::var_os(ACT).is_some()
}

/// This test program once more, as a process with one thread that runs just the named test.
pub fn alone(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture", "--include-ignored"]);
    command.env(ACT, "1").stdin(Stdio::null()).process_group(0);
    command
}

/// Ends a child process with the test, whatever becomes of the test.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The mount points of a process's mount namespace, with their options.
pub fn mounts(pid: i32) -> Vec<(String, String)> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mount = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let dash = words.iter().position(|word| *word == "-").unwrap();
        let kind =
            format!("{} {} {} {}", words[5], words[dash + 1], words[dash + 3], words[6..dash].join(" "));
        (words[4].to_owned(), kind)
    };
    table.lines().map(mount).collect()
}

/// Names in a directory, sorted.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A committed holder that ends with the test.
pub struct Kept(pub Holder);

impl std::ops::Deref for Kept {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kill_and_wait(LIMIT).unwrap();
    }
}

/// Makes a holder and commits it.
pub fn keep(config: &HolderConfig) -> Kept {
    Kept(spawn(config).unwrap().commit().unwrap())
}
