//! Which pod has which network, addresses and host ports: the records in memory, and the allocation of what they hold.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use holdfast_model::{PodId, PortMapping, Protocol};

use crate::{
    Error,
    record::{HostPort, Phase, PodKind, Record},
    subnet::Subnet,
};

/// The records, and what follows from them. Lives behind one lock that is never held over I/O.
#[derive(Debug, Default)]
pub(crate) struct State {
    records: HashMap<PodId, Entry>,
    used: HashSet<IpAddr>,
    /// Where the search for a free address goes on, so that an address is used again as late as can be.
    cursors: HashMap<Subnet, u128>,
}

#[derive(Debug, Clone)]
struct Entry {
    record: Record,
    /// When DEL began.
    deleting: Option<Instant>,
}

impl State {
    /// Takes in a record, with the addresses that it holds.
    pub(crate) fn insert(&mut self, record: Record) {
        self.used.extend(addresses(&record));
        let deleting = (record.phase == Phase::Deleting).then(Instant::now);
        self.records.insert(record.pod.clone(), Entry { record, deleting });
    }

    /// Forgets a pod; its addresses are free.
    pub(crate) fn remove(&mut self, pod: &PodId) {
        if let Some(entry) = self.records.remove(pod) {
            for address in addresses(&entry.record) {
                self.used.remove(address);
            }
        }
    }

    /// A pod's record.
    pub(crate) fn get(&self, pod: &PodId) -> Option<&Record> {
        self.records.get(pod).map(|entry| &entry.record)
    }

    /// Changes a record and returns it as it is then.
    pub(crate) fn update(&mut self, pod: &PodId, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let entry = self.records.get_mut(pod)?;
        let before: Vec<IpAddr> = addresses(&entry.record).to_vec();
        change(&mut entry.record);
        let after = addresses(&entry.record);
        for address in before.iter().filter(|address| !after.contains(address)) {
            self.used.remove(address);
        }
        if entry.record.phase == Phase::Deleting {
            entry.deleting.get_or_insert_with(Instant::now);
        }
        Some(entry.record.clone())
    }

    /// All records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|entry| &entry.record)
    }

    /// Whether a pod is on the bridge, or was and its link has yet to go.
    pub(crate) fn any_embedded(&self) -> bool {
        self.records().any(|record| matches!(record.network, PodKind::Embedded { .. }))
    }

    /// Links that a record names.
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.records().filter_map(|record| match &record.network {
            PodKind::Embedded { link, .. } => Some(link.clone()),
            PodKind::Cni(_) => None,
        });
        links.collect()
    }

    /// Links of pods that DEL is done with, and since when.
    pub(crate) fn lingering(&self) -> Vec<(PodId, String, Instant)> {
        let lingering =
            self.records.values().filter_map(|entry| match (&entry.record.network, entry.deleting) {
                (PodKind::Embedded { link, .. }, Some(since)) => {
                    Some((entry.record.pod.clone(), link.clone(), since))
                }
                _ => None,
            });
        lingering.collect()
    }

    /// Fails if the pod has a network, or another pod one of these host ports.
    pub(crate) fn check(&self, pod: &PodId, ports: &[HostPort]) -> Result<(), Error> {
        if self.records.contains_key(pod) {
            return Err(Error::Exists { pod: pod.short().to_owned() });
        }
        for port in ports {
            let owner = self.records().find(|record| record.ports.iter().any(|other| conflict(port, other)));
            if let Some(owner) = owner {
                return Err(Error::PortInUse { port: describe(port), owner: owner.owner() });
            }
        }
        Ok(())
    }

    /// Finds an address in each subnet that no pod has; they are taken when the record is inserted.
    pub(crate) fn free_addresses(&mut self, subnets: &[Subnet]) -> Result<Vec<IpAddr>, Error> {
        subnets.iter().map(|subnet| self.free_address(*subnet)).collect()
    }

    fn free_address(&mut self, subnet: Subnet) -> Result<IpAddr, Error> {
        let capacity = subnet.capacity();
        let start = self.cursors.get(&subnet).copied().unwrap_or(0);
        for step in 0..capacity {
            let position = (start + step) % capacity;
            let address = subnet.pod_address(position);
            if !self.used.contains(&address) {
                self.cursors.insert(subnet, position + 1);
                return Ok(address);
            }
        }
        let used = self.used.iter().filter(|address| subnet.contains(**address)).count();
        Err(Error::Exhausted { subnet: subnet.to_string(), used })
    }

    /// Lets the search for addresses go on behind those that are in use, after a restart.
    pub(crate) fn resume_after(&mut self, subnets: &[Subnet]) {
        for subnet in subnets {
            let last = self.used.iter().filter_map(|address| subnet.position(*address)).max();
            if let Some(last) = last {
                self.cursors.entry(*subnet).or_insert((last + 1) % subnet.capacity());
            }
        }
    }
}

fn addresses(record: &Record) -> &[IpAddr] {
    match &record.network {
        PodKind::Embedded { addresses, .. } => addresses,
        PodKind::Cni(_) => &[],
    }
}

/// The mappings that name a host port, checked and without those that say the same twice.
pub(crate) fn host_ports(mappings: &[PortMapping]) -> Result<Vec<HostPort>, Error> {
    let mut ports: Vec<HostPort> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let bad = |reason| Error::BadPort {
            mapping: format!("{}:{} to {}", mapping.host_ip, mapping.host_port, mapping.container_port),
            reason,
        };
        if mapping.container_port == 0 {
            return Err(bad("the container port is 0"));
        }
        let address = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| bad("the host address is not an IP address"))?),
        };
        let port = HostPort {
            protocol: mapping.protocol,
            address,
            port: mapping.host_port,
            container_port: mapping.container_port,
        };
        if ports.contains(&port) {
            continue;
        }
        if ports.iter().any(|other| conflict(&port, other)) {
            return Err(bad("another mapping of the pod has this host port"));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// `tcp 0.0.0.0:80`, and without an address `tcp *:80`.
pub(crate) fn describe(port: &HostPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    match port.address {
        Some(address) => format!("{protocol} {}", std::net::SocketAddr::new(address, port.port)),
        None => format!("{protocol} *:{}", port.port),
    }
}

/// As bind(2) has it: an unspecified address stands for all of its family, none at all for both families.
fn conflict(a: &HostPort, b: &HostPort) -> bool {
    let overlap = match (a.address, b.address) {
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
        _ => true,
    };
    a.protocol == b.protocol && a.port == b.port && overlap
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::VERSION;

    fn port(address: &str, port: u16) -> HostPort {
        let address = (!address.is_empty()).then(|| address.parse().unwrap());
        HostPort { protocol: Protocol::Tcp, address, port, container_port: 80 }
    }

    fn record(ports: Vec<HostPort>, addresses: Vec<IpAddr>) -> Record {
        Record {
            version: VERSION,
            boot_id: String::new(),
            pod: PodId::random().unwrap(),
            name: "web".into(),
            namespace: "default".into(),
            phase: Phase::Up,
            ports,
            network: PodKind::Embedded { link: String::new(), addresses },
        }
    }

    #[test]
    fn host_ports_conflict_as_sockets_do() {
        let table = [
            ("", "", true),
            ("", "10.0.0.1", true),
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "::", false),
            ("::", "fd00::1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "10.0.0.1", true),
        ];
        for (a, b, expected) in table {
            assert_eq!(conflict(&port(a, 80), &port(b, 80)), expected, "{a} {b}");
            assert_eq!(conflict(&port(b, 80), &port(a, 80)), expected, "{b} {a}");
            assert!(!conflict(&port(a, 80), &port(b, 81)));
        }
        let udp = HostPort { protocol: Protocol::Udp, ..port("", 80) };
        assert!(!conflict(&udp, &port("", 80)));
    }

    #[test]
    fn a_taken_host_port_names_its_pod() {
        let mut state = State::default();
        state.insert(record(vec![port("", 80)], vec![]));
        let text = state.check(&PodId::random().unwrap(), &[port("10.0.0.1", 80)]).unwrap_err().to_string();
        assert!(text.contains("tcp 10.0.0.1:80") && text.contains("default/web"), "{text}");
        state.check(&PodId::random().unwrap(), &[port("", 81)]).unwrap();
    }

    #[test]
    fn mappings_are_checked() {
        let mapping = |host_ip: &str, host_port, container_port| PortMapping {
            host_ip: host_ip.into(),
            host_port,
            container_port,
            ..PortMapping::default()
        };
        assert_eq!(host_ports(&[mapping("", 0, 80)]).unwrap(), vec![]);
        assert_eq!(host_ports(&[mapping("", 8, 80), mapping("", 8, 80)]).unwrap(), vec![port("", 8)]);
        for bad in
            [vec![mapping("x", 8, 80)], vec![mapping("", 8, 0)], vec![mapping("", 8, 80), mapping("", 8, 81)]]
        {
            assert!(matches!(host_ports(&bad), Err(Error::BadPort { .. })), "{bad:?}");
        }
    }

    #[test]
    fn addresses_go_round_and_run_out() {
        let subnet: Subnet = "10.0.0.0/29".parse().unwrap();
        let mut state = State::default();
        let mut pods = Vec::new();
        for n in 2..7 {
            let addresses = state.free_addresses(&[subnet]).unwrap();
            assert_eq!(addresses[0].to_string(), format!("10.0.0.{n}"));
            let record = record(vec![], addresses);
            pods.push(record.pod.clone());
            state.insert(record);
        }
        let text = state.free_addresses(&[subnet]).unwrap_err().to_string();
        assert_eq!(text, "no free address in 10.0.0.0/29: 5 pods have one");
        state.remove(&pods[1]);
        state.remove(&pods[0]);
        // The one that was free first is not the one that is used first: the search goes on from where it was.
        assert_eq!(state.free_addresses(&[subnet]).unwrap()[0].to_string(), "10.0.0.2");
        assert_eq!(state.free_addresses(&[subnet]).unwrap()[0].to_string(), "10.0.0.3");
    }

    #[test]
    fn after_a_restart_the_search_goes_on_behind_the_last() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        let mut state = State::default();
        state.insert(record(vec![], vec!["10.0.0.9".parse().unwrap()]));
        state.resume_after(&[subnet]);
        assert_eq!(state.free_addresses(&[subnet]).unwrap()[0].to_string(), "10.0.0.10");
    }
}
