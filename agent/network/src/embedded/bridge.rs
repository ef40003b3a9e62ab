//! Making the bridge, or finding it as it was left, with its addresses, sysctls and nftables table.

use std::{fs::File, io::Read, net::IpAddr};

use rustix::io::Errno;

use super::{Desired, Host, firewall, other_firewalls, sysctl};
use crate::{
    Error,
    netlink::{
        Socket, addr,
        link::{self, Link},
        nft, route,
    },
    record::{BridgeRecord, HostPort, PodKind, Record, VERSION},
    store::Store,
    subnet::Subnet,
};

const DEFAULT_MTU: u32 = 1500;

/// What there is to make a host from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) store: Store,
    pub(super) boot_id: String,
    pub(super) desired: Desired,
    /// Records of this boot whose pods are on the bridge.
    pub(super) pods: Vec<Record>,
}

/// Makes what is missing of the bridge, and replaces the table by one with the host ports of the pods that there are.
pub(super) fn ensure(plan: &Plan) -> Result<Host, Error> {
    let name = plan.desired.bridge.as_str();
    let mut route = Socket::route().map_err(Error::netlink("open a netlink socket"))?;
    let mut netfilter = Socket::netfilter().map_err(Error::netlink("open a netfilter socket"))?;
    // Whatever boot it is of: its hardware address says whether what is there is it.
    let known = plan.store.load_bridge()?.filter(|record| record.name == name);
    let written = known.clone();
    let present = claim(&mut route, &mut netfilter, name, known.as_ref())?;
    let subnets = plan.desired.usable()?;
    let record = match known {
        // Pods keep the subnets that they have addresses of.
        Some(record) if !plan.pods.is_empty() || record.subnets == subnets => record,
        Some(record) => BridgeRecord { subnets, ..record },
        None => BridgeRecord {
            version: VERSION,
            boot_id: plan.boot_id.clone(),
            name: name.to_owned(),
            mac: random_mac()?,
            subnets,
        },
    };
    let present = drop_outdated(&mut route, present, &record)?;
    if present.is_none() {
        check_collisions(&mut route, name, &record.subnets, None)?;
    }
    // One that says the same stays as it is: it may be a newer program's.
    if written.as_ref() != Some(&record) {
        plan.store.save_bridge(&record)?;
    }
    let mtu = plan.desired.mtu.unwrap_or_else(|| default_mtu(&mut route));
    let link = match present {
        Some(link) => link,
        None => create(&mut route, &record, mtu)?,
    };
    let owner = owner(&record);
    let host = Host { index: link.index, subnets: record.subnets.clone(), mtu: link.mtu, owner };
    configure(&mut route, &host, &record)?;
    adopt_ports(&mut route, &host, &plan.pods)?;
    let elements: Vec<_> = plan.pods.iter().flat_map(host_port_elements).collect();
    netfilter
        .transaction(firewall::table(name, &host.owner, &record.subnets, &elements))
        .map_err(Error::netlink(format!("write the nftables table {name}")))?;
    let bridge = host.bridge(name);
    let passed = other_firewalls::barriers(&mut netfilter, &bridge)
        .and_then(|barriers| other_firewalls::let_pass(&mut netfilter, &bridge, &barriers));
    // Pods reach each other all the same, and Status tries again.
    if let Err(error) = passed {
        tracing::warn!(error = holdfast_model::chain(&error), "could not let pods pass another firewall");
    }
    Ok(host)
}

/// The bridge if it is there and ours.
fn claim(
    route: &mut Socket,
    netfilter: &mut Socket,
    name: &str,
    known: Option<&BridgeRecord>,
) -> Result<Option<Link>, Error> {
    let foreign = |what| Error::Foreign { what, name: name.to_owned() };
    let link = link::find(route, name).map_err(Error::netlink(format!("look for the bridge {name}")))?;
    if let Some(link) = &link {
        let ours = known.is_some_and(|record| link.kind == "bridge" && link.address == record.mac);
        if !ours {
            return Err(foreign("interface"));
        }
    }
    let table = nft::table_owner(netfilter, name)
        .map_err(Error::netlink(format!("look for the nftables table {name}")))?;
    if table.is_some_and(|found| known.is_none_or(|record| owner(record) != found)) {
        return Err(foreign("nftables table"));
    }
    Ok(link)
}

/// A bridge whose addresses are of other subnets than the record's goes; no pod is on it then.
fn drop_outdated(
    route: &mut Socket,
    present: Option<Link>,
    record: &BridgeRecord,
) -> Result<Option<Link>, Error> {
    let Some(link) = present else { return Ok(None) };
    let addresses = addr::list(route).map_err(Error::netlink("list addresses"))?;
    let outdated = addresses
        .iter()
        .filter(|address| address.link == link.index && !is_link_local(address.ip))
        .any(|address| !record.subnets.iter().any(|subnet| subnet.gateway() == address.ip));
    if !outdated {
        return Ok(Some(link));
    }
    link::remove(route, link.index).map_err(Error::netlink(format!("remove the bridge {}", record.name)))?;
    Ok(None)
}

fn create(route: &mut Socket, record: &BridgeRecord, mtu: u32) -> Result<Link, Error> {
    let name = &record.name;
    link::add_bridge(route, name, record.mac, mtu)
        .map_err(Error::netlink(format!("create the bridge {name}")))?;
    let link = link::find(route, name).map_err(Error::netlink(format!("look for the bridge {name}")))?;
    link.ok_or_else(|| Error::netlink(format!("look for the bridge {name}"))(Errno::NODEV.into()))
}

fn configure(route: &mut Socket, host: &Host, record: &BridgeRecord) -> Result<(), Error> {
    let name = &record.name;
    link::set_up(route, host.index).map_err(Error::netlink(format!("set the bridge {name} up")))?;
    for subnet in &host.subnets {
        addr::add(route, host.index, subnet.gateway(), subnet.prefix())
            .map_err(Error::netlink(format!("add the address {} to the bridge {name}", subnet.gateway())))?;
    }
    sysctl::prepare(name, &host.subnets)
}

/// Makes the links of the pods that there are ports of this bridge: someone may have removed an earlier one.
fn adopt_ports(route: &mut Socket, host: &Host, pods: &[Record]) -> Result<(), Error> {
    if pods.is_empty() {
        return Ok(());
    }
    let links = link::list(route).map_err(Error::netlink("list links"))?;
    for record in pods {
        let PodKind::Embedded { link, .. } = &record.network else { continue };
        let stray = links.iter().find(|found| found.name == *link && found.master != host.index);
        if let Some(found) = stray {
            link::set_master(route, found.index, host.index)
                .map_err(Error::netlink(format!("make {link} a port of the bridge")))?;
        }
    }
    Ok(())
}

/// Removes bridge, table and record; only when no pod is left.
pub(super) fn remove(store: &Store) -> Result<(), Error> {
    let Some(record) = store.load_bridge()? else { return Ok(()) };
    let mut errors = Vec::new();
    let mut route = Socket::route().map_err(Error::netlink("open a netlink socket"))?;
    let mut netfilter = Socket::netfilter().map_err(Error::netlink("open a netfilter socket"))?;
    let name = &record.name;
    match claim(&mut route, &mut netfilter, name, Some(&record)) {
        Ok(link) => {
            let removed = netfilter.transaction(vec![nft::delete_table(name)]);
            if let Err(error) = removed.or_else(|error| if error.is_absent() { Ok(()) } else { Err(error) }) {
                errors.push(Error::netlink(format!("remove the nftables table {name}"))(error));
            }
            errors.extend(other_firewalls::undo(&mut netfilter, &owner(&record)).err());
            if let Some(Err(error)) = link.map(|link| link::remove(&mut route, link.index)) {
                errors.push(Error::netlink(format!("remove the bridge {name}"))(error));
            }
        }
        Err(error) => errors.push(error),
    }
    if errors.is_empty() {
        errors.extend(store.remove_bridge().err());
    }
    Error::collect(errors)
}

/// Whether the subnets are free on this host; `bridge` is ours and does not count.
pub(super) fn check_collisions(
    route: &mut Socket,
    name: &str,
    subnets: &[Subnet],
    bridge: Option<u32>,
) -> Result<(), Error> {
    let addresses = addr::list(route).map_err(Error::netlink("list addresses"))?;
    let routes = route::list(route).map_err(Error::netlink("list routes"))?;
    let links = link::list(route).map_err(Error::netlink("list links"))?;
    let device = |index| links.iter().find(|link| link.index == index).map_or("?", |link| link.name.as_str());
    for subnet in subnets {
        let collision =
            |other| Error::Collision { bridge: name.to_owned(), subnet: subnet.to_string(), other };
        let address = addresses.iter().find(|found| Some(found.link) != bridge && subnet.contains(found.ip));
        if let Some(found) = address {
            let text = format!("address {}/{} on {}", found.ip, found.prefix, device(found.link));
            return Err(collision(text));
        }
        let route = routes.iter().find(|found| {
            Some(found.link) != bridge
                && found.destination.prefix() > 0
                && found.destination.overlaps(*subnet)
        });
        if let Some(found) = route {
            return Err(collision(format!("route {} on {}", found.destination, device(found.link))));
        }
    }
    Ok(())
}

/// Map elements of a record's host ports.
pub(super) fn host_port_elements(record: &Record) -> Vec<nft::Element> {
    match &record.network {
        PodKind::Embedded { addresses, .. } => firewall::elements(&record.ports, addresses),
        PodKind::Cni(_) => Vec::new(),
    }
}

/// Ports whose host address fits none of the pod's.
pub(super) fn unreachable_port<'a>(ports: &'a [HostPort], pod: &[IpAddr]) -> Option<&'a HostPort> {
    ports.iter().find(|port| firewall::elements(std::slice::from_ref(port), pod).is_empty())
}

/// The comment of the table says whose it is, as the hardware address does of the bridge.
fn owner(record: &BridgeRecord) -> String {
    let hex: Vec<String> = record.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("holdfast {}", hex.join(":"))
}

fn default_mtu(route: &mut Socket) -> u32 {
    let index = route::list(route)
        .ok()
        .and_then(|routes| {
            routes.into_iter().find(|route| route.destination.prefix() == 0 && route.link != 0)
        })
        .map(|route| route.link);
    let links = link::list(route).unwrap_or_default();
    links.iter().find(|link| Some(link.index) == index).map_or(DEFAULT_MTU, |link| link.mtu)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Locally administered, unicast.
fn random_mac() -> Result<[u8; 6], Error> {
    let mut mac = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut mac))
        .map_err(Error::io("read /dev/urandom"))?;
    mac[0] = 0x02;
    Ok(mac)
}
