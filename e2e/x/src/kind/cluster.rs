//! A cluster, and what its users say to it: kind, kubectl, docker.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{docker::Docker, node};
use crate::{
    host, kubernetes,
    run::{loud, output, shown},
    work::Work,
};

/// Limit of anything in a cluster, on a machine that is not emulated.
const LIMIT: Duration = Duration::from_mins(3);

/// Limit of anything in a cluster on this machine.
pub fn limit() -> Duration {
    LIMIT * host::slowness()
}

/// A cluster in a Docker.
#[derive(Debug)]
pub struct Cluster<'a> {
    work: &'a Work,
    /// The daemon that runs its nodes.
    pub docker: &'a Docker,
    name: &'static str,
    image: String,
}

impl<'a> Cluster<'a> {
    /// One of this name, which may be made yet.
    pub fn new(work: &'a Work, docker: &'a Docker, name: &'static str) -> Self {
        Self { work, docker, name, image: node::name() }
    }

    /// The same with nodes of another image.
    #[must_use]
    pub fn with_image(self, image: &str) -> Self {
        Self { image: image.to_owned(), ..self }
    }

    /// `kind create cluster` of one node, without a word.
    pub fn create_quietly(&self) -> Result<()> {
        let args =
            ["create", "cluster", "--quiet", "--name", self.name, "--image", &self.image, "--kubeconfig"];
        output(self.kind(args).arg(self.kubeconfig())).map(drop)
    }

    /// `kind create cluster`, with a configuration only if it has to say something. Its progress is seen.
    pub fn create(&self, nodes: u32, more: &str) -> Result<()> {
        let mut create =
            self.kind(["create", "cluster", "--name", self.name, "--image", &self.image, "--retain"]);
        create.arg("--kubeconfig").arg(self.kubeconfig());
        let more = format!("{more}{}", patient());
        if nodes > 1 || !more.is_empty() {
            let config = self.docker.root().join(format!("{}.yaml", self.name));
            let workers = "- role: worker\n".repeat(nodes as usize - 1);
            let head = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4";
            let text = format!("{head}\nnodes:\n- role: control-plane\n{workers}{more}");
            fs::write(&config, text).context("write the cluster's configuration")?;
            create.arg("--config").arg(config);
        }
        loud(&mut create)
    }

    /// `kind delete cluster`.
    pub fn delete(&self) -> Result<()> {
        output(self.kind(["delete", "cluster", "--name", self.name, "--kubeconfig"]).arg(self.kubeconfig()))
            .map(drop)
    }

    /// `kind export logs`, into that directory.
    pub fn export_logs(&self, dir: &Path) -> Result<()> {
        output(self.kind(["export", "logs", "--name", self.name]).arg(dir)).map(drop)
    }

    /// A command of kind.
    pub fn kind<'b>(&self, args: impl IntoIterator<Item = &'b str>) -> Command {
        let mut kind = self.docker.command_of(kubernetes::kind(self.work), args);
        kind.env("KIND_EXPERIMENTAL_PROVIDER", "docker");
        kind
    }

    /// A command of kind about this cluster, to its end.
    pub fn kind_ok(&self, args: &[&str]) -> Result<String> {
        output(self.kind(args.iter().copied()).args(["--name", self.name]))
    }

    /// A command of kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let program = kubernetes::programs(self.work).join("kubectl");
        let mut kubectl = self.docker.command_of(program, ["--kubeconfig"]);
        kubectl.arg(self.kubeconfig()).args(args);
        kubectl
    }

    /// Runs kubectl, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        output(&mut self.kubectl(args))
    }

    /// Runs kubectl with JSON as its output.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("read the output of kubectl {}", args.join(" ")))
    }

    /// Waits until every pod of a workload is of its newest version, and ready.
    pub fn rolled_out(&self, workload: &str) -> Result<()> {
        let limit = format!("{}s", limit().as_secs());
        self.ok(&["rollout", "status", workload, "--timeout", &limit]).map(drop)
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, text: &str) -> Result<()> {
        let mut apply = self.kubectl(&["apply", "-f", "-"]);
        let mut child =
            apply.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("run kubectl apply")?;
        let mut stdin = child.stdin.take().context("kubectl's stdin")?;
        stdin.write_all(text.as_bytes()).context("write to kubectl apply")?;
        drop(stdin);
        let status = child.wait().context("wait for kubectl apply")?;
        ensure!(status.success(), "kubectl apply: {status}");
        Ok(())
    }

    /// Runs a script in a pod.
    pub fn inside(&self, pod: &str, script: &str) -> Result<String> {
        self.ok(&["exec", pod, "--", "sh", "-c", script])
    }

    /// Starts kubectl, which goes on.
    pub fn start(&self, args: &[&str]) -> Result<Running> {
        let mut kubectl = self.kubectl(args);
        let child = kubectl.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Running(child.with_context(|| format!("run {}", shown(&kubectl)))?))
    }

    /// Names of the pods with a label.
    pub fn pods(&self, label: &str) -> Result<Vec<String>> {
        let text = self.ok(&[
            "get",
            "pods",
            "-l",
            label,
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}",
        ])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Name and address of each node.
    pub fn nodes(&self) -> Result<Vec<(String, String)>> {
        let format = "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
        let text = self.ok(&["get", "nodes", "-o", format])?;
        let nodes = text.lines().filter_map(|line| line.split_once(' '));
        Ok(nodes.map(|(name, address)| (name.to_owned(), address.to_owned())).collect())
    }

    /// A command in a node.
    pub fn on_node(&self, node: &str, args: &[&str]) -> Result<String> {
        output(&mut self.docker.docker([&["exec", node], args].concat()))
    }

    /// Every node is Ready, every pod is or has succeeded, and there is one at all.
    pub fn all_ready(&self) -> Result<()> {
        until("every node and every pod ready", || {
            let nodes = self.json(&["get", "nodes"])?;
            let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
            ensure!(nodes.iter().all(has_condition_ready), "a node is not ready");
            let pods = self.json(&["get", "pods", "-A"])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let waiting: Vec<&Value> = pods.iter().filter(|pod| !is_ready(pod)).collect();
            ensure!(!pods.is_empty(), "there are no pods");
            let names: Vec<&str> =
                waiting.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
            ensure!(names.is_empty(), "not ready: {}", names.join(", "));
            Ok(())
        })
    }

    /// Answer of a web server, asked from where Docker's bridge is.
    pub fn get(&self, url: &str) -> Result<String> {
        let limit = (3 * host::slowness()).to_string();
        let args = ["--silent", "--show-error", "--fail", "--max-time", &limit, url];
        output(&mut self.docker.command_of("curl", args))
    }

    /// For kubectl and kind.
    pub fn kubeconfig(&self) -> PathBuf {
        self.docker.root().join(format!("{}.kubeconfig", self.name))
    }
}

/// Patches of kubeadm's configuration with longer timeouts, on a machine that is emulated.
fn patient() -> String {
    if host::slowness() == 1 {
        return String::new();
    }
    let limit = format!("{}s", limit().as_secs());
    let of = |kind: &str| {
        format!(
            "- |\n  kind: {kind}\n  timeouts:\n    controlPlaneComponentHealthCheck: {limit}\n    kubeletHealthCheck: {limit}\n    \
             kubernetesAPICall: {limit}\n    etcdAPICall: {limit}\n    tlsBootstrap: {limit}\n    discovery: {limit}\n"
        )
    };
    format!("kubeadmConfigPatches:\n{}{}", of("InitConfiguration"), of("JoinConfiguration"))
}

/// Tries again until it succeeds; then its value, else its last error.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                bail!("{what} did not come about within {} s: {error:#}", limit().as_secs())
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || has_condition_ready(pod)
}

fn has_condition_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|is| is["type"] == "Ready" && is["status"] == "True")
}

/// A program that is ended with this.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Not waited for yet, so its pid is its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
