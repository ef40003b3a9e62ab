//! Links: the bridge, the veth pairs and their state (rtnetlink(7), `linux/if_link.h`).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::{
    message::{Message, attr, attrs, read_u32, read_u64, text},
    socket::{NetlinkError, Socket},
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const CREATE_EXCLUSIVE: u16 = 0x400 | 0x200;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;

const IFF_UP: u32 = 1;

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;

type Result<T> = std::result::Result<T, NetlinkError>;

/// What of a link is of interest here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) address: Vec<u8>,
    pub(crate) master: u32,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) alias: String,
    pub(crate) stats: Stats,
}

/// `struct rtnl_link_stats64`, the four that CRI asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stats {
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_errors: u64,
    pub(crate) tx_errors: u64,
}

/// A veth pair whose peer is born inside a pod.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) peer: &'a str,
    pub(crate) peer_address: [u8; 6],
    pub(crate) netns: BorrowedFd<'a>,
}

fn ifinfo(index: u32, flags: u32) -> [u8; IFINFO] {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// Makes a bridge that is up. Its address is given, since a bridge without one takes its ports' in turn.
pub(crate) fn add_bridge(socket: &mut Socket, name: &str, address: [u8; 6], mtu: u32) -> Result<()> {
    socket.request(
        "network.bridge.create",
        Message::new(RTM_NEWLINK, CREATE_EXCLUSIVE, &ifinfo(0, IFF_UP))
            .text(IFLA_IFNAME, name)
            .attr(IFLA_ADDRESS, &address)
            .u32(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge")),
    )
}

/// Makes a veth pair in one request: this end up and a port of the bridge, the other one in the pod. That one cannot be
/// up yet: the kernel configures it before the two know of each other (ENOTCONN).
pub(crate) fn add_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<()> {
    socket.request(
        "network.veth.create",
        Message::new(RTM_NEWLINK, CREATE_EXCLUSIVE, &ifinfo(0, IFF_UP))
            .text(IFLA_IFNAME, veth.name)
            .u32(IFLA_MTU, veth.mtu)
            .u32(IFLA_MASTER, veth.bridge)
            .nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&ifinfo(0, 0))
                            .text(IFLA_IFNAME, veth.peer)
                            .attr(IFLA_ADDRESS, &veth.peer_address)
                            .u32(IFLA_MTU, veth.mtu)
                            .u32(IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32)
                    })
                })
            }),
    )
}

/// Sets a port's alias, and lets the bridge send a frame back to where it came from: with br_netfilter a pod that
/// reaches itself through a service or host port needs it.
pub(crate) fn set_port(socket: &mut Socket, index: u32, alias: &str) -> Result<()> {
    let message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0)).attr(IFLA_IFALIAS, alias.as_bytes());
    let message = message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, |data| data.attr(IFLA_BRPORT_MODE, &[1]))
    });
    socket.request("network.veth.alias", message)
}

/// Makes a link a port of a bridge.
pub(crate) fn set_master(socket: &mut Socket, index: u32, bridge: u32) -> Result<()> {
    let message = Message::new(RTM_NEWLINK, 0, &ifinfo(index, 0)).u32(IFLA_MASTER, bridge);
    socket.request("network.link.master", message)
}

/// Sets a link up.
pub(crate) fn set_up(socket: &mut Socket, index: u32) -> Result<()> {
    socket.request("network.link.up", Message::new(RTM_NEWLINK, 0, &ifinfo(index, IFF_UP)))
}

/// Sets a link down.
#[cfg(test)]
pub(crate) fn set_down(socket: &mut Socket, index: u32) -> Result<()> {
    let mut body = ifinfo(index, 0);
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    socket.request("network.link.down", Message::new(RTM_NEWLINK, 0, &body))
}

/// Removes a link; takes 10 to 30 ms, since the kernel waits for RCU under RTNL.
pub(crate) fn remove(socket: &mut Socket, index: u32) -> Result<()> {
    socket.request("network.link.remove", Message::new(RTM_DELLINK, 0, &ifinfo(index, 0)))
}

/// The link of this name, if there is one.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    match socket.get(Message::new(RTM_GETLINK, 0, &ifinfo(0, 0)).text(IFLA_IFNAME, name)) {
        Ok(payload) => parse(&payload).map(Some).ok_or(NetlinkError::Garbled),
        Err(NetlinkError::Errno(Errno::NODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of the namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let entries = socket.dump(&Message::new(RTM_GETLINK, 0, &ifinfo(0, 0)))?;
    Ok(entries.iter().filter_map(|payload| parse(payload)).collect())
}

fn parse(payload: &[u8]) -> Option<Link> {
    let mut link =
        Link { index: read_u32(payload, 4)?, up: read_u32(payload, 8)? & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attrs(payload.get(IFINFO..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.address = value.to_vec(),
            IFLA_MTU => link.mtu = read_u32(value, 0)?,
            IFLA_MASTER => link.master = read_u32(value, 0)?,
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_LINKINFO => link.kind = attr(value, IFLA_INFO_KIND).map(text).unwrap_or_default(),
            IFLA_STATS64 => link.stats = parse_stats(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(link)
}

/// Order of `struct rtnl_link_stats64`: rx and tx packets, rx and tx bytes, rx and tx errors.
fn parse_stats(value: &[u8]) -> Option<Stats> {
    Some(Stats {
        rx_bytes: read_u64(value, 16)?,
        tx_bytes: read_u64(value, 24)?,
        rx_errors: read_u64(value, 32)?,
        tx_errors: read_u64(value, 40)?,
    })
}
