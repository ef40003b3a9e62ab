//! CNI plugins, Debian's, instead of the embedded network.

use std::fs;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Oracle, Scene, place, process,
    scene::{BUSYBOX, own_mounts},
    specs::{pod, sleeper},
    wait,
};
use serde_json::json;

use crate::network::addresses;

#[test]
fn plugins_are_used_when_there_is_a_configuration() -> Result<()> {
    mounts_as_after_a_first_pod()?;
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    if !place::cni_plugins().join("bridge").exists() {
        println!("SKIP: no CNI plugins: run cargo x test");
        return Ok(());
    }
    scene.oracle().context("the embedded network first")?;
    configure(&mut scene, "hfe2ecni0", "10.213.200.0/24")?;
    // The first pod makes the plugins' bridge, which stays: their way.
    let first = life(&scene, "10.213.200.")?;
    let oracle = Oracle::look(scene.scope())?;
    let second = life(&scene, "10.213.200.")?;
    ensure!(first != second || first.ends_with(".2"), "{first} {second}");
    oracle.nothing_left()?;

    // A restart asks no plugin, and knows what each pod has.
    let pod = pod(&scene.dir, "adopted");
    let pod_id = scene.run_pod(&pod)?;
    let addresses = |scene: &Scene| -> Result<serde_json::Value> {
        Ok(scene.crictl.json(&["inspectp", &pod_id])?["status"]["network"].clone())
    };
    let before = addresses(&scene)?;
    scene.agent()?.crash()?;
    ensure!(before["ip"].is_string() && addresses(&scene)? == before, "{before}");
    scene.remove_pod(&pod_id)?;

    // A changed configuration is noticed.
    configure(&mut scene, "hfe2ecni1", "10.213.201.0/24")?;
    wait::until_true("the changed configuration in use", || {
        Ok(life(&scene, "10.213.20").is_ok_and(|address| address.starts_with("10.213.201.")))
    })
}

/// The agent's own default, as containerd and CRI-O have it: before the network add-on has written its configuration the node
/// is not ready, pods on the host's network run (the add-on is one), and no other pod gets another network.
#[test]
fn a_node_waits_for_its_network() -> Result<()> {
    mounts_as_after_a_first_pod()?;
    let Some(mut scene) = Scene::ours_with(|settings| settings.network_mode = None)? else { return Ok(()) };
    scene.crictl.ok(&["pull", BUSYBOX])?;
    let mut add_on = pod(&scene.dir, "add-on");
    add_on["linux"]["security_context"]["namespace_options"]["network"] = holdfast_e2e::specs::NODE.into();
    let run_add_on = |scene: &Scene| -> Result<String> {
        let pod_id = scene.run_pod(&add_on)?;
        scene.start(&pod_id, &add_on, &sleeper("main", BUSYBOX))?;
        Ok(pod_id)
    };
    scene.remove_pod(&run_add_on(&scene)?)?;
    let mut oracle = Oracle::look(scene.scope())?;
    let ready = |scene: &Scene| -> Result<serde_json::Value> {
        let info = scene.crictl.json(&["info"])?;
        let conditions = info["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|is| is["type"] == "NetworkReady").context("no condition NetworkReady")
    };
    let is_waiting = |scene: &Scene| -> Result<()> {
        let status = ready(scene)?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(status["status"] == false && status["reason"] == "NetworkPluginNotReady", "{status}");
        ensure!(message.starts_with("cni plugin not initialized") && message.contains("net.d"), "{status}");
        let config = holdfast_e2e::specs::write(&scene.dir, &pod(&scene.dir, "early"))?;
        let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
        ensure!(
            refusal.code == "FailedPrecondition" && refusal.text.contains("cni plugin not init"),
            "{refusal:?}"
        );
        ensure!(scene.crictl.ok(&["pods", "-q", "--name", "early"])?.is_empty(), "the pod is listed");
        Ok(())
    };
    is_waiting(&scene)?;
    let add_on_id = run_add_on(&scene)?;
    scene.agent()?.crash()?;
    is_waiting(&scene)?;
    oracle.agent_is_now(scene.agent()?.pid());
    scene.remove_pod(&add_on_id)?;
    if place::cni_plugins().join("bridge").exists() {
        configure(&mut scene, "hfe2ecni1", "10.213.203.0/24")?;
        ensure!(ready(&scene)?["status"] == true, "{}", ready(&scene)?);
        life(&scene, "10.213.203.")?;
        fs::remove_file(scene.agent()?.settings.cni_conf_dir().join("10-e2e.conflist"))?;
        is_waiting(&scene)?;
        let _ = process::stdout("ip", ["link", "del", "hfe2ecni1"]);
    }
    oracle.nothing_left()
}

/// A plugin that fails undoes the pod, and its words are in the error.
#[test]
fn a_failing_plugin_fails_the_pod() -> Result<()> {
    mounts_as_after_a_first_pod()?;
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    // ADD finds no address in there; DEL has nothing to say.
    let list = broken(&mut scene, "static")?;
    let config = holdfast_e2e::specs::write(&scene.dir, &pod(&scene.dir, "broken"))?;
    let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
    ensure!(refusal.text.contains("missing IP config"), "{refusal:?}");
    ensure!(scene.crictl.ok(&["pods", "-q"])?.is_empty(), "the pod is listed");
    fs::remove_file(list)?;
    // What the plugin itself made stays, as everywhere.
    let _ = process::stdout("ip", ["link", "del", "hfe2ecni1"]);
    oracle.nothing_left()
}

/// What cannot be undone now is owed until it can; the pod is gone.
#[test]
fn a_plugin_that_cannot_undo_keeps_no_pod() -> Result<()> {
    let with_own_plugins = |settings: &mut holdfast_e2e::agent::Settings| {
        settings.cni_bin_dirs.push(settings.dir.join("plugins"));
    };
    mounts_as_after_a_first_pod()?;
    let Some(mut scene) = Scene::ours_with(with_own_plugins)? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let list = broken(&mut scene, "no-such-ipam")?;
    let config = holdfast_e2e::specs::write(&scene.dir, &pod(&scene.dir, "broken"))?;
    let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
    ensure!(refusal.text.contains("no-such-ipam"), "{refusal:?}");
    ensure!(scene.crictl.ok(&["pods", "-q"])?.is_empty(), "the pod is listed");
    let owed =
        |scene: &Scene| Ok::<_, anyhow::Error>(scene.crictl.json(&["info"])?["network"]["owedDels"].clone());
    let waiting = owed(&scene)?;
    ensure!(waiting[0]["error"].to_string().contains("no-such-ipam"), "{waiting}");

    let plugin = scene.dir.join("plugins/no-such-ipam");
    fs::create_dir(scene.dir.join("plugins"))?;
    fs::write(&plugin, "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::remove_file(list)?;
    wait::until_true("the end of DEL", || Ok(owed(&scene)?.as_array().is_some_and(Vec::is_empty)))?;
    let _ = process::stdout("ip", ["link", "del", "hfe2ecni1"]);
    oracle.nothing_left()
}

/// The first name of ip-netns(8) makes a mount point of /run/netns. Pins that were there before would lie below it, and
/// their pods could never be stopped.
#[test]
fn names_of_ip_netns_beside_pods() -> Result<()> {
    own_mounts()?;
    // It may be a mount point on this machine already.
    while process::stdout("umount", ["-l", "/run/netns"]).is_ok() {}
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    if !place::cni_plugins().join("bridge").exists() {
        println!("SKIP: no CNI plugins: run cargo x test");
        return Ok(());
    }
    scene.crictl.ok(&["pull", BUSYBOX])?;
    configure(&mut scene, "hfe2ecni2", "10.213.202.0/24")?;
    let pod_id = scene.run_pod(&pod(&scene.dir, "before"))?;
    let name = Name::new("hfe2ename")?;
    let later = scene.run_pod(&pod(&scene.dir, "after"))?;
    let oracle = Oracle::look(scene.scope())?;
    life(&scene, "10.213.202.")?;
    oracle.nothing_left()?;
    scene.remove_pod(&pod_id)?;
    ensure!(!pin(&pod_id).exists(), "a pin stays");

    // Whoever mounts something above the directory, and lets no unmount through, keeps a pin, and no pod.
    process::stdout("mount", ["--rbind", "/run/netns", "/run/netns"])?;
    process::stdout("mount", ["--make-rprivate", "/run/netns"])?;
    scene.remove_pod(&later)?;
    ensure!(scene.crictl.ok(&["pods", "-q"])?.is_empty(), "the pod is listed");
    ensure!(pin(&later).exists(), "the test covers nothing");
    scene.agent()?.crash()?;
    ensure!(pin(&later).exists(), "the test covers nothing");
    process::stdout("umount", ["-l", "/run/netns"])?;
    wait::until_true("the end of the pin", || Ok(!pin(&later).exists()))?;
    drop(name);
    Ok(())
}

/// A name of ip-netns(8), gone with the test.
struct Name(&'static str);

impl Name {
    fn new(name: &'static str) -> Result<Self> {
        process::stdout("ip", ["netns", "add", name])?;
        Ok(Self(name))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = process::stdout("ip", ["netns", "del", self.0]);
    }
}

fn pin(pod_id: &str) -> std::path::PathBuf {
    format!("/run/netns/holdfast-{pod_id}").into()
}

/// /run/netns is a mount point from the first pod on, and stays one.
fn mounts_as_after_a_first_pod() -> Result<()> {
    own_mounts()?;
    Name::new("hfe2efirst").map(drop)
}

/// A configuration of the bridge plugin with this address management; its file.
fn broken(scene: &mut Scene, ipam: &str) -> Result<std::path::PathBuf> {
    let list = json!({"cniVersion": "0.4.0", "name": "broken", "plugins": [{"type": "bridge", "bridge": "hfe2ecni1",
        "ipam": {"type": ipam}}]});
    let file = scene.agent()?.settings.cni_conf_dir().join("10-broken.conflist");
    fs::write(&file, list.to_string())?;
    Ok(file)
}

fn configure(scene: &mut Scene, bridge: &str, subnet: &str) -> Result<()> {
    let data = scene.dir.join("cni-data");
    let list = json!({"cniVersion": "0.4.0", "name": "e2e", "plugins": [
        {"type": "bridge", "bridge": bridge, "isGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": subnet}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    let dir = scene.agent()?.settings.cni_conf_dir();
    fs::write(dir.join("10-e2e.conflist"), list.to_string()).context("write the CNI configuration")
}

/// A pod's life; returns its address.
fn life(scene: &Scene, prefix: &str) -> Result<String> {
    let pod = pod(&scene.dir, "cni");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let status = scene.crictl.json(&["inspectp", &pod_id])?;
    let address = addresses(&status)?[0].to_string();
    ensure!(address.starts_with(prefix), "{address} is not in {prefix}");
    ensure!(status["info"]["cniResult"].is_object(), "no CNI result in {}", status["info"]);
    let shown = scene.crictl.ok(&["exec", "-s", &id, "ip", "address", "show", "eth0"])?;
    ensure!(shown.contains(&address), "{address} is not in\n{shown}");
    scene.remove_pod(&pod_id)?;
    Ok(address)
}
