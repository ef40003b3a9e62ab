//! The embedded network on a host of the test's own.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, net::UdpSocket, os::fd::OwnedFd};

use holdfast_model::{PodId, PortMapping, Protocol};

use super::{firewall, pod::link_name};
use crate::{
    EmbeddedConfig, Error, Network, NetworkConfig,
    netlink::{Socket, link, nft},
    testing::*,
};

fn elements(table: &str) -> usize {
    on_host(|| {
        let mut socket = Socket::netfilter().unwrap();
        firewall::MAPS.iter().map(|map| nft::list_elements(&mut socket, table, map).len()).sum()
    })
}

fn table_is_there(table: &str) -> bool {
    on_host(|| nft::table_owner(&mut Socket::netfilter().unwrap(), table).unwrap().is_some())
}

/// After DEL and the end of the namespace nothing of a pod is left.
async fn gone(network: &Network, dir: &std::path::Path, pod: &PodId) {
    let link = link_name(pod);
    eventually("the end of the link", || !has_link(&link)).await;
    eventually("the end of the record", || record_count(dir) == 0).await;
    eventually("the address's freedom", || network.inner.state().get(pod).is_none()).await;
}

#[test]
fn two_pods_reach_each_other_and_the_gateway() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        assert!(network.status().await.ready);
        assert!(!has_link("hftest0"), "nothing is made before the first pod");
        let (a, b) = (netns(), netns());
        let (first, second) = (request("a", &a), request("b", &b));
        let (pod_a, pod_b) = (first.pod.clone(), second.pod.clone());
        let made = network.add(first).await.unwrap();
        assert_eq!(made.ips, [ip("10.79.0.2"), ip("fd48:6f6c:6466::2")]);
        assert_eq!((made.ifname.as_str(), &made.cni_result, &made.netns_path), ("eth0", &None, &None));
        assert_eq!(network.get(&pod_a), Some(made.clone()));
        let other = network.add(second).await.unwrap();
        assert_eq!(other.ips, [ip("10.79.0.3"), ip("fd48:6f6c:6466::3")]);

        for (mine, theirs) in made.ips.iter().zip(&other.ips) {
            let server = Server::start(&b, socket(*theirs, 80));
            assert_eq!(inside(&a, || ask(server.address)).unwrap(), *mine, "not masqueraded on the bridge");
            assert!(inside(&a, || ask(socket(*mine, 9))).is_err(), "nobody listens there");
        }
        let host = on_host(netns_of_this_thread);
        for gateway in [ip("10.79.0.1"), ip("fd48:6f6c:6466::1")] {
            let server = Server::start(&host, socket(gateway, 81));
            assert!(made.ips.contains(&inside(&a, || ask(server.address)).unwrap()));
        }
        let loopback = Server::start(&a, socket(ip("127.0.0.1"), 82));
        assert!(inside(&a, || ask(loopback.address)).is_ok(), "lo is up");
        drop(loopback);

        let stats = network.interface_stats(a.try_clone().unwrap()).await.unwrap();
        assert_eq!(stats.len(), 1);
        assert_eq!(stats[0].name, "eth0");
        assert!(stats[0].rx_bytes > 100 && stats[0].tx_bytes > 100, "{stats:?}");
        network.check(&pod_a, a.try_clone().unwrap()).await.unwrap();
        let wrong = network.check(&pod_a, b.try_clone().unwrap()).await.unwrap_err();
        assert!(wrong.to_string().contains("lost its address 10.79.0.2"), "{wrong}");
        assert_eq!(elements("hftest0"), 0);

        network.del(&pod_a, Some(a)).await.unwrap();
        network.del(&pod_a, None).await.unwrap();
        assert_eq!(network.get(&pod_a), None);
        network.del(&pod_b, Some(b)).await.unwrap();
        gone(&network, dir.path(), &pod_a).await;
        gone(&network, dir.path(), &pod_b).await;
        drop(host);
        assert!(network.remove_unused().await.unwrap());
        assert!(!has_link("hftest0") && !table_is_there("hftest0"));
        assert!(!dir.path().join("network/bridge.json").exists());
    });
}

fn netns_of_this_thread() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

#[test]
fn the_world_sees_the_host() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        network.add(request("a", &a)).await.unwrap();
        assert_eq!(inside(&a, eth0).mtu, 1400, "the MTU is that of the way out");
        for (server, host) in [(WORLD4, HOST4), (WORLD6, HOST6)] {
            let server = Server::start(&world, socket(ip(server), 80));
            assert_eq!(inside(&a, || ask(server.address)).unwrap(), ip(host));
        }
    });
}

fn eth0() -> link::Link {
    link::find(&mut Socket::route().unwrap(), "eth0").unwrap().unwrap()
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        let network = Network::start(config(dir.path())).await.unwrap();
        let (a, b) = (netns(), netns());
        let mut wanted = request("web", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80), mapping(HOST4, 8081, 80), mapping("", 0, 90)];
        let pod = wanted.pod.clone();
        let made = network.add(wanted).await.unwrap();
        network.add(request("client", &b)).await.unwrap();
        // 8080 in both families, 8081 at its one address.
        assert_eq!(elements("hftest0"), 3);

        let servers: Vec<Server> = made.ips.iter().map(|ip| Server::start(&a, socket(*ip, 80))).collect();
        let host = on_host(netns_of_this_thread);
        let all = |port| [(HOST4, port), (HOST6, port)];
        for (address, port) in all(8080) {
            let target = socket(ip(address), port);
            let seen = inside(&world, || ask(target)).unwrap();
            assert_eq!(
                seen,
                ip(if seen.is_ipv4() { WORLD4 } else { WORLD6 }),
                "the client's address is kept"
            );
            assert!(inside(&host, || ask(target)).is_ok(), "from the host to {target}");
            assert!(inside(&b, || ask(target)).is_ok(), "from a neighbour to {target}");
            assert!(inside(&a, || ask(target)).is_ok(), "from the pod itself to {target}");
        }
        for gateway in ["10.79.0.1", "fd48:6f6c:6466::1"] {
            assert!(inside(&b, || ask(socket(ip(gateway), 8080))).is_ok(), "by way of {gateway}");
        }
        assert!(inside(&host, || ask(socket(ip("127.0.0.1"), 8080))).is_ok(), "from the host's loopback");
        assert!(inside(&world, || ask(socket(ip(HOST4), 8081))).is_ok());
        assert!(inside(&host, || ask(socket(ip("127.0.0.1"), 8081))).is_err(), "only at its address");
        assert!(inside(&b, || ask(socket(ip("10.79.0.1"), 8081))).is_err(), "only at its address");

        // What listens on the host's loopback stays out of the pods' reach though route_localnet is on.
        let private = Server::start(&host, socket(ip("127.0.0.1"), 7777));
        assert!(inside(&host, || ask(private.address)).is_ok());
        let leak = inside(&b, || {
            let index = eth0().index;
            let mut route = Socket::route().unwrap();
            // As an attacker would: 127.0.0.0/8 by way of the bridge, without loopback of its own.
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            crate::netlink::route::add_default(&mut route, index, ip("10.79.0.1")).unwrap();
            link_down(&mut route);
            ask(private.address)
        });
        assert!(leak.is_err(), "{leak:?}");

        let taken = netns();
        let mut second = request("other", &taken);
        second.port_mappings = vec![mapping(HOST4, 8080, 80)];
        let error = network.add(second).await.unwrap_err().to_string();
        assert!(error.contains("default/web") && error.contains("8080"), "{error}");

        drop(servers);
        network.del(&pod, Some(a)).await.unwrap();
        assert_eq!(elements("hftest0"), 0);
        assert!(inside(&world, || ask(socket(ip(HOST4), 8080))).is_err());
        // The port is free at once, though the link may still be there.
        let mut second = request("other", &taken);
        second.port_mappings = vec![mapping("", 8080, 80)];
        network.add(second).await.unwrap();
    });
}

fn link_down(socket: &mut Socket) {
    link::set_down(socket, 1).unwrap();
}

#[test]
fn a_host_port_of_a_family_that_the_pod_has_not_is_refused() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.embedded.subnets = vec!["10.79.0.0/24".into()];
        let network = Network::start(config).await.unwrap();
        let a = netns();
        let mut wanted = request("a", &a);
        wanted.port_mappings = vec![mapping("fd00::1", 80, 80)];
        assert!(matches!(network.add(wanted).await, Err(Error::BadPort { .. })));
        assert_eq!(record_count(dir.path()), 0);
    });
}

#[test]
fn addresses_run_out_and_come_back() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.embedded.subnets = vec!["10.79.0.0/30".into()];
        let network = Network::start(config).await.unwrap();
        let (a, b) = (netns(), netns());
        let first = request("a", &a);
        let pod = first.pod.clone();
        network.add(first).await.unwrap();
        let error = network.add(request("b", &b)).await.unwrap_err();
        assert_eq!(error.to_string(), "no free address in 10.79.0.0/30: 1 pods have one");
        assert_eq!(record_count(dir.path()), 1);
        // The namespace lives on: the address is not free yet.
        network.del(&pod, None).await.unwrap();
        assert!(matches!(network.add(request("b", &b)).await, Err(Error::Exhausted { .. })));
        drop(a);
        gone(&network, dir.path(), &pod).await;
        assert_eq!(network.add(request("b", &b)).await.unwrap().ips, [ip("10.79.0.2")]);
    });
}

#[test]
fn a_link_that_outlives_its_pod_is_removed() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        let wanted = request("a", &a);
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        network.del(&pod, None).await.unwrap();
        assert!(has_link(&link_name(&pod)), "left to the death of the namespace at first");
        gone(&network, dir.path(), &pod).await;
        assert!(inside(&a, || link::find(&mut Socket::route().unwrap(), "eth0").unwrap()).is_none());
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        network.add(request("a", &a)).await.unwrap();
        let before: HashSet<String> = links().into_iter().map(|link| link.name).collect();
        // The namespace has an eth0 already.
        let mut again = request("again", &a);
        again.port_mappings = vec![mapping("", 8080, 80)];
        let error = network.add(again).await.unwrap_err();
        assert!(error.to_string().contains("create the veth pair"), "{error}");
        // Not a network namespace at all.
        let wrong: OwnedFd = std::fs::File::open("/proc/self/ns/uts").unwrap().into();
        assert!(network.add(request("wrong", &wrong)).await.is_err());
        assert_eq!(before, links().into_iter().map(|link| link.name).collect());
        assert_eq!((record_count(dir.path()), elements("hftest0")), (1, 0));
        // The same pod twice.
        let b = netns();
        let wanted = request("b", &b);
        let mut twice = request("b", &b);
        twice.pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        assert!(matches!(network.add(twice).await, Err(Error::Exists { .. })));
    });
}

#[test]
fn a_subnet_in_use_is_refused_by_name() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = occupy("lan0", "10.79.8.0/24");
        let network = Network::start(config(dir.path())).await.unwrap();
        let status = network.status().await;
        assert!(!status.ready);
        for word in ["10.79.0.0/16", "10.79.8.1/24", "lan0", "network.embedded.subnets", "hftest0"] {
            assert!(status.message.contains(word), "{word}: {}", status.message);
        }
        let a = netns();
        assert!(matches!(network.add(request("a", &a)).await, Err(Error::Collision { .. })));
        assert!(!has_link("hftest0"));
        drop(elsewhere);
        eventually("the end of lan0", || !has_link("lan0")).await;
        network.add(request("a", &a)).await.unwrap();
        assert!(network.status().await.ready);
    });
}

#[test]
fn foreign_objects_are_left_alone() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = occupy("hftest0", "10.1.0.0/24");
        let network = Network::start(config(dir.path())).await.unwrap();
        assert!(!network.status().await.ready);
        let a = netns();
        let error = network.add(request("a", &a)).await.unwrap_err().to_string();
        assert!(error.contains("interface hftest0") && error.contains("network.embedded.bridge"), "{error}");
        assert!(has_link("hftest0"));
        drop(elsewhere);
        eventually("the end of the link", || !has_link("hftest0")).await;

        let table = || nft::new_table("hftest0", "somebody else");
        on_host(|| Socket::netfilter().unwrap().transaction(vec![table()]).unwrap());
        let error = network.add(request("a", &a)).await.unwrap_err().to_string();
        assert!(error.contains("nftables table hftest0"), "{error}");
        assert!(table_is_there("hftest0") && !has_link("hftest0"));
    });
}

#[test]
fn two_agents_side_by_side() {
    on_own_host(|| async {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Network::start(config(one.path())).await.unwrap();
        let embedded = EmbeddedConfig {
            bridge: "hftest1".into(),
            subnets: vec!["10.78.0.0/16".into(), "fd48:6f6c:6467::/64".into()],
            mtu: Some(1300),
        };
        let second = Network::start(NetworkConfig { embedded, ..config(two.path()) }).await.unwrap();
        let (a, b) = (netns(), netns());
        let mut wanted = request("a", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let pod = wanted.pod.clone();
        first.add(wanted).await.unwrap();
        let other = second.add(request("b", &b)).await.unwrap();
        assert_eq!(other.ips[0], ip("10.78.0.2"));
        assert_eq!(inside(&b, eth0).mtu, 1300);
        second.recover(&HashSet::new(), &[]).await;
        eventually("the end of the unknown pod", || record_count(two.path()) == 0).await;
        assert!(has_link(&link_name(&pod)));
        assert_eq!(elements("hftest0"), 2);
        assert!(second.remove_unused().await.unwrap());
        assert!(!has_link("hftest1") && has_link("hftest0"));
        first.check(&pod, a.try_clone().unwrap()).await.unwrap();
        // A third that takes the first one's subnets is told so.
        let three = tempfile::tempdir().unwrap();
        let mut third = config(three.path());
        third.embedded.bridge = "hftest2".into();
        let third = Network::start(third).await.unwrap();
        assert!(third.status().await.message.contains("hftest0"), "{:?}", third.status().await);
    });
}

#[test]
fn a_new_agent_takes_over() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        let network = Network::start(config(dir.path())).await.unwrap();
        let (a, b, c) = (netns(), netns(), netns());
        let mut wanted = request("a", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let (kept, mut lost, stopped) = (wanted.pod.clone(), request("b", &b), request("c", &c));
        lost.port_mappings = vec![mapping("", 8081, 80)];
        let (lost_pod, stopped_pod) = (lost.pod.clone(), stopped.pod.clone());
        let made = network.add(wanted).await.unwrap();
        network.add(lost).await.unwrap();
        network.add(stopped).await.unwrap();
        drop(network);

        // The record of one pod is lost; its link says what it was.
        std::fs::write(dir.path().join(format!("network/pods/{stopped_pod}.json")), "{").unwrap();
        // Somebody flushes all rules.
        on_host(|| Socket::netfilter().unwrap().transaction(vec![nft::delete_table("hftest0")]).unwrap());
        let network = Network::start(config(dir.path())).await.unwrap();
        assert!(network.status().await.ready, "{:?}", network.status().await);
        assert_eq!(network.get(&kept), Some(made.clone()));
        network.recover(&HashSet::from([kept.clone(), stopped_pod.clone()]), &[]).await;
        assert_eq!(network.get(&stopped_pod).unwrap().ips[0], ip("10.79.0.4"));
        gone_link(&lost_pod).await;
        eventually("the end of DEL", || network.inner.state().get(&lost_pod).is_none()).await;
        assert_eq!(elements("hftest0"), 2, "the table is there again, with the known pod's ports");
        let server = Server::start(&a, socket(made.ips[0], 80));
        assert_eq!(inside(&world, || ask(socket(ip(HOST4), 8080))).unwrap(), ip(WORLD4));
        drop(server);
        let d = netns();
        assert_eq!(network.add(request("d", &d)).await.unwrap().ips[0], ip("10.79.0.5"));
        drop(network);

        // After a reboot nothing of it is there but the files.
        let network =
            Network::start(NetworkConfig { boot_id: "boot-2".into(), ..config(dir.path()) }).await.unwrap();
        assert_eq!(network.get(&kept), None);
        assert_eq!(record_count(dir.path()), 0);
    });
}

/// The agent died between the record of DEL and its end: nothing but the record says that host ports are still open.
#[test]
fn a_del_that_was_cut_off_is_finished() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        let mut wanted = request("a", &a);
        wanted.port_mappings = vec![mapping("", 8080, 80)];
        let pod = wanted.pod.clone();
        network.add(wanted).await.unwrap();
        drop(network);
        let path = dir.path().join(format!("network/pods/{pod}.json"));
        let record = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, record.replace(r#""phase":"up""#, r#""phase":"deleting""#)).unwrap();
        drop(a);
        let network = Network::start(config(dir.path())).await.unwrap();
        gone(&network, dir.path(), &pod).await;
        assert_eq!(elements("hftest0"), 0);
    });
}

/// What a link without a record has is nobody else's, also before it is known which pods there are.
#[test]
fn addresses_of_lost_records_are_not_given_away() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.embedded.subnets = vec!["10.79.0.0/29".into()];
        let network = Network::start(config.clone()).await.unwrap();
        let held: Vec<OwnedFd> = (0..2).map(|_| netns()).collect();
        let mut pods = Vec::new();
        for netns in &held {
            let wanted = request("a", netns);
            pods.push(wanted.pod.clone());
            network.add(wanted).await.unwrap();
        }
        drop(network);
        for pod in &pods {
            std::fs::write(dir.path().join(format!("network/pods/{pod}.json")), "").unwrap();
        }
        let network = Network::start(config).await.unwrap();
        assert!(!network.remove_unused().await.unwrap(), "its links are in use");
        let b = netns();
        assert_eq!(network.add(request("b", &b)).await.unwrap().ips, [ip("10.79.0.4")]);
        network.recover(&HashSet::from([pods[0].clone()]), &[]).await;
        assert_eq!(network.get(&pods[0]).unwrap().ips, [ip("10.79.0.2")]);
        gone_link(&pods[1]).await;
        eventually("the address's freedom", || network.inner.state().get(&pods[1]).is_none()).await;
        assert!(has_link(&link_name(&pods[0])));
    });
}

#[test]
fn a_bridge_that_was_removed_comes_back() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let (a, b) = (netns(), netns());
        let first = request("a", &a);
        let pod = first.pod.clone();
        let made = network.add(first).await.unwrap();
        on_host(|| {
            let mut socket = Socket::route().unwrap();
            let bridge = link::find(&mut socket, "hftest0").unwrap().unwrap();
            link::remove(&mut socket, bridge.index).unwrap();
        });
        let other = network.add(request("b", &b)).await.unwrap();
        network.check(&pod, a.try_clone().unwrap()).await.unwrap();
        let server = Server::start(&b, socket(other.ips[0], 80));
        assert_eq!(inside(&a, || ask(server.address)).unwrap(), made.ips[0]);
    });
}

#[test]
fn flushed_rules_come_back() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let flush = || {
            on_host(|| Socket::netfilter().unwrap().transaction(vec![nft::delete_table("hftest0")]).unwrap());
        };
        let (a, b) = (netns(), netns());
        let mut first = request("a", &a);
        first.port_mappings = vec![mapping("", 8080, 80)];
        network.add(first).await.unwrap();
        flush();
        // What Status does in the background.
        network.inner.look_ahead().await;
        assert!(table_is_there("hftest0") && network.status().await.ready);
        assert_eq!(elements("hftest0"), 2);
        flush();
        let mut second = request("b", &b);
        second.port_mappings = vec![mapping("", 8081, 80)];
        let pod = second.pod.clone();
        network.add(second).await.unwrap();
        assert_eq!(elements("hftest0"), 4);
        flush();
        network.del(&pod, Some(b)).await.unwrap();
        gone_link(&pod).await;
    });
}

async fn gone_link(pod: &PodId) {
    let link = link_name(pod);
    eventually("the end of the link", || !has_link(&link)).await;
}

#[test]
fn udp_clients_follow_the_host_port() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let world = outside();
        let network = Network::start(config(dir.path())).await.unwrap();
        let client = inside(&world, || UdpSocket::bind((ip(WORLD4), 5000)).unwrap());
        client.connect((ip(HOST4), 5353)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        for name in ["first", "second"] {
            // One that nobody answers, or whoever had the port before: the kernel now knows this connection.
            client.send(b"early").unwrap();
            let a = netns();
            let mut wanted = request(name, &a);
            wanted.port_mappings = vec![PortMapping { protocol: Protocol::Udp, ..mapping("", 5353, 53) }];
            let pod = wanted.pod.clone();
            let made = network.add(wanted).await.unwrap();
            let server = inside(&a, || UdpSocket::bind((made.ips[0], 53)).unwrap());
            server.set_read_timeout(Some(LIMIT)).unwrap();
            client.send(name.as_bytes()).unwrap_or_else(|_| client.send(name.as_bytes()).unwrap());
            let mut buffer = [0; 64];
            let (length, peer) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], name.as_bytes());
            server.send_to(b"answer", peer).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 6);
            network.del(&pod, Some(a)).await.unwrap();
        }
    });
}

#[test]
fn the_pod_cidr_replaces_the_subnet_of_its_family() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        let first = request("a", &a);
        let pod = first.pod.clone();
        network.add(first).await.unwrap();
        network.set_pod_cidr("10.77.3.0/24").unwrap();
        let b = netns();
        let second = request("b", &b);
        let other = second.pod.clone();
        assert_eq!(network.add(second).await.unwrap().ips[0], ip("10.79.0.3"), "a pod is on the bridge");
        network.del(&pod, Some(a)).await.unwrap();
        network.del(&other, Some(b)).await.unwrap();
        gone(&network, dir.path(), &pod).await;
        gone(&network, dir.path(), &other).await;
        let c = netns();
        let ips = network.add(request("c", &c)).await.unwrap().ips;
        assert_eq!(ips, [ip("10.77.3.2"), ip("fd48:6f6c:6466::4")]);
        assert!(network.set_pod_cidr("nonsense").unwrap_err().to_string().contains("nonsense"));
    });
}

#[test]
fn without_ipv6_there_is_ipv4() {
    on_own_host(|| async {
        for name in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        assert_eq!(network.add(request("a", &a)).await.unwrap().ips, [ip("10.79.0.2")]);
    });
}

#[test]
fn a_pod_without_ipv6_has_ipv4() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let a = netns();
        inside(&a, || std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap());
        assert_eq!(network.add(request("a", &a)).await.unwrap().ips, [ip("10.79.0.2")]);
    });
}

#[test]
fn bad_configurations_are_named() {
    on_own_host(|| async {
        let table: [(&str, &[&str], &str); 5] = [
            ("", &["10.0.0.0/8"], "bridge"),
            ("a-name-that-is-too-long", &["10.0.0.0/8"], "15 characters"),
            ("br0", &[], "empty"),
            ("br0", &["10.0.0.0/8", "10.64.0.0/16"], "more than one of IPv4"),
            ("br0", &["10.0.0.1/8"], "host bits"),
        ];
        for (bridge, subnets, word) in table {
            let dir = tempfile::tempdir().unwrap();
            let subnets = subnets.iter().map(|subnet| (*subnet).to_owned()).collect();
            let embedded = EmbeddedConfig { bridge: bridge.into(), subnets, mtu: None };
            let error = Network::start(NetworkConfig { embedded, ..config(dir.path()) }).await.unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    });
}

/// Prints what ADD and DEL cost: `cargo test --release -p holdfast-network -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    on_own_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::start(config(dir.path())).await.unwrap();
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let a = netns();
            let wanted = request("a", &a);
            let pod = wanted.pod.clone();
            let start = std::time::Instant::now();
            network.add(wanted).await.unwrap();
            adds.push(start.elapsed());
            let start = std::time::Instant::now();
            network.del(&pod, Some(a)).await.unwrap();
            dels.push(start.elapsed());
        }
        adds.sort();
        dels.sort();
        println!("ADD min {:?} median {:?}; DEL min {:?} median {:?}", adds[0], adds[50], dels[0], dels[50]);
    });
}
