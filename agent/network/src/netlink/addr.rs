//! Addresses of links (rtnetlink(7), `linux/if_addr.h`).

use std::net::IpAddr;

use super::{
    message::{Message, attr, read_u32},
    socket::{NetlinkError, Socket},
};
use crate::subnet::{bytes, from_bytes};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The address is usable at once; the allocation records know that no other pod has it.
const IFA_F_NODAD: u8 = 2;
const IFADDR: usize = 8;

type Result<T> = std::result::Result<T, NetlinkError>;

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
}

/// Gives a link an address; success if it has it already.
pub(crate) fn add(socket: &mut Socket, link: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let mut body = [0; IFADDR];
    body[0] = family(address);
    body[1] = prefix;
    body[2] = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    let octets = bytes(address);
    socket.request(
        "network.address.add",
        Message::new(RTM_NEWADDR, CREATE_REPLACE, &body).attr(IFA_LOCAL, &octets).attr(IFA_ADDRESS, &octets),
    )
}

/// All addresses of the namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Address>> {
    let entries = socket.dump(&Message::new(RTM_GETADDR, 0, &[0; IFADDR]))?;
    Ok(entries.iter().filter_map(|payload| parse(payload)).collect())
}

pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn parse(payload: &[u8]) -> Option<Address> {
    let rest = payload.get(IFADDR..)?;
    // IPv4 has the own address in IFA_LOCAL, and in IFA_ADDRESS a peer's where there is one.
    let ip = attr(rest, IFA_LOCAL).or_else(|| attr(rest, IFA_ADDRESS)).and_then(from_bytes)?;
    Some(Address { link: read_u32(payload, 4)?, ip, prefix: payload[1] })
}
