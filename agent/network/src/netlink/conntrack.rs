//! Forgetting connections of the connection tracker (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! NAT is decided by a connection's first packet. UDP has no other beginning: a client that sends on would reach the
//! pod that had the host port before, and each of its packets would keep the entry alive.

use super::{
    message::{Message, attr},
    socket::{NetlinkError, Socket},
};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const ZONE: u16 = 18;
const UDP: u8 = 17;
/// Length of `struct nfgenmsg`.
const GENERIC: usize = 4;

/// Forgets the UDP connections to any of these ports of the host; how many.
pub(crate) fn forget_udp(socket: &mut Socket, ports: &[u16]) -> Result<usize, NetlinkError> {
    let entries = socket.dump(&Message::new(GET, 0, &[0; GENERIC]))?;
    let mut count = 0;
    for payload in &entries {
        let (Some(header), Some(rest)) = (payload.get(..GENERIC), payload.get(GENERIC..)) else { continue };
        let Some(tuple) = attr(rest, TUPLE_ORIG) else { continue };
        if !udp_port(tuple).is_some_and(|port| ports.contains(&port)) {
            continue;
        }
        let mut delete = Message::new(DELETE, 0, header).nest(TUPLE_ORIG, |nest| nest.raw(tuple));
        if let Some(zone) = attr(rest, ZONE) {
            delete = delete.attr(ZONE, zone);
        }
        match socket.request("network.conntrack.forget", delete) {
            Ok(()) => count += 1,
            // Timed out by itself meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn udp_port(tuple: &[u8]) -> Option<u16> {
    let proto = attr(tuple, TUPLE_PROTO)?;
    if attr(proto, PROTO_NUM)? != [UDP] {
        return None;
    }
    Some(u16::from_be_bytes(attr(proto, PROTO_DST_PORT)?.try_into().ok()?))
}
