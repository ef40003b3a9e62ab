//! The nftables table: masquerade for each subnet, host ports as elements of maps.
//!
//! ```text
//! table inet holdfast0 {
//!   map ports4    { type inet_proto . inet_service : ipv4_addr . inet_service }              one each for ipv6
//!   map ports4_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!   chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump host_ports }
//!   chain output      { type nat hook output priority dstnat;     fib daddr type local jump host_ports }
//!   chain host_ports  { dnat ip to ip daddr . meta l4proto . th dport map @ports4_at
//!                       dnat ip to meta l4proto . th dport map @ports4 }                      the same for ip6
//!   chain postrouting { type nat hook postrouting priority srcnat
//!                       ip saddr 10.79.0.0/16 oifname != holdfast0 masquerade
//!                       ip saddr 10.79.0.0/16 oifname holdfast0 ct status dnat masquerade
//!                       ip saddr 127.0.0.0/8 oifname holdfast0 masquerade }
//!   chain guard       { type filter hook prerouting priority raw; iifname holdfast0 ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//!
//! A pod that comes to a neighbour by way of a host port is masqueraded, or the answer would take the short way over
//! the bridge and be nobody's. 127.0.0.1 leads to host ports as well, as with CNI's portmap: route_localnet of the
//! bridge allows it, and `guard` keeps pods from reaching the host's loopback by the same door (CVE-2020-8558). There
//! is no such door for `[::1]`, so it is left alone.

use std::net::IpAddr;

use holdfast_model::Protocol;

use crate::{
    netlink::{
        message::Message,
        nft::{
            self, Element, Expression, Hook, IPV4, IPV6, Meta, OUTPUT, PORT, POSTROUTING, PREROUTING,
            PROTOCOL, REGISTER,
        },
    },
    record::HostPort,
    subnet::{Subnet, bytes},
};

pub(super) const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;
const RTN_LOCAL: u32 = 2;
/// IPS_DST_NAT of `linux/netfilter/nf_conntrack_common.h`.
const STATUS_DNAT: u32 = 0x20;
const HOST_PORTS: &str = "host_ports";

const PORTS4: &str = "ports4";
const PORTS4_AT: &str = "ports4_at";
const PORTS6: &str = "ports6";
const PORTS6_AT: &str = "ports6_at";
#[cfg(test)]
pub(crate) const MAPS: [&str; 4] = [PORTS4, PORTS4_AT, PORTS6, PORTS6_AT];

/// One transaction that puts the whole table in the place of what there may be of it.
pub(crate) fn table(name: &str, owner: &str, subnets: &[Subnet], elements: &[Element]) -> Vec<Message> {
    let mut batch = vec![nft::new_table(name, owner), nft::delete_table(name), nft::new_table(name, owner)];
    batch.extend(maps(name));
    batch.extend(chains(name));
    batch.extend(host_port_rules(name));
    batch.extend(source_rules(name, subnets));
    batch.extend(elements.iter().map(|element| nft::add_element(name, element)));
    batch
}

fn maps(table: &str) -> [Message; 4] {
    [
        nft::new_map(table, PORTS4, 1, &[PROTOCOL, PORT], &[IPV4, PORT]),
        nft::new_map(table, PORTS4_AT, 2, &[IPV4, PROTOCOL, PORT], &[IPV4, PORT]),
        nft::new_map(table, PORTS6, 3, &[PROTOCOL, PORT], &[IPV6, PORT]),
        nft::new_map(table, PORTS6_AT, 4, &[IPV6, PROTOCOL, PORT], &[IPV6, PORT]),
    ]
}

fn chains(table: &str) -> [Message; 5] {
    let nat = |number, priority| Some(Hook { kind: "nat", number, priority });
    [
        nft::new_chain(table, HOST_PORTS, None),
        nft::new_chain(table, "prerouting", nat(PREROUTING, PRIORITY_DSTNAT)),
        nft::new_chain(table, "output", nat(OUTPUT, PRIORITY_DSTNAT)),
        nft::new_chain(table, "postrouting", nat(POSTROUTING, PRIORITY_SRCNAT)),
        nft::new_chain(
            table,
            "guard",
            Some(Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW }),
        ),
    ]
}

fn host_port_rules(table: &str) -> Vec<Message> {
    let to_host = [
        nft::destination_kind(REGISTER),
        nft::compare(REGISTER, true, &RTN_LOCAL.to_ne_bytes()),
        nft::jump(HOST_PORTS),
    ];
    let mut rules: Vec<Message> =
        ["prerouting", "output"].iter().map(|chain| nft::new_rule(table, chain, &to_host)).collect();
    rules.push(nft::new_rule(table, HOST_PORTS, &[&family(NFPROTO_IPV4)[..], &dnat(true, true)].concat()));
    rules.push(nft::new_rule(table, HOST_PORTS, &[&family(NFPROTO_IPV4)[..], &dnat(true, false)].concat()));
    let not_loopback = {
        let mut loopback = [0; 16];
        loopback[15] = 1;
        [nft::network_header(24, 16, REGISTER), nft::compare(REGISTER, false, &loopback)]
    };
    let six = [family(NFPROTO_IPV6), not_loopback].concat();
    rules.push(nft::new_rule(table, HOST_PORTS, &[&six[..], &dnat(false, true)].concat()));
    rules.push(nft::new_rule(table, HOST_PORTS, &[&six[..], &dnat(false, false)].concat()));
    rules
}

/// Builds the key register by register, looks it up, and sends the packet where the map says.
fn dnat(v4: bool, at_address: bool) -> Vec<Expression> {
    let (offset, length, nfproto) = if v4 { (16, 4, NFPROTO_IPV4) } else { (24, 16, NFPROTO_IPV6) };
    let (map, id) = match (v4, at_address) {
        (true, false) => (PORTS4, 1),
        (true, true) => (PORTS4_AT, 2),
        (false, false) => (PORTS6, 3),
        (false, true) => (PORTS6_AT, 4),
    };
    let mut expressions = Vec::new();
    let mut register = REGISTER;
    if at_address {
        expressions.push(nft::network_header(offset, length, register));
        register += length / 4;
    }
    expressions.push(nft::meta(Meta::L4Proto, register));
    expressions.push(nft::destination_port(register + 1));
    let value = register + 2;
    expressions.push(nft::lookup(map, id, REGISTER, value));
    expressions.push(nft::dnat(nfproto, value, value + length / 4));
    expressions
}

fn source_rules(table: &str, subnets: &[Subnet]) -> Vec<Message> {
    let mut rules = Vec::new();
    for subnet in subnets {
        rules.push(nft::new_rule(
            table,
            "postrouting",
            &[source(*subnet), name(Meta::OifName, false, table), vec![nft::masquerade()]].concat(),
        ));
        let dnat_done = [
            nft::connection_status(REGISTER),
            nft::mask(REGISTER, &STATUS_DNAT.to_ne_bytes()),
            nft::compare(REGISTER, false, &[0; 4]),
        ];
        rules.push(nft::new_rule(
            table,
            "postrouting",
            &[source(*subnet), name(Meta::OifName, true, table), dnat_done.to_vec(), vec![nft::masquerade()]]
                .concat(),
        ));
    }
    if let Some(loopback) = Subnet::of(IpAddr::from([127, 0, 0, 0]), 8) {
        rules.push(nft::new_rule(
            table,
            "postrouting",
            &[source(loopback), name(Meta::OifName, true, table), vec![nft::masquerade()]].concat(),
        ));
        let guard = [
            &family(NFPROTO_IPV4)[..],
            &name(Meta::IifName, true, table),
            &address(16, loopback),
            &[nft::drop()],
        ];
        rules.push(nft::new_rule(table, "guard", &guard.concat()));
    }
    rules
}

fn family(nfproto: u8) -> [Expression; 2] {
    [nft::meta(Meta::NfProto, REGISTER), nft::compare(REGISTER, true, &[nfproto])]
}

fn source(subnet: Subnet) -> Vec<Expression> {
    let (nfproto, offset) = if subnet.is_v4() { (NFPROTO_IPV4, 12) } else { (NFPROTO_IPV6, 8) };
    [&family(nfproto)[..], &address(offset, subnet)].concat()
}

fn address(offset: u32, subnet: Subnet) -> [Expression; 3] {
    let mask = subnet.mask_bytes();
    [
        nft::network_header(offset, mask.len() as u32, REGISTER),
        nft::mask(REGISTER, &mask),
        nft::compare(REGISTER, true, &bytes(subnet.base())),
    ]
}

/// Interface names are compared with all of their 16 bytes; fewer would match names that begin so.
pub(super) fn name(key: Meta, equal: bool, interface: &str) -> Vec<Expression> {
    let mut padded = [0; 16];
    padded[..interface.len().min(15)].copy_from_slice(&interface.as_bytes()[..interface.len().min(15)]);
    vec![nft::meta(key, REGISTER), nft::compare(REGISTER, equal, &padded)]
}

/// The map elements of a pod's host ports: one for each of the pod's addresses that the port's address fits.
pub(crate) fn elements(ports: &[HostPort], pod: &[IpAddr]) -> Vec<Element> {
    let each = ports.iter().flat_map(|port| pod.iter().filter_map(|address| element(port, *address)));
    each.collect()
}

fn element(port: &HostPort, pod: IpAddr) -> Option<Element> {
    if port.address.is_some_and(|host| host.is_ipv4() != pod.is_ipv4()) {
        return None;
    }
    let at = port.address.filter(|host| !host.is_unspecified());
    let map = match (pod.is_ipv4(), at) {
        (true, None) => PORTS4,
        (true, Some(_)) => PORTS4_AT,
        (false, None) => PORTS6,
        (false, Some(_)) => PORTS6_AT,
    };
    let mut key = at.map(bytes).unwrap_or_default();
    key.extend_from_slice(&[number(port.protocol), 0, 0, 0]);
    key.extend_from_slice(&padded(port.port));
    let mut value = bytes(pod);
    value.extend_from_slice(&padded(port.container_port));
    Some(Element { map, key, value })
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP.
pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
