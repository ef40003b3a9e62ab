//! Pods behind the chains of Docker, ufw and firewalld, as iptables and nft make them.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use crate::{Network, testing::*};

/// Runs a line of commands in the host's network namespace.
fn host(script: &str) -> String {
    let output = on_host(|| Command::new("sh").args(["-e", "-c", script]).output().unwrap());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    text(&output.stdout)
}

const DOCKER: &str = "for t in iptables ip6tables; do \
    $t -w -N DOCKER-USER; $t -w -A FORWARD -j DOCKER-USER; $t -w -P FORWARD DROP; done";

/// Rules of FORWARD that let the bridge's packets pass, as iptables shows them.
fn our_rules() -> usize {
    let rules = host("iptables -w -S FORWARD; ip6tables -w -S FORWARD");
    rules.lines().filter(|rule| rule.contains(" hftest0 ") && rule.ends_with("-j ACCEPT")).count()
}

#[test]
fn pods_pass_the_firewall_of_docker() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        host(DOCKER);
        let network = Network::start(config(dir.path())).await.unwrap();
        assert!(network.status().await.ready, "the rules come with the bridge");
        assert_eq!(our_rules(), 0);
        let a = netns();
        let mut wanted = request("a", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let pod = wanted.pod.clone();
        let made = network.add(wanted).await.unwrap();
        assert_eq!(our_rules(), 4, "two for each family");
        let servers: Vec<Server> = made.ips.iter().map(|ip| Server::start(&a, socket(*ip, 80))).collect();
        let pass = || {
            for address in [WORLD4, WORLD6] {
                let server = Server::start(&world, socket(ip(address), 80));
                inside(&a, || ask(server.address)).unwrap();
            }
            for address in [HOST4, HOST6] {
                inside(&world, || ask(socket(ip(address), 8080))).unwrap();
            }
        };
        pass();
        network.inner.look_ahead().await;
        assert_eq!(our_rules(), 4, "they are there already");

        // What the operator drops stays dropped.
        host("iptables -w -I DOCKER-USER -i up0 -j DROP");
        assert!(inside(&world, || ask(socket(ip(HOST4), 8080))).is_err());
        host("iptables -w -F DOCKER-USER");

        host("iptables -w -F FORWARD; ip6tables -w -F FORWARD");
        network.inner.look_ahead().await;
        assert_eq!(our_rules(), 4, "made anew");
        pass();
        drop(servers);
        network.del(&pod, Some(a)).await.unwrap();
        eventually("the end of the record", || record_count(dir.path()) == 0).await;
        eventually("the address's freedom", || network.inner.state().get(&pod).is_none()).await;
        assert!(network.remove_unused().await.unwrap());
        assert_eq!(our_rules(), 0);
    });
}

#[test]
fn status_names_ufw_and_what_to_tell_it() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        host(
            "for t in iptables ip6tables; do \
            $t -w -N ufw-user-forward; $t -w -A FORWARD -j ufw-user-forward; $t -w -P FORWARD DROP; done",
        );
        let network = Network::start(config(dir.path())).await.unwrap();
        let status = network.status().await;
        assert!(!status.ready && status.message.contains("ufw route allow in on hftest0"), "{status:?}");
        let a = netns();
        network.add(request("a", &a)).await.unwrap();
        let server = Server::start(&world, socket(ip(WORLD4), 80));
        assert!(inside(&a, || ask(server.address)).is_err(), "its policy is the operator's");
        assert_eq!(our_rules(), 0);

        host(
            "for t in iptables ip6tables; do \
            for way in -i -o; do $t -w -A ufw-user-forward $way hftest0 -j ACCEPT; done; done",
        );
        network.inner.look_ahead().await;
        assert!(network.status().await.ready, "{:?}", network.status().await);
        inside(&a, || ask(server.address)).unwrap();
    });
}

#[test]
fn status_names_firewalld_and_what_to_tell_it() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let table = |rule: &str| {
            host(&format!(
                "nft -f - <<EOF\ntable inet firewalld {{ chain filter_FORWARD {{\n\
                type filter hook forward priority filter + 10; policy accept;\n{rule}\nreject\n}}\n}}\nEOF"
            ));
        };
        table("ct state established accept");
        let network = Network::start(config(dir.path())).await.unwrap();
        let status = network.status().await;
        assert!(!status.ready && status.message.contains("--zone=trusted"), "{status:?}");
        host("nft delete table inet firewalld");
        // As a zone has it whose source is the subnet.
        table("ip saddr 10.79.0.0/16 accept");
        network.inner.look_ahead().await;
        assert!(network.status().await.ready, "{:?}", network.status().await);
    });
}

#[test]
fn a_firewall_of_an_operator_makes_no_node_not_ready() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        host("iptables -w -P FORWARD DROP; iptables -w -A FORWARD -s 10.0.0.0/8 -j ACCEPT");
        let network = Network::start(config(dir.path())).await.unwrap();
        assert!(network.status().await.ready, "{:?}", network.status().await);
        network.add(request("a", &netns())).await.unwrap();
        assert_eq!(our_rules(), 0);
    });
}
