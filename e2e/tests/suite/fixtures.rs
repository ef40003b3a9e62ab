//! The tests' own tools, tested: an oracle that sees nothing would pass everything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Oracle,
    oracle::{self, Neighbours},
    place,
    process::{self, Process},
    registry::{self, Registry},
    scene,
};

/// A registry has what was pushed, byte for byte.
#[test]
fn a_pushed_image_can_be_read_back() -> Result<()> {
    if !ready() {
        return Ok(());
    }
    process::become_reaper()?;
    scene::own_network()?;
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path())?;
    let digest = registry::digest_of("holdfast.test/layers:1")?;
    let answer = holdfast_e2e::http::request(
        &registry.address,
        "GET",
        &format!("/v2/layers/manifests/{digest}"),
        "",
        b"",
    )?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.body == fs::read(registry::blob(&place::images(), &digest))?, "another manifest");
    Ok(())
}

/// Whatever is planted is found, and named, and no more when it is gone.
#[test]
fn the_oracle_sees_what_is_planted() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root");
        return Ok(());
    }
    process::become_reaper()?;
    scene::own_network()?;
    let temp = tempfile::tempdir()?;
    let state = temp.path().join("state");
    fs::create_dir(&state)?;
    let cgroup = format!("holdfaste2e{}plant", std::process::id());
    let scope = oracle::Scope {
        dir: temp.path().to_owned(),
        directories: vec![state.clone()],
        agent: Some(std::process::id()),
        cgroup: Some(format!("/{cgroup}")),
        ours: true,
        ..oracle::Scope::default()
    };
    let oracle = Oracle::look(scope.clone())?;
    oracle.nothing_left().context("nothing planted yet")?;

    let group = hierarchy()?.join(&cgroup);
    let _cleaning = Cleaning(scope.clone());
    let planted = plant(&state, &group)?;
    let found = oracle.new_facts()?.ours;
    for wanted in [
        "link hf-plant0".to_owned(),
        "address 10.213.99.1/24 on hf-plant0".to_owned(),
        "nftables table".to_owned(),
        "nftables element of \"plants\": 4242".to_owned(),
        format!("mount {}/mnt", state.display()),
        format!("cgroup {}", group.display()),
        format!("file {}/record.json", state.display()),
        "agent's descriptor".to_owned(),
        "netns net:[".to_owned(),
        "process ".to_owned(),
        "peer namespace".to_owned(),
    ] {
        ensure!(found.iter().any(|fact| fact.starts_with(&wanted)), "{wanted} is not in {found:#?}");
    }
    drop(planted);
    process::end_descendants()?;
    process::stdout("nft", ["delete", "table", "inet", "hf-plant"])?;
    fs::remove_file(state.join("record.json"))?;
    scope.sweep();
    fs::remove_dir(state.join("mnt"))?;
    oracle.nothing_left()
}

/// A hierarchy to make a group in.
fn hierarchy() -> Result<&'static Path> {
    let all = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new);
    all.into_iter().find(|dir| dir.exists()).context("no cgroups")
}

/// A fact outside of a test's names counts while nobody else is at work, and is only told when somebody is.
#[test]
fn the_oracle_sees_what_is_planted_outside_of_our_names() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root");
        return Ok(());
    }
    process::become_reaper()?;
    let temp = tempfile::tempdir()?;
    let look = |neighbours| {
        let scope = oracle::Scope { dir: temp.path().join("ours"), neighbours, ..oracle::Scope::default() };
        Oracle::look(scope).map(|oracle| oracle.within(Duration::from_millis(200)))
    };
    let (alone, beside) = (look(Neighbours::Nobody)?, look(Neighbours::Somebody)?);
    let strays = Strays::plant(temp.path())?;
    let error = alone.nothing_left().err().context("the strays do not count")?.to_string();
    for wanted in strays.facts() {
        ensure!(error.contains(&wanted), "{wanted} is not in {error}");
    }
    beside.nothing_left().context("the work of others counts")?;
    // What comes after the test's end is the work of others, whoever they are.
    let unknown = look(Neighbours::Unknown)?.within(holdfast_e2e::wait::LIMIT);
    let (first, busy) = (hierarchy()?.join(name("first")), AtomicBool::new(true));
    fs::create_dir(&first)?;
    let judged = thread::scope(|scope| {
        scope.spawn(|| churn(&busy));
        let judged = unknown.nothing_left();
        busy.store(false, Ordering::Relaxed);
        judged
    });
    fs::remove_dir(&first)?;
    judged.context("beside one that makes and removes groups")?;
    drop(strays);
    alone.nothing_left()
}

/// Makes groups and removes them, as a runtime that works.
fn churn(busy: &AtomicBool) {
    for number in 0_u64.. {
        if !busy.load(Ordering::Relaxed) {
            return;
        }
        let Ok(group) = hierarchy().map(|dir| dir.join(name(&format!("churn{number}")))) else { return };
        let _ = fs::create_dir(&group);
        // So long that one look meets it.
        thread::sleep(Duration::from_millis(20));
        let _ = fs::remove_dir(&group);
    }
}

fn name(what: &str) -> String {
    format!("hf-stray-{}-{what}", std::process::id())
}

/// A group, a mount, a link of the host and a pinned network namespace that no name of a test is in.
struct Strays {
    group: PathBuf,
    mount: PathBuf,
    netns: String,
    link: String,
}

impl Strays {
    fn plant(dir: &Path) -> Result<Self> {
        // Names of links have 15 letters at most.
        let link = format!("hfs{}", std::process::id());
        let strays = Self {
            group: hierarchy()?.join(name("group")),
            mount: dir.join("stray"),
            netns: name("netns"),
            link,
        };
        fs::create_dir(&strays.group)?;
        fs::create_dir(&strays.mount)?;
        process::stdout("mount", ["-t", "tmpfs", "stray", &strays.mount.to_string_lossy()])?;
        process::stdout("ip", ["netns", "add", &strays.netns])?;
        on_the_host(&["link", "add", &strays.link, "type", "dummy"])
            .or_else(|_| on_the_host(&["link", "add", &strays.link, "type", "bridge"]))?;
        Ok(strays)
    }

    fn facts(&self) -> [String; 4] {
        [
            format!("cgroup {}", self.group.display()),
            format!("mount {}", self.mount.display()),
            format!("file /run/netns/{}", self.netns),
            format!("link of the host {}", self.link),
        ]
    }
}

impl Drop for Strays {
    fn drop(&mut self) {
        let _ = on_the_host(&["link", "del", &self.link]);
        let _ = process::stdout("ip", ["netns", "del", &self.netns]);
        let _ = process::stdout("umount", [&self.mount]);
        let _ = fs::remove_dir(&self.group);
    }
}

/// `ip` in the host's network namespace, which the first thread has kept: this one may have one of its own.
fn on_the_host(args: &[&str]) -> Result<String> {
    let namespace = format!("--net=/proc/{}/ns/net", std::process::id());
    process::stdout("nsenter", [&[namespace.as_str(), "ip"], args].concat())
}

/// Takes away what was planted, whatever the test came to.
struct Cleaning(oracle::Scope);

impl Drop for Cleaning {
    fn drop(&mut self) {
        let _ = process::end_descendants();
        self.0.sweep();
    }
}

/// Keeps a process in a namespace of its own, and an open file.
fn plant(state: &std::path::Path, group: &std::path::Path) -> Result<(Process, fs::File)> {
    let process =
        Process::spawn(Command::new("unshare").args(["--net", "--mount", "--fork", "sleep", "1000"]))?;
    let sleeping = || Ok(process::descendants().into_iter().find(|process| process.name == "sleep"));
    let child = holdfast_e2e::wait::until("a planted process", holdfast_e2e::wait::LIMIT, sleeping)?;
    process::stdout(
        "ip",
        ["link", "add", "hf-plant0", "type", "veth", "peer", "name", "eth0", "netns", &child.pid.to_string()],
    )?;
    process::stdout("ip", ["address", "add", "10.213.99.1/24", "dev", "hf-plant0"])?;
    process::stdout(
        "nft",
        ["add table inet hf-plant; add set inet hf-plant plants { type inet_service; elements = { 4242 }; }"],
    )?;
    fs::create_dir(state.join("mnt"))?;
    process::stdout("mount", ["-t", "tmpfs", "plant", &state.join("mnt").to_string_lossy()])?;
    fs::create_dir(group)?;
    fs::write(state.join("record.json"), "{}")?;
    Ok((process, fs::File::open(state.join("record.json"))?))
}

fn ready() -> bool {
    let there = place::registry().exists() && place::images().join("index.json").exists();
    if !there {
        println!("SKIP: no registry or no test images: run cargo x test");
    }
    there
}
