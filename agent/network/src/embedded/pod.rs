//! One pod's part of the embedded network: its veth pair, what is inside, and its host ports.

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use holdfast_model::{PodId, Protocol};
use rustix::io::Errno;

use super::{Host, bridge::host_port_elements};
use crate::{
    Error,
    netlink::{
        Socket, addr, conntrack,
        link::{self, Link, Veth},
        nft, route,
    },
    record::{PodKind, Record},
    state::Stray,
    subnet::{Subnet, bytes},
    thread::enter,
};

/// Name of the interface inside a pod.
pub(crate) const IFNAME: &str = "eth0";
/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// The host's end of a pod's veth pair: 52 bits of the id fit beside the prefix in the 15 bytes that a name may have.
pub(crate) fn link_name(pod: &PodId) -> String {
    format!("hf{}", pod.short())
}

/// Makes the pod's network and returns the addresses that it has. Undoes nothing.
///
/// Enters the pod's network namespace: the calling thread has to end afterwards.
pub(super) fn connect(
    host: &Host,
    table: &str,
    record: &Record,
    netns: &OwnedFd,
) -> Result<Vec<IpAddr>, Error> {
    let PodKind::Embedded { link: name, addresses } = &record.network else { return Ok(Vec::new()) };
    let mut socket = open_route()?;
    let veth = Veth {
        name,
        bridge: host.index,
        mtu: host.mtu,
        peer: IFNAME,
        peer_address: hardware_address(addresses),
        netns: netns.as_fd(),
    };
    link::add_veth(&mut socket, &veth)
        .map_err(Error::netlink(format!("create the veth pair {name} and {IFNAME} in the pod")))?;
    finish(&mut socket, host, table, record, netns)
}

fn finish(
    socket: &mut Socket,
    host: &Host,
    table: &str,
    record: &Record,
    netns: &OwnedFd,
) -> Result<Vec<IpAddr>, Error> {
    let PodKind::Embedded { link: name, addresses } = &record.network else { return Ok(Vec::new()) };
    let port = link::find(socket, name)
        .and_then(|found| found.ok_or(Errno::NODEV.into()))
        .map_err(Error::netlink(format!("look for {name}")))?;
    link::set_port(socket, port.index, &alias(&record.pod, addresses))
        .map_err(Error::netlink(format!("set the alias of {name}")))?;
    // Opened before this thread leaves the host's namespace.
    let elements = host_port_elements(record);
    let netfilter = if elements.is_empty() { None } else { Some(open_netfilter()?) };
    enter(netns)?;
    let addresses = inside(host, addresses)?;
    if let Some(mut netfilter) = netfilter {
        let batch = elements.iter().map(|element| nft::add_element(table, element)).collect();
        netfilter
            .transaction(batch)
            .map_err(Error::netlink(format!("add host ports to the nftables table {table}")))?;
        forget_udp(&mut netfilter, record);
    }
    Ok(addresses)
}

/// Loopback, addresses and default routes, from within the pod's network namespace.
fn inside(host: &Host, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
    let mut socket = open_route()?;
    link::set_up(&mut socket, LOOPBACK).map_err(Error::netlink("set lo up in the pod"))?;
    let eth0 = link::find(&mut socket, IFNAME)
        .and_then(|found| found.ok_or(Errno::NODEV.into()))
        .map_err(Error::netlink(format!("look for {IFNAME} in the pod")))?;
    link::set_up(&mut socket, eth0.index).map_err(Error::netlink(format!("set {IFNAME} up in the pod")))?;
    let mut given = Vec::new();
    for address in addresses {
        let Some(subnet) = host.subnets.iter().find(|subnet| subnet.contains(*address)) else { continue };
        match add_address(&mut socket, eth0.index, *address, *subnet) {
            Ok(()) => given.push(*address),
            // The pod's sysctls switch IPv6 off: then it has none.
            Err(Error::Netlink { source, .. })
                if address.is_ipv6() && !given.is_empty() && source.errno() == Some(Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(given)
}

fn add_address(socket: &mut Socket, link: u32, address: IpAddr, subnet: Subnet) -> Result<(), Error> {
    addr::add(socket, link, address, subnet.prefix())
        .map_err(Error::netlink(format!("add the address {address} to {IFNAME} in the pod")))?;
    route::add_default(socket, link, subnet.gateway())
        .map_err(Error::netlink(format!("add the route by way of {} in the pod", subnet.gateway())))
}

/// Takes back a pod's host ports, and with `remove` its link; whether that is still there.
pub(super) fn disconnect(table: &str, record: &Record, remove: bool) -> Result<bool, Error> {
    let PodKind::Embedded { link: name, .. } = &record.network else { return Ok(false) };
    let closed = close_ports(table, record);
    let mut socket = open_route()?;
    if remove {
        remove_link(&mut socket, name)?;
    }
    closed?;
    is_present(&mut socket, name)
}

/// One by one, since one that is not there would undo a whole transaction.
fn close_ports(table: &str, record: &Record) -> Result<(), Error> {
    let elements = host_port_elements(record);
    if elements.is_empty() {
        return Ok(());
    }
    let mut socket = open_netfilter()?;
    for element in elements {
        match socket.transaction(vec![nft::delete_element(table, &element)]) {
            Err(error) if !error.is_absent() => {
                return Err(Error::netlink(format!("take host ports out of the nftables table {table}"))(
                    error,
                ));
            }
            _ => {}
        }
    }
    forget_udp(&mut socket, record);
    Ok(())
}

/// Connections that began before the host ports were what they are now. A kernel without connection tracking by
/// netlink has to do without: entries end by themselves some time.
fn forget_udp(socket: &mut Socket, record: &Record) {
    let udp = record.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let ports: Vec<u16> = udp.map(|port| port.port).collect();
    if ports.is_empty() {
        return;
    }
    if let Err(error) = conntrack::forget_udp(socket, &ports) {
        tracing::warn!(%error, ?ports, "old UDP connections to host ports cannot be forgotten");
    }
}

/// Whether the host's end of a pod's veth pair is there.
pub(super) fn is_present(socket: &mut Socket, name: &str) -> Result<bool, Error> {
    let found = link::find(socket, name).map_err(Error::netlink(format!("look for {name}")))?;
    Ok(found.is_some())
}

/// Removes the host's end, and with it the pod's; success if it is not there.
pub(super) fn remove_link(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let operation = || format!("remove the link {name}");
    let Some(found) = link::find(socket, name).map_err(Error::netlink(operation()))? else { return Ok(()) };
    match link::remove(socket, found.index) {
        Err(error) if !error.is_absent() => Err(Error::netlink(operation())(error)),
        _ => Ok(()),
    }
}

/// Compares the kernel with the record. Enters the pod's network namespace.
pub(super) fn check(host: &Host, record: &Record, netns: &OwnedFd) -> Result<(), Error> {
    let PodKind::Embedded { link: name, addresses } = &record.network else { return Ok(()) };
    let broken = |reason: String| Error::Check { pod: record.pod.short().to_owned(), reason };
    let mut socket = open_route()?;
    let port = link::find(&mut socket, name).map_err(Error::netlink(format!("look for {name}")))?;
    match port {
        None => return Err(broken(format!("link {name} is gone"))),
        Some(port) if port.master != host.index => {
            return Err(broken(format!("link {name} is not a port of the bridge")));
        }
        Some(port) if !port.up => return Err(broken(format!("link {name} is down"))),
        Some(_) => {}
    }
    enter(netns)?;
    let mut socket = open_route()?;
    let there = addr::list(&mut socket).map_err(Error::netlink("list addresses in the pod"))?;
    match addresses.iter().find(|address| !there.iter().any(|found| found.ip == **address)) {
        Some(missing) => Err(broken(format!("{IFNAME} has lost its address {missing}"))),
        None => Ok(()),
    }
}

/// What is written on the host's end, so that `ip link` shows whose it is and a lost record can be made anew.
pub(super) fn alias(pod: &PodId, addresses: &[IpAddr]) -> String {
    addresses.iter().fold(format!("holdfast {pod}"), |text, address| format!("{text} {address}"))
}

/// A link that no record names, and what its alias says.
pub(super) fn stray(link: &Link) -> Stray {
    let (pod, addresses) = parse_alias(&link.alias).unzip();
    Stray { link: link.name.clone(), pod, addresses: addresses.unwrap_or_default() }
}

/// The pod and addresses of an alias.
fn parse_alias(text: &str) -> Option<(PodId, Vec<IpAddr>)> {
    let mut words = text.strip_prefix("holdfast ")?.split(' ');
    let pod = words.next()?.parse().ok()?;
    let addresses = words.map(str::parse).collect::<Result<Vec<IpAddr>, _>>().ok()?;
    Some((pod, addresses))
}

/// Follows from the address, so that a neighbour's cache stays right when the address is used again.
fn hardware_address(addresses: &[IpAddr]) -> [u8; 6] {
    let primary = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let octets = primary.map(|address| bytes(*address)).unwrap_or_default();
    let mut mac = [0x0a, 0x58, 0, 0, 0, 0];
    let tail = octets.len().saturating_sub(4);
    mac[2..2 + octets.len() - tail].copy_from_slice(&octets[tail..]);
    mac
}

pub(super) fn open_route() -> Result<Socket, Error> {
    Socket::route().map_err(Error::netlink("open a netlink socket"))
}

pub(super) fn open_netfilter() -> Result<Socket, Error> {
    Socket::netfilter().map_err(Error::netlink("open a netfilter socket"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_read_back() {
        let pod = PodId::random().unwrap();
        let addresses: Vec<IpAddr> = vec!["10.79.0.2".parse().unwrap(), "fd48::2".parse().unwrap()];
        let text = alias(&pod, &addresses);
        assert!(text.len() < 256);
        assert_eq!(parse_alias(&text), Some((pod, addresses)));
        for bad in ["", "holdfast ", "holdfast x", "other"] {
            assert_eq!(parse_alias(bad), None);
        }
    }

    #[test]
    fn hardware_addresses_are_unicast_and_differ() {
        let mac = |text: &str| hardware_address(&[text.parse().unwrap()]);
        assert_eq!(mac("10.79.1.2"), [0x0a, 0x58, 10, 79, 1, 2]);
        assert_eq!(mac("fd48::1:2"), [0x0a, 0x58, 0, 1, 0, 2]);
        assert_eq!(hardware_address(&[])[0] & 1, 0);
    }

    #[test]
    fn link_names_fit() {
        assert_eq!(link_name(&PodId::random().unwrap()).len(), 15);
    }
}
