//! `cargo x kind`: a kind cluster whose nodes run Holdfast, made by the unmodified `kind create cluster`, and tests of what
//! people do with one.

mod bench;
mod cluster;
mod docker;
mod images;
mod node;
mod peer;
mod storage;
mod suite;

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::{cluster::Cluster, docker::Docker};
use crate::{
    build::{self, Profile},
    host, kubernetes,
    run::{output, step},
    summary::Counts,
    test,
    work::Work,
};

/// Arguments of `cargo x kind`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// Nodes, the first of which is the control plane.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    pub nodes: u32,
    /// Run no tests, but keep the cluster until Enter is pressed, and say how to reach it.
    #[arg(long)]
    pub keep: bool,
    /// Run no tests, but measure clusters of one node beside those of containerd: so
    /// many of each, in turns.
    #[arg(long, value_name = "ROUNDS", num_args = 0..=1, default_missing_value = "3")]
    #[arg(verbatim_doc_comment)]
    pub bench: Option<u32>,
    /// Only build the node image, and print the path of its archive, for `docker load`.
    #[arg(long)]
    pub image: bool,
    /// Build and install nothing: all of it is in this directory, which `cargo x vm --only kind` has filled.
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    pub prepared: Option<PathBuf>,
}

/// Builds all that is needed, and runs a cluster.
pub fn kind(work: &Work, options: &Options) -> Result<Counts> {
    if options.image {
        println!("{}", prepare_node(work)?.display());
        return Ok(Counts::default());
    }
    if options.prepared.is_none() {
        prepare(work)?;
    }
    let (archive, images) = (node::archive_path(work), images::Workloads::at(work));
    let mut docker = step("starting Docker in namespaces of its own", || Docker::start(work))?;
    let done = run(work, &mut docker, &archive, &images, options);
    docker.end()?;
    done
}

/// Builds all that a cluster needs.
pub fn prepare(work: &Work) -> Result<()> {
    prepare_node(work)?;
    docker::prepare(work)?;
    images::workloads(work).map(drop)
}

fn prepare_node(work: &Work) -> Result<PathBuf> {
    host::check(host::TESTS, &[])?;
    test::prepare(work)?;
    kubernetes::prepare(work)?;
    build::programs(work, Profile::Release)?;
    node::archive(work)
}

/// Of the cache, what a cluster needs on a machine where nothing can be built.
pub fn parts(work: &Work) -> Vec<PathBuf> {
    let images = images::Workloads::at(work);
    let kubectl = kubernetes::programs(work).join("kubectl");
    let tools = [docker::tools(work), kubernetes::kind(work), kubectl];
    tools
        .into_iter()
        .chain([node::archive_path(work), images.busybox, images.nginx, images.partial])
        .collect()
}

fn run(
    work: &Work,
    docker: &mut Docker,
    archive: &Path,
    images: &images::Workloads,
    options: &Options,
) -> Result<Counts> {
    step("loading the node image", || {
        output(docker.docker(["load", "--quiet", "--input"]).arg(archive)).map(drop)
    })?;
    if let Some(rounds) = options.bench {
        bench::run(work, docker, rounds)?;
        return Ok(Counts::default());
    }
    let cluster = Cluster::new(work, docker, "holdfast");
    let made =
        step(&format!("kind create cluster --image {}", node::name()), || cluster.create(options.nodes, ""))
            .and_then(|()| step("waiting until every pod is ready", || cluster.all_ready()));
    if let Err(error) = made {
        export_logs(work, &cluster);
        return Err(error);
    }
    print!("{}", cluster.ok(&["get", "pods,nodes", "-A", "-o", "wide"])?);
    if options.keep {
        stay(&cluster)?;
        step("kind delete cluster", || cluster.delete())?;
        return Ok(Counts::default());
    }
    Ok(suite::run(work, docker, images, options.filter.as_deref()))
}

fn stay(cluster: &Cluster<'_>) -> Result<()> {
    let (docker, config) = (cluster.docker, cluster.kubeconfig());
    println!("The cluster is up. From another shell:");
    println!(
        "  nsenter -t {} -n -p -m env DOCKER_HOST={} KUBECONFIG={} sh",
        docker.init(),
        docker.endpoint(),
        config.display()
    );
    println!("Enter ends it.");
    io::stdin().read_line(&mut String::new()).map(drop).context("wait for Enter")
}

/// Exports the nodes' logs after a failure.
fn export_logs(work: &Work, cluster: &Cluster<'_>) {
    let exported = work.dir("logs/kind").and_then(|dir| cluster.export_logs(&dir).map(|()| dir));
    match exported {
        Ok(dir) => println!("    logs of the nodes: {}", dir.display()),
        Err(error) => println!("    no logs of the nodes: {error:#}"),
    }
}
