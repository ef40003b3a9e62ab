//! A CNI plugin that never returns: in ADD, in DEL, and over a restart of the daemon.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use holdfast_cri::v1;
use holdfast_e2e::place;
use serde_json::json;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed, recovers},
};
use crate::{
    ledger,
    report::{self, Report},
    rpc, specs,
    stage::Setup,
    wire::{Outcome, outcome},
};

/// What a client waits for a pod whose network never comes.
const PATIENCE: Duration = Duration::from_secs(2);
/// StopPodSandbox and RemovePodSandbox beside a DEL that hangs, both.
const END_LIMIT: Duration = Duration::from_secs(40);
/// A start beside it.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    framed(Fault::Plugin, setup, options, async |frame| {
        let plugin = Plugin::put(frame)?;
        frame.stage.restart().await?;
        let small =
            Small::run(&frame.caller, specs::PLAIN, "before").await.map_err(failed("RunPodSandbox"))?;
        small.sleeper("main").await?;
        let in_add = hang_in_add(frame, &plugin).await;
        plugin.hang("ADD", false)?;
        in_add?;
        let in_del = hang_in_del(frame, &plugin, &small).await;
        plugin.hang("DEL", false)?;
        in_del?;
        recovers(&frame.caller, Duration::from_secs(20)).await;
        frame.stage.use_cni(false)?;
        frame.stage.restart().await.map(drop)
    })
    .await
}

async fn hang_in_add(frame: &mut Frame, plugin: &Plugin) -> Result<()> {
    plugin.hang("ADD", true)?;
    let world = frame.world();
    let config = specs::pod(specs::PLAIN, "in-vain", 0, &world.logs, &world.cgroup_parent);
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let call = rpc::run_pod_sandbox(request)(frame.caller.cri.clone());
    if let Outcome::Answer(answer) = outcome(call, PATIENCE).await {
        frame.found(ledger::Fault::WrongState, &format!("a pod without its network: {answer:?}"));
    }
    // Others need no plugin.
    let begin = Instant::now();
    let host = Small::run(&frame.caller, specs::ON_HOST, "on-host").await.map_err(failed("RunPodSandbox"))?;
    let (id, _) = host.sleeper("main").await?;
    host.exec(&id, "true", 5).await.map_err(failed("ExecSync"))?;
    host.end().await.map_err(failed("the end of a pod on the host's network"))?;
    frame.report.figure("a pod on the host's network beside it, ms", report::milliseconds(begin.elapsed()));
    frame.bystander.exec("beside an ADD that hangs").await;
    Ok(())
}

async fn hang_in_del(frame: &mut Frame, plugin: &Plugin, small: &Small) -> Result<()> {
    plugin.hang("DEL", true)?;
    let begin = Instant::now();
    let ended = small.end().await;
    let time = begin.elapsed();
    frame.report.figure("end of a pod whose DEL hangs, ms", report::milliseconds(time));
    match ended {
        Err(failure) => {
            frame.found(ledger::Fault::Stuck, &format!("the end of a pod whose DEL hangs: {failure}"));
        }
        Ok(()) if time > END_LIMIT => {
            let text = format!("the end of a pod whose DEL hangs: {:.1} s", time.as_secs_f64());
            frame.found(ledger::Fault::Slow, &text);
        }
        Ok(()) => {}
    }
    let restart = frame.stage.restart().await.context("a restart beside a DEL that hangs")?;
    frame.report.figure("start beside a DEL that hangs, ms", report::milliseconds(restart));
    if restart > START_LIMIT {
        let text = format!("a start beside a DEL that hangs: {:.1} s", restart.as_secs_f64());
        frame.found(ledger::Fault::Slow, &text);
    }
    frame.bystander.check("after a restart beside a DEL that hangs").await;
    frame.bystander.exec("after a restart beside a DEL that hangs").await;
    Ok(())
}

/// The real bridge plugin behind a script that waits as long as a file is there.
struct Plugin {
    dir: PathBuf,
}

impl Plugin {
    fn put(frame: &Frame) -> Result<Self> {
        let dir = frame.stage.dir.join("plugins");
        let bridge = place::cni_plugins().join("bridge");
        let script = format!(
            "#!/bin/sh\nwhile [ -e {dir}/hang-$CNI_COMMAND ]; do sleep 0.05; done\nexec {bridge}\n",
            dir = dir.display(),
            bridge = bridge.display()
        );
        let path = dir.join("hung-bridge");
        fs::write(&path, script).context("write a plugin")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make a plugin executable")?;
        frame.stage.use_plugins(&[json!({
            "type": "hung-bridge", "bridge": crate::stage::BRIDGE, "isGateway": true, "ipMasq": true,
            "ipam": frame.stage.ipam(),
        })])?;
        Ok(Self { dir })
    }

    fn hang(&self, command: &str, hangs: bool) -> Result<()> {
        let file = self.dir.join(format!("hang-{command}"));
        if hangs {
            return fs::write(&file, "").with_context(|| format!("write {}", file.display()));
        }
        let _ = fs::remove_file(&file);
        Ok(())
    }
}
