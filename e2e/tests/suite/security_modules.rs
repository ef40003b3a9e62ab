//! AppArmor and SELinux, on the machines that have them.

use std::{fs, path::Path, process::Command, process::Stdio};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene, process,
    scene::BUSYBOX,
    specs::{pod, sleeper},
};
use serde_json::{Value, json};

pub const DEFAULT_PROFILE: &str = "holdfast-default";
/// A profile that the test loads: everything but one file.
const OWN_PROFILE: &str = "holdfast-e2e-deny";

pub fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// What confines a command that is executed in the container.
pub fn confinement(scene: &Scene, id: &str) -> Result<String> {
    scene.crictl.ok(&["exec", "-s", id, "cat", "/proc/self/attr/current"])
}

/// What confines the container's first process, as the host sees it.
pub fn confinement_of_init(scene: &Scene, id: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/attr/current", init(scene, id)?))?;
    Ok(text.trim_end_matches(['\n', '\0']).to_owned())
}

pub fn init(scene: &Scene, id: &str) -> Result<u64> {
    scene.crictl.json(&["inspect", id])?["info"]["pid"].as_u64().context("no pid")
}

fn with(context: &Value) -> Value {
    let mut spec = sleeper("main", BUSYBOX);
    for (key, value) in context.as_object().into_iter().flatten() {
        spec["linux"]["security_context"][key] = value.clone();
    }
    spec
}

#[test]
fn apparmor_profiles() -> Result<()> {
    if !has_apparmor() {
        println!("SKIP: this host has no AppArmor");
        return Ok(());
    }
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    load_own_profile(&scene)?;
    let mut pod = pod(&scene.dir, "apparmor");
    pod["linux"]["security_context"]["privileged"] = true.into();
    let pod_id = scene.run_pod(&pod)?;
    let enforced = |name: &str| format!("{name} (enforce)");
    let table = [
        // Who says nothing has the default, unless he is privileged.
        (json!({}), enforced(DEFAULT_PROFILE)),
        (json!({"apparmor": {"profile_type": 0}}), enforced(DEFAULT_PROFILE)),
        (json!({"apparmor": {"profile_type": 1}}), "unconfined".to_owned()),
        (json!({"apparmor": {"profile_type": 2, "localhost_ref": OWN_PROFILE}}), enforced(OWN_PROFILE)),
        (json!({"apparmor_profile": "runtime/default"}), enforced(DEFAULT_PROFILE)),
        (json!({"apparmor_profile": "unconfined"}), "unconfined".to_owned()),
        (json!({"apparmor_profile": format!("localhost/{OWN_PROFILE}")}), enforced(OWN_PROFILE)),
        // The new field wins.
        (
            json!({"apparmor_profile": "unconfined", "apparmor": {"profile_type": 0}}),
            enforced(DEFAULT_PROFILE),
        ),
        (json!({"privileged": true}), "unconfined".to_owned()),
        (json!({"no_new_privs": true}), enforced(DEFAULT_PROFILE)),
    ];
    for (context, expected) in table {
        let id = scene.start(&pod_id, &pod, &with(&context))?;
        let (init, exec) = (confinement_of_init(&scene, &id)?, confinement(&scene, &id)?);
        ensure!(init == expected && exec == expected, "{context}: {init:?}, exec: {exec:?}");
        if expected.starts_with(OWN_PROFILE) {
            let write =
                |path: &str| scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", &format!("echo x >{path}")]);
            ensure!(
                write("/tmp/allowed").is_ok() && write("/tmp/denied").is_err(),
                "the profile does nothing"
            );
        }
        scene.crictl.ok(&["rm", "-f", &id])?;
    }
    // The host's /proc in its place, and read-only: nothing of ours is written through it.
    let mut bound = with(&json!({}));
    bound["mounts"] = json!([{"container_path": "/proc", "host_path": "/proc", "readonly": true}]);
    let id = scene.start(&pod_id, &pod, &bound)?;
    ensure!(confinement_of_init(&scene, &id)? == enforced(DEFAULT_PROFILE), "with the host's /proc");
    ensure!(confinement(&scene, &id)? == enforced(DEFAULT_PROFILE), "an exec with the host's /proc");
    scene.crictl.ok(&["rm", "-f", &id])?;
    for context in [
        json!({"apparmor": {"profile_type": 2, "localhost_ref": "no-such-profile"}}),
        json!({"apparmor_profile": "localhost/no-such-profile"}),
    ] {
        let (file, pod_file) = scene.create_files(&pod, &with(&context))?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
        ensure!(refusal.text.contains("no-such-profile"), "{refusal:?}");
    }
    scene.remove_pod(&pod_id)?;
    unload_own_profile(&scene)?;
    oracle.nothing_left()
}

/// A capability that allows mounts is not enough where the default profile forbids them; nor are the host's controls
/// open to root.
#[test]
fn apparmor_default_is_a_wall() -> Result<()> {
    if !has_apparmor() {
        println!("SKIP: this host has no AppArmor");
        return Ok(());
    }
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "apparmor-wall");
    let pod_id = scene.run_pod(&pod)?;
    let open = json!({
        "capabilities": {"add_capabilities": ["SYS_ADMIN"]},
        // Nothing is masked, and seccomp is off: what refuses is AppArmor.
        "masked_paths": [], "readonly_paths": [], "seccomp": {"profile_type": 1},
    });
    let mut free = open.clone();
    free["apparmor"] = json!({"profile_type": 1});
    // What the shell says of a refusal is not looked at.
    let script = "exec 2>/dev/null; mount -t tmpfs none /mnt && echo mounted; \
                  echo 10 >/proc/sys/vm/swappiness && echo set; \
                  echo 32 >/proc/sys/kernel/shmmni && echo own; kill -0 1 && echo signalled; true";
    let run = |context: Value| {
        let id = scene.start(&pod_id, &pod, &with(&context))?;
        scene.crictl.ok(&["exec", "-s", &id, "mkdir", "-p", "/mnt"])?;
        let before = fs::read_to_string("/proc/sys/vm/swappiness")?;
        let said = scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", script])?;
        fs::write("/proc/sys/vm/swappiness", before)?;
        scene.crictl.ok(&["rm", "-f", &id])?;
        anyhow::Ok(said.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (confined, unconfined) = (run(open)?, run(free)?);
    ensure!(confined == ["own", "signalled"], "with the default profile: {confined:?}");
    ensure!(unconfined == ["mounted", "set", "own", "signalled"], "without: {unconfined:?}");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

fn load_own_profile(scene: &Scene) -> Result<()> {
    let text = format!(
        "profile {OWN_PROFILE} flags=(attach_disconnected) {{\n  file,\n  network,\n  capability,\n  signal,\n  \
         deny /tmp/denied w,\n}}\n"
    );
    fs::write(scene.dir.join("profile"), text)?;
    parser(scene, "--replace")
}

fn unload_own_profile(scene: &Scene) -> Result<()> {
    parser(scene, "--remove")?;
    Ok(fs::remove_file(scene.dir.join("profile"))?)
}

fn parser(scene: &Scene, action: &str) -> Result<()> {
    let mut command = Command::new("/usr/sbin/apparmor_parser");
    command.args([action, "--skip-cache"]).arg(scene.dir.join("profile")).stdin(Stdio::null());
    let output = process::run(&mut command)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// Processes, the root, the pod's files and volumes carry the labels that they were given.
#[test]
fn selinux_labels() -> Result<()> {
    if !has_selinux() {
        println!("SKIP: this host has no SELinux");
        return Ok(());
    }
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let one = pod(&scene.dir, "selinux-one");
    let other = pod(&scene.dir, "selinux-other");
    let (one_id, other_id) = (scene.run_pod(&one)?, scene.run_pod(&other)?);

    let volume = scene.dir.join("volume");
    fs::create_dir_all(volume.join("deep"))?;
    fs::write(volume.join("deep/file"), "x")?;
    let mut spec = with(&json!({}));
    spec["mounts"] = json!([{"container_path": "/data", "host_path": volume, "selinux_relabel": true}]);
    let first = scene.start(&one_id, &one, &spec)?;
    let process = confinement_of_init(&scene, &first)?;
    let level = process.splitn(4, ':').nth(3).context("no level")?.to_owned();
    ensure!(process.contains("container_t") || process.contains("lxc_t"), "{process}");
    ensure!(level.starts_with("s0:c") && level.contains(','), "{process}");
    ensure!(confinement(&scene, &first)?.trim_end_matches('\0') == process, "an exec's label");
    let root = format!("/proc/{}/root", init(&scene, &first)?);
    let paths = [
        "/bin/sh",
        "/etc/hosts",
        "/etc/hostname",
        "/dev",
        "/dev/null",
        "/dev/shm",
        "/data",
        "/data/deep/file",
    ];
    let labels: Vec<(&str, String)> = paths
        .iter()
        .map(|path| Ok((*path, label(Path::new(&format!("{root}{path}")))?)))
        .collect::<Result<_>>()?;
    ensure!(
        labels.iter().all(|(_, label)| label.ends_with(&level) && label.contains("_file_t")),
        "{labels:?}; mounts: {}",
        scene.crictl.ok(&["exec", "-s", &first, "cat", "/proc/mounts"])?
    );
    ensure!(label(&volume.join("deep/file"))?.ends_with(&level));

    // A pod's containers share a level, and no two pods do.
    let mut second = with(&json!({}));
    second["metadata"]["name"] = "second".into();
    second["log_path"] = "second.log".into();
    let second = scene.start(&one_id, &one, &second)?;
    ensure!(confinement_of_init(&scene, &second)? == process);
    let stranger = scene.start(&other_id, &other, &with(&json!({})))?;
    ensure!(confinement_of_init(&scene, &stranger)? != process);

    // Also after a restart.
    scene.agent()?.crash()?;
    let mut later = with(&json!({}));
    later["metadata"]["name"] = "later".into();
    later["log_path"] = "later.log".into();
    let later = scene.start(&one_id, &one, &later)?;
    ensure!(confinement_of_init(&scene, &later)? == process);

    let mut asked = with(&json!({"selinux_options": {"level": "s0:c10,c20"}}));
    asked["metadata"]["name"] = "asked".into();
    asked["log_path"] = "asked.log".into();
    let asked = scene.start(&other_id, &other, &asked)?;
    let process = confinement_of_init(&scene, &asked)?;
    ensure!(process.ends_with(":s0:c10,c20"), "{process}");
    scene.remove_pod(&one_id)?;
    scene.remove_pod(&other_id)?;
    fs::remove_dir_all(volume)?;
    oracle.nothing_left()
}

pub fn label(path: &Path) -> Result<String> {
    let mut buffer = vec![0; 256];
    let length = rustix::fs::getxattr(path, "security.selinux", &mut buffer)
        .with_context(|| format!("label of {}", path.display()))?;
    buffer.truncate(length);
    Ok(String::from_utf8(buffer)?.trim_end_matches('\0').to_owned())
}

/// On a host without, a profile of AppArmor is refused by name, and options of SELinux mean nothing: as with containerd and
/// CRI-O, for charts set these for every node.
#[test]
fn security_modules_that_are_not_there() -> Result<()> {
    if has_apparmor() || has_selinux() {
        println!("SKIP: this host has one");
        return Ok(());
    }
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "modules");
    pod["linux"]["security_context"]["selinux_options"] = json!({"type": "spc_t", "level": "s0"});
    let pod_id = scene.run_pod(&pod)?;
    let mut labelled = with(&json!({"selinux_options": {"type": "spc_t", "level": "s0:c1,c2"}}));
    labelled["metadata"]["name"] = "labelled".into();
    labelled["log_path"] = "labelled.log".into();
    let id = scene.start(&pod_id, &pod, &labelled)?;
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
    for (context, name) in [
        (json!({"apparmor": {"profile_type": 2, "localhost_ref": "mine"}}), "AppArmor"),
        (json!({"apparmor_profile": "localhost/mine"}), "AppArmor"),
    ] {
        let (file, pod_file) = scene.create_files(&pod, &with(&context))?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &file, &pod_file])?;
        ensure!(refusal.text.to_lowercase().contains(&name.to_lowercase()), "{refusal:?}");
    }
    // The default, where there is none, is none.
    let id = scene.start(&pod_id, &pod, &with(&json!({"apparmor": {"profile_type": 0}})))?;
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}
