//! Building and reading netlink messages.

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// Takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// A netlink message under construction.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of type `kind` whose fixed part is `body`.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// An attribute; a payload above 65,531 bytes would not fit its length field, and none comes near it.
    pub(crate) fn attr(mut self, kind: u16, payload: &[u8]) -> Self {
        debug_assert!(
            payload.len() <= usize::from(u16::MAX) - 4,
            "attribute {kind} of {} bytes",
            payload.len()
        );
        self.bytes.extend_from_slice(&(payload.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    /// An attribute in host byte order (rtnetlink).
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute in network byte order (nftables).
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text that ends with a zero byte.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut payload = value.as_bytes().to_vec();
        payload.push(0);
        self.attr(kind, &payload)
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self = fill(self);
        let length = self.bytes.len() - start;
        debug_assert!(u16::try_from(length).is_ok(), "nested attribute {kind} of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self
    }

    /// Plain bytes inside a nest, like the `ifinfomsg` of a veth peer.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// The finished message with its sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    /// Adds flags, like NLM_F_ACK.
    pub(crate) fn flags(mut self, more: u16) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// A received message: its type, sequence number and what follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram; stops at the first that is malformed.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = read_u32(header, 0)? as usize;
        let payload = bytes.get(HEADER..length)?;
        let received = Received {
            kind: read_u16(header, 4)?,
            flags: read_u16(header, 6)?,
            sequence: read_u32(header, 8)?,
            payload,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// Type and payload of each attribute; stops at the first that is malformed.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Payload of the first attribute of this type.
pub(crate) fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// A text without its zero byte.
pub(crate) fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(&payload[..end]).into_owned()
}

/// Two bytes at `offset` in host byte order.
pub(crate) fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// Four bytes at `offset` in host byte order.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// Eight bytes at `offset` in host byte order.
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_built_is_read_back() {
        let bytes = Message::new(20, 5, &[1, 2, 3])
            .u32(1, 7)
            .nest(2, |nest| nest.text(3, "eth0").be32(4, 258))
            .attr(5, &[9])
            .finish(42);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (20, 5, 42));
        let body = &all[0].payload[4..];
        assert_eq!(attr(body, 1), Some(&7_u32.to_ne_bytes()[..]));
        let nest = attr(body, 2).unwrap();
        assert_eq!(text(attr(nest, 3).unwrap()), "eth0");
        assert_eq!(attr(nest, 4), Some(&[0, 0, 1, 2][..]));
        assert_eq!(attr(body, 5), Some(&[9][..]));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn two_messages_in_one_datagram() {
        let mut bytes = Message::new(1, 0, &[]).finish(1);
        bytes.extend(Message::new(2, 0, &[0; 4]).finish(2));
        let kinds: Vec<u16> = messages(&bytes).map(|message| message.kind).collect();
        assert_eq!(kinds, [1, 2]);
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends_and_stays_inside(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(message.payload.len() + HEADER <= bytes.len());
                prop_assert!(attrs(message.payload).count() <= bytes.len());
            }
            prop_assert!(attrs(&bytes).count() <= bytes.len());
        }
    }
}
