//! What can go wrong with a pod's network.

use std::{io, path::PathBuf};

use crate::netlink;

/// Failure of a network operation; the text names operation and object, the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `[network.embedded]` cannot be used as it is.
    #[error("{0}")]
    Config(String),
    /// A subnet overlaps with a route or address of the host.
    #[error(
        "subnet {subnet} of bridge {bridge} collides with {other} of this host: set network.embedded.subnets to free ones"
    )]
    Collision {
        /// The bridge that was to have it.
        bridge: String,
        /// The subnet in CIDR notation.
        subnet: String,
        /// The route or address.
        other: String,
    },
    /// The bridge or table name is taken by something that this agent did not make.
    #[error(
        "{what} {name} exists already and is not this agent's: set network.embedded.bridge to another name"
    )]
    Foreign {
        /// "bridge" or "nftables table".
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Another firewall of the host drops what pods send and receive.
    #[error(
        "{firewall} drops the packets of pods: let them pass, by {remedy}, or take CNI plugins (network.mode)"
    )]
    Firewall {
        /// Its name and table.
        firewall: String,
        /// Commands.
        remedy: String,
    },
    /// Bridge or table went missing, and are made anew for the next pod.
    #[error("bridge {bridge} of the embedded network is not there")]
    Missing {
        /// Its name.
        bridge: String,
    },
    /// All addresses of a subnet are taken.
    #[error("no free address in {subnet}: {used} pods have one")]
    Exhausted {
        /// The subnet in CIDR notation.
        subnet: String,
        /// How many are taken.
        used: usize,
    },
    /// A host port that another pod has.
    #[error("host port {port} is in use by pod {owner}")]
    PortInUse {
        /// Protocol, address and port, like `tcp 0.0.0.0:80`.
        port: String,
        /// Namespace, name and short id of the pod that has it, and why, if it has been removed.
        owner: String,
    },
    /// A port mapping that cannot be.
    #[error("port mapping {mapping}: {reason}")]
    BadPort {
        /// The mapping.
        mapping: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The pod has a network already, or ADD or DEL is under way.
    #[error("pod {pod} has a network already")]
    Exists {
        /// Short id.
        pod: String,
    },
    /// No record of the pod.
    #[error("pod {pod} has no network")]
    NotFound {
        /// Short id.
        pod: String,
    },
    /// The kernel refused a netlink request.
    #[error("{operation}")]
    Netlink {
        /// What was asked for, like `create veth hf0123 with peer eth0`.
        operation: String,
        /// Why not.
        #[source]
        source: netlink::NetlinkError,
    },
    /// A file or a syscall failed.
    #[error("{operation}")]
    Io {
        /// What was done, to which file.
        operation: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The CNI configuration cannot be used.
    #[error("CNI configuration {}: {reason}", file.display())]
    CniConfig {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no CNI configuration, and nothing else may serve. The first words are containerd's, which people search for.
    #[error(
        "cni plugin not initialized: there is no CNI configuration in {}: install a network add-on that writes one, or set network.mode = \"embedded\"",
        dir.display()
    )]
    NoCni {
        /// `[network.cni] conf_dir`.
        dir: PathBuf,
    },
    /// A CNI plugin said no.
    #[error("CNI plugin {plugin} {command}: {message}")]
    Plugin {
        /// `type` of the plugin.
        plugin: String,
        /// ADD, DEL, CHECK, STATUS or GC.
        command: &'static str,
        /// What it said, with its code.
        message: String,
    },
    /// A check found the pod's network other than recorded.
    #[error("network of pod {pod}: {reason}")]
    Check {
        /// Short id.
        pod: String,
        /// What is missing.
        reason: String,
    },
    /// A worker thread ended without an answer.
    #[error("{0} ended without an answer")]
    Lost(&'static str),
    /// An operation took longer than it may.
    #[error("{stage} took longer than {seconds} s")]
    Timeout {
        /// What it was doing.
        stage: String,
        /// The limit.
        seconds: u64,
    },
    /// Several steps of a teardown failed; the others were done.
    #[error("{}", list(.0))]
    Several(Vec<Error>),
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }

    pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(netlink::NetlinkError) -> Self {
        let operation = operation.into();
        move |source| Self::Netlink { operation, source }
    }

    /// `Ok` without errors, the one error, or all of them.
    pub(crate) fn collect(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

fn list(errors: &[Error]) -> String {
    let texts: Vec<String> = errors.iter().map(|error| holdfast_model::chain(error)).collect();
    texts.join("; ")
}
