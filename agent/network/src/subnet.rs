//! Subnets in CIDR notation, and the addresses inside.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A network prefix without host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Subnet {
    base: IpAddr,
    prefix: u8,
}

/// Most addresses that are handed out of one subnet, so that an IPv6 one is walked through in bounded time.
const MOST: u128 = 1 << 20;

impl Subnet {
    /// The prefix that holds `address`.
    pub(crate) fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        if u32::from(prefix) > width(address) {
            return None;
        }
        let base = from_bits(to_bits(address) & mask(address, prefix), address);
        Some(Self { base, prefix })
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn base(self) -> IpAddr {
        self.base
    }

    pub(crate) fn is_v4(self) -> bool {
        self.base.is_ipv4()
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        Self::of(address, self.prefix).is_some_and(|other| other == self)
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.is_v4() == other.is_v4() && {
            let prefix = self.prefix.min(other.prefix);
            Self::of(self.base, prefix) == Self::of(other.base, prefix)
        }
    }

    /// The netmask, in network byte order.
    pub(crate) fn mask_bytes(self) -> Vec<u8> {
        bytes(from_bits(mask(self.base, self.prefix), self.base))
    }

    /// The bridge's address: the first one.
    pub(crate) fn gateway(self) -> IpAddr {
        from_bits(to_bits(self.base) + 1, self.base)
    }

    /// How many addresses there are for pods: all but the network's, the gateway's and IPv4's broadcast.
    pub(crate) fn capacity(self) -> u128 {
        let host_bits = width(self.base) - u32::from(self.prefix);
        let all = 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        all.saturating_sub(if self.is_v4() { 3 } else { 2 }).min(MOST)
    }

    /// The n-th address for a pod, from 0.
    pub(crate) fn pod_address(self, n: u128) -> IpAddr {
        from_bits(to_bits(self.base) + 2 + n, self.base)
    }

    /// Which one [`Self::pod_address`] this is.
    pub(crate) fn position(self, address: IpAddr) -> Option<u128> {
        if !self.contains(address) {
            return None;
        }
        (to_bits(address) - to_bits(self.base)).checked_sub(2)
    }
}

/// An address in network byte order.
pub(crate) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address from 4 or 16 bytes in network byte order.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(bits: u128, family: IpAddr) -> IpAddr {
    if family.is_ipv4() {
        std::net::Ipv4Addr::from_bits(bits as u32).into()
    } else {
        std::net::Ipv6Addr::from_bits(bits).into()
    }
}

fn mask(address: IpAddr, prefix: u8) -> u128 {
    let host_bits = width(address) - u32::from(prefix);
    let ones = if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    ones.checked_shl(host_bits).unwrap_or(0) & ones
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a subnet in CIDR notation such as 10.79.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let subnet = Self::of(address, prefix.parse().map_err(|_| bad())?).ok_or_else(bad)?;
        if subnet.base != address {
            return Err(format!("{text:?} has host bits set: {subnet} is the subnet"));
        }
        if subnet.capacity() == 0 {
            return Err(format!("{text:?} has no room for a pod"));
        }
        Ok(subnet)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn parts_of_subnets() {
        let table = [
            ("10.79.0.0/16", "10.79.0.1", "10.79.0.2", 65_533),
            ("10.0.0.0/30", "10.0.0.1", "10.0.0.2", 1),
            ("fd48:6f6c:6466::/64", "fd48:6f6c:6466::1", "fd48:6f6c:6466::2", MOST),
            ("::/0", "::1", "::2", MOST),
        ];
        for (text, gateway, first, capacity) in table {
            let subnet = subnet(text);
            assert_eq!(subnet.to_string(), text);
            assert_eq!(subnet.gateway().to_string(), gateway);
            assert_eq!(subnet.pod_address(0).to_string(), first);
            assert_eq!(subnet.position(subnet.pod_address(0)), Some(0));
            assert_eq!(subnet.capacity(), capacity);
        }
        assert_eq!(subnet("10.79.0.0/16").mask_bytes(), [255, 255, 0, 0]);
    }

    #[test]
    fn overlap_is_containment_either_way() {
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.79.0.0/16")));
        assert!(subnet("10.79.0.0/16").overlaps(subnet("10.0.0.0/8")));
        assert!(!subnet("10.78.0.0/16").overlaps(subnet("10.79.0.0/16")));
        assert!(!subnet("::/0").overlaps(subnet("10.79.0.0/16")));
        assert!(subnet("10.79.0.0/16").contains("10.79.255.255".parse().unwrap()));
        assert!(!subnet("10.79.0.0/16").contains("10.80.0.0".parse().unwrap()));
    }

    #[test]
    fn bad_ones_are_refused_by_name() {
        for bad in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/24", "x/8", "10.0.0.0/32", "10.0.0.0/31", "fd00::/128"]
        {
            assert!(bad.parse::<Subnet>().unwrap_err().contains(bad), "{bad}");
        }
    }
}
