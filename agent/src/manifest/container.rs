//! A container of a Pod.

use std::collections::HashSet;

use holdfast_model::{PortMapping, Protocol};

use super::{
    env, mounts, names,
    pod::address,
    reader::{Fields, Item},
    requests, security,
    types::{Container, PullPolicy},
};

/// Where a program can leave its last words, as in Kubernetes.
const MESSAGE_PATH: &str = "/dev/termination-log";

/// Which list a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `initContainers`.
    Init,
    /// `containers`.
    Main,
}

/// Reads a container. `None`: something is wrong, and the problems say what.
pub fn read(item: &Item<'_>, kind: Kind, volumes: &HashSet<String>, host_network: bool) -> Option<Container> {
    let fields = item.fields()?;
    let name = fields.need("name").and_then(|item| names::label(&item));
    let image = fields.need("image").and_then(|item| image(&item));
    let texts = |name: &str| fields.take(name).map(|item| item.texts()).unwrap_or_default();
    let (command, args) = (texts("command"), texts("args"));
    let working_dir = fields.take("workingDir").and_then(|item| absolute(&item)).unwrap_or_default();
    let pull_policy = fields.take("imagePullPolicy").and_then(|item| pull_policy(&item));
    let ports = fields.take("ports").map(|item| ports(&item, host_network)).unwrap_or_default();
    let env = fields.take("env").map(|item| env::read(&item, host_network)).unwrap_or_default();
    let resources = fields.take("resources").map(|item| requests::read(&item)).unwrap_or_default();
    let security =
        fields.take("securityContext").map(|item| security::of_container(&item)).unwrap_or_default();
    let privileged = security.privileged;
    let mounts =
        fields.take("volumeMounts").map(|item| mounts::read(&item, volumes, privileged)).unwrap_or_default();
    let message_path =
        fields.take("terminationMessagePath").map_or(Some(MESSAGE_PATH.into()), |item| absolute(&item));
    message_policy(&fields);
    let tty = fields.take("tty").and_then(|item| item.flag()).unwrap_or(false);
    let nobody = "nothing of holdfast run writes to it: take it out, and give the input in a volume";
    for name in ["stdin", "stdinOnce"] {
        if let Some(item) = fields.take(name) {
            item.only(false, nobody);
        }
    }
    let sidecar = kind == Kind::Init && is_sidecar(&fields);
    let image = image?;
    Some(Container {
        path: item.path().to_owned(),
        pull_policy: pull_policy.unwrap_or_else(|| default_pull_policy(&image)),
        name: name?,
        image,
        command,
        args,
        working_dir,
        env,
        ports,
        resources,
        security,
        mounts,
        tty,
        message_path: message_path?,
        sidecar,
    })
}

/// The name of an image.
pub fn image(item: &Item<'_>) -> Option<String> {
    let text = item.word()?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        item.refuse(format!("{text:?} is not the name of an image: it holds white space"));
        return None;
    }
    Some(text)
}

/// A path inside the container that begins at its root.
pub fn absolute(item: &Item<'_>) -> Option<String> {
    let text = item.word()?;
    if text.starts_with('/') && !text.contains('\0') {
        return Some(text);
    }
    item.refuse(format!("{text:?} is not an absolute path: begin it with /"));
    None
}

/// When an image is pulled.
pub fn pull_policy(item: &Item<'_>) -> Option<PullPolicy> {
    use PullPolicy::{Always, IfNotPresent, Never};
    item.choice(&[("Always", Always), ("IfNotPresent", IfNotPresent), ("Never", Never)])
}

/// Without a digest, and with the tag `latest` or none, an image is one that changes.
pub fn default_pull_policy(image: &str) -> PullPolicy {
    let name = image.rsplit('/').next().unwrap_or(image);
    let latest = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
}

/// Either policy holds: a message is printed, and so is the log that the other one falls back to.
fn message_policy(fields: &Fields<'_>) {
    if let Some(item) = fields.take("terminationMessagePolicy") {
        item.choice(&[("File", ()), ("FallbackToLogsOnError", ())]);
    }
}

/// An init container may say `restartPolicy: Always` and nothing else.
fn is_sidecar(fields: &Fields<'_>) -> bool {
    fields.take("restartPolicy").is_some_and(|item| item.choice(&[("Always", ())]).is_some())
}

/// The ports that lead from the host. Others are for people who read the manifest.
fn ports(item: &Item<'_>, host_network: bool) -> Vec<PortMapping> {
    let ports: Vec<_> = item.items().iter().filter_map(|item| port(item, host_network)).collect();
    ports.into_iter().filter(|port| port.host_port != 0 && !host_network).collect()
}

fn port(item: &Item<'_>, host_network: bool) -> Option<PortMapping> {
    let fields = item.fields()?;
    let number = |item: &Item<'_>, least| item.number(least, 65535).map(|port| port as u16);
    let container_port = fields.need("containerPort").and_then(|item| number(&item, 1));
    let host_port = fields.take("hostPort").and_then(|item| number(&item, 0)).unwrap_or(0);
    let host_ip = fields.take("hostIP").and_then(|item| address(&item)).unwrap_or_default();
    let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    let protocol = fields.take("protocol").map_or(Some(Protocol::Tcp), |item| item.choice(&protocols));
    if let Some(item) = fields.take("name") {
        names::port(&item);
    }
    let container_port = container_port?;
    if host_network && host_port != 0 && host_port != container_port {
        item.refuse("with hostNetwork hostPort must be containerPort: change it or take it out");
    }
    Some(PortMapping { protocol: protocol?, container_port, host_port, host_ip })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_pulled_always() {
        for (image, policy) in [
            ("busybox", PullPolicy::Always),
            ("busybox:latest", PullPolicy::Always),
            ("host:5000/busybox", PullPolicy::Always),
            ("busybox:1.37", PullPolicy::IfNotPresent),
            ("host:5000/a/busybox:1", PullPolicy::IfNotPresent),
            ("busybox@sha256:00", PullPolicy::IfNotPresent),
            ("busybox:latest@sha256:00", PullPolicy::IfNotPresent),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
