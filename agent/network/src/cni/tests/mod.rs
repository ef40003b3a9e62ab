//! CNI with plugins that do what a test wants, and with real ones where they are installed.
#![allow(clippy::unwrap_used)]

mod owed;
mod readiness;

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_model::PodId;
use rustix::mount::MountPropagationFlags;
use serde_json::{Value, json};

use super::pin;
use crate::{
    Error, Network, NetworkConfig,
    netlink::{Socket, link, nft},
    network::Limits,
    testing::*,
};

const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.1.2.3/24","interface":0},{"address":"fd00::3/64","interface":0}]}"#;

/// A directory with a configuration and fake plugins `one` and `two`.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new() -> Self {
        let fake = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(fake.path("bin")).unwrap();
        for name in ["one", "two"] {
            // A link to a file of the repository: one that was just written may be busy when it is run (ETXTBSY).
            symlink(
                concat!(env!("CARGO_MANIFEST_DIR"), "/src/cni/testdata/fake-plugin"),
                fake.path("bin").join(name),
            )
            .unwrap();
        }
        fs::create_dir(fake.path("net.d")).unwrap();
        fake.does("one", &format!("echo '{RESULT}'"));
        fake.does("two", &format!("echo '{RESULT}'"));
        fake.configure("1.0.0");
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn does(&self, plugin: &str, script: &str) {
        fs::write(self.path("bin").join(format!("{plugin}.sh")), script).unwrap();
    }

    fn configure(&self, version: &str) {
        let list = json!({"cniVersion": version, "name": "net", "plugins": [
            {"type": "one", "key": "value", "capabilities": {"dns": true}},
            {"type": "two", "capabilities": {"portMappings": true}},
        ]});
        fs::write(self.path("net.d/10-net.conflist"), list.to_string()).unwrap();
    }

    fn config(&self) -> NetworkConfig {
        config(self.dir.path())
    }

    async fn start(&self) -> Network {
        Network::start(self.config()).await.unwrap()
    }

    /// Command and plugin of each call since the last look.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("bin/log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("bin/log"));
        log.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    /// What the plugins have written into a file of theirs.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("bin").join(name)).unwrap_or_default()
    }

    fn lines(&self, name: &str) -> usize {
        self.read(name).lines().count()
    }

    fn input(&self, plugin: &str, command: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path("bin").join(format!("{plugin}.{command}.json"))).unwrap())
            .unwrap()
    }

    fn pin(&self, pod: &PodId) -> PathBuf {
        pin::path(&self.path("netns"), pod)
    }

    /// Mounts at and below the directory of the pins, as points and their optional fields.
    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let dir = self.path("netns").display().to_string();
        let fields = |line: &str| {
            let mut words = line.split(' ').skip(4);
            let point = words.next()?.strip_prefix(&dir)?.to_owned();
            let shared = words.nth(1).is_some_and(|word| word.starts_with("shared:"));
            Some(format!("{point} {}", if shared { "shared" } else { "private" }))
        };
        mounts.lines().filter_map(fields).collect()
    }

    /// But for the directory of the pins, which stays a mount point as ip-netns(8) leaves it.
    fn assert_nothing_left(&self, pod: &PodId) {
        assert_eq!(record_count(self.dir.path()), 0);
        assert!(!self.pin(pod).exists());
        assert!(self.mounts().iter().all(|mount| mount == " shared"), "{:?}", self.mounts());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Or its directory could not be removed.
        let _ = rustix::mount::unmount(self.path("netns"), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_chain_is_run_and_taken_back() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        assert!(network.status().await.ready, "{:?}", network.status().await);
        let a = netns();
        let mut wanted = request("web", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        wanted.dns.servers = vec!["10.0.0.10".into()];
        let pod = wanted.pod.clone();
        let made = network.add(wanted).await.unwrap();
        assert_eq!(made.ips, [ip("10.1.2.3"), ip("fd00::3")]);
        assert_eq!(made.cni_result, Some(serde_json::from_str(RESULT).unwrap()));
        assert_eq!(made.netns_path, Some(fake.pin(&pod)));
        assert_eq!(network.get(&pod), Some(made.clone()));
        assert!(pin::is_pinned(&fake.pin(&pod)));
        let is_up = inside(&a, || link::find(&mut Socket::route().unwrap(), "lo").unwrap().unwrap().up);
        assert!(is_up, "loopback is set up by us");
        let log = fs::read_to_string(fake.path("bin/log")).unwrap();
        let netns = fake.pin(&pod).display().to_string();
        let args = format!("K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={pod}");
        for word in [format!("ADD one {pod} eth0 {netns} IgnoreUnknown=1;"), args] {
            assert!(log.contains(&word), "{word}: {log}");
        }
        assert_eq!(fake.calls(), ["ADD one", "ADD two"]);
        let first = fake.input("one", "ADD");
        assert_eq!(
            (&first["cniVersion"], &first["name"], &first["key"]),
            (&json!("1.0.0"), &json!("net"), &json!("value"))
        );
        assert_eq!(
            first["runtimeConfig"],
            json!({"dns": {"servers": ["10.0.0.10"], "searches": [], "options": []}})
        );
        assert!(first.get("capabilities").is_none() && first.get("prevResult").is_none());
        let second = fake.input("two", "ADD");
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert_eq!(second["prevResult"], made.cni_result.clone().unwrap());

        network.check(&pod, a.try_clone().unwrap()).await.unwrap();
        assert_eq!(fake.calls(), ["CHECK one", "CHECK two"]);

        // An agent that comes later, under another configuration, takes back what was done.
        drop(network);
        fs::remove_file(fake.path("net.d/10-net.conflist")).unwrap();
        let network = fake.start().await;
        network.recover(&HashSet::from([pod.clone()]), &[]).await;
        assert_eq!(network.get(&pod), Some(made.clone()));
        network.del(&pod, Some(a)).await.unwrap();
        assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
        assert_eq!(fake.input("one", "DEL")["prevResult"], made.cni_result.unwrap());
        network.del(&pod, None).await.unwrap();
        assert_eq!(fake.calls(), Vec::<String>::new());
        fake.assert_nothing_left(&pod);
    });
}

/// The set-up that ip-netns(8) does before its first name is done by then.
#[test]
fn the_directory_of_pins_is_a_shared_mount_point_from_the_first_on() {
    on_own_host(|| async {
        let fake = Fake::new();
        let network = fake.start().await;
        let mut pods = Vec::new();
        for name in ["one", "two"] {
            let wanted = request(name, &netns());
            pods.push(wanted.pod.clone());
            network.add(wanted).await.unwrap();
        }
        let mounts = fake.mounts();
        assert_eq!(mounts.len(), 3, "one for the directory and one for each pin: {mounts:?}");
        assert!(mounts[0] == " shared" && mounts[1].starts_with("/holdfast-"), "{mounts:?}");
        for pod in &pods {
            network.del(pod, None).await.unwrap();
        }
        for pod in &pods {
            fake.assert_nothing_left(pod);
        }
    });
}

#[test]
fn version_0_3_1_has_neither_check_nor_a_previous_result_for_del() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.configure("0.3.1");
        let network = fake.start().await;
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        network.check(&pod, a.try_clone().unwrap()).await.unwrap();
        network.del(&pod, Some(a)).await.unwrap();
        assert_eq!(fake.calls(), ["ADD one", "ADD two", "DEL two", "DEL one"]);
        assert!(fake.input("one", "DEL").get("prevResult").is_none());
    });
}

/// As libcni converts it: the next plugin, CHECK and DEL see the list's version, whatever a plugin speaks.
#[test]
fn a_result_of_another_version_is_converted() {
    on_own_host(|| async {
        for (list, family) in [("0.3.1", json!("4")), ("0.4.0", json!("4")), ("1.1.0", Value::Null)] {
            let fake = Fake::new();
            fake.configure(list);
            let old = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]}}"#;
            fake.does("one", &format!("echo '{old}'"));
            fake.does("two", &format!("echo '{old}'"));
            let network = fake.start().await;
            let a = netns();
            let wanted = request("web", &a);
            let pod = wanted.pod.clone();
            let made = network.add(wanted).await.unwrap();
            assert_eq!(made.ips, [ip("10.1.2.3")]);
            let given = &fake.input("two", "ADD")["prevResult"];
            assert_eq!((&given["cniVersion"], &given["ips"][0]["version"]), (&json!(list), &family));
            assert_eq!(given["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]));
            assert_eq!(made.cni_result.as_ref(), Some(given));
            network.check(&pod, a.try_clone().unwrap()).await.unwrap();
            network.del(&pod, Some(a)).await.unwrap();
            let later = if list == "0.3.1" { &Value::Null } else { given };
            assert_eq!(&fake.input("one", "DEL")["prevResult"], later);
            fake.assert_nothing_left(&pod);
        }
    });
}

#[test]
fn a_failed_add_is_undone_and_says_why() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.does(
            "two",
            r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"no room","details":"at all"}'; exit 1; }"#,
        );
        let network = fake.start().await;
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        let error = network.add(wanted).await.unwrap_err();
        assert_eq!(error.to_string(), "CNI plugin two ADD: no room: at all (code 11)");
        assert_eq!(fake.calls(), ["ADD one", "ADD two", "DEL two", "DEL one"]);
        assert_eq!(network.get(&pod), None);
        fake.assert_nothing_left(&pod);
        assert!(!has_link("hftest0"), "the embedded network is no way out");
    });
}

#[test]
fn odd_plugins_are_named_and_undone() {
    on_own_host(|| async {
        let del_is_fine = "[ $CNI_COMMAND = ADD ] || exit 0;";
        let table = [
            ("echo garbage", "CNI plugin two ADD: printed no result but \"garbage\""),
            ("", "printed no result"),
            ("echo '[]'", "printed no result"),
            ("echo '{\"ips\":[]}'", "has no address of eth0"),
            ("echo '{\"cniVersion\":\"9.0.0\"}'", "CNI plugin two ADD: printed a result of CNI 9.0.0"),
            ("echo oh no >&2; exit 3", "CNI plugin two ADD: exit status: 3: oh no"),
            ("kill -9 $$", "signal: 9"),
            ("head -c 2000000 /dev/zero | tr '\\0' x", "more than 1048576 bytes"),
            ("head -c 2000000 /dev/zero >&2; exit 1", "exit status: 1"),
            ("sleep 1000 & echo $! > $dir/child; exit 0", "keeps its output open"),
        ];
        for (script, word) in table {
            let fake = Fake::new();
            fake.does("two", &format!("{del_is_fine} {script}"));
            let network = fake.start().await;
            let a = netns();
            let wanted = request("web", &a);
            let pod = wanted.pod.clone();
            let made = network.add(wanted).await;
            if let Some(child) = child(&fake) {
                // The test's own, with a number that it cannot have lost: it sleeps for longer than the test runs.
                nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            let text = made.unwrap_err().to_string();
            assert!(text.contains(word), "{script}: {text}");
            fake.assert_nothing_left(&pod);
        }
    });
}

fn child(fake: &Fake) -> Option<nix::unistd::Pid> {
    let text = fs::read_to_string(fake.path("bin/child")).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    (pid > 1).then(|| nix::unistd::Pid::from_raw(pid))
}

#[test]
fn a_plugin_that_hangs_is_ended_with_its_children() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.does("one", "[ $CNI_COMMAND = ADD ] || exit 0; sleep 1000 & echo $! > $dir/child; wait");
        let limits = Limits { plugin: Duration::from_secs(1), ..Limits::default() };
        let network = Network::start_with(fake.config(), limits).await.unwrap();
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        let text = network.add(wanted).await.unwrap_err().to_string();
        assert_eq!(text, "CNI plugin one ADD took longer than 1 s");
        let child = child(&fake).unwrap();
        // Dead, perhaps not yet reaped by whoever inherited it.
        eventually("the end of the plugin's child", || {
            fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "))
        })
        .await;
        assert_eq!(fake.calls(), ["ADD one", "DEL two", "DEL one"]);
        fake.assert_nothing_left(&pod);
    });
}

#[test]
fn a_plugin_that_does_not_read_is_no_trouble() {
    on_own_host(|| async {
        let fake = Fake::new();
        fs::write(fake.path("bin/one.deaf"), "").unwrap();
        let network = fake.start().await;
        let a = netns();
        let mut wanted = request("web", &a);
        // More than a pipe holds.
        wanted.dns.searches = vec!["x".repeat(200_000)];
        network.add(wanted).await.unwrap();
    });
}

#[test]
fn an_add_goes_on_when_its_caller_is_gone() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.does("one", &format!("until [ -e $dir/now ]; do sleep 0.01; done; echo '{RESULT}'"));
        let network = Network::start(fake.config()).await.unwrap();
        let a = netns();
        let wanted = request("web", &a);
        let pod = wanted.pod.clone();
        let other = network.clone();
        let caller = tokio::spawn(async move { other.add(wanted).await });
        eventually("the call of the plugin", || fake.path("bin/one.ADD.json").exists()).await;
        caller.abort();
        assert!(caller.await.is_err());
        fs::write(fake.path("bin/now"), "").unwrap();
        eventually("the end of ADD", || network.get(&pod).is_some()).await;
        network.del(&pod, None).await.unwrap();
        fake.assert_nothing_left(&pod);
    });
}

#[test]
fn the_configuration_is_followed() {
    on_own_host(|| async {
        let fake = Fake::new();
        let file = fake.path("net.d/10-net.conflist");
        fs::remove_file(&file).unwrap();
        let network = fake.start().await;
        assert!(network.status().await.ready, "without a configuration the embedded network serves");
        fs::write(&file, "{").unwrap();
        let status = network.status().await;
        assert!(!status.ready && status.reason == "CNIConfigInvalid", "{status:?}");
        assert!(status.message.contains("10-net.conflist") && status.message.contains("JSON"), "{status:?}");
        let a = netns();
        assert!(matches!(network.add(request("web", &a)).await, Err(Error::CniConfig { .. })));
        assert!(!has_link("hftest0"), "a broken configuration is no reason for another network");
        fake.configure("1.0.0");
        assert!(network.status().await.ready);
        network.add(request("web", &a)).await.unwrap();
        fs::remove_file(fake.path("bin/two")).unwrap();
        let status = network.status().await;
        assert!(!status.ready && status.message.contains("no program two in"), "{status:?}");
        let text = network.add(request("other", &a)).await.unwrap_err().to_string();
        assert!(text.contains("CNI plugin two ADD: there is no program two"), "{text}");
    });
}

/// The folder of real plugins, if it has these.
fn real_plugins(names: &[&str]) -> Option<PathBuf> {
    // cargo x test unpacks Debian's package into its own folder.
    let plugins = std::env::var_os("HOLDFAST_TEST_CNI_BIN").map_or("/usr/lib/cni".into(), PathBuf::from);
    let missing = names.iter().find(|name| !plugins.join(name).exists());
    if let Some(name) = missing {
        println!("SKIP: no CNI plugin {name} in {} (containernetworking-plugins)", plugins.display());
    }
    missing.is_none().then_some(plugins)
}

/// The lease is on disk when the plugin is killed, and its result is nowhere.
#[test]
fn what_a_plugin_had_allocated_when_it_was_killed_is_given_back() {
    let Some(plugins) = real_plugins(&["host-local"]) else { return };
    on_own_host(|| async {
        let fake = Fake::new();
        let leases = fake.path("leases");
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "one", "ipam": {
            "type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.66.0.0/24"}]]}}]});
        fs::write(fake.path("net.d/10-net.conflist"), list.to_string()).unwrap();
        let host_local = plugins.join("host-local").display().to_string();
        fake.does(
            "one",
            &format!(
                "{host_local} <$dir/one.$CNI_COMMAND.json || exit 1; [ $CNI_COMMAND = DEL ] || sleep 1000"
            ),
        );
        let limits = Limits { plugin: Duration::from_secs(1), ..Limits::default() };
        let network = Network::start_with(fake.config(), limits).await.unwrap();
        let wanted = request("web", &netns());
        let pod = wanted.pod.clone();
        let text = network.add(wanted).await.unwrap_err().to_string();
        assert_eq!(text, "CNI plugin one ADD took longer than 1 s");
        assert_eq!(fake.calls(), ["ADD one", "DEL one"]);
        let given = fake.input("one", "DEL");
        assert!(given.get("prevResult").is_none() && given["ipam"] == list["plugins"][0]["ipam"], "{given}");
        let left: Vec<_> =
            fs::read_dir(leases.join("net")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            left.iter().all(|name| name.to_string_lossy().parse::<std::net::IpAddr>().is_err()),
            "{left:?}"
        );
        fake.assert_nothing_left(&pod);
    });
}

#[test]
fn real_plugins_give_a_pod_its_network() {
    let Some(plugins) = real_plugins(&["bridge", "host-local", "portmap"]) else { return };
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.cni.bin_dirs = vec![plugins];
        let list = json!({"cniVersion": "1.0.0", "name": "real", "plugins": [
            {"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": false, "ipam": {
                "type": "host-local", "dataDir": dir.path().join("leases"),
                "ranges": [[{"subnet": "10.66.0.0/24"}], [{"subnet": "fd66::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        fs::write(dir.path().join("net.d/10.conflist"), list.to_string()).unwrap();
        let network = Network::start(config).await.unwrap();
        let leases = || {
            fs::read_dir(dir.path().join("leases/real"))
                .unwrap()
                .filter(|entry| {
                    entry.as_ref().unwrap().file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok()
                })
                .count()
        };
        let (a, b) = (netns(), netns());
        let mut first = request("a", &a);
        if Path::new("/usr/sbin/iptables").exists() {
            first.port_mappings = vec![mapping("", 8080, 80)];
        } else {
            println!("SKIP: host port by portmap: no iptables");
        }
        let (pod_a, with_port) = (first.pod.clone(), !first.port_mappings.is_empty());
        let second = request("b", &b);
        let pod_b = second.pod.clone();
        let made = network.add(first).await.unwrap();
        let other = network.add(second).await.unwrap();
        assert_eq!(made.ips[0], ip("10.66.0.2"));
        assert_eq!(leases(), 4);
        let server = Server::start(&a, socket(made.ips[0], 80));
        assert_eq!(inside(&b, || ask(server.address)).unwrap(), other.ips[0]);
        if with_port {
            assert!(on_host(|| ask(socket(ip("10.66.0.1"), 8080))).is_ok());
        }
        drop(server);
        // Not of the one with a host port: portmap 1.1.1 looks for its IPv4 rules in IPv6's table.
        network.check(&pod_b, b.try_clone().unwrap()).await.unwrap();
        assert_eq!(network.interface_stats(a.try_clone().unwrap()).await.unwrap()[0].name, "eth0");
        network.del(&pod_a, Some(a)).await.unwrap();
        network.del(&pod_b, Some(b)).await.unwrap();
        assert_eq!((leases(), record_count(dir.path())), (0, 0));
        eventually("the end of the links", || !links().iter().any(|link| link.kind == "veth")).await;
        let ours = on_host(|| nft::table_owner(&mut Socket::netfilter().unwrap(), "hftest0").unwrap());
        assert!(ours.is_none() && !has_link("hftest0"), "the embedded network stays out of it");
    });
}
