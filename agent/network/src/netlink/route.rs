//! Routes (rtnetlink(7), `linux/rtnetlink.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    addr::family,
    message::{Message, attr, read_u32},
    socket::{NetlinkError, Socket},
};
use crate::subnet::{Subnet, bytes, from_bytes};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const UNICAST: u8 = 1;
const RTMSG: usize = 12;

type Result<T> = std::result::Result<T, NetlinkError>;

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Subnet,
    pub(crate) link: u32,
}

/// The way out of a pod.
pub(crate) fn add_default(socket: &mut Socket, link: u32, gateway: IpAddr) -> Result<()> {
    let body = [family(gateway), 0, 0, 0, TABLE_MAIN, PROTOCOL_STATIC, 0, UNICAST, 0, 0, 0, 0];
    socket.request(
        "network.route.add",
        Message::new(RTM_NEWROUTE, CREATE_REPLACE, &body)
            .attr(RTA_GATEWAY, &bytes(gateway))
            .u32(RTA_OIF, link),
    )
}

/// Unicast routes of the main table, of both families.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Route>> {
    let mut body = [0; RTMSG];
    body[4] = TABLE_MAIN;
    let entries = socket.dump(&Message::new(RTM_GETROUTE, 0, &body))?;
    Ok(entries.iter().filter_map(|payload| parse(payload)).collect())
}

/// `None` also for what is not a unicast route of the main table: without strict checking the kernel dumps all.
fn parse(payload: &[u8]) -> Option<Route> {
    let (family, prefix, table, kind) =
        (*payload.first()?, *payload.get(1)?, *payload.get(4)?, *payload.get(7)?);
    let rest = payload.get(RTMSG..)?;
    let table = attr(rest, RTA_TABLE).and_then(|value| read_u32(value, 0)).unwrap_or(u32::from(table));
    if kind != UNICAST || table != u32::from(TABLE_MAIN) {
        return None;
    }
    let any: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let base = attr(rest, RTA_DST).map_or(Some(any), from_bytes)?;
    let link = attr(rest, RTA_OIF).and_then(|value| read_u32(value, 0)).unwrap_or(0);
    Some(Route { destination: Subnet::of(base, prefix)?, link })
}
