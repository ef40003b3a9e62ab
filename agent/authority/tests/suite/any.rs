//! Any fields in any representation, frames and pieces: all but authorities is the same on the other side.

use httlib_hpack::Encoder;
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::wire::{
    CONTINUATION, END_HEADERS, Field, HEADERS, PADDED, PREFACE, PRIORITY, filtered, frame, read,
};

/// One representation. Indices into the dynamic table are tried, and left out if nothing is there.
#[derive(Debug, Clone)]
enum Representation {
    Indexed(u32),
    NameByIndex(u32, Vec<u8>, u8),
    Literal(Vec<u8>, Vec<u8>, u8),
}

#[derive(Debug, Clone)]
struct Block {
    table_size: Option<u32>,
    fields: Vec<Representation>,
    cuts: Vec<Index>,
    padding: Option<u8>,
    has_priority: bool,
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let pathlike = "[a-z0-9%/:. \"\\[\\]@-]{0,40}".prop_map(String::into_bytes);
    prop_oneof![4 => pathlike, 1 => vec(any::<u8>(), 0..40), 1 => vec(b'a'..=b'z', 100..1500)]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(b":authority".to_vec()),
        1 => Just(b":path".to_vec()),
        1 => "[a-z-]{1,14}".prop_map(String::into_bytes),
    ]
}

fn representation() -> impl Strategy<Value = Representation> {
    let flags = || 0_u8..32;
    prop_oneof![
        (1_u32..80).prop_map(Representation::Indexed),
        (prop_oneof![Just(1_u32), 1..70_u32, 62..70_u32], value(), flags())
            .prop_map(|(index, value, flags)| Representation::NameByIndex(index, value, flags)),
        (name(), value(), flags())
            .prop_map(|(name, value, flags)| Representation::Literal(name, value, flags)),
    ]
}

fn block() -> impl Strategy<Value = Block> {
    (
        proptest::option::weighted(0.4, prop_oneof![60_u32..300, 0_u32..=4096]),
        vec(representation(), 0..16),
        vec(any::<Index>(), 0..4),
        any::<Option<u8>>(),
        any::<bool>(),
    )
        .prop_map(|(table_size, fields, cuts, padding, has_priority)| Block {
            table_size,
            fields,
            cuts,
            padding,
            has_priority,
        })
}

fn encode(encoder: &mut Encoder<'_>, block: &Block) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(size) = block.table_size {
        encoder.update_max_dynamic_size(size, &mut bytes).expect("a size");
    }
    for field in block.fields.clone() {
        // An index that is not there writes nothing.
        let _ = match field {
            Representation::Indexed(index) => encoder.encode(index, &mut bytes),
            Representation::NameByIndex(index, value, flags) => {
                encoder.encode((index, value, flags), &mut bytes)
            }
            Representation::Literal(name, value, flags) => encoder.encode((name, value, flags), &mut bytes),
        };
    }
    bytes
}

/// HEADERS and as many CONTINUATIONs as there are cuts.
fn frames(block: &Block, bytes: &[u8]) -> Vec<u8> {
    let mut cuts: Vec<usize> = block.cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let last = cuts.len() - 2;
    let mut out = Vec::new();
    for (at, pair) in cuts.windows(2).enumerate() {
        let end = if at == last { END_HEADERS } else { 0 };
        let part = &bytes[pair[0]..pair[1]];
        if at > 0 {
            out.extend(frame(CONTINUATION, end, part));
            continue;
        }
        let (mut flags, mut payload) = (end, Vec::new());
        if let Some(padding) = block.padding {
            flags |= PADDED;
            payload.push(padding);
        }
        if block.has_priority {
            flags |= PRIORITY;
            payload.extend(b"/%/%/");
        }
        payload.extend(part);
        // Padding that looks like an authority.
        payload.extend(b"\x41\x01/".iter().cycle().take(block.padding.unwrap_or(0).into()));
        out.extend(frame(HEADERS, flags, &payload));
    }
    out
}

fn stream(blocks: &[Block]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut stream = PREFACE.to_vec();
    for block in blocks {
        let bytes = encode(&mut encoder, block);
        stream.extend(frames(block, &bytes));
        stream.extend(frame(0, 0, b"\x41\x01/ some data %2F"));
        stream.extend(frame(0xaa, END_HEADERS, b"\x41\x01/"));
    }
    stream
}

/// Whether `after` is a permitted replacement for the character `before` of an authority.
fn is_fair(before: u8, after: u8) -> bool {
    match before {
        b'%' => after == b'.',
        b'/' => after == b'3',
        b' ' => after == b'-',
        b'"' => after == b'!',
        b':' => matches!(after, b':' | b'B'),
        b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{'..=b'}' | 0x80.. => {
            after == before || after == b'-'
        }
        _ => after == before,
    }
}

fn check(before: &Field, after: &Field) -> Result<(), TestCaseError> {
    prop_assert_eq!(&before.0, &after.0);
    if before.0 != b":authority" {
        prop_assert_eq!(&before.1, &after.1);
        return Ok(());
    }
    prop_assert_eq!(before.1.len(), after.1.len());
    for (before, after) in before.1.iter().zip(&after.1) {
        prop_assert!(is_fair(*before, *after), "{before} became {after}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn only_authorities_change(blocks in vec(block(), 1..5), cuts in vec(1_usize..40, 0..6)) {
        let stream = stream(&blocks);
        let (out, pieces) = filtered(&stream, &cuts);
        prop_assert_eq!(&out, &pieces);
        let ((before, ranges), (after, _)) = (read(&stream), read(&out));
        prop_assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
            check(before, after)?;
        }
        prop_assert_eq!(before.iter().flatten().count(), after.iter().flatten().count());
        // Outside of header blocks not a bit has changed.
        let mut at = 0;
        for range in ranges {
            prop_assert_eq!(&stream[at..range.start], &out[at..range.start]);
            at = range.end;
        }
        prop_assert_eq!(&stream[at..], &out[at..]);
    }

    #[test]
    fn any_bytes_in_any_pieces(bytes in vec(any::<u8>(), 0..300), cuts in vec(1_usize..40, 1..6)) {
        let stream = [PREFACE, &bytes].concat();
        let (whole, pieces) = filtered(&stream, &cuts);
        prop_assert_eq!(whole, pieces);
        let (whole, pieces) = filtered(&bytes, &cuts);
        prop_assert_eq!(&whole, &pieces);
        prop_assert_eq!(whole, bytes);
    }
}
