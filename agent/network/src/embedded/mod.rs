//! The embedded network: a bridge, a veth pair for each pod, masquerade and host ports.
//!
//! Made on first use, in process, by netlink. What is ours is recognised, so that several agents live side by side
//! and nothing foreign is touched: the bridge by its hardware address, which is random and recorded before it is made;
//! the nftables table by its comment; a pod's link by its name, its alias and its bridge.
//!
//! DEL takes back the host ports and leaves the link to the death of the network namespace: that costs nobody a
//! wait, while RTM_DELLINK takes 10 to 30 ms under the kernel's one lock for all of networking. Until the link is gone
//! the record stays and with it the addresses are taken; [`reaper`] sees to that.

mod bridge;
pub(crate) mod firewall;
#[cfg(test)]
mod firewall_tests;
mod other_firewalls;
pub(crate) mod pod;
pub(crate) mod reaper;
mod sysctl;
#[cfg(test)]
mod tests;

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, Once, PoisonError},
};

use crate::{
    EmbeddedConfig, Error,
    netlink::{link, nft},
    record::{Phase, Record},
    state::Stray,
    store::Store,
    subnet::Subnet,
    thread,
};

/// The bridge as it stands.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    index: u32,
    pub(crate) subnets: Vec<Subnet>,
    mtu: u32,
    /// Comment of the table, and of rules in Docker's.
    owner: String,
}

impl Host {
    fn bridge(&self, name: &str) -> other_firewalls::Bridge {
        other_firewalls::Bridge {
            name: name.to_owned(),
            owner: self.owner.clone(),
            subnets: self.subnets.clone(),
        }
    }
}

/// The bridge as it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    bridge: String,
    subnets: Vec<Subnet>,
    mtu: Option<u32>,
}

/// The embedded network of one agent.
#[derive(Debug)]
pub(crate) struct Embedded {
    store: Store,
    boot_id: String,
    desired: Mutex<Desired>,
    /// `None` until the first pod, and after the bridge was found missing. Held for writing while the table is replaced by
    /// one with the host ports of the pods that there are, for reading while one of them changes.
    host: tokio::sync::RwLock<Option<Arc<Host>>>,
}

impl Embedded {
    pub(crate) fn new(config: &EmbeddedConfig, store: Store, boot_id: String) -> Result<Self, Error> {
        let desired = Desired::parse(config)?;
        Ok(Self { store, boot_id, desired: Mutex::new(desired), host: tokio::sync::RwLock::new(None) })
    }

    /// Name of bridge and table.
    pub(crate) fn name(&self) -> String {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner).bridge.clone()
    }

    /// Takes the pods' subnets from UpdateRuntimeConfig: one or two in CIDR notation, with a comma between them. They
    /// count from the next time that the bridge is made without a pod on it.
    pub(crate) fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        let given = parse_subnets(cidr.split(',').map(str::trim))?;
        let mut desired = self.desired.lock().unwrap_or_else(PoisonError::into_inner);
        for subnet in given {
            match desired.subnets.iter_mut().find(|other| other.is_v4() == subnet.is_v4()) {
                Some(other) => *other = subnet,
                None => desired.subnets.push(subnet),
            }
        }
        Ok(())
    }

    fn desired(&self) -> Desired {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bridge, made if need be. `any` says whether pods are on it, `pods` has their records.
    pub(crate) async fn host(
        &self,
        any: impl Fn() -> bool,
        pods: impl Fn() -> Vec<Record>,
    ) -> Result<Arc<Host>, Error> {
        let desired = self.desired();
        let fits = |found: &Arc<Host>| Ok::<_, Error>(any() || desired.usable()? == found.subnets);
        if let Some(found) = self.host.read().await.as_ref()
            && fits(found)?
        {
            return Ok(found.clone());
        }
        let mut host = self.host.write().await;
        if let Some(found) = host.as_ref()
            && fits(found)?
        {
            return Ok(found.clone());
        }
        let (store, boot_id, pods) = (self.store.clone(), self.boot_id.clone(), pods());
        let plan = bridge::Plan { store, boot_id, desired, pods };
        let made = Arc::new(thread::blocking("bridge", move || bridge::ensure(&plan)).await?);
        *host = Some(made.clone());
        Ok(made)
    }

    /// Whether it was made, and has not been found missing since.
    pub(crate) async fn is_up(&self) -> bool {
        self.host.read().await.is_some()
    }

    /// Forgets the bridge if it or its table is not there any more (`nft flush ruleset`, a firewall's restart, somebody
    /// tidying up); whether that was so. The next call of [`Self::host`] makes them anew.
    pub(crate) async fn forget_missing(&self) -> bool {
        let Some(found) = self.host.read().await.clone() else { return false };
        let (name, index) = (self.name(), found.index);
        let missing = thread::blocking("bridge", move || {
            let mut socket = pod::open_route()?;
            let link = link::find(&mut socket, &name).map_err(Error::netlink("look for the bridge"))?;
            if link.is_none_or(|link| link.index != index) {
                return Ok(true);
            }
            let mut socket = pod::open_netfilter()?;
            let table = nft::table_owner(&mut socket, &name)
                .map_err(Error::netlink("look for the nftables table"))?;
            Ok(table.is_none())
        });
        let missing = missing.await.unwrap_or(false);
        if missing {
            let mut host = self.host.write().await;
            // Another may have made it anew meanwhile.
            if host.as_ref().is_some_and(|host| host.index == index) {
                *host = None;
            }
        }
        missing
    }

    /// Whether pods can pass the node's other firewalls. Where Docker's has to be told of the bridge, that is done: a restart
    /// of it may have forgotten.
    pub(crate) async fn pass_other_firewalls(&self) -> Result<(), Error> {
        let (desired, host) = (self.desired(), self.host.read().await.clone());
        thread::blocking("firewalls", move || {
            let bridge = match &host {
                Some(host) => host.bridge(&desired.bridge),
                None => other_firewalls::Bridge {
                    subnets: desired.usable()?,
                    name: desired.bridge,
                    owner: String::new(),
                },
            };
            let mut socket = pod::open_netfilter()?;
            let barriers = other_firewalls::barriers(&mut socket, &bridge)?;
            if host.is_some() {
                other_firewalls::let_pass(&mut socket, &bridge, &barriers)?;
            }
            other_firewalls::check(&bridge, &barriers)
        })
        .await
    }

    /// Whether the subnets are free, so that Status can say so before the first pod comes.
    pub(crate) async fn preflight(&self) -> Result<(), Error> {
        if self.is_up().await {
            return Ok(());
        }
        let desired = self.desired();
        let store = self.store.clone();
        thread::blocking("preflight", move || {
            let subnets = desired.usable()?;
            let mut socket = pod::open_route()?;
            let link =
                link::find(&mut socket, &desired.bridge).map_err(Error::netlink("look for the bridge"))?;
            let ours = store
                .load_bridge()?
                .is_some_and(|record| link.as_ref().is_some_and(|link| link.address == record.mac));
            match link {
                Some(link) if ours => {
                    bridge::check_collisions(&mut socket, &desired.bridge, &subnets, Some(link.index))
                }
                Some(_) => Err(Error::Foreign { what: "interface", name: desired.bridge }),
                None => bridge::check_collisions(&mut socket, &desired.bridge, &subnets, None),
            }
        })
        .await
    }

    /// Gives the pod of `record` its network. What a failure leaves, [`Self::disconnect`] takes away.
    pub(crate) async fn connect(
        &self,
        record: Record,
        netns: OwnedFd,
    ) -> Result<Vec<std::net::IpAddr>, Error> {
        if let Some(port) = bridge::unreachable_port(&record.ports, record.addresses()) {
            let reason = "the pod has no address of the host address's family";
            return Err(Error::BadPort { mapping: crate::state::describe(port), reason });
        }
        let (store, table) = (self.store.clone(), self.name());
        let host = self.host.read().await;
        let Some(found) = host.clone() else { return Err(Error::Missing { bridge: table }) };
        thread::one_shot("pod-network", move || {
            // On disk it is up from the start: whether RunPodSandbox came to its end is in the agent's own record.
            store.save(&Record { phase: Phase::Up, ..record.clone() })?;
            pod::connect(&found, &table, &record, &netns)
        })
        .await
    }

    /// Takes back host ports, and with `remove` the link; whether a link is there afterwards.
    pub(crate) async fn disconnect(&self, record: Record, remove: bool) -> Result<bool, Error> {
        let table = self.name();
        let _host = self.host.read().await;
        thread::blocking("pod-network", move || pod::disconnect(&table, &record, remove)).await
    }

    /// Compares the kernel with the record.
    pub(crate) async fn check(&self, host: Arc<Host>, record: Record, netns: OwnedFd) -> Result<(), Error> {
        thread::one_shot("pod-network", move || pod::check(&host, &record, &netns)).await
    }

    /// Links on the bridge that no record names.
    pub(crate) async fn strays(&self, known_links: Vec<String>) -> Result<Vec<Stray>, Error> {
        let (name, store) = (self.name(), self.store.clone());
        thread::blocking("pod-network", move || {
            let Some(record) = store.load_bridge()? else { return Ok(Vec::new()) };
            let mut socket = pod::open_route()?;
            let links = link::list(&mut socket).map_err(Error::netlink("list links"))?;
            let bridge = links.iter().find(|link| link.name == name && link.address == record.mac);
            let Some(bridge) = bridge else { return Ok(Vec::new()) };
            let is_stray = |link: &&link::Link| {
                let ours = link.master == bridge.index && link.kind == "veth" && link.name.starts_with("hf");
                ours && !known_links.contains(&link.name)
            };
            Ok(links.iter().filter(is_stray).map(pod::stray).collect())
        })
        .await
    }

    /// Removes a link by name.
    pub(crate) async fn remove_link(&self, name: String) -> Result<(), Error> {
        thread::blocking("pod-network", move || pod::remove_link(&mut pod::open_route()?, &name)).await
    }

    /// Removes bridge, table and their record.
    pub(crate) async fn remove(&self) -> Result<(), Error> {
        let mut host = self.host.write().await;
        *host = None;
        let store = self.store.clone();
        thread::blocking("bridge", move || bridge::remove(&store)).await
    }
}

impl Desired {
    fn parse(config: &EmbeddedConfig) -> Result<Self, Error> {
        let bridge = config.bridge.clone();
        let bad_name = bridge.is_empty()
            || bridge.len() > 15
            || bridge == "."
            || bridge == ".."
            || bridge.contains(|c: char| c == '/' || c == ':' || c == '%' || !c.is_ascii_graphic());
        if bad_name {
            return Err(Error::Config(format!(
                "network.embedded.bridge {bridge:?} is not an interface name: 1 to 15 characters without / : %"
            )));
        }
        let subnets = parse_subnets(config.subnets.iter().map(String::as_str))?;
        Ok(Self { bridge, subnets, mtu: config.mtu })
    }

    /// The subnets that this host can have: without IPv6 in the kernel only those of IPv4.
    fn usable(&self) -> Result<Vec<Subnet>, Error> {
        static WARN: Once = Once::new();
        let mut subnets = self.subnets.clone();
        if !sysctl::has_ipv6() {
            subnets.retain(|subnet| subnet.is_v4());
            if subnets.len() < self.subnets.len() {
                WARN.call_once(|| tracing::warn!("IPv6 is off on this host: pods get IPv4 addresses only"));
            }
        }
        if subnets.is_empty() {
            return Err(Error::Config(
                "network.embedded.subnets has none that this host can use: IPv6 is off, so name an IPv4 one"
                    .to_owned(),
            ));
        }
        Ok(subnets)
    }
}

fn parse_subnets<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Subnet>, Error> {
    let subnets = texts
        .map(str::parse::<Subnet>)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| Error::Config(format!("network.embedded.subnets: {reason}")))?;
    for v4 in [true, false] {
        if subnets.iter().filter(|subnet| subnet.is_v4() == v4).count() > 1 {
            let family = if v4 { "IPv4" } else { "IPv6" };
            return Err(Error::Config(format!("network.embedded.subnets has more than one of {family}")));
        }
    }
    if subnets.is_empty() {
        return Err(Error::Config("network.embedded.subnets is empty".to_owned()));
    }
    Ok(subnets)
}
