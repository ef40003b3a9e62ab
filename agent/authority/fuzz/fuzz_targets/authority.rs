//! Any bytes as a connection: pieces make no difference. Any fields, encoded by another implementation of HPACK: behind
//! the filter it decodes the same but for authorities.

#![no_main]

use holdfast_authority::Filter;
use httlib_hpack::{Decoder, Encoder};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame before its payload.
const HEAD: usize = 9;

type Fields = Vec<(Vec<u8>, Vec<u8>, u8)>;

fn filtered(bytes: &[u8], chunk: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut filter = Filter::default();
    for piece in out.chunks_mut(chunk.max(1)) {
        filter.pass(piece);
    }
    out
}

/// A connection with a HEADERS frame for each block.
fn connection(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    for block in blocks {
        out.extend(&(block.len() as u32).to_be_bytes()[1..]);
        out.extend([1, 4, 0, 0, 0, 1]);
        out.extend(block);
    }
    out
}

/// Header blocks of one client, each a few fields that the bytes choose: kind and flags, an index, the value's length,
/// and the value. An index that is not there writes nothing.
fn blocks(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::default();
    let mut blocks = vec![Vec::new()];
    while let [kind, index, length, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        let (index, flags, value) = (u32::from(*index), kind & 0xf, value.to_vec());
        let mut block = Vec::new();
        let written = match kind >> 5 {
            0 => encoder.encode(index, &mut block),
            1 | 2 => encoder.encode((index, value, flags), &mut block),
            3 => encoder.encode((b":authority".to_vec(), value, flags), &mut block),
            4 => encoder.encode((value.clone(), value, flags), &mut block),
            // A size may change at the beginning of a block alone.
            5 if blocks.last().is_none_or(Vec::is_empty) => {
                encoder.update_max_dynamic_size(index * 16, &mut block)
            }
            _ => {
                blocks.push(Vec::new());
                continue;
            }
        };
        if let (Ok(()), Some(last)) = (written, blocks.last_mut()) {
            last.extend(block);
        }
    }
    blocks
}

fn decode(decoder: &mut Decoder<'_>, block: &[u8]) -> Fields {
    let mut fields = Vec::new();
    decoder.decode(&mut block.to_vec(), &mut fields).expect("a block of the encoder");
    fields
}

/// Compares the decoded input with the decoded output.
fn compare(blocks: &[Vec<u8>], out: &[u8]) {
    let mut at = PREFACE.len();
    let (mut before, mut after) = (Decoder::default(), Decoder::default());
    for block in blocks {
        let changed = &out[at + HEAD..at + HEAD + block.len()];
        at += HEAD + block.len();
        let (fields, changed) = (decode(&mut before, block), decode(&mut after, changed));
        assert_eq!(fields.len(), changed.len());
        for (field, changed) in fields.iter().zip(&changed) {
            assert_eq!(field.0, changed.0);
            assert_eq!(field.1.len(), changed.1.len());
            assert!(field.0 == b":authority" || field.1 == changed.1);
            assert!(field.0 != b":authority" || !changed.1.iter().any(|byte| b"%/ \"".contains(byte)));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((chunk, bytes)) = data.split_first() else { return };
    for stream in [bytes.to_vec(), [PREFACE, bytes].concat()] {
        let whole = filtered(&stream, usize::MAX);
        assert_eq!(filtered(&stream, usize::from(*chunk)), whole);
    }
    let blocks = blocks(bytes);
    let stream = connection(&blocks);
    let out = filtered(&stream, usize::MAX);
    assert_eq!(filtered(&stream, usize::from(*chunk)), out);
    compare(&blocks, &out);
});
