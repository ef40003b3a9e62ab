//! What a user can get wrong: the right code, from the right call, with a sentence that names the thing, and nothing
//! left behind.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    crictl::Refusal,
    scene::BUSYBOX,
    specs::{self, container, pod, sleeper},
};
use serde_json::{Value, json};

#[test]
fn unknown_ids() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let id = "0123456789abcdef".repeat(4);
    for call in [
        vec!["inspect", &id],
        vec!["inspectp", &id],
        vec!["start", &id],
        vec!["exec", "-s", &id, "true"],
        vec!["update", "--memory", "67108864", &id],
    ] {
        named(&scene.crictl.refused(&call)?, &["NotFound"], &id[..12]).with_context(|| call.join(" "))?;
    }
    let pod = pod(&scene.dir, "nowhere");
    let (container, pod) = scene.create_files(&pod, &sleeper("main", BUSYBOX))?;
    named(&scene.crictl.refused(&["create", &id, &container, &pod])?, &["NotFound"], &id[..12])?;
    // Stopping what is not there is done already.
    scene.crictl.ok(&["stopp", &id])?;
    oracle.nothing_left()
}

#[test]
fn malformed_references() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for reference in ["host.test/UPPER:1", "a b", "busybox@sha256:short", "name:tag:tag", "-dash/x"] {
        let refusal = scene.crictl.refused(&["pull", "--", reference])?;
        named(&refusal, &["InvalidArgument"], reference).with_context(|| reference.to_owned())?;
    }
    oracle.nothing_left()
}

#[test]
fn what_create_refuses() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "refusals");
    let pod_id = scene.run_pod(&pod)?;
    let within = holdfast_e2e::Oracle::look(scene.scope())?;
    let busybox = |change: fn(&mut Value)| {
        let mut container = sleeper("main", BUSYBOX);
        change(&mut container);
        container
    };
    let invalid = &["InvalidArgument"][..];
    let absent = &["NotFound", "InvalidArgument"][..];
    let cases = [
        (
            "an image that is not here",
            container("main", "holdfast.test/absent:1", &["x"]),
            &["NotFound"][..],
            "absent",
        ),
        ("a relative directory", busybox(|c| c["working_dir"] = "relative".into()), invalid, "relative"),
        (
            "a user that is not there",
            busybox(|c| user(c, json!({"run_as_username": "ghost"}))),
            absent,
            "ghost",
        ),
        (
            "a user beyond 32 bits",
            busybox(|c| user(c, json!({"run_as_username": "4294967296"}))),
            absent,
            "4294967296",
        ),
        ("a negative user", busybox(|c| user(c, json!({"run_as_user": {"value": -7}}))), invalid, "-7"),
        ("negative memory", busybox(|c| limit(c, "memory_limit_in_bytes", -5)), invalid, "memory"),
        ("negative shares", busybox(|c| limit(c, "cpu_shares", -1)), invalid, "shares"),
        ("a negative quota", busybox(|c| limit(c, "cpu_quota", -2)), invalid, "quota"),
        ("a tiny period", busybox(|c| limit(c, "cpu_period", -3)), invalid, "period"),
        (
            "a source that cannot be made",
            busybox(|c| mount(c, "/proc/no/such/source", "/data")),
            absent,
            "/proc/no/such/source",
        ),
        ("a relative source", busybox(|c| mount(c, "no/slash", "/data")), absent, "no/slash"),
        ("a profile that is not there", busybox(profile), absent, "no-such-profile"),
        ("an unknown capability", busybox(capability), invalid, "CAP_NONSENSE"),
        (
            "more than the pod has",
            busybox(|c| c["linux"]["security_context"]["privileged"] = true.into()),
            invalid,
            "privileged",
        ),
    ];
    for (what, container, codes, word) in cases {
        let (container, pod) = scene.create_files(&pod, &container)?;
        let refusal =
            scene.crictl.refused(&["create", &pod_id, &container, &pod]).with_context(|| what.to_owned())?;
        named(&refusal, codes, word).with_context(|| what.to_owned())?;
        within.nothing_left().with_context(|| what.to_owned())?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn users_of_images_that_are_not_there() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let pod = pod(&scene.dir, "ghosts");
    let pod_id = scene.run_pod(&pod)?;
    // Their passwd files have lines that make root of all of them but the ghost (containerd CVE-2024-40635).
    for (name, word) in [
        ("user-ghost", "ghost"),
        ("user-huge", "4294967296"),
        ("user-minus", "-1"),
        ("user-suffix", "65536x"),
    ] {
        let image = scene.registry.image(&format!("{name}:1"));
        scene.crictl.ok(&["pull", &image])?;
        let (container, pod) = scene.create_files(&pod, &sleeper("main", &image))?;
        let refusal = scene.crictl.refused(&["create", &pod_id, &container, &pod])?;
        named(&refusal, &["NotFound", "InvalidArgument"], word)?;
    }
    // A number is a number, whatever passwd calls it.
    let image = scene.registry.image("user-digits:1");
    scene.crictl.ok(&["pull", &image])?;
    let id = scene.start(&pod_id, &pod, &sleeper("digits", &image))?;
    ensure!(scene.shell(&id, "id -u; grep 1234 /etc/passwd")? == "1234\n1234:x:0:0:root:/root:/bin/sh");
    scene.remove_pod(&pod_id)
}

/// What only exec can find out is Start's error, and the container is EXITED with 128 and StartError.
#[test]
fn what_start_refuses() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "starts");
    let pod_id = scene.run_pod(&pod)?;
    let mut file_as_directory = container("workdir", BUSYBOX, &["true"]);
    file_as_directory["working_dir"] = "/etc/passwd".into();
    for (container, word) in [
        (container("absent", BUSYBOX, &["/no/such/command"]), "/no/such/command"),
        (container("unfound", BUSYBOX, &["no-such-command"]), "no-such-command"),
        (container("directory", BUSYBOX, &["/etc"]), "/etc"),
        (container("data", BUSYBOX, &["/etc/passwd"]), "/etc/passwd"),
        (file_as_directory, "/etc/passwd"),
    ] {
        let id = scene.create(&pod_id, &pod, &container).with_context(|| word.to_owned())?;
        let refusal = scene.crictl.refused(&["start", &id])?;
        named(&refusal, &["NotFound", "InvalidArgument", "FailedPrecondition", "PermissionDenied"], word)?;
        let status = &scene.crictl.json(&["inspect", &id])?["status"];
        ensure!(status["state"] == "CONTAINER_EXITED", "{word}: {status}");
        ensure!(status["exitCode"] == 128 && status["reason"] == "StartError", "{word}: {status}");
        ensure!(status["message"].as_str().is_some_and(|text| text.contains(word)), "{word}: {status}");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn what_exec_refuses() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "execs");
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.create(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    let early = scene.crictl.refused(&["exec", "-s", &id, "true"])?;
    ensure!(early.code == "FailedPrecondition", "exec before start: {early:?}");
    scene.crictl.ok(&["start", &id])?;
    let missing = scene.crictl.call(&["exec", "-s", &id, "no-such-command"])?;
    let text =
        String::from_utf8_lossy(&missing.stderr).into_owned() + &String::from_utf8_lossy(&missing.stdout);
    ensure!(!missing.status.success() && text.contains("no-such-command"), "{text}");
    let late = scene.crictl.refused(&["exec", "-s", "--timeout", "1", &id, "sleep", "100"])?;
    named(&late, &["DeadlineExceeded"], "sleep")?;
    holdfast_e2e::wait::until_true("the timed-out command to be gone", || {
        Ok(!scene
            .crictl
            .ok(&["exec", "-s", &id, "ps", "-o", "args"])?
            .lines()
            .any(|line| line == "sleep 100"))
    })?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn bad_pods() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let changed = |name: &str, change: fn(&mut Value)| {
        let mut pod = pod(&scene.dir, name);
        change(&mut pod);
        pod
    };
    for (what, pod, codes, word) in [
        (
            "a host name that is too long",
            changed("name", |p| p["hostname"] = "x".repeat(65).into()),
            &["InvalidArgument"][..],
            "hostname",
        ),
        (
            "a sysctl of the host's",
            changed("sysctl", |p| p["linux"]["sysctls"] = json!({"kernel.panic": "1"})),
            &["InvalidArgument"][..],
            "kernel.panic",
        ),
        (
            "two mappings",
            changed("mappings", |p| {
                let mapping = json!({"container_id": 0, "host_id": 70_000, "length": 65_536});
                p["linux"]["security_context"]["namespace_options"]["userns_options"] =
                    json!({"mode": 0, "uids": [mapping, mapping], "gids": [mapping]});
            }),
            &["InvalidArgument"][..],
            "mapping",
        ),
    ] {
        let config = specs::write(&scene.dir, &pod)?;
        let refusal =
            scene.crictl.refused(&["runp", &config.to_string_lossy()]).with_context(|| what.to_owned())?;
        named(&refusal, codes, word).with_context(|| what.to_owned())?;
    }
    let config = specs::write(&scene.dir, &pod(&scene.dir, "handler"))?;
    let refusal =
        scene.crictl.refused(&["runp", "--runtime", "no-such-handler", &config.to_string_lossy()])?;
    named(&refusal, &["InvalidArgument", "NotFound"], "no-such-handler")?;
    ensure!(scene.crictl.ok(&["pods", "-q"])?.is_empty());
    oracle.nothing_left()
}

#[test]
fn a_request_over_16_mib() -> Result<()> {
    let Some(scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let mut pod = pod(&scene.dir, "large");
    pod["annotations"] = json!({"large": "x".repeat(17 << 20)});
    let config = specs::write(&scene.dir, &pod)?;
    let refusal = scene.crictl.refused(&["runp", &config.to_string_lossy()])?;
    ensure!(refusal.code == "ResourceExhausted", "{} {:.300}", refusal.code, refusal.text);
    oracle.nothing_left()
}

fn user(container: &mut Value, user: Value) {
    let context = container["linux"]["security_context"].as_object_mut();
    if let (Some(context), Value::Object(user)) = (context, user) {
        context.extend(user);
    }
}

fn limit(container: &mut Value, name: &str, value: i64) {
    container["linux"]["resources"] = json!({name: value});
}

fn mount(container: &mut Value, source: &str, target: &str) {
    container["mounts"] = json!([{"host_path": source, "container_path": target}]);
}

fn profile(container: &mut Value) {
    container["linux"]["security_context"]["seccomp"] =
        json!({"profile_type": 2, "localhost_ref": "/no-such-profile.json"});
}

fn capability(container: &mut Value) {
    container["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["CAP_NONSENSE"]});
}

fn named(refusal: &Refusal, codes: &[&str], word: &str) -> Result<()> {
    ensure!(codes.contains(&refusal.code.as_str()), "{codes:?} expected: {refusal:?}");
    ensure!(refusal.text.contains(word), "{word:?} is not named: {refusal:?}");
    Ok(())
}
