//! Which pod has which network, addresses and host ports: the records in memory, and the allocation of what they hold.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Instant, SystemTime},
};

use holdfast_model::{PodId, PortMapping, Protocol};

use crate::{
    Error, OwedDel,
    debt::Debt,
    network::DEL_LIMIT,
    record::{HostPort, Newer, Phase, PodKind, Record},
    store::Loaded,
    subnet::Subnet,
};

/// A DEL that was asked for so many seconds ago is not waited for: a client has waited for it as long as clients do.
const SOON_S: u64 = DEL_LIMIT.as_secs();

/// The records, and what follows from them. Lives behind one lock that is never held over I/O.
#[derive(Debug, Default)]
pub(crate) struct State {
    records: HashMap<PodId, Entry>,
    /// Of newer programs: what they hold is not given away.
    newer: Vec<Newer>,
    /// Links that no record names, until it is known which pods there are.
    strays: Vec<Stray>,
    /// How many of all these have an address: two can, after a record could not be written.
    used: HashMap<IpAddr, usize>,
    /// Where the search for a free address goes on, so that an address is used again as late as can be.
    cursors: HashMap<Subnet, u128>,
}

#[derive(Debug, Clone)]
struct Entry {
    record: Record,
    /// DEL, once it has been asked for, until it is done.
    debt: Option<Debt>,
    /// Since when DEL is done but for the link, which has yet to go.
    lingering: Option<Instant>,
    /// Plugins that an earlier agent or a failed call has started may still be at work.
    plugins_at_large: bool,
    /// The pod is being removed, and DEL is going to be asked for.
    leaving: bool,
}

impl Entry {
    /// Whether what it holds is free soon. Not once DEL has failed or takes long, for this agent or one before it.
    fn is_soon_free(&self) -> bool {
        let is_old =
            self.record.deleting_since_s.is_some_and(|since| now_s().saturating_sub(since) >= SOON_S);
        !is_old && self.debt.as_ref().map_or(self.leaving, |debt| !debt.is_overdue())
    }
}

/// A link of the embedded network without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) link: String,
    /// Pod and addresses, from its alias.
    pub(crate) pod: Option<PodId>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A try of DEL that begins.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) record: Record,
    /// The record differs from what was written last.
    pub(crate) is_news: bool,
    /// ADD did not come to its end.
    pub(crate) is_undo: bool,
    /// Tries before this one.
    pub(crate) tries: u32,
    pub(crate) plugins_at_large: bool,
}

impl State {
    /// Takes in what an earlier agent has left. DEL that it began is due at once.
    pub(crate) fn load(&mut self, loaded: Loaded) {
        for newer in loaded.newer {
            newer.addresses.iter().for_each(|address| self.take(*address));
            self.newer.push(newer);
        }
        for record in loaded.records {
            let (pod, phase) = (record.pod.clone(), record.phase);
            self.insert(record);
            if let Some(entry) = self.records.get_mut(&pod) {
                entry.plugins_at_large = phase != Phase::Up;
                entry.debt = (phase == Phase::Deleting).then(|| Debt::due(Instant::now()));
            }
        }
    }

    /// Whether the records of all pods could be read.
    pub(crate) fn knows_all(&self) -> bool {
        self.newer.is_empty()
    }

    /// Takes in links without a record, with the addresses that they hold.
    pub(crate) fn set_strays(&mut self, strays: Vec<Stray>) {
        strays.iter().flat_map(|stray| &stray.addresses).for_each(|address| self.take(*address));
        self.strays = strays;
    }

    /// Gives them out, and their addresses free.
    pub(crate) fn take_strays(&mut self) -> Vec<Stray> {
        let strays = std::mem::take(&mut self.strays);
        strays.iter().flat_map(|stray| &stray.addresses).for_each(|address| self.free(*address));
        strays
    }

    /// Takes in the record of a pod that has none, with the addresses that it holds.
    pub(crate) fn insert(&mut self, record: Record) {
        record.addresses().iter().for_each(|address| self.take(*address));
        let pod = record.pod.clone();
        let entry = Entry { record, debt: None, lingering: None, plugins_at_large: false, leaving: false };
        if let Some(before) = self.records.insert(pod, entry) {
            before.record.addresses().iter().for_each(|address| self.free(*address));
        }
    }

    /// Forgets a pod; its addresses are free.
    pub(crate) fn remove(&mut self, pod: &PodId) {
        if let Some(entry) = self.records.remove(pod) {
            entry.record.addresses().iter().for_each(|address| self.free(*address));
        }
    }

    fn take(&mut self, address: IpAddr) {
        *self.used.entry(address).or_default() += 1;
    }

    fn free(&mut self, address: IpAddr) {
        if let Some(count) = self.used.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.used.remove(&address);
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
        let before = entry.record.addresses().to_vec();
        change(&mut entry.record);
        let record = entry.record.clone();
        record.addresses().iter().for_each(|address| self.take(*address));
        for address in before {
            self.free(address);
        }
        Some(record)
    }

    /// All records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|entry| &entry.record)
    }

    /// Records of the pods that are on the bridge, or are about to be.
    pub(crate) fn on_bridge(&self) -> impl Iterator<Item = &Record> {
        self.records().filter(|record| record.is_embedded() && record.phase != Phase::Deleting)
    }

    /// Whether a pod is on the bridge, or was and its link has yet to go.
    pub(crate) fn any_embedded(&self) -> bool {
        self.records().any(Record::is_embedded)
            || self.newer.iter().any(|newer| newer.link.is_some())
            || !self.strays.is_empty()
    }

    /// Links that a record names.
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.records().filter_map(|record| match &record.network {
            PodKind::Embedded { link, .. } => Some(link.clone()),
            PodKind::Cni(_) => None,
        });
        links.chain(self.newer.iter().filter_map(|newer| newer.link.clone())).collect()
    }

    /// DEL is asked for: the number of tries so far. `None`: there is nothing to take back, or DEL is done but for the link.
    pub(crate) fn owe(&mut self, pod: &PodId) -> Option<u32> {
        let entry = self.records.get_mut(pod).filter(|entry| entry.lingering.is_none())?;
        Some(entry.debt.get_or_insert_with(|| Debt::due(Instant::now())).tries())
    }

    /// The number of tries of a DEL that is not done.
    pub(crate) fn tries(&self, pod: &PodId) -> Option<u32> {
        self.records.get(pod)?.debt.as_ref().map(Debt::tries)
    }

    /// A pod's DEL that is not done.
    pub(crate) fn debt(&mut self, pod: &PodId) -> Option<&mut Debt> {
        self.records.get_mut(pod)?.debt.as_mut()
    }

    /// At most so many pods whose DEL is due and that nobody works at, the longest waiting first; and when the next one is
    /// due.
    pub(crate) fn due(&self, most: usize) -> (Vec<PodId>, Option<Instant>) {
        let now = Instant::now();
        let idle =
            self.records.iter().filter_map(|(pod, entry)| Some((entry.debt.as_ref()?.idle_until()?, pod)));
        let mut idle: Vec<(Instant, &PodId)> = idle.collect();
        idle.sort_by_key(|(until, _)| *until);
        let due = idle.iter().take_while(|(until, _)| *until <= now).count();
        let next = idle.get(due).map(|(until, _)| *until);
        (idle.iter().take(due.min(most)).map(|(_, pod)| (*pod).clone()).collect(), next)
    }

    /// A try of DEL begins, with the pod's lock held.
    pub(crate) fn begin(&mut self, pod: &PodId) -> Option<Begun> {
        let tries = self.tries(pod)?;
        let entry = self.records.get_mut(pod)?;
        let (is_news, is_undo) = (entry.record.phase != Phase::Deleting, entry.record.phase == Phase::Adding);
        entry.record.phase = Phase::Deleting;
        entry.record.deleting_since_s.get_or_insert_with(now_s);
        let (mut record, plugins_at_large) = (entry.record.clone(), entry.plugins_at_large);
        if record.is_embedded() {
            // An earlier try may have closed them, and another pod have opened them since.
            record.ports.retain(|port| !self.on_bridge().any(|other| has_port(&other.ports, port)));
        }
        Some(Begun { record, is_news, is_undo, tries, plugins_at_large })
    }

    /// A try of DEL has failed; whether that, or why, is news.
    pub(crate) fn failed(&mut self, pod: &PodId, error: &str) -> bool {
        let Some(entry) = self.records.get_mut(pod) else { return false };
        entry.plugins_at_large = true;
        entry.lingering = None;
        entry.debt.get_or_insert_with(|| Debt::due(Instant::now())).failed(error)
    }

    /// DEL is done but for the link.
    pub(crate) fn linger(&mut self, pod: &PodId) {
        if let Some(entry) = self.records.get_mut(pod) {
            entry.debt = None;
            entry.lingering = Some(Instant::now());
        }
    }

    /// Links of pods that DEL is done with, and since when.
    pub(crate) fn lingering(&self) -> Vec<(PodId, String, Instant)> {
        let lingering =
            self.records.values().filter_map(|entry| match (&entry.record.network, entry.lingering) {
                (PodKind::Embedded { link, .. }, Some(since)) => {
                    Some((entry.record.pod.clone(), link.clone(), since))
                }
                _ => None,
            });
        lingering.collect()
    }

    /// Every DEL that has failed or takes long, the oldest first.
    pub(crate) fn owed(&self) -> Vec<OwedDel> {
        let owed = self.records.values().filter_map(|entry| {
            let (record, debt) = (&entry.record, entry.debt.as_ref().filter(|debt| debt.is_overdue())?);
            Some(OwedDel {
                pod: record.pod.clone(),
                name: record.name.clone(),
                namespace: record.namespace.clone(),
                since_s: record.deleting_since_s.unwrap_or_else(now_s),
                tries: debt.tries(),
                error: debt.error().to_owned(),
                host_ports: record.ports.iter().map(describe).collect(),
            })
        });
        let mut owed: Vec<OwedDel> = owed.collect();
        owed.sort_by(|a, b| (a.since_s, &a.pod).cmp(&(b.since_s, &b.pod)));
        owed
    }

    /// Fails if the pod has a network, or another pod one of these host ports.
    pub(crate) fn check(&self, pod: &PodId, ports: &[HostPort]) -> Result<(), Error> {
        if self.records.contains_key(pod) {
            return Err(Error::Exists { pod: pod.short().to_owned() });
        }
        match ports.iter().find_map(|port| Some((port, self.holder_of(port, pod)?))) {
            Some((port, owner)) => Err(Error::PortInUse { port: describe(port), owner }),
            None => Ok(()),
        }
    }

    /// The pod is being removed: what it has is waited for.
    pub(crate) fn is_leaving(&mut self, pod: &PodId) {
        if let Some(entry) = self.records.get_mut(pod) {
            entry.leaving = true;
        }
    }

    /// Whether other pods have some of these host ports, and each of them gives them back soon.
    pub(crate) fn are_soon_free(&self, pod: &PodId, ports: &[HostPort]) -> bool {
        let has = |entry: &Entry| {
            entry.record.pod != *pod && ports.iter().any(|port| has_port(&entry.record.ports, port))
        };
        let mut holders = self.records.values().filter(|entry| has(entry)).peekable();
        holders.peek().is_some() && holders.all(Entry::is_soon_free)
    }

    /// Which pod other than `pod` has a host port, and why, if it has been removed.
    fn holder_of(&self, port: &HostPort, pod: &PodId) -> Option<String> {
        let has = |record: &Record| record.pod != *pod && has_port(&record.ports, port);
        if let Some(entry) = self.records.values().find(|entry| has(&entry.record)) {
            let owner = entry.record.owner();
            return Some(match &entry.debt {
                Some(debt) => format!("{owner}, which is removed but for its network: {}", debt.reason()),
                None => owner,
            });
        }
        let newer = self.newer.iter().find(|newer| has_port(&newer.ports, port))?;
        Some(format!("{}, as a newer program has recorded", newer.pod))
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
            if !self.used.contains_key(&address) {
                self.cursors.insert(subnet, position + 1);
                return Ok(address);
            }
        }
        let used = self.used.keys().filter(|address| subnet.contains(**address)).count();
        Err(Error::Exhausted { subnet: subnet.to_string(), used })
    }

    /// Lets the search for addresses go on behind those that are in use, after a restart.
    pub(crate) fn resume_after(&mut self, subnets: &[Subnet]) {
        for subnet in subnets {
            let last = self.used.keys().filter_map(|address| subnet.position(*address)).max();
            if let Some(last) = last {
                self.cursors.entry(*subnet).or_insert((last + 1) % subnet.capacity());
            }
        }
    }
}

fn has_port(ports: &[HostPort], port: &HostPort) -> bool {
    ports.iter().any(|other| conflict(port, other))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

    fn port(address: &str, port: u16) -> HostPort {
        let address = (!address.is_empty()).then(|| address.parse().unwrap());
        HostPort { protocol: Protocol::Tcp, address, port, container_port: 80 }
    }

    fn record(ports: Vec<HostPort>, addresses: Vec<IpAddr>) -> Record {
        let network = PodKind::Embedded { link: String::new(), addresses };
        let record = Record::new("", PodId::random().unwrap(), ports, network);
        Record { name: "web".into(), namespace: "default".into(), phase: Phase::Up, ..record }
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
    fn a_host_port_of_a_removed_pod_says_why_it_is_taken() {
        let mut state = State::default();
        let removed = record(vec![port("", 80)], vec![]);
        let pod = removed.pod.clone();
        state.insert(removed);
        assert_eq!(state.owe(&pod), Some(0));
        state.begin(&pod).unwrap();
        let taken =
            |state: &State| state.check(&PodId::random().unwrap(), &[port("", 80)]).unwrap_err().to_string();
        assert!(
            taken(&state).contains("default/web") && taken(&state).contains("DEL is under way"),
            "{}",
            taken(&state)
        );
        assert!(state.owed().is_empty(), "it has only begun");
        assert!(state.failed(&pod, "CNI plugin x DEL: no"));
        assert!(!state.failed(&pod, "CNI plugin x DEL: no"), "no news");
        assert!(taken(&state).ends_with("CNI plugin x DEL: no"), "{}", taken(&state));
        let owed = state.owed();
        assert_eq!((owed.len(), owed[0].tries, &owed[0].pod), (1, 2, &pod));
        assert_eq!(
            (owed[0].error.as_str(), owed[0].host_ports.as_slice()),
            ("CNI plugin x DEL: no", ["tcp *:80".to_owned()].as_slice())
        );
    }

    #[test]
    fn ports_of_a_pod_that_leaves_are_waited_for_until_its_del_fails() {
        let mut state = State::default();
        let (other, wanted) = (PodId::random().unwrap(), [port("", 80)]);
        let (stays, leaves) = (record(vec![port("", 81)], vec![]), record(vec![port("", 80)], vec![]));
        let pod = leaves.pod.clone();
        state.insert(stays);
        assert!(!state.are_soon_free(&other, &wanted), "nobody has it");
        state.insert(leaves);
        assert!(!state.are_soon_free(&other, &wanted), "its pod stays");
        state.is_leaving(&pod);
        assert!(state.are_soon_free(&other, &wanted) && !state.are_soon_free(&pod, &wanted));
        assert!(!state.are_soon_free(&other, &[port("", 80), port("", 81)]), "one of them stays");
        state.owe(&pod);
        assert!(state.are_soon_free(&other, &wanted));
        state.update(&pod, |record| record.deleting_since_s = Some(now_s() - SOON_S));
        assert!(!state.are_soon_free(&other, &wanted), "an agent before has waited long enough");
        state.update(&pod, |record| record.deleting_since_s = None);
        state.failed(&pod, "no");
        assert!(!state.are_soon_free(&other, &wanted));
    }

    #[test]
    fn a_later_try_leaves_alone_what_another_pod_has_now() {
        let mut state = State::default();
        let (first, second) = (record(vec![port("", 80)], vec![]), record(vec![port("", 80)], vec![]));
        let pod = first.pod.clone();
        state.insert(first);
        state.owe(&pod);
        assert_eq!(state.begin(&pod).unwrap().record.ports.len(), 1);
        state.insert(second);
        assert_eq!(state.begin(&pod).unwrap().record.ports.len(), 0);
    }

    #[test]
    fn an_address_that_two_records_name_is_free_when_both_are_gone() {
        let address: IpAddr = "10.0.0.2".parse().unwrap();
        let mut state = State::default();
        let (first, second) = (record(vec![], vec![address]), record(vec![], vec![address]));
        let pods = [first.pod.clone(), second.pod.clone()];
        state.insert(first);
        state.insert(second);
        state.remove(&pods[0]);
        assert!(state.used.contains_key(&address));
        state.update(&pods[1], |record| record.phase = Phase::Deleting);
        assert!(state.used.contains_key(&address));
        state.remove(&pods[1]);
        assert!(state.used.is_empty());
    }

    #[test]
    fn what_an_earlier_or_newer_agent_has_left_is_taken() {
        let deleting = Record { phase: Phase::Deleting, ..record(vec![], vec!["10.0.0.2".parse().unwrap()]) };
        let pod = deleting.pod.clone();
        let newer = Newer {
            pod: "x".into(),
            ports: vec![port("", 80)],
            addresses: vec!["10.0.0.3".parse().unwrap()],
            link: Some("hfx".into()),
        };
        let mut state = State::default();
        state.load(Loaded { records: vec![deleting], newer: vec![newer], torn: Vec::new() });
        let stray = Stray { link: "hfy".into(), pod: None, addresses: vec!["10.0.0.4".parse().unwrap()] };
        state.set_strays(vec![stray.clone()]);
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(state.free_addresses(&[subnet]).unwrap()[0].to_string(), "10.0.0.5");
        assert_eq!(state.due(9).0, [pod]);
        let text = state.check(&PodId::random().unwrap(), &[port("", 80)]).unwrap_err().to_string();
        assert!(text.contains("newer program"), "{text}");
        assert_eq!(state.take_strays(), [stray]);
        assert_eq!(state.used.len(), 2);
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
