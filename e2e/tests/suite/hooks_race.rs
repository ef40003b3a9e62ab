//! Processes that look at a container's first one while its hooks run: from a pid namespace that both are in.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    canary::Canary,
    place,
    scene::BUSYBOX,
    specs::{PID_TARGET, container},
};
use serde_json::json;

use crate::hooks::{shared, shared_pod};

/// `SecurityProfile.ProfileType` of CRI.
const UNCONFINED: i32 = 1;

/// Looks through every link of every process for the canary and for a mount of the host's root, one whole pass for each
/// number that it finds in `want`, and says in `done` which one it was. Nothing in here forks.
const SPY: &str = r#"
cd /volume
look() {
    [ -e "$1/CANARY/file" ] || return
    echo "$1" >> escaped
    echo escaped > "$1/CANARY/file"
}
pass() {
    for process in /proc/[0-9]*; do
        [ -d "$process/root/." ] && echo "${process#/proc/} $1" >> seen
        for link in "$process/root" "$process/cwd" "$process"/fd/*; do
            look "$link"
            look "$link/../../../../../../.."
        done
        while read -r _ _ device root place _; do
            [ "$device $root $place" = "HOST / /" ] && echo "$process/mountinfo" >> escaped
        done < "$process/mountinfo"
    done 2>/dev/null
}
while :; do
    read -r number < want || continue
    pass "$number"
    echo "$number" > done
done"#;

/// Takes the next number, and waits until the spy has looked at everything once from then on.
const WATCHED: &str = r#"
cd VOLUME
read -r number < next && number=$((number + 1))
echo $number > next; echo $number > want
until [ "$(cat done)" = $number ]; do sleep 0.01; done"#;

/// A container with SYS_PTRACE in the pod's pid namespace looks at whoever starts there, for as long as hooks run.
#[test]
fn a_race_for_the_hosts_files_while_hooks_run() -> Result<()> {
    let mut volume = PathBuf::new();
    let scene = Scene::ours_with(|settings| {
        let dir = settings.dir.join("hooks");
        volume = settings.dir.join("volume");
        let _ = fs::create_dir(&dir);
        let script = WATCHED.replace("VOLUME", &volume.to_string_lossy());
        for stage in ["prestart", "createRuntime", "createContainer"] {
            let file = json!({
                "version": "1.0.0",
                "hook": {"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60 * place::slowness()},
                "when": {"annotations": {"^holdfast\\.test/hooks$": "^yes$"}}, "stages": [stage],
            });
            let _ = fs::write(dir.join(format!("{stage}.json")), file.to_string());
        }
        settings.runtime = format!("{}\nhooks_dirs = [\"{}\"]\n", settings.runtime, dir.display());
    })?;
    let Some(scene) = scene else { return Ok(()) };
    let oracle = scene.oracle()?;
    let canary = Canary::put()?;
    fs::create_dir(&volume)?;
    for name in ["want", "done", "next"] {
        fs::write(volume.join(name), "0\n")?;
    }
    let pod = shared_pod(&scene);
    let pod_id = scene.run_pod(&pod)?;
    let script = SPY
        .replace("CANARY", canary.path().strip_prefix("/")?.to_string_lossy().as_ref())
        .replace("HOST", &device_of_root()?);
    let mut spy = shared(container("spy", BUSYBOX, &["sh", "-c", &script]));
    spy["linux"]["security_context"]["capabilities"] = json!({"add_capabilities": ["SYS_PTRACE"]});
    // Its profile would forbid what the test is about: a look at a process that has none yet.
    spy["linux"]["security_context"]["apparmor"] = json!({"profile_type": UNCONFINED});
    spy["mounts"] = json!([{"container_path": "/volume", "host_path": volume}]);
    let spy = scene.start(&pod_id, &pod, &spy)?;
    for round in 0..rounds() {
        let mut main = shared(container(&format!("main-{round}"), BUSYBOX, &["true"]));
        main["annotations"] = json!({"holdfast.test/hooks": "yes"});
        if round % 2 == 1 {
            let target = json!({"pid": PID_TARGET, "target_id": spy});
            main["linux"]["security_context"]["namespace_options"] = target;
        }
        // It takes as long as three whole passes of the spy: on a busy machine more than the client waits by itself.
        let (main, sandbox) = scene.create_files(&pod, &main)?;
        let limit = format!("{}m", 3 * place::slowness());
        let id = scene.crictl.ok(&["--timeout", &limit, "create", &pod_id, &main, &sandbox])?;
        let escaped = fs::read_to_string(volume.join("escaped")).unwrap_or_default();
        ensure!(escaped.is_empty(), "round {round}: the host was seen through {escaped}");
        canary.untouched().with_context(|| format!("round {round}"))?;
        // The spy has looked at this very process while each of the hooks ran.
        let inside = pid_inside(&scene, &id)?;
        let seen = fs::read_to_string(volume.join("seen"))?;
        for number in [1, 2, 3].map(|hook| round * 3 + hook) {
            let line = format!("{inside} {number}");
            ensure!(seen.lines().any(|seen| seen == line), "round {round}: {line} is not in {seen}");
        }
        scene.crictl.ok(&["start", &id])?;
        scene.exited(&id)?;
        scene.crictl.ok(&["rm", &id])?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// The pid of a container's first process, as its pid namespace numbers it.
fn pid_inside(scene: &Scene, id: &str) -> Result<String> {
    let pid = scene.crictl.json(&["inspect", id])?["info"]["pid"].as_i64().context("a pid")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("NSpid")?;
    Ok(numbers.split_whitespace().last().context("a pid")?.to_owned())
}

/// The number of the device that the host's root lies on, as mountinfo has it.
fn device_of_root() -> Result<String> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let root = table.lines().map(fields).find(|fields| fields[3] == "/" && fields[4] == "/");
    Ok(root.context("a mount at /")?[2].clone())
}

/// 20, or a hundredth of what `HOLDFAST_E2E_ROUNDS` says where that is more.
fn rounds() -> u32 {
    let asked = std::env::var("HOLDFAST_E2E_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(20, |rounds: u32| (rounds / 100).max(20))
}
