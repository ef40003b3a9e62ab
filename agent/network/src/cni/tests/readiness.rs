//! NetworkReady: the mode, a configuration that comes and goes, STATUS; and GC after a start.

use super::*;
use crate::{Mode, NetworkStatus};

impl Fake {
    fn in_mode(&self, mode: Mode) -> NetworkConfig {
        NetworkConfig { mode, ..self.config() }
    }

    async fn start_in(&self, mode: Mode) -> Network {
        Network::start(self.in_mode(mode)).await.unwrap()
    }

    fn file(&self) -> PathBuf {
        self.path("net.d/10-net.conflist")
    }

    /// A list of CNI 1.1 with one plugin.
    fn configure_1_1(&self, more: &Value) {
        let mut list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "one"}]});
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::write(self.file(), list.to_string()).unwrap();
    }
}

fn is_without_cni(status: &NetworkStatus) -> bool {
    !status.ready
        && status.reason == "NetworkPluginNotReady"
        && status.message.contains("cni plugin not initialized: there is no CNI configuration in")
        && status.message.contains("network.mode = \"embedded\"")
}

/// As with containerd and CRI-O: before the network add-on has come no pod gets another network.
#[test]
fn in_mode_cni_a_node_without_configuration_is_not_ready() {
    on_own_host(|| async {
        let fake = Fake::new();
        fs::remove_file(fake.file()).unwrap();
        let network = fake.start_in(Mode::Cni).await;
        assert!(is_without_cni(&network.status().await), "{:?}", network.status().await);
        let pod = netns();
        assert!(matches!(network.add(request("web", &pod)).await, Err(Error::NoCni { .. })));
        assert!(!has_link("hftest0"));
        fake.configure("1.0.0");
        assert!(network.status().await.ready, "{:?}", network.status().await);
        let wanted = request("web", &pod);
        let id = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        fs::remove_file(fake.file()).unwrap();
        assert!(is_without_cni(&network.status().await));
        network.del(&id, None).await.unwrap();
        fake.assert_nothing_left(&id);
    });
}

#[test]
fn in_mode_embedded_a_configuration_counts_for_nothing() {
    on_own_host(|| async {
        let fake = Fake::new();
        fs::write(fake.file(), "{").unwrap();
        let network = fake.start_in(Mode::Embedded).await;
        assert!(network.status().await.ready, "{:?}", network.status().await);
        let pod = netns();
        let made = network.add(request("web", &pod)).await.unwrap();
        assert_eq!(made.cni_result, None);
        assert!(has_link("hftest0") && fake.calls().is_empty());
    });
}

/// Over restarts, too: a network add-on that is upgraded takes its file away for a while.
#[test]
fn in_mode_auto_the_embedded_network_never_comes_back() {
    on_own_host(|| async {
        let fake = Fake::new();
        fs::remove_file(fake.file()).unwrap();
        let network = fake.start_in(Mode::Auto).await;
        assert!(network.status().await.ready, "{:?}", network.status().await);
        fake.configure("1.0.0");
        assert!(network.status().await.ready);
        fs::remove_file(fake.file()).unwrap();
        assert!(is_without_cni(&network.status().await));
        drop(network);
        let network = fake.start_in(Mode::Auto).await;
        assert!(is_without_cni(&network.status().await));
        // The directory of the records is all that says so.
        drop(network);
        fs::remove_file(fake.path("network/cni.json")).unwrap();
        assert!(fake.start_in(Mode::Auto).await.status().await.ready);
    });
}

#[test]
fn a_plugin_says_that_it_is_not_ready() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.configure_1_1(&json!({}));
        fake.does(
            "one",
            r#"[ "$CNI_COMMAND" != STATUS ] || { echo '{"code":50,"msg":"no address pool yet"}'; exit 1; }"#,
        );
        let network = fake.start_in(Mode::Cni).await;
        let status = network.status().await;
        assert_eq!((status.ready, status.reason.as_str()), (false, "NetworkPluginNotReady"));
        for word in ["10-net.conflist", "CNI plugin one STATUS", "no address pool yet", "50"] {
            assert!(status.message.contains(word), "{word}: {status:?}");
        }
        assert_eq!(fake.input("one", "STATUS"), json!({"cniVersion": "1.1.0", "name": "net", "type": "one"}));
        fake.does("one", "");
        let begun = Instant::now();
        while !network.status().await.ready {
            assert!(begun.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // An answer stands for a while: a client that asks without a pause starts no plugin each time.
        fake.calls();
        for _ in 0..20 {
            assert!(network.status().await.ready);
        }
        assert!(fake.calls().len() <= 1);
        // Older versions have no STATUS.
        fake.configure("1.0.0");
        assert!(network.status().await.ready);
        assert!(fake.calls().is_empty());
    });
}

#[test]
fn a_plugin_that_hangs_in_status_delays_nobody() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.configure_1_1(&json!({}));
        fake.does("one", r#"[ "$CNI_COMMAND" != STATUS ] || exec sleep 1000"#);
        let limits = Limits { plugin: Duration::from_secs(3), ..Limits::default() };
        let network = Network::start_with(fake.in_mode(Mode::Cni), limits).await.unwrap();
        let begun = Instant::now();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let network = network.clone();
                tokio::spawn(async move { network.status().await })
            })
            .collect();
        for client in clients {
            let status = client.await.unwrap();
            assert!(!status.ready && status.message.contains("have not answered STATUS yet"), "{status:?}");
        }
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
        assert_eq!(fake.calls(), ["STATUS one"], "asked once for all of them");
        let begun = Instant::now();
        while !network.status().await.message.contains("CNI plugin one STATUS took longer than 3 s") {
            assert!(begun.elapsed() < LIMIT, "{:?}", network.status().await);
        }
    });
}

#[test]
fn after_a_start_plugins_hear_which_pods_there_are() {
    on_own_host(|| async {
        let fake = Fake::new();
        fake.configure_1_1(&json!({}));
        fake.does("one", &format!("echo '{}'", RESULT.replace("1.0.0", "1.1.0")));
        let network = fake.start_in(Mode::Cni).await;
        let (a, b) = (netns(), netns());
        let (stays, owed) = (request("stays", &a), request("owed", &b));
        let (stays_id, owed_id) = (stays.pod.clone(), owed.pod.clone());
        network.add(stays).await.unwrap();
        network.add(owed).await.unwrap();
        drop(network);
        fake.calls();
        // One plugin of the agent that is over is still at work for a pod: nothing is known for sure before it is done.
        fake.does("one", r#"[ "$CNI_COMMAND" != DEL ] || until [ -e "$dir/now" ]; do sleep 0.02; done"#);
        let network = fake.start_in(Mode::Cni).await;
        network.recover(&HashSet::from([stays_id.clone()]), &[]).await;
        let begun = Instant::now();
        let mut calls = Vec::new();
        while !calls.contains(&"GC one".to_owned()) {
            assert!(begun.elapsed() < 2 * LIMIT, "{calls:?}");
            calls.extend(fake.calls());
            if calls.contains(&"DEL one".to_owned()) {
                fs::write(fake.path("bin/now"), "").unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let valid = fake.input("one", "GC")["cni.dev/valid-attachments"].clone();
        let listed = |pod: &PodId| json!({"containerID": pod, "ifname": "eth0"});
        assert!(valid.as_array().unwrap().contains(&listed(&stays_id)), "{valid}");
        eventually("the end of DEL", || record_count(fake.dir.path()) == 1).await;
        let more = valid.as_array().unwrap().iter().filter(|pod| **pod != listed(&stays_id));
        assert!(more.into_iter().all(|pod| *pod == listed(&owed_id)), "{valid}");
        network.del(&stays_id, None).await.unwrap();
    });
}

#[test]
fn gc_is_left_out() {
    on_own_host(|| async {
        let fake = Fake::new();
        let run = async |fake: &Fake, mode| {
            let network = fake.start_in(mode).await;
            network.recover(&HashSet::new(), &[]).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            fake.calls()
        };
        fake.configure_1_1(&json!({"disableGC": true}));
        assert!(run(&fake, Mode::Cni).await.is_empty(), "the list wants none");
        fake.configure_1_1(&json!({}));
        assert!(run(&fake, Mode::Embedded).await.is_empty(), "CNI does not serve");
        assert_eq!(run(&fake, Mode::Cni).await, ["GC one"]);
        // A record that only a newer program can read may be of a pod with an address.
        fs::write(fake.path("network/pods").join(format!("{}.json", "a".repeat(64))), r#"{"version":99}"#)
            .unwrap();
        assert!(run(&fake, Mode::Cni).await.is_empty());
    });
}
