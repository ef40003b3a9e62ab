//! Networks that cannot be taken back yet: no pod, no call and no start waits for them, and all are taken back in the end.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    agent::Settings,
    place, process,
    process::Process,
    scene::own_mounts,
    specs::{self, pod},
    wait,
};
use serde_json::{Value, json};

/// A plugin that notes its calls in `log`, and then does what the file `COMMAND.sh` beside it says.
const PLUGIN: &str = r#"#!/bin/sh
dir=$(dirname "$0")
cat >/dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID netns=$CNI_NETNS" >>"$dir/log"
[ ! -e "$dir/$CNI_COMMAND.sh" ] || . "$dir/$CNI_COMMAND.sh"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.214.0.2/24","interface":0}]}'
"#;
/// Hangs until the test says `go`.
const HANG: &str = r#"until [ -e "$dir/go" ]; do sleep 0.05; done"#;

/// A scene whose pods get their network from that plugin.
struct Scripted {
    scene: Scene,
    dir: PathBuf,
}

impl Scripted {
    fn new(change: impl FnOnce(&mut Settings)) -> Result<Option<Self>> {
        own_mounts()?;
        // /run/netns is a mount point from the first pin on, and stays one.
        process::stdout("ip", ["netns", "add", "hfe2eowed"])?;
        process::stdout("ip", ["netns", "del", "hfe2eowed"])?;
        let scene = Scene::ours_with(|settings| {
            settings.cni_bin_dirs = vec![settings.dir.join("plugins")];
            change(settings);
        })?;
        let Some(mut scene) = scene else { return Ok(None) };
        let dir = scene.dir.join("plugins");
        fs::create_dir(&dir)?;
        fs::write(dir.join("scripted"), PLUGIN)?;
        fs::set_permissions(dir.join("scripted"), fs::Permissions::from_mode(0o755))?;
        let list = json!({"cniVersion": "1.0.0", "name": "owed", "plugins": [
            {"type": "scripted", "capabilities": {"portMappings": true}}]});
        fs::write(scene.agent()?.settings.cni_conf_dir().join("10-owed.conflist"), list.to_string())?;
        Ok(Some(Self { scene, dir }))
    }

    fn does(&self, command: &str, script: &str) -> Result<()> {
        fs::write(self.dir.join(format!("{command}.sh")), script).context("write what the plugin does")
    }

    fn go(&self) -> Result<()> {
        fs::write(self.dir.join("go"), "").context("let the plugin go on")
    }

    /// Calls of this command.
    fn calls(&self, command: &str) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(command)).map(str::to_owned).collect()
    }

    fn owed(&self) -> Result<Vec<Value>> {
        let info = self.scene.crictl.json(&["info"])?;
        info["network"]["owedDels"].as_array().cloned().with_context(|| format!("no owedDels in {info}"))
    }

    fn records(&mut self) -> Result<usize> {
        let dir = self.scene.agent()?.settings.root().join("network/pods");
        Ok(fs::read_dir(dir)?.count())
    }

    /// Kills and restarts the agent in a RunPodSandbox, when the plugin has got so far.
    fn crash_in_add(&mut self, is_there: impl FnMut() -> Result<bool>) -> Result<()> {
        let config = specs::write(&self.scene.dir, &pod(&self.scene.dir, "cut-off"))?;
        let mut request: Command = self.scene.crictl.command(&["runp", &config.to_string_lossy()]);
        let mut client =
            Process::spawn(request.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()))?;
        wait::until_true("the plugin", is_there)?;
        self.scene.agent()?.crash()?;
        client.end(wait::LIMIT)?;
        Ok(())
    }

    fn until_nothing_is_owed(&mut self) -> Result<()> {
        wait::until("the end of every DEL", Duration::from_secs(30), || {
            Ok((self.records()? == 0 && self.owed()?.is_empty()).then_some(()))
        })
    }
}

fn pin(pod_id: &str) -> PathBuf {
    Path::new("/run/netns").join(format!("holdfast-{pod_id}"))
}

/// The plugins of a cluster reach their daemon through pods of this very node, which come when the agent serves.
#[test]
fn after_a_reboot_the_agent_serves_while_every_del_hangs() -> Result<()> {
    let boot_id = tempfile::NamedTempFile::new()?;
    fs::write(boot_id.path(), "11111111-1111-1111-1111-111111111111\n")?;
    let path = boot_id.path().to_string_lossy().into_owned();
    let with_boot_id = |settings: &mut Settings| {
        settings.environment.push(("HOLDFAST_TEST_BOOT_ID_FILE".to_owned(), path));
    };
    let Some(mut scripted) = Scripted::new(with_boot_id)? else { return Ok(()) };
    let mut oracle = scripted.scene.oracle()?;
    let mut pods = Vec::new();
    for number in 0..10 {
        pods.push(scripted.scene.run_pod(&pod(&scripted.scene.dir, &format!("old-{number}")))?);
    }
    let before = scripted.calls("DEL").len();
    scripted.does("DEL", HANG)?;
    scripted.scene.agent()?.kill9()?;
    process::end_descendants()?;
    for pod_id in &pods {
        process::stdout("umount", ["-l", &pin(pod_id).to_string_lossy()])?;
    }
    fs::write(boot_id.path(), "22222222-2222-2222-2222-222222222222\n")?;

    let begin = Instant::now();
    scripted.scene.agent()?.start_again()?;
    let served = begin.elapsed();
    ensure!(served < Duration::from_secs(2) * place::slowness(), "it served after {served:?}");
    oracle.agent_is_now(scripted.scene.agent()?.pid());
    wait::until_true("four DELs under way", || Ok(scripted.calls("DEL").len() == before + 4))?;
    ensure!(scripted.scene.crictl.ok(&["pods", "-q"])?.lines().count() == 10);
    let new = scripted.scene.run_pod(&pod(&scripted.scene.dir, "new"))?;
    ensure!(scripted.calls("DEL").len() == before + 4, "more than four at a time");

    // Without a namespace, as the specification has it for one that is gone.
    let dels = scripted.calls("DEL").split_off(before);
    ensure!(dels.iter().all(|call| call.ends_with(" netns=")), "{dels:?}");
    scripted.go()?;
    wait::until("every DEL", Duration::from_secs(30), || {
        let dels = scripted.calls("DEL");
        Ok(pods.iter().all(|pod_id| dels.iter().any(|call| call.contains(pod_id))).then_some(()))
    })?;
    for pod_id in pods.iter().chain([&new]) {
        scripted.scene.remove_pod(pod_id)?;
    }
    scripted.until_nothing_is_owed()?;
    ensure!(scripted.calls("DEL").len() == before + 11, "{:?}", scripted.calls("DEL"));
    oracle.nothing_left()
}

#[test]
fn a_del_that_hangs_keeps_no_pod() -> Result<()> {
    let Some(mut scripted) = Scripted::new(|_| {})? else { return Ok(()) };
    let mut oracle = scripted.scene.oracle()?;
    let with_port = |scripted: &Scripted, name: &str| {
        let mut pod = pod(&scripted.scene.dir, name);
        pod["port_mappings"] = json!([{"protocol": 0, "container_port": 80, "host_port": 18099}]);
        pod
    };
    let pod_id = scripted.scene.run_pod(&with_port(&scripted, "kept"))?;
    scripted.does("DEL", HANG)?;
    let begin = Instant::now();
    for command in ["stopp", "rmp"] {
        // crictl itself would wait for 2 s.
        scripted.scene.crictl.ok(&["--timeout", "5m", command, &pod_id])?;
    }
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(30) * place::slowness(), "it took {took:?}");
    ensure!(scripted.scene.crictl.ok(&["pods", "-q"])?.is_empty(), "the pod is listed");
    ensure!(pin(&pod_id).exists(), "DEL has lost its namespace");
    let owed = scripted.owed()?;
    ensure!(owed.len() == 1 && owed[0]["podSandboxId"] == pod_id.as_str(), "{owed:?}");
    ensure!(owed[0]["name"] == "kept" && owed[0]["hostPorts"] == json!(["tcp *:18099"]), "{owed:?}");

    // The port is not free, and who has it is told, also by the next agent.
    let wanted = specs::write(&scripted.scene.dir, &with_port(&scripted, "wanted"))?;
    let wanted = wanted.to_string_lossy().into_owned();
    for _ in 0..2 {
        let refusal = scripted.scene.crictl.refused(&["runp", &wanted])?;
        ensure!(refusal.text.contains("e2e/kept") && refusal.text.contains("18099"), "{refusal:?}");
        scripted.scene.agent()?.crash()?;
        oracle.agent_is_now(scripted.scene.agent()?.pid());
    }
    scripted.go()?;
    scripted.until_nothing_is_owed()?;
    ensure!(!pin(&pod_id).exists(), "a pin stays");
    let pod_id = scripted.scene.crictl.ok(&["runp", &wanted])?;
    scripted.scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// What fails is tried again by itself, and its words are to be read meanwhile.
#[test]
fn a_del_that_fails_keeps_no_pod() -> Result<()> {
    let Some(mut scripted) = Scripted::new(|_| {})? else { return Ok(()) };
    let oracle = scripted.scene.oracle()?;
    let pod_id = scripted.scene.run_pod(&pod(&scripted.scene.dir, "failing"))?;
    scripted.does("DEL", "echo the daemon is away >&2; exit 1")?;
    scripted.scene.remove_pod(&pod_id)?;
    ensure!(scripted.scene.crictl.ok(&["pods", "-q"])?.is_empty(), "the pod is listed");
    let owed = scripted.owed()?;
    ensure!(owed.len() == 1 && owed[0]["error"].to_string().contains("the daemon is away"), "{owed:?}");
    wait::until_true("another try", || {
        Ok(scripted.calls("DEL").iter().filter(|call| call.contains(&pod_id)).count() > 2)
    })?;
    scripted.does("DEL", "")?;
    scripted.until_nothing_is_owed()?;
    oracle.nothing_left()
}

/// An ADD outlives its agent. It is ended before DEL, with its children, or it would make what nobody takes back.
#[test]
fn an_add_of_a_dead_agent_is_ended_before_del() -> Result<()> {
    let Some(mut scripted) = Scripted::new(|_| {})? else { return Ok(()) };
    let mut oracle = scripted.scene.oracle()?;
    let before = scripted.calls("DEL").len();
    // A child in a session of its own, as well.
    scripted.does("ADD", r#"echo $$ >>"$dir/pids"; setsid sh -c "echo \$\$ >>$dir/pids; sleep 1000; touch $dir/made" & sleep 1000; touch "$dir/made""#)?;
    scripted.does("DEL", r#"for pid in $(cat "$dir/pids"); do
        case $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null) in ''|Z|X) ;; *) echo $pid >>"$dir/alive" ;; esac
    done"#)?;
    let pids = scripted.dir.join("pids");
    scripted.crash_in_add(|| Ok(fs::read_to_string(&pids).unwrap_or_default().lines().count() == 2))?;
    oracle.agent_is_now(scripted.scene.agent()?.pid());
    // The grace period of what is at work, and then the kill.
    wait::until("DEL", Duration::from_secs(30), || Ok((scripted.calls("DEL").len() > before).then_some(())))?;
    scripted.until_nothing_is_owed()?;
    let alive = fs::read_to_string(scripted.dir.join("alive")).unwrap_or_default();
    ensure!(alive.is_empty(), "at work beside DEL: {alive}");
    ensure!(!scripted.dir.join("made").exists(), "ADD came to its end");
    oracle.nothing_left()
}

/// A plugin that is killed may leave what the next DEL cannot find: one that ends soon is waited for.
#[test]
fn an_add_of_a_dead_agent_may_end_by_itself() -> Result<()> {
    let Some(mut scripted) = Scripted::new(|_| {})? else { return Ok(()) };
    let mut oracle = scripted.scene.oracle()?;
    let before = scripted.calls("DEL").len();
    scripted.does("ADD", r#"touch "$dir/begun"; sleep 2; touch "$dir/made" "$dir/finished""#)?;
    scripted.does("DEL", r#"rm -f "$dir/made""#)?;
    let begun = scripted.dir.join("begun");
    scripted.crash_in_add(|| Ok(begun.exists()))?;
    oracle.agent_is_now(scripted.scene.agent()?.pid());
    // The grace period of what is at work, and then the kill.
    wait::until("DEL", Duration::from_secs(30), || Ok((scripted.calls("DEL").len() > before).then_some(())))?;
    scripted.until_nothing_is_owed()?;
    ensure!(scripted.dir.join("finished").exists(), "ADD was killed");
    ensure!(!scripted.dir.join("made").exists(), "DEL came before the end of ADD");
    oracle.nothing_left()
}
