//! What the runtime tells plugins of a pod: CNI_ARGS and the capability arguments (CNI conventions).

use holdfast_model::PodId;
use serde_json::{Map, Value, json};

use crate::{AddRequest, Error, record::HostPort};

/// The burst that containerd gives: as good as none.
const BURST: u64 = u32::MAX as u64;

/// CNI_ARGS of a pod of which nothing else is known.
pub(super) fn of_lost(pod: &PodId) -> String {
    format!("IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={pod}")
}

/// CNI_ARGS as every Kubernetes runtime gives them.
pub(super) fn cni_args(request: &AddRequest) -> Result<String, Error> {
    let pairs = [
        ("K8S_POD_NAMESPACE", request.namespace.as_str()),
        ("K8S_POD_NAME", &request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", request.pod.as_str()),
        ("K8S_POD_UID", &request.uid),
    ];
    let mut text = "IgnoreUnknown=1".to_owned();
    for (key, value) in pairs {
        if value.contains([';', '=', '\0', '\n']) {
            return Err(Error::Config(format!("{key} {value:?} has a character that CNI_ARGS cannot carry")));
        }
        for part in [";", key, "=", value] {
            text.push_str(part);
        }
    }
    Ok(text)
}

/// Capability arguments by capability; each plugin gets those that it declares.
pub(super) fn capability_args(request: &AddRequest, ports: &[HostPort]) -> Result<Map<String, Value>, Error> {
    let mut args = Map::new();
    if !ports.is_empty() {
        let mappings = ports.iter().map(|port| {
            let mut mapping = json!({
                "hostPort": port.port,
                "containerPort": port.container_port,
                "protocol": serde_json::to_value(port.protocol).unwrap_or_default(),
            });
            if let Some(address) = port.address {
                mapping["hostIP"] = json!(address);
            }
            mapping
        });
        args.insert("portMappings".to_owned(), mappings.collect());
    }
    if !request.dns.is_empty() {
        let dns = &request.dns;
        let value = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        args.insert("dns".to_owned(), value);
    }
    if let Some(bandwidth) = bandwidth(request)? {
        args.insert("bandwidth".to_owned(), bandwidth);
    }
    if let Some(path) = &request.cgroup_path {
        args.insert("cgroupPath".to_owned(), json!(path));
    }
    if !request.annotations.is_empty() {
        args.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(request.annotations));
    }
    Ok(args)
}

fn bandwidth(request: &AddRequest) -> Result<Option<Value>, Error> {
    let mut value = Map::new();
    for direction in ["ingress", "egress"] {
        let key = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = request.annotations.get(&key) else { continue };
        let rate = quantity(text).ok_or_else(|| {
            Error::Config(format!("annotation {key} {text:?} is not a quantity such as 10M"))
        })?;
        value.insert(format!("{direction}Rate"), json!(rate));
        value.insert(format!("{direction}Burst"), json!(BURST));
    }
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

/// A Kubernetes quantity of bits per second: digits, perhaps with a fraction, and a decimal or binary suffix.
fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        _ => return None,
    };
    let value = number.parse::<f64>().ok()? * factor;
    (1.0..1e18).contains(&value).then_some(value as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use holdfast_model::{DnsConfig, Protocol};

    use super::*;
    use crate::testing;

    fn request() -> AddRequest {
        let netns = std::fs::File::open("/proc/self/ns/net").unwrap().into();
        testing::request("web", &netns)
    }

    #[test]
    fn args_name_the_pod() {
        let request = request();
        let expected = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=web-uid",
            request.pod
        );
        assert_eq!(cni_args(&request).unwrap(), expected);
        assert!(cni_args(&AddRequest { name: "a;X=1".into(), ..request }).is_err());
    }

    #[test]
    fn capabilities_of_a_pod() {
        let mut request = request();
        assert!(capability_args(&request, &[]).unwrap().is_empty());
        request.dns = DnsConfig { servers: vec!["10.0.0.10".into()], ..DnsConfig::default() };
        request.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
        let port = HostPort {
            protocol: Protocol::Udp,
            address: Some(testing::ip("10.0.0.1")),
            port: 53,
            container_port: 5353,
        };
        let args = capability_args(&request, &[port]).unwrap();
        assert_eq!(
            args["portMappings"],
            json!([{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"10.0.0.1"}])
        );
        assert_eq!(args["dns"]["servers"], json!(["10.0.0.10"]));
        assert_eq!(args["bandwidth"], json!({"ingressRate":10_000_000,"ingressBurst":BURST}));
        request.annotations.insert("kubernetes.io/egress-bandwidth".into(), "fast".into());
        assert!(capability_args(&request, &[]).unwrap_err().to_string().contains("egress-bandwidth"));
    }

    #[test]
    fn quantities() {
        for (text, value) in
            [("10M", Some(10_000_000)), ("1Ki", Some(1024)), ("1.5k", Some(1500)), ("7", Some(7))]
        {
            assert_eq!(quantity(text), value);
        }
        for bad in ["", "M", "-1", "1X", "0", "1..2", "9999999999T"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
