//! A terminal's sizes: JSON objects one after the other, `{"Width":n,"Height":n}`, cut anywhere.

use serde::Deserialize;

use crate::channel::Incoming;

/// Bytes of an object that has not ended yet. A size has some forty.
const MAX_PENDING: usize = 4096;

#[derive(Deserialize)]
struct Size {
    #[serde(default, rename = "Width", alias = "width")]
    width: u16,
    #[serde(default, rename = "Height", alias = "height")]
    height: u16,
}

/// The parser. After something that is no size it ignores all that follows, as Go's decoder does.
#[derive(Default)]
struct Sizes {
    pending: Vec<u8>,
    broken: bool,
}

impl Sizes {
    /// The sizes that `bytes` complete; columns and rows, none of them zero.
    fn push(&mut self, bytes: &[u8]) -> Vec<(u16, u16)> {
        let mut sizes = Vec::new();
        if self.broken {
            return sizes;
        }
        self.pending.extend_from_slice(bytes);
        let mut stream = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        loop {
            match stream.next() {
                Some(Ok(Size { width, height })) if width > 0 && height > 0 => sizes.push((width, height)),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.broken = !error.is_eof();
                    break;
                }
                None => break,
            }
        }
        let used = stream.byte_offset();
        self.pending.drain(..used);
        self.broken |= self.pending.len() > MAX_PENDING;
        if self.broken {
            tracing::debug!("a client's resize stream is no sequence of sizes: ignoring the rest");
            self.pending = Vec::new();
        }
        sizes
    }
}

/// Calls `resize` for each size, until the stream ends.
pub(super) async fn sizes(input: Option<Incoming>, resize: Option<Box<dyn FnMut(u16, u16) + Send>>) {
    let (Some(mut input), Some(mut resize)) = (input, resize) else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = input.read().await {
        for (columns, rows) in sizes.push(&bytes) {
            resize(columns, rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequences_and_pieces() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(br#"{"Width":80,"Height":24}{"Width":81,"#), [(80, 24)]);
        assert_eq!(sizes.push(br#""Height":25}"#), [(81, 25)]);
        assert_eq!(
            sizes.push(b"\n{\"Height\":0,\"Width\":5}\n{\"height\":7,\"width\":6,\"x\":1}\n"),
            [(6, 7)]
        );
        assert!(sizes.pending.len() < 2);
    }

    #[test]
    fn garbage_ends_it() {
        for garbage in ["x", r#"{"Width":70000,"Height":1}"#, r#"{"Width":-1}"#, "1", "\0"] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.push(br#"{"Width":1,"Height":2}"#), [(1, 2)]);
            assert_eq!(sizes.push(garbage.as_bytes()), [], "{garbage}");
            assert_eq!(sizes.push(br#"{"Width":1,"Height":2}"#), [], "{garbage}");
        }
    }

    #[test]
    fn an_endless_object_is_bounded() {
        let mut sizes = Sizes::default();
        sizes.push(br#"{"Width":1,"x":""#);
        for _ in 0..100 {
            sizes.push(&[b'a'; 1000]);
            assert!(sizes.pending.len() <= MAX_PENDING + 1000);
        }
        assert!(sizes.broken);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same(list in proptest::collection::vec((1..=u16::MAX, 1..=u16::MAX), 0..20), cut in 1..50_usize) {
            let text = list.iter().map(|(w, h)| format!("{{\"Width\":{w},\"Height\":{h}}}\n")).collect::<Vec<_>>().concat();
            let mut sizes = Sizes::default();
            let read: Vec<_> = text.as_bytes().chunks(cut).flat_map(|piece| sizes.push(piece)).collect();
            prop_assert_eq!(read, list);
        }

        #[test]
        fn nothing_from_outside_panics(pieces: Vec<Vec<u8>>) {
            let mut sizes = Sizes::default();
            for piece in pieces {
                sizes.push(&piece);
            }
        }
    }
}
