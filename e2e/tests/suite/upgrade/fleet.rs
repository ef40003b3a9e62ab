//! Pods of every kind with containers in every state, and all that can be asked of them.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    process::Process,
    scene::BUSYBOX,
    specs::{self, NODE, PID_POD, container, pod, sleeper},
    wait,
};
use serde_json::{Value, json};

/// Notes its calls in `log`.
const PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$(dirname "$0")/log"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.214.0.2/24","interface":0}]}'
"#;
/// Lines with numbers, of which none may be missing.
const TICKER: &str = "trap 'exit 0' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.05; done";
/// In the log of whoever reads its stdin.
const READER: &str = "trap 'exit 0' TERM; while read line; do echo got $line; done";

/// Makes a pod's configuration one of another kind.
type Change = fn(&mut Value);

/// A pod with a container that sleeps.
struct Tenant {
    pod: Value,
    id: String,
    main: String,
    pid: Value,
    network: Value,
}

/// A container whose log is written and rotated all the time.
struct Ticker {
    id: String,
    log: PathBuf,
    rotated: Vec<PathBuf>,
}

/// All pods and containers of the test.
pub struct Fleet {
    plugins: PathBuf,
    conflist: PathBuf,
    tenants: Vec<Tenant>,
    created: String,
    exited: String,
    reader: String,
    ticker: Option<Ticker>,
}

impl Fleet {
    /// Nothing yet; the plugin is there, and its configuration is not.
    pub fn new(scene: &Scene) -> Result<Self> {
        let settings = &scene.agent.as_ref().context("an agent")?.settings;
        let plugins = settings.dir.join("plugins");
        fs::create_dir_all(&plugins)?;
        fs::write(plugins.join("noted"), PLUGIN)?;
        fs::set_permissions(plugins.join("noted"), fs::Permissions::from_mode(0o755))?;
        let conflist = settings.cni_conf_dir().join("10-noted.conflist");
        let none = String::new();
        let (tenants, ticker) = (Vec::new(), None);
        Ok(Self {
            plugins,
            conflist,
            tenants,
            created: none.clone(),
            exited: none.clone(),
            reader: none,
            ticker,
        })
    }

    /// Number of pods.
    pub fn pods(&self) -> usize {
        self.tenants.len()
    }

    /// Makes one of each kind.
    pub fn grow(&mut self, scene: &Scene, name: &str) -> Result<()> {
        self.add_pod(scene, name)?;
        let kinds: [(&str, Change); 3] = [
            ("host", |pod| {
                pod["linux"]["security_context"]["namespace_options"]["network"] = NODE.into();
                pod["hostname"] = "".into();
            }),
            ("user", |pod| specs::with_user_namespace(pod, 1 << 20)),
            ("shared", |pod| pod["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into()),
        ];
        for (kind, change) in kinds {
            let mut pod = pod(&scene.dir, &format!("{name}-{kind}"));
            change(&mut pod);
            self.add(scene, pod)?;
        }
        // From here on all that come are the plugin's: the embedded network does not take the place of CNI.
        let list = json!({"cniVersion": "1.0.0", "name": "noted", "plugins": [{"type": "noted"}]});
        fs::write(&self.conflist, list.to_string())?;
        self.add(scene, pod(&scene.dir, &format!("{name}-cni")))?;
        self.fill(scene)
    }

    /// Containers in the first pod: created, exited, one that reads and one that writes.
    fn fill(&mut self, scene: &Scene) -> Result<()> {
        let first = self.first()?;
        let (pod_id, pod) = (first.id.clone(), first.pod.clone());
        let script = container("exited", BUSYBOX, &["sh", "-c", "echo bye; exit 7"]);
        self.exited = scene.start(&pod_id, &pod, &script)?;
        scene.exited(&self.exited)?;
        let mut reader = container("reader", BUSYBOX, &["sh", "-c", READER]);
        reader["stdin"] = true.into();
        self.reader = scene.start(&pod_id, &pod, &reader)?;
        let ticker = container("ticker", BUSYBOX, &["sh", "-c", TICKER]);
        let id = scene.start(&pod_id, &pod, &ticker)?;
        self.ticker = Some(Ticker { id, log: scene.log(&pod, &ticker), rotated: Vec::new() });
        self.created = scene.create(&pod_id, &pod, &sleeper("created", BUSYBOX))?;
        Ok(())
    }

    /// A pod on a network of its own.
    pub fn add_pod(&mut self, scene: &Scene, name: &str) -> Result<()> {
        self.add(scene, pod(&scene.dir, name))
    }

    fn add(&mut self, scene: &Scene, mut pod: Value) -> Result<()> {
        if pod["linux"]["security_context"]["namespace_options"]["network"] != NODE {
            pod["port_mappings"] =
                json!([{"protocol": 0, "container_port": 80, "host_port": 19_000 + self.pods()}]);
        }
        let id = scene.run_pod(&pod)?;
        let mut sleeper = sleeper("main", BUSYBOX);
        if pod["linux"]["security_context"]["namespace_options"]["pid"] == PID_POD {
            sleeper["linux"]["security_context"]["namespace_options"]["pid"] = PID_POD.into();
        }
        let main = scene.start(&id, &pod, &sleeper)?;
        let pid = scene.crictl.json(&["inspect", &main])?["info"]["pid"].clone();
        let network = network(scene, &id)?;
        self.tenants.push(Tenant { pod, id, main, pid, network });
        Ok(())
    }

    fn first(&self) -> Result<&Tenant> {
        self.tenants.first().context("no pod")
    }

    /// An exec session that its client does not end.
    pub fn session(&self, scene: &Scene) -> Result<Session> {
        let main = self.first()?.main.clone();
        let out = scene.dir.join("session");
        let mut command =
            scene.crictl.command(&["exec", "-i", &main, "sh", "-c", "echo here; exec sleep 5000"]);
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(Stdio::null());
        let client = Process::spawn(&mut command)?;
        wait::until_true("the session", || Ok(fs::read_to_string(&out)? == "here\n"))?;
        fs::remove_file(out)?;
        Ok(Session { client, main })
    }

    /// All that runs is what it was, and does what it is asked.
    pub fn works(&mut self, scene: &Scene, step: usize) -> Result<()> {
        for tenant in &self.tenants {
            tenant.works(scene, step).with_context(|| format!("pod {}", tenant.pod["metadata"]["name"]))?;
        }
        let crictl = &scene.crictl;
        let status = scene.status(&self.exited)?;
        ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 7, "{status}");
        ensure!(crictl.ok(&["logs", &self.exited])? == "bye");
        ensure!(crictl.container_state(&self.created)? == "CONTAINER_CREATED");
        self.is_read(scene, &format!("line-{step}"))?;
        self.rotate(scene)
    }

    /// Attaches, and says one line.
    fn is_read(&self, scene: &Scene, line: &str) -> Result<()> {
        let mut command = scene.crictl.command(&["attach", "-i", &self.reader]);
        let out = scene.dir.join("attached");
        let (read, mut write) = std::io::pipe()?;
        command.stdin(read).stdout(File::create(&out)?).stderr(Stdio::null());
        let mut client = Process::spawn(&mut command)?;
        command.stdin(Stdio::null());
        write.write_all(format!("{line}\n").as_bytes()).context("write to the client")?;
        let wanted = format!("got {line}");
        wait::until_true("the line at who is attached", || Ok(fs::read_to_string(&out)?.contains(&wanted)))?;
        wait::until_true("the line in the log", || {
            Ok(scene.crictl.ok(&["logs", &self.reader])?.contains(&wanted))
        })?;
        client.kill()?;
        fs::remove_file(out).context("remove what was read")
    }

    /// As a kubelet does it: rename, then ReopenContainerLog.
    fn rotate(&mut self, scene: &Scene) -> Result<()> {
        let ticker = self.ticker.as_mut().context("no ticker")?;
        let away = ticker.log.with_extension(format!("old-{}", ticker.rotated.len()));
        fs::rename(&ticker.log, &away)?;
        ticker.rotated.push(away);
        scene.crictl.ok(&["logs", "--reopen", &ticker.id])?;
        wait::until_true("a line in the new log", || Ok(fs::read_to_string(&ticker.log)?.contains("tick")))
    }

    /// Starts what was created, ends it, and prepares another; one more container in a pod of each kind comes and goes.
    pub fn use_up(&mut self, scene: &Scene, step: usize) -> Result<()> {
        let crictl = &scene.crictl;
        let end = |id: &str| -> Result<()> {
            crictl.ok(&["stop", "--timeout", "10", id])?;
            let status = scene.status(id)?;
            ensure!(status["state"] == "CONTAINER_EXITED" && status["exitCode"] == 0, "{status}");
            crictl.ok(&["rm", id]).map(drop)
        };
        crictl.ok(&["start", &self.created])?;
        ensure!(crictl.ok(&["exec", "-s", &self.created, "echo", "up"])? == "up");
        end(&self.created)?;
        for tenant in &self.tenants {
            let id = scene.start(&tenant.id, &tenant.pod, &tenant.like_main(&format!("guest-{step}")))?;
            ensure!(crictl.ok(&["exec", "-s", &id, "echo", "up"])? == "up");
            end(&id)?;
        }
        let first = self.first()?;
        self.created = scene.create(&first.id, &first.pod, &sleeper(&format!("created-{step}"), BUSYBOX))?;
        Ok(())
    }

    /// Ends and removes all of it; the log is complete, and every ADD has its DEL.
    pub fn remove(self, scene: &Scene) -> Result<()> {
        let ticker = self.ticker.as_ref().context("no ticker")?;
        scene.crictl.ok(&["stop", "--timeout", "10", &ticker.id])?;
        let mut numbers = Vec::new();
        for log in ticker.rotated.iter().chain([&ticker.log]) {
            numbers.append(&mut ticks(log)?);
        }
        let expected: Vec<usize> = (0..numbers.len()).collect();
        ensure!(numbers == expected, "{} lines, and not all in their order: {numbers:?}", numbers.len());
        println!("NOTE: {} lines in {} log files, none missing", numbers.len(), ticker.rotated.len() + 1);
        for tenant in &self.tenants {
            scene.remove_pod(&tenant.id)?;
        }
        let log = fs::read_to_string(self.plugins.join("log"))?;
        let calls = |command: &str| -> Vec<String> {
            let lines = log.lines().filter_map(|line| line.strip_prefix(command));
            lines.map(str::to_owned).collect()
        };
        ensure!(!calls("ADD").is_empty() && calls("ADD") == calls("DEL"), "{log}");
        Ok(())
    }
}

fn ticks(log: &Path) -> Result<Vec<usize>> {
    let text = fs::read_to_string(log)?;
    let number = |line: &str| line.rsplit_once("tick ")?.1.parse().ok();
    text.lines().map(|line| number(line).with_context(|| format!("{line:?} in {}", log.display()))).collect()
}

fn network(scene: &Scene, pod_id: &str) -> Result<Value> {
    let status = scene.crictl.json(&["inspectp", pod_id])?["status"].clone();
    ensure!(status["state"] == "SANDBOX_READY", "{status}");
    Ok(status["network"].clone())
}

impl Tenant {
    fn like_main(&self, name: &str) -> Value {
        let mut like = sleeper(name, BUSYBOX);
        let pids = &self.pod["linux"]["security_context"]["namespace_options"]["pid"];
        like["linux"]["security_context"]["namespace_options"]["pid"] = pids.clone();
        like
    }

    fn works(&self, scene: &Scene, step: usize) -> Result<()> {
        let crictl = &scene.crictl;
        let inspected = crictl.json(&["inspect", &self.main])?;
        ensure!(inspected["status"]["state"] == "CONTAINER_RUNNING", "{}", inspected["status"]);
        ensure!(inspected["info"]["pid"] == self.pid, "another process");
        ensure!(network(scene, &self.id)? == self.network, "another network");
        ensure!(crictl.ok(&["exec", "-s", &self.main, "echo", "hello"])? == "hello");
        ensure!(crictl.ok(&["exec", &self.main, "echo", "hello"])? == "hello");
        let failing = crictl.call(&["exec", "-s", &self.main, "sh", "-c", "exit 3"])?;
        ensure!(!failing.status.success(), "exec of exit 3 succeeded");
        let shares = (256 + step).to_string();
        crictl.ok(&["update", "--cpu-share", &shares, &self.main])?;
        let resources = &scene.status(&self.main)?["resources"]["linux"]["cpuShares"];
        ensure!(resources.as_str() == Some(&shares), "{resources} instead of {shares}");
        let stats = crictl.json(&["stats", "-o", "json", &self.main])?;
        let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
        ensure!(memory.as_str().is_some_and(|bytes| bytes != "0"), "no memory in use: {stats}");
        Ok(())
    }
}

/// An exec session.
pub struct Session {
    client: Process,
    main: String,
}

impl Session {
    /// Waits for its end, which comes with its agent's, and for that of its command.
    pub fn end(mut self, scene: &Scene) -> Result<()> {
        self.client.end(wait::LIMIT).context("the client of an exec session")?;
        wait::until_true("the session's command to end", || {
            Ok(!scene.crictl.ok(&["exec", "-s", &self.main, "ps"])?.contains("sleep 5000"))
        })
    }
}
