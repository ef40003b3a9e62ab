//! The subprotocols' names, and a channel's message in each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

/// v5: a message of this byte and a channel's half-closes the channel.
const CLOSE: u8 = 255;

/// What a message of a subprotocol looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subprotocol {
    /// The remotecommand version whose rules hold: 1, 4 or 5.
    pub version: u8,
    /// Text messages, an ASCII digit as the channel, the rest base64.
    base64: bool,
}

/// A message from the client, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Data(u8, Bytes),
    /// The client will send no more on the channel.
    Close(u8),
    /// Nothing in it, or base64 that is none. The peers skip both.
    Nothing,
    /// A close that closes nothing.
    Malformed,
}

impl Subprotocol {
    /// The names of channelled subprotocols, the best one first.
    pub const NAMES: [&'static str; 5] = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ];

    /// The subprotocol of a name out of [`Self::NAMES`]; a client without one gets the first version, binary.
    pub fn of(name: Option<&str>) -> Self {
        let name = name.unwrap_or_default();
        let version = match name.split('.').next() {
            Some("v5") => 5,
            Some("v4") => 4,
            _ => 1,
        };
        Self { version, base64: name.contains("base64.") }
    }

    /// Channels that have a number: 255 is a word of v5's, and text has the ASCII from '0' on.
    pub fn channels(self) -> usize {
        if self.base64 { usize::from(0x80 - b'0') } else { usize::from(CLOSE) }
    }

    /// A message to the client.
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
            text.push(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(bytes, &mut text);
            Message::text(text)
        } else {
            let mut frame = Vec::with_capacity(1 + bytes.len());
            frame.push(channel);
            frame.extend_from_slice(bytes);
            Message::binary(frame)
        }
    }

    /// A data message's bytes from the client. Text and binary are one here, as they are for the peers.
    pub fn decode(self, mut message: Bytes) -> Event {
        let Some(first) = message.first().copied() else { return Event::Nothing };
        if self.version >= 5 && first == CLOSE {
            return match message[..] {
                [_, channel] => Event::Close(channel),
                _ => Event::Malformed,
            };
        }
        let data = message.split_off(1);
        if !self.base64 {
            return Event::Data(first, data);
        }
        match STANDARD.decode(&data) {
            Ok(data) => Event::Data(first.wrapping_sub(b'0'), data.into()),
            Err(_) => Event::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_have_their_version() {
        let version = |name| Subprotocol::of(name).version;
        assert_eq!(Subprotocol::NAMES.map(|name| version(Some(name))), [5, 4, 4, 1, 1]);
        assert_eq!(
            Subprotocol::NAMES.map(|name| Subprotocol::of(Some(name)).base64),
            [false, false, true, false, true]
        );
        assert_eq!(Subprotocol::of(None), Subprotocol { version: 1, base64: false });
    }

    #[test]
    fn messages_of_each_kind() {
        let [v5, v4, v4_base64, ..] = Subprotocol::NAMES.map(|name| Subprotocol::of(Some(name)));
        assert_eq!(v4.encode(1, b"hi"), Message::binary(&b"\x01hi"[..]));
        assert_eq!(v4_base64.encode(1, b"\n"), Message::text("1Cg=="));
        assert_eq!(v4_base64.decode(Bytes::from_static(b"0Zm9vCgo=")), Event::Data(0, "foo\n\n".into()));
        assert_eq!(v4_base64.decode(Bytes::from_static(b"0?")), Event::Nothing);
        assert_eq!(v5.decode(Bytes::from_static(&[255, 0])), Event::Close(0));
        assert_eq!(v5.decode(Bytes::from_static(&[255])), Event::Malformed);
        assert_eq!(v4.decode(Bytes::from_static(&[255, 0])), Event::Data(255, Bytes::from_static(&[0])));
        assert_eq!(v4.decode(Bytes::new()), Event::Nothing);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name in 0..5_usize, channel in 0..80_u8, bytes: Vec<u8>) {
            let protocol = Subprotocol::of(Some(Subprotocol::NAMES[name]));
            let message = protocol.encode(channel, &bytes).into_data();
            prop_assert_eq!(protocol.decode(message), Event::Data(channel, bytes.into()));
        }

        #[test]
        fn nothing_from_outside_panics(name in 0..5_usize, bytes: Vec<u8>) {
            Subprotocol::of(Some(Subprotocol::NAMES[name])).decode(bytes.into());
        }
    }
}
