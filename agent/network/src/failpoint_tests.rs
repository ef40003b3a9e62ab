//! Every failpoint of ADD and DEL, with an agent that dies there or whose effect fails: the next agent leaves nothing of the pod.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{HashMap, HashSet},
    env, fs,
    os::fd::AsRawFd,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use holdfast_model::PodId;
use holdfast_sys::failpoint::{Board, Fault, VARIABLE};

use crate::{
    Network,
    embedded::{firewall, pod::link_name},
    netlink::{Socket, nft},
    testing::*,
};

const STEP: &str = "HOLDFAST_TEST_STEP";
const DIR: &str = "HOLDFAST_TEST_DIR";
const POD: &str = "HOLDFAST_TEST_POD";
const NETNS: &str = "HOLDFAST_TEST_NETNS";
/// A plugin whose leases are files.
const LEASES: &str = r#"case $CNI_COMMAND in
    ADD) touch $dir/lease.$CNI_CONTAINERID; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}' ;;
    DEL) rm -f $dir/lease.$CNI_CONTAINERID ;;
esac"#;

/// One agent, which does what the environment says.
#[test]
#[ignore = "the tests below run it as a process of its own"]
fn agent() {
    let Ok(step) = env::var(STEP) else { return };
    let dir = PathBuf::from(env::var_os(DIR).unwrap());
    let pod: PodId = env::var(POD).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let network = Network::start(config(&dir)).await.unwrap();
        match step.as_str() {
            "add" => {
                let netns = fs::File::open(env::var_os(NETNS).unwrap()).unwrap().into();
                let mut wanted = request("web", &netns);
                wanted.pod = pod;
                wanted.port_mappings = vec![mapping("", 8080, 80)];
                let _ = network.add(wanted).await;
            }
            "del" => network.del(&pod, None).await.unwrap(),
            _ => {
                network.recover(&HashSet::new(), &[]).await;
                let nothing = || network.inner.state().records().next().is_none();
                eventually("the end of everything", nothing).await;
            }
        }
    });
}

/// A pod and where its network is recorded.
struct Scene {
    dir: tempfile::TempDir,
    pod: PodId,
    board: Board,
}

impl Scene {
    fn new(with_cni: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if with_cni {
            fs::create_dir(dir.path().join("bin")).unwrap();
            let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cni/testdata/fake-plugin");
            symlink(plugin, dir.path().join("bin/one")).unwrap();
            fs::write(dir.path().join("bin/one.sh"), LEASES).unwrap();
            fs::create_dir(dir.path().join("net.d")).unwrap();
            let list = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"one","capabilities":{"portMappings":true}}]}"#;
            fs::write(dir.path().join("net.d/10-net.conflist"), list).unwrap();
        }
        let board = Board::create(&dir.path().join("board")).unwrap();
        Self { dir, pod: PodId::random().unwrap(), board }
    }

    /// Runs an agent to its end, whatever that is.
    fn run(&self, step: &str, netns: Option<&std::os::fd::OwnedFd>) -> bool {
        let mut agent = Command::new(env::current_exe().unwrap());
        agent.args(["--exact", "failpoint_tests::agent", "--ignored", "--nocapture"]);
        agent.env(STEP, step).env(DIR, self.dir.path()).env(POD, self.pod.as_str());
        agent.env(VARIABLE, self.board.path());
        if let Some(netns) = netns {
            agent.env(NETNS, format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()));
        }
        agent.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// A pod's life with a fault at some hit in one of its steps, and then the agent that clears up.
    fn live(&self, fault_in: &str, name: &str, nth: u32, fault: Fault) {
        let netns = netns();
        for step in ["add", "del"] {
            if step == fault_in {
                self.board.arm(0, name, nth, fault);
            }
            self.run(step, Some(&netns));
            if step == fault_in {
                // The task that watches links starts again as often as it has to.
                let is_sure = !name.starts_with("network.links.");
                assert!(self.board.fired(0) == 1 || !is_sure, "{step} {name} {nth} was not reached");
                self.board.disarm();
                break;
            }
        }
        drop(netns);
        let what = format!("{fault:?} at hit {nth} of {name} in {fault_in}");
        assert!(self.run("recover", None), "{what}: the next agent does not come to an end");
        assert_eq!(record_count(self.dir.path()), 0, "{what}");
        assert!(!has_link(&link_name(&self.pod)), "{what}");
        assert_eq!(elements(), 0, "{what}");
        assert_eq!(files(&self.dir.path().join("netns")), Vec::<String>::new(), "{what}");
        let leases: Vec<String> = files(&self.dir.path().join("bin"))
            .into_iter()
            .filter(|name| name.starts_with("lease"))
            .collect();
        assert_eq!(leases, Vec::<String>::new(), "{what}");
        let _ = rustix::mount::unmount(self.dir.path().join("netns"), rustix::mount::UnmountFlags::DETACH);
    }
}

fn elements() -> usize {
    on_host(|| {
        let mut socket = Socket::netfilter().unwrap();
        firewall::MAPS.iter().map(|map| nft::list_elements(&mut socket, "hftest0", map).len()).sum()
    })
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The hits of a step without a fault, each with how many of its name it is.
fn hits(with_cni: bool, step: &str) -> Vec<(String, u32)> {
    let scene = Scene::new(with_cni);
    let netns = netns();
    assert!(scene.run("add", Some(&netns)));
    if step == "del" {
        scene.board.forget_hits();
        assert!(scene.run("del", Some(&netns)));
    }
    let hits = scene.board.hits();
    drop(netns);
    assert!(scene.run("recover", None));
    let _ = rustix::mount::unmount(scene.dir.path().join("netns"), rustix::mount::UnmountFlags::DETACH);
    let mut counts = HashMap::new();
    let numbered = hits.into_iter().map(|name| {
        let count = counts.entry(name.clone()).or_insert(0);
        *count += 1;
        (name, *count)
    });
    // The background commit comes when it comes, and nobody waits for it.
    numbered.filter(|(name, _)| name != "record.fsync").collect()
}

fn every_failpoint(with_cni: bool, expected: &[&str]) {
    let faults = [Fault::Kill, Fault::Fail(libc::EIO), Fault::Fail(libc::ENOSPC), Fault::Stall(50)];
    let mut seen = HashSet::new();
    for step in ["add", "del"] {
        let mut found = Vec::new();
        on_own_host(|| async { found = hits(with_cni, step) });
        for (name, nth) in found {
            for fault in faults {
                on_own_host(|| async { Scene::new(with_cni).live(step, &name, nth, fault) });
            }
            seen.insert(name);
        }
    }
    println!("{} failpoints: {seen:?}", seen.len());
    let missing: Vec<_> = expected.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty() || seen.is_empty(), "{missing:?} of {seen:?}");
}

#[test]
fn of_the_embedded_network() {
    let expected =
        ["network.record.write", "network.veth.create", "network.address.add", "network.nftables.commit"];
    every_failpoint(false, &expected);
}

#[test]
fn of_cni() {
    let expected =
        ["network.record.write", "network.pin.mount", "network.plugin.start", "network.pin.unmount"];
    every_failpoint(true, &expected);
}
