//! Capabilities, seccomp and what a privileged container has.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
};
use serde_json::{Value, json};

/// The fourteen that a container has by default.
const DEFAULT: u64 = 0xa804_25fb;
const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const SYS_MODULE: u64 = 1 << 16;

/// A case: its name, `capabilities`, whether it runs as uid 1000, and the sets bounding, effective and ambient.
type Case = (&'static str, Value, bool, [u64; 3]);

/// The sets at the start and in an exec. Permitted is as effective, and inheritable as ambient: without ambient ones
/// it is empty, so that no file raises what was dropped (CVE-2022-24769).
#[test]
fn capabilities_are_what_was_asked_for() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "capabilities");
    let pod_id = scene.run_pod(&pod)?;
    let ours = set(&fs::read_to_string("/proc/self/status")?, "CapBnd")?;
    let changed = DEFAULT & !CHOWN & !KILL | NET_ADMIN;
    let cases: [Case; 6] = [
        ("default", json!({}), false, [DEFAULT, DEFAULT, 0]),
        (
            "changed",
            json!({"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN", "CAP_KILL"]}),
            false,
            [changed, changed, 0],
        ),
        (
            "one",
            json!({"add_capabilities": ["CAP_NET_BIND_SERVICE"], "drop_capabilities": ["ALL"]}),
            false,
            [NET_BIND_SERVICE, NET_BIND_SERVICE, 0],
        ),
        (
            "all-but-one",
            json!({"add_capabilities": ["ALL"], "drop_capabilities": ["SYS_MODULE"]}),
            false,
            [ours & !SYS_MODULE, ours & !SYS_MODULE, 0],
        ),
        ("user", json!({}), true, [DEFAULT, 0, 0]),
        (
            "ambient",
            json!({"drop_capabilities": ["ALL"], "add_ambient_capabilities": ["NET_BIND_SERVICE"]}),
            true,
            [NET_BIND_SERVICE; 3],
        ),
    ];
    for (name, capabilities, user, [bounding, effective, ambient]) in cases {
        let mut container = sleeper(name, BUSYBOX);
        container["linux"]["security_context"]["capabilities"] = capabilities;
        if user {
            container["linux"]["security_context"]["run_as_user"] = json!({"value": 1000});
        }
        let id = scene.start(&pod_id, &pod, &container)?;
        for process in ["1", "self"] {
            let status = scene.shell(&id, &format!("cat /proc/{process}/status"))?;
            for (word, wanted) in [
                ("CapBnd", bounding),
                ("CapEff", effective),
                ("CapPrm", effective),
                ("CapAmb", ambient),
                ("CapInh", ambient),
            ] {
                let found = set(&status, word)?;
                ensure!(found == wanted & ours, "{name}, {process}: {word} {found:x}, not {wanted:x}");
            }
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// All capabilities that we have ourselves, no filter, no masks, the host's devices, and sysfs to write to.
#[test]
fn a_privileged_container() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "privileged");
    pod["linux"]["security_context"]["privileged"] = true.into();
    let pod_id = scene.run_pod(&pod)?;
    let ours = set(&fs::read_to_string("/proc/self/status")?, "CapBnd")?;
    for (name, privileged) in [("with", true), ("without", false)] {
        let mut container = sleeper(name, BUSYBOX);
        let context = &mut container["linux"]["security_context"];
        context["privileged"] = privileged.into();
        context["seccomp"] = json!({"profile_type": 0});
        context["masked_paths"] = json!(["/etc/group"]);
        context["readonly_paths"] = json!(["/proc/sys"]);
        context["capabilities"] = json!({"drop_capabilities": ["CHOWN"]});
        let id = scene.start(&pod_id, &pod, &container)?;
        let status = scene.shell(&id, "cat /proc/1/status")?;
        let wanted = if privileged { ours } else { DEFAULT & !CHOWN & ours };
        ensure!(set(&status, "CapEff")? == wanted, "{name}: {status}");
        ensure!(status.contains(if privileged { "Seccomp:\t0" } else { "Seccomp:\t2" }), "{name}: {status}");
        let word = |yes: bool| if yes { "yes" } else { "no" };
        for (script, wanted) in [
            ("test -s /etc/group", privileged),
            ("test -c /dev/kmsg", privileged),
            ("grep -q ' /sys rw,' /proc/self/mountinfo", privileged),
            ("echo 0 2>/dev/null > /proc/sys/net/ipv4/ip_forward", privileged),
        ] {
            let found = scene.shell(&id, &format!("({script}) 2>/dev/null && echo yes || echo no"))?;
            ensure!(found == word(wanted), "{name}: {script}: {found}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Profiles by both fields that a request may name them in, at the start and in an exec.
#[test]
fn seccomp_profiles() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "seccomp");
    let pod_id = scene.run_pod(&pod)?;
    let file = scene.dir.join("no-mkdir.json");
    let rule = json!({"names": ["mkdir", "mkdirat", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    // Recorders write rules of nothing, and calls that this machine does not have; both do nothing.
    let nothing = json!({"names": [], "action": "SCMP_ACT_ERRNO", "args": null});
    let unknown = json!({"names": ["no_such_call"], "action": "SCMP_ACT_KILL"});
    let profile =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [nothing, rule.clone(), unknown, rule]});
    fs::write(&file, profile.to_string())?;
    let file = file.display().to_string();
    // The context, whether there is a filter, whether mkdir(2) and unshare(2) of a user namespace are possible.
    for (name, context, filter, mkdir, unshare) in [
        ("none", json!({}), false, true, true),
        ("default", json!({"seccomp": {"profile_type": 0}}), true, true, false),
        ("unconfined", json!({"seccomp": {"profile_type": 1}}), false, true, true),
        ("localhost", json!({"seccomp": {"profile_type": 2, "localhost_ref": file}}), true, false, true),
        ("old-default", json!({"seccomp_profile_path": "runtime/default"}), true, true, false),
        ("old-localhost", json!({"seccomp_profile_path": format!("localhost/{file}")}), true, false, true),
    ] {
        let mut container = sleeper(name, BUSYBOX);
        if let (Some(into), Value::Object(from)) =
            (container["linux"]["security_context"].as_object_mut(), context)
        {
            into.extend(from);
        }
        let id = scene.start(&pod_id, &pod, &container)?;
        let mode = if filter { "Seccomp:\t2" } else { "Seccomp:\t0" };
        for process in ["1", "self"] {
            let status = scene.shell(&id, &format!("cat /proc/{process}/status"))?;
            ensure!(status.contains(mode), "{name}, {process}: {status}");
        }
        for (script, possible) in [("mkdir /tmp/made", mkdir), ("unshare -U true", unshare)] {
            let found = scene.shell(&id, &format!("{script} 2>/dev/null && echo yes || echo no"))?;
            ensure!((found == "yes") == possible, "{name}: {script}: {found}");
        }
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// An exec has the filter that its container was started with, whatever has become of the profile's file.
#[test]
fn a_profile_is_kept_from_the_start_on() -> Result<()> {
    let Some(mut scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "kept-profile");
    let pod_id = scene.run_pod(&pod)?;
    let file = scene.dir.join("kept.json");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1});
    fs::write(&file, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).to_string())?;
    let mut container = sleeper("main", BUSYBOX);
    container["linux"]["security_context"]["seccomp"] = json!({"profile_type": 2, "localhost_ref": file});
    let id = scene.start(&pod_id, &pod, &container)?;
    let filtered = |scene: &Scene, what: &str| -> Result<()> {
        let script =
            "grep -q 'Seccomp:.2' /proc/self/status && ! mkdir /tmp/made 2>/dev/null && echo filtered";
        let found = scene.shell(&id, script).with_context(|| what.to_owned())?;
        ensure!(found == "filtered", "{what}: {found:?}");
        Ok(())
    };
    filtered(&scene, "as it was")?;
    for (what, text) in [("another profile", r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#), ("no profile", "{")] {
        fs::write(&file, text)?;
        filtered(&scene, what)?;
    }
    fs::remove_file(&file)?;
    filtered(&scene, "without its file")?;
    if scene.agent.is_some() {
        // From the first exec on none reads the disk.
        let launch = scene.agent()?.settings.root().join("containers").join(&id).join("launch.json");
        let elsewhere = launch.with_extension("away");
        fs::rename(&launch, &elsewhere)?;
        filtered(&scene, "from memory")?;
        fs::rename(&elsewhere, &launch)?;
        scene.agent()?.crash()?;
        filtered(&scene, "without its file, after a restart")?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A 32-bit program runs under the default profile, and the profile holds for its calls as well.
#[test]
fn a_32_bit_program_has_the_same_filter() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    if cfg!(not(target_arch = "x86_64")) || !Path::new("/proc/sys/abi/vsyscall32").exists() {
        println!("SKIP: this kernel runs no 32-bit x86 programs");
        return Ok(());
    }
    let oracle = scene.oracle()?;
    let image = scene.registry.image("ia32:1");
    scene.crictl.ok(&["pull", &image])?;
    let pod = pod(&scene.dir, "ia32");
    let pod_id = scene.run_pod(&pod)?;
    let mut container = container("main", &image, &[]);
    container["linux"]["security_context"]["seccomp"] = json!({"profile_type": 0});
    let id = scene.start(&pod_id, &pod, &container)?;
    scene.exited(&id)?;
    let said = scene.crictl.ok(&["logs", &id])?;
    ensure!(said == "32 bits\nunshare: EPERM", "{said}");
    scene.remove_pod(&pod_id)?;
    scene.crictl.ok(&["rmi", &image])?;
    oracle.nothing_left()
}

/// A set of /proc/PID/status.
fn set(status: &str, word: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(":\t"));
    u64::from_str_radix(line.with_context(|| format!("no {word} in {status}"))?, 16).context("a mask")
}
