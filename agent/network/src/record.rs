//! Records of what each pod's network is, as [`crate::store`] keeps them.
//!
//! A program reads the records of all versions up to its own. Within a version fields may be added that an older program
//! can do without, and phases that it may take for [`Phase::Deleting`], since DEL can always be made once more.

use std::{net::IpAddr, path::PathBuf};

use holdfast_model::{PodId, Protocol};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{embedded::pod::link_name, subnet::Subnet};

/// Version of the record format that this program writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// What was done, or is about to be done, for a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) pod: PodId,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) phase: Phase,
    /// DEL is done but for the pin of the network namespace, which has yet to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unpinning: bool,
    /// When DEL was asked for, in seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deleting_since_s: Option<u64>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) network: PodKind,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// ADD has begun: any part of it may be there.
    Adding,
    /// ADD has succeeded.
    Up,
    /// DEL has been asked for, and is not done or has yet to see the link or the pin go; or a newer program's phase.
    #[serde(other)]
    Deleting,
}

/// Who gave the pod its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodKind {
    /// The bridge.
    Embedded {
        /// Name of the host's end of the veth pair.
        link: String,
        /// The primary one first.
        addresses: Vec<IpAddr>,
    },
    /// Plugins.
    Cni(Box<CniRecord>),
}

/// Everything that DEL and CHECK need, whatever has become of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CniRecord {
    /// The configuration list that ADD used.
    pub(crate) conf: serde_json::Value,
    /// Where it came from, for messages.
    pub(crate) file: PathBuf,
    /// CNI_ARGS.
    pub(crate) args: String,
    /// Capability arguments, by capability.
    pub(crate) capability_args: serde_json::Map<String, serde_json::Value>,
    /// The pinned network namespace.
    pub(crate) netns: PathBuf,
    /// What ADD returned.
    pub(crate) result: Option<serde_json::Value>,
}

/// A host port of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    /// `None`: all addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) container_port: u16,
}

impl Record {
    /// That of an ADD which is about to begin.
    pub(crate) fn new(boot_id: &str, pod: PodId, ports: Vec<HostPort>, network: PodKind) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            pod,
            name: String::new(),
            namespace: String::new(),
            phase: Phase::Adding,
            unpinning: false,
            deleting_since_s: None,
            ports,
            network,
        }
    }

    /// Whether it is on the bridge, or was.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.network, PodKind::Embedded { .. })
    }

    /// Addresses that nobody else may have as long as the record is there.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match &self.network {
            PodKind::Embedded { addresses, .. } => addresses,
            PodKind::Cni(_) => &[],
        }
    }

    /// What people call the pod.
    pub(crate) fn owner(&self) -> String {
        format!("{}/{} ({})", self.namespace, self.name, self.pod.short())
    }
}

/// The bridge that this agent made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    pub(crate) version: u32,
    pub(crate) boot_id: String,
    pub(crate) name: String,
    /// Its random hardware address; a bridge with another one is somebody else's.
    pub(crate) mac: [u8; 6],
    pub(crate) subnets: Vec<Subnet>,
}

/// What a newer program's record takes up, as far as this one can read it. The record itself is left to that program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Newer {
    /// Of the pod, from the file's name.
    pub(crate) pod: String,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Link of the embedded network, if that is what it has.
    pub(crate) link: Option<String>,
}

impl Newer {
    /// `boot_id` is this boot's: links and host ports of another one's embedded network are gone.
    pub(crate) fn read(pod: &str, record: &Value, boot_id: &str) -> Self {
        let embedded = record.pointer("/network/embedded");
        let is_over = embedded.is_some() && record.get("boot_id").is_none_or(|boot| boot != boot_id);
        if is_over {
            return Self { pod: pod.to_owned(), ports: Vec::new(), addresses: Vec::new(), link: None };
        }
        let link = embedded.and_then(|embedded| embedded.get("link")?.as_str().map(str::to_owned));
        Self {
            pod: pod.to_owned(),
            ports: readable(record.get("ports")),
            addresses: readable(embedded.and_then(|embedded| embedded.get("addresses"))),
            link: link.or_else(|| pod.parse().ok().map(|pod| link_name(&pod))),
        }
    }
}

/// Those of a list that make sense here.
fn readable<T: DeserializeOwned>(list: Option<&Value>) -> Vec<T> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| serde_json::from_value(item.clone()).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn stored(phase: &str, more: &str) -> String {
        format!(
            r#"{{"version":1,"boot_id":"b","pod":"{ID}","name":"web","namespace":"default","phase":"{phase}",{more}
                "ports":[{{"protocol":"tcp","address":null,"port":80,"container_port":8080}}],
                "network":{{"cni":{{"conf":{{}},"file":"/f","args":"","capability_args":{{}},"netns":"/n","result":null}}}}}}"#
        )
    }

    fn parse(text: &str) -> Record {
        serde_json::from_str(text).unwrap()
    }

    /// As earlier programs wrote them, and as later ones may.
    #[test]
    fn stored_records_are_read() {
        for (phase, expected) in [("adding", Phase::Adding), ("up", Phase::Up), ("deleting", Phase::Deleting)]
        {
            let record = parse(&stored(phase, ""));
            assert_eq!((record.phase, record.unpinning, record.deleting_since_s), (expected, false, None));
            assert_eq!((record.ports[0].port, record.owner().as_str()), (80, "default/web (0123456789abc)"));
        }
        // A phase of its own for the pin, which a program of before had.
        assert_eq!(parse(&stored("unpinning", "")).phase, Phase::Deleting);
        assert_eq!(parse(&stored("of_a_later_program", r#""and_a_field":[1],"#)).phase, Phase::Deleting);
        assert!(parse(&stored("deleting", r#""unpinning":true,"#)).unpinning);
    }

    /// A program that knows neither field reads a DEL that is to be made again.
    #[test]
    fn the_end_of_a_del_is_written_so_that_an_older_program_can_read_it() {
        let mut record = parse(&stored("up", ""));
        let before = serde_json::to_value(&record).unwrap();
        assert!(before.get("unpinning").is_none() && before.get("deleting_since_s").is_none(), "{before}");
        record.phase = Phase::Deleting;
        record.unpinning = true;
        record.deleting_since_s = Some(7);
        let after = serde_json::to_value(&record).unwrap();
        assert_eq!((&after["phase"], &after["version"]), (&"deleting".into(), &1.into()));
        assert_eq!(serde_json::from_value::<Record>(after).unwrap(), record);
    }

    #[test]
    fn of_a_newer_record_what_can_be_read_counts() {
        let record = serde_json::json!({"version": 9, "boot_id": "b", "phase": {"new": 1},
            "ports": [{"protocol": "tcp", "address": null, "port": 80, "container_port": 8, "more": 1}, {"what": 1}],
            "network": {"embedded": {"link": "hf1", "addresses": ["10.79.0.2", 3, "fd48::2"]}}});
        let newer = Newer::read(ID, &record, "b");
        assert_eq!((newer.ports.len(), newer.ports[0].port), (1, 80));
        assert_eq!((newer.addresses.len(), newer.link.as_deref()), (2, Some("hf1")));
        let over = Newer::read(ID, &record, "another boot");
        assert_eq!((over.ports.len(), over.addresses.len(), over.link), (0, 0, None));
        let other = Newer::read(ID, &serde_json::json!({"version": 9, "network": "?"}), "b");
        assert_eq!((other.ports.len(), other.link.as_deref()), (0, Some("hf0123456789abc")));
    }
}
