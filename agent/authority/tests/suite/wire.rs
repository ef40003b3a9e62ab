//! A client's bytes, written and read with somebody else's HPACK.

use std::ops::Range;

use holdfast_authority::Filter;
use httlib_hpack::Decoder;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const CONTINUATION: u8 = 9;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

/// A name and its value.
pub type Field = (Vec<u8>, Vec<u8>);

/// A frame of stream 1.
pub fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// The bytes that come out when these come in at once, and those when they come in pieces.
pub fn filtered(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let mut whole = bytes.to_vec();
    Filter::default().pass(&mut whole);
    let mut pieces = bytes.to_vec();
    let (mut filter, mut rest) = (Filter::default(), &mut pieces[..]);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at_mut((*cut).min(rest.len()));
        filter.pass(piece);
        rest = behind;
    }
    filter.pass(rest);
    (whole, pieces)
}

/// The fields of each block, and where in the stream the blocks' bytes are.
pub fn read(stream: &[u8]) -> (Vec<Vec<Field>>, Vec<Range<usize>>) {
    let (mut lists, mut ranges, mut block) = (Vec::new(), Vec::new(), Vec::new());
    let mut decoder = Decoder::default();
    let mut at = PREFACE.len();
    while at < stream.len() {
        let head = &stream[at..at + 9];
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let mut part = at + 9..at + 9 + length;
        at = part.end;
        if kind != HEADERS && kind != CONTINUATION {
            continue;
        }
        if kind == HEADERS && flags & PADDED != 0 {
            part.end -= usize::from(stream[part.start]);
            part.start += 1;
        }
        if kind == HEADERS && flags & PRIORITY != 0 {
            part.start += 5;
        }
        block.extend_from_slice(&stream[part.clone()]);
        ranges.push(part);
        if flags & END_HEADERS != 0 {
            let mut fields = Vec::new();
            decoder.decode(&mut block, &mut fields).expect("a good block");
            lists.push(fields.into_iter().map(|(name, value, _)| (name, value)).collect());
            block.clear();
        }
    }
    (lists, ranges)
}
