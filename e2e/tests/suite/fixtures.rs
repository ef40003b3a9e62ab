//! The tests' own tools, tested: an oracle that sees nothing would pass everything.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Oracle, oracle, place,
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
    };
    let oracle = Oracle::look(scope.clone())?;
    oracle.nothing_left().context("nothing planted yet")?;

    let group =
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().map(std::path::Path::new).find(|dir| dir.exists());
    let group = group.context("no cgroups")?.join(&cgroup);
    let _cleaning = Cleaning(scope.clone());
    let planted = plant(&state, &group)?;
    let found = oracle.new_facts()?;
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
