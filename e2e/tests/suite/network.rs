//! The embedded network: addresses, pods that reach each other, host ports, names.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{container, pod, sleeper, with_user_namespace},
    wait,
};
use serde_json::{Value, json};

#[test]
fn two_pods_reach_each_other() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pods = Vec::new();
    for name in ["left", "right"] {
        let pod = pod(&scene.dir, name);
        let pod_id = scene.run_pod(&pod)?;
        let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
        let addresses = addresses(&scene.crictl.json(&["inspectp", &pod_id])?)?;
        pods.push((pod_id, id, addresses));
    }
    ensure!(pods[0].2 != pods[1].2, "both have {:?}", pods[0].2);
    for address in &pods[1].2 {
        let ping = if address.is_ipv6() { "ping6" } else { "ping" };
        scene.crictl.ok(&["exec", "-s", &pods[0].1, ping, "-c", "1", "-W", "2", &address.to_string()])?;
    }
    let routes = scene.crictl.ok(&["exec", "-s", &pods[0].1, "ip", "route"])?;
    ensure!(routes.lines().any(|line| line.starts_with("default via ")), "no default route in\n{routes}");
    let links = scene.crictl.ok(&["exec", "-s", &pods[0].1, "ip", "link", "show", "lo"])?;
    ensure!(links.contains("UP"), "loopback is down:\n{links}");
    for (pod_id, ..) in &pods {
        scene.remove_pod(pod_id)?;
    }
    oracle.nothing_left()
}

#[test]
fn a_host_port_leads_into_the_pod() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "ports");
    pod["port_mappings"] = json!([{"protocol": 0, "container_port": 8080, "host_port": 18080}]);
    let pod_id = scene.run_pod(&pod)?;
    let server = container("main", BUSYBOX, &["nc", "-lk", "-p", "8080", "-e", "echo", "from the pod"]);
    let id = scene.start(&pod_id, &pod, &server)?;
    for address in [IpAddr::from([10, 213, 0, 1]), IpAddr::from([127, 0, 0, 1])] {
        let text = wait::until(&format!("an answer of {address}:18080"), wait::LIMIT, || {
            Ok(read(SocketAddr::new(address, 18080)).ok().filter(|text| !text.is_empty()))
        });
        let text = text.with_context(|| format!("container {id}"))?;
        ensure!(text == "from the pod\n", "{text:?}");
    }
    scene.remove_pod(&pod_id)?;
    ensure!(read(SocketAddr::from(([10, 213, 0, 1], 18080))).is_err(), "the port still answers");
    oracle.nothing_left()
}

/// A port of UDP, and one that answers on a single address of the host.
#[test]
fn host_ports_have_a_protocol_and_an_address() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "udp");
    pod["port_mappings"] = json!([
        {"protocol": 1, "container_port": 5353, "host_port": 18053},
        {"protocol": 0, "container_port": 8080, "host_port": 18082, "host_ip": "127.0.0.1"},
        {"protocol": 0, "container_port": 8081},
    ]);
    let pod_id = scene.run_pod(&pod)?;
    let script = "nc -u -l -p 5353 -e cat & exec nc -lk -p 8080 -e echo from the pod";
    let server = container("main", BUSYBOX, &["sh", "-c", script]);
    scene.start(&pod_id, &pod, &server)?;
    let text = wait::until("an answer of 127.0.0.1:18082", wait::LIMIT, || {
        Ok(read(SocketAddr::from(([127, 0, 0, 1], 18082))).ok().filter(|text| !text.is_empty()))
    })?;
    ensure!(text == "from the pod\n", "{text:?}");
    ensure!(read(SocketAddr::from(([10, 213, 0, 1], 18082))).is_err(), "another address answers");
    ensure!(read(SocketAddr::from(([127, 0, 0, 1], 8081))).is_err(), "a port without a host port answers");

    let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut answer = [0; 16];
    let answered = wait::until("an answer by UDP", wait::LIMIT, || {
        client.send_to(b"hello", "127.0.0.1:18053")?;
        Ok(client.recv(&mut answer).ok())
    })?;
    ensure!(&answer[..answered] == b"hello", "{answer:?}");
    ensure!(read(SocketAddr::from(([127, 0, 0, 1], 18053))).is_err(), "UDP's port answers TCP");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Two pods cannot have the same host port, and the second is undone.
#[test]
fn a_taken_host_port_is_refused() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let with_port = |name: &str| {
        let mut pod = pod(&scene.dir, name);
        pod["port_mappings"] = json!([{"protocol": 0, "container_port": 80, "host_port": 18081}]);
        pod
    };
    let first = scene.run_pod(&with_port("first"))?;
    let second = holdfast_e2e::specs::write(&scene.dir, &with_port("second"))?;
    let refusal = scene.crictl.refused(&["runp", &second.to_string_lossy()])?;
    ensure!(refusal.code == "AlreadyExists" && refusal.text.contains("18081"), "{refusal:?}");
    scene.remove_pod(&first)?;
    oracle.nothing_left()
}

#[test]
fn names_and_dns() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "names");
    pod["dns_config"] = json!({
        "servers": ["10.213.0.53"], "searches": ["svc.test", "test"], "options": ["ndots:5"],
    });
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let shell = |script: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script]);
    let resolv = shell("cat /etc/resolv.conf")?;
    for line in ["nameserver 10.213.0.53", "search svc.test test", "options ndots:5"] {
        ensure!(resolv.lines().any(|found| found == line), "{line} is not in\n{resolv}");
    }
    ensure!(shell("cat /etc/hostname; hostname")? == "names\nnames");
    if scene.agent.is_some() {
        let address = addresses(&scene.crictl.json(&["inspectp", &pod_id])?)?[0].to_string();
        let hosts = shell("cat /etc/hosts")?;
        let own = hosts.lines().find(|line| line.starts_with(&address)).context("no line for the pod")?;
        ensure!(own.split_whitespace().any(|word| word == "names"), "{hosts}");
        ensure!(hosts.contains("127.0.0.1"), "{hosts}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Sysctls of a pod hold in it, and not on the host.
#[test]
fn sysctls_of_a_pod() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let key = "net.ipv4.ip_unprivileged_port_start";
    let before = process::stdout("cat", ["/proc/sys/net/ipv4/ip_unprivileged_port_start"])?;
    let mut pod = pod(&scene.dir, "sysctls");
    pod["linux"]["sysctls"] = json!({key: "42", "kernel.shm_rmid_forced": "1"});
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    ensure!(scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script])? == "42\n1");
    ensure!(process::stdout("cat", ["/proc/sys/net/ipv4/ip_unprivileged_port_start"])? == before);
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// In a network of its own a pod's users may listen on every port and ping, unless the request says otherwise; with a user
/// namespace as well, where groups count as in there. The host's network stays as it is.
#[test]
fn ports_and_ping_are_for_every_user() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let [ports, groups] =
        ["ip_unprivileged_port_start", "ping_group_range"].map(|name| format!("net.ipv4.{name}"));
    let script = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range";
    let host = process::stdout("sh", ["-c", script])?;
    let mut user = pod(&scene.dir, "user");
    with_user_namespace(&mut user, 1_310_720);
    let mut own = pod(&scene.dir, "own");
    own["linux"]["sysctls"] = json!({ports: "80", groups: "1 0"});
    let mut on_host = pod(&scene.dir, "on-host");
    on_host["linux"]["security_context"]["namespace_options"]["network"] = holdfast_e2e::specs::NODE.into();
    let mut cases = vec![
        (pod(&scene.dir, "plain"), "0\n0\t2147483647", true),
        (own, "80\n1\t0", false),
        (on_host, host.trim(), false),
    ];
    if scene.agent.is_some() {
        // containerd leaves the groups of such a pod as the kernel has them.
        cases.push((user, "0\n0\t65535", true));
    }
    for (pod, expected, free) in cases {
        let pod_id = scene.run_pod(&pod)?;
        let mut container = sleeper("main", BUSYBOX);
        let security = &mut container["linux"]["security_context"];
        security["run_as_user"] = json!({"value": 1000});
        security["capabilities"] = json!({"drop_capabilities": ["ALL"]});
        security["namespace_options"]["network"] =
            pod["linux"]["security_context"]["namespace_options"]["network"].as_u64().unwrap_or(0).into();
        let id = scene.start(&pod_id, &pod, &container)?;
        let found = scene.shell(&id, script)?;
        ensure!(found == expected, "{}: {found:?}", pod["hostname"]);
        if free {
            // A server of this user's, on a port below 1024.
            scene.shell(&id, "httpd -p 127.0.0.1:80 -h /etc && wget -q -O - http://127.0.0.1/hostname")?;
        }
        scene.remove_pod(&pod_id)?;
    }
    ensure!(process::stdout("sh", ["-c", script])? == host);
    oracle.nothing_left()
}

/// What belongs to a namespace may be set where the pod has its own, and nothing else may.
#[test]
fn sysctls_of_the_host_are_refused() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for (namespace, name, value) in [
        ("", "vm.swappiness", "1"),
        ("", "kernel.core_pattern", "|/bin/sh"),
        ("", "net.ipv4.ip_forward", "1\n0"),
        ("", "net.ipv4.ip_forward\nkernel.core_pattern", "1"),
        ("", "net.ipv4.ip_forward=1", "1"),
        ("", "net.ipv4/../../kernel/core_pattern", "|/bin/sh"),
        ("", "net.ipv4.ip_forward\u{0}", "1"),
        ("network", "net.ipv4.ip_forward", "1"),
        ("ipc", "kernel.shm_rmid_forced", "1"),
        ("ipc", "fs.mqueue.msg_max", "5"),
    ] {
        let mut pod = pod(&scene.dir, "refused");
        pod["linux"]["sysctls"] = json!({name: value});
        if !namespace.is_empty() {
            pod["linux"]["security_context"]["namespace_options"][namespace] =
                holdfast_e2e::specs::NODE.into();
        }
        let config = holdfast_e2e::specs::write(&scene.dir, &pod)?;
        let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
        ensure!(
            refusal.code == "InvalidArgument" && refusal.text.contains("sysctls"),
            "{name:?}: {refusal:?}"
        );
    }
    oracle.nothing_left()
}

/// All addresses of a pod, IPv4 first.
pub fn addresses(status: &Value) -> Result<Vec<IpAddr>> {
    let network = &status["status"]["network"];
    let more = network["additionalIps"].as_array().into_iter().flatten().map(|more| &more["ip"]);
    let all = std::iter::once(&network["ip"]).chain(more);
    all.map(|ip| {
        ip.as_str().and_then(|ip| ip.parse().ok()).with_context(|| format!("no address in {network}"))
    })
    .collect()
}

fn read(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
