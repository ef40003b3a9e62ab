//! A Pod: its metadata and its spec.

use std::{collections::HashSet, net::IpAddr};

use holdfast_model::{DnsConfig, Map};

use super::{
    container::{self, Kind},
    names,
    reader::{Fields, Item},
    security,
    types::{Container, HostAlias, Pod, RestartPolicy},
    volumes,
};

/// A kubelet's default grace period.
const GRACE_S: u32 = 30;
/// Before AppArmor profiles had fields. It is not acted upon, and it is too dangerous to be passed by.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Most nameservers and search domains, as in Kubernetes.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

struct Metadata {
    name: String,
    namespace: String,
    uid: Option<String>,
    labels: Map,
    annotations: Map,
}

/// Reads a Pod. `None`: something is wrong, and the problems say what.
pub fn read(item: &Item<'_>) -> Option<Pod> {
    let top = item.fields()?;
    if !is_pod(&top) {
        // What it is has other fields.
        top.give_up();
        return None;
    }
    // Clients write an empty status, and the API server does not look at it.
    if let Some(status) = top.named("status")
        && !status.is_empty()
    {
        status.refuse("what a cluster found out about another pod: take it out");
    }
    let metadata = top.need("metadata").and_then(|item| metadata(&item));
    let spec = top.need("spec").and_then(|item| item.fields());
    pod(metadata?, &spec?)
}

fn is_pod(top: &Fields<'_>) -> bool {
    let version = top.need("apiVersion").and_then(|item| Some((item.text()?, item)));
    let kind = top.need("kind").and_then(|item| Some((item.text()?, item)));
    match (version, kind) {
        (_, Some((kind, item))) if kind != "Pod" => {
            item.refuse(format!("a {kind} takes a cluster: holdfast run runs a Pod"));
            false
        }
        (Some((version, item)), _) if version != "v1" => {
            item.refuse(format!("{version:?} is not the version of a Pod: write v1"));
            false
        }
        (version, kind) => version.is_some() && kind.is_some(),
    }
}

fn metadata(item: &Item<'_>) -> Option<Metadata> {
    let fields = item.fields()?;
    // kubectl writes `creationTimestamp: null`.
    if let Some(time) = fields.named("creationTimestamp")
        && !time.is_empty()
    {
        time.refuse("a run makes the pod anew: take it out");
    }
    let name = fields.need("name").and_then(|item| names::subdomain(&item));
    let namespace = fields.take("namespace").map_or(Some("default".into()), |item| names::label(&item));
    let uid = fields.take("uid").map_or(Some(None), |item| names::uid(&item).map(Some));
    let labels = fields.take("labels").map(|item| item.map()).unwrap_or_default();
    let annotations = fields.take("annotations").map(|item| annotations(&item)).unwrap_or_default();
    Some(Metadata { name: name?, namespace: namespace?, uid: uid?, labels, annotations })
}

fn annotations(item: &Item<'_>) -> Map {
    for (name, item) in item.entries() {
        if name.starts_with(APPARMOR_ANNOTATION) {
            item.refuse("the old form is not acted upon: write securityContext.appArmorProfile");
        }
    }
    item.map()
}

fn pod(metadata: Metadata, spec: &Fields<'_>) -> Option<Pod> {
    let flag = |name: &str| spec.take(name).and_then(|item| item.flag());
    let Metadata { name, namespace, uid, labels, annotations } = metadata;
    let volumes = spec.take("volumes").map(|item| volumes::read(&item)).unwrap_or_default();
    let host_network = flag("hostNetwork").unwrap_or(false);
    let mut containers =
        Containers { volumes: &volumes.names, host_network, names: HashSet::new(), ports: HashSet::new() };
    let init = spec.take("initContainers");
    let init_containers = init.map(|item| containers.read(&item, Kind::Init)).unwrap_or_default();
    let own = spec.need("containers")?;
    if own.is_empty() {
        own.refuse("a pod has at least one container: write one");
    }
    let containers = containers.read(&own, Kind::Main);
    let (dns, own_dns_only) = dns(spec);
    let pod = Pod {
        name,
        namespace,
        uid,
        labels,
        annotations,
        init_containers,
        containers,
        volumes: volumes.list,
        restart_policy: spec
            .take("restartPolicy")
            .map_or(Some(RestartPolicy::Always), |item| restart(&item))?,
        host_network,
        host_pid: flag("hostPID").unwrap_or(false),
        host_ipc: flag("hostIPC").unwrap_or(false),
        host_users: flag("hostUsers").unwrap_or(true),
        share_process_namespace: flag("shareProcessNamespace").unwrap_or(false),
        hostname: spec.take("hostname").and_then(|item| names::label(&item)),
        host_aliases: spec.take("hostAliases").map(|item| host_aliases(&item)).unwrap_or_default(),
        own_dns_only,
        dns,
        grace_s: seconds(spec, "terminationGracePeriodSeconds", 0).unwrap_or(GRACE_S),
        deadline_s: seconds(spec, "activeDeadlineSeconds", 1),
        security: spec.take("securityContext").map(|item| security::of_pod(&item)).unwrap_or_default(),
    };
    harmless(spec);
    check_namespaces(spec, &pod);
    security::check_pod(spec.item(), &pod);
    Some(pod)
}

fn restart(item: &Item<'_>) -> Option<RestartPolicy> {
    use RestartPolicy::{Always, Never, OnFailure};
    item.choice(&[("Always", Always), ("OnFailure", OnFailure), ("Never", Never)])
}

fn seconds(spec: &Fields<'_>, name: &str, least: i64) -> Option<u32> {
    spec.take(name).and_then(|item| item.number(least, i64::from(i32::MAX))).map(|seconds| seconds as u32)
}

/// Fields of which one value asks for nothing that a cluster would have to do.
fn harmless(spec: &Fields<'_>) {
    for (name, possible, why) in [
        ("automountServiceAccountToken", false, "there are no tokens without a cluster: write false"),
        ("enableServiceLinks", false, "there are no services without a cluster: write false"),
        ("setHostnameAsFQDN", false, "there is no domain without a cluster: write false"),
    ] {
        if let Some(item) = spec.take(name) {
            item.only(possible, why);
        }
    }
}

fn check_namespaces(spec: &Fields<'_>, pod: &Pod) {
    if pod.host_pid && pod.share_process_namespace {
        spec.item().refuse("hostPID and shareProcessNamespace exclude each other: take one out");
    }
    if !pod.host_users && (pod.host_network || pod.host_pid || pod.host_ipc) {
        let problem =
            "hostUsers: false goes with none of hostNetwork, hostPID and hostIPC: take it or them out";
        spec.item().refuse(problem);
    }
}

fn host_aliases(item: &Item<'_>) -> Vec<HostAlias> {
    let alias = |item: &Item<'_>| {
        let fields = item.fields()?;
        let ip = fields.need("ip").and_then(|item| address(&item));
        let hostnames = fields.need("hostnames").map(|item| item.items()).unwrap_or_default();
        let hostnames = hostnames.iter().filter_map(names::subdomain).collect();
        Some(HostAlias { ip: ip?, hostnames })
    };
    item.items().iter().filter_map(alias).collect()
}

/// An address, as it is written.
pub fn address(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text.parse::<IpAddr>().is_ok() {
        return Some(text);
    }
    item.refuse(format!("{text:?} is not an IP address"));
    None
}

/// dnsConfig, and whether nothing of the node's comes on top.
fn dns(spec: &Fields<'_>) -> (DnsConfig, bool) {
    let config = spec.take("dnsConfig").map(|item| dns_config(&item)).unwrap_or_default();
    let Some(policy) = spec.take("dnsPolicy") else { return (config, false) };
    // Without a cluster's DNS a kubelet does for ClusterFirst what it does for Default.
    let choices =
        [("Default", false), ("ClusterFirst", false), ("ClusterFirstWithHostNet", false), ("None", true)];
    let own_only = policy.choice(&choices).unwrap_or(false);
    if own_only && config.servers.is_empty() {
        policy.refuse("None needs a server of the pod's own: write dnsConfig.nameservers");
    }
    (config, own_only)
}

fn dns_config(item: &Item<'_>) -> DnsConfig {
    let Some(fields) = item.fields() else { return DnsConfig::default() };
    let list = |name: &str, most: usize| {
        let Some(item) = fields.take(name) else { return Vec::new() };
        let items = item.items();
        if items.len() > most {
            item.refuse(format!("there are {}: resolvers read {most} at most", items.len()));
        }
        items
    };
    let servers = list("nameservers", MAX_NAMESERVERS).iter().filter_map(address).collect();
    let searches = list("searches", MAX_SEARCHES).iter().filter_map(resolver_word).collect();
    let options = list("options", usize::MAX).iter().filter_map(dns_option).collect();
    DnsConfig { servers, searches, options }
}

fn dns_option(item: &Item<'_>) -> Option<String> {
    let fields = item.fields()?;
    let name = fields.need("name").and_then(|item| resolver_word(&item));
    let value = fields.take("value").map(|item| resolver_word(&item));
    match value {
        None => name,
        Some(value) => Some(format!("{}:{}", name?, value?)),
    }
}

/// A word of /etc/resolv.conf.
fn resolver_word(item: &Item<'_>) -> Option<String> {
    let text = item.word()?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        item.refuse("it holds white space: write one word");
        return None;
    }
    Some(text)
}

/// Reads lists of containers, whose names and host ports must differ.
struct Containers<'a> {
    volumes: &'a HashSet<String>,
    host_network: bool,
    names: HashSet<String>,
    ports: HashSet<String>,
}

impl Containers<'_> {
    fn read(&mut self, item: &Item<'_>, kind: Kind) -> Vec<Container> {
        item.items().iter().filter_map(|item| self.read_one(item, kind)).collect()
    }

    fn read_one(&mut self, item: &Item<'_>, kind: Kind) -> Option<Container> {
        let container = container::read(item, kind, self.volumes, self.host_network)?;
        if !self.names.insert(container.name.clone()) {
            item.refuse(format!("a container {:?} is there already: name it otherwise", container.name));
        }
        for port in &container.ports {
            let key = format!("{:?} {} {}", port.protocol, port.host_ip, port.host_port);
            if !self.ports.insert(key) {
                item.refuse(format!("host port {} is taken twice: choose another one", port.host_port));
            }
        }
        Some(container)
    }
}
