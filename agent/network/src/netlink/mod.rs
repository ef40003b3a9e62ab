//! Netlink, as little of it as the network needs: messages, sockets, links, addresses, routes, nftables and
//! the connection tracker.
//!
//! Everything blocks with a limit, and is used from threads that may block. The message format is described in
//! netlink(7) and rtnetlink(7), nftables' in `linux/netfilter/nf_tables.h`.

pub(crate) mod addr;
pub(crate) mod conntrack;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod nft;
pub(crate) mod route;
pub(crate) mod socket;

pub use socket::NetlinkError;
pub(crate) use socket::Socket;
