//! Any bytes as a connection, and as header blocks: pieces make no difference, and whatever another implementation of
//! HPACK decodes is the same behind the filter but for authorities.

#![no_main]

use holdfast_authority::Filter;
use httlib_hpack::Decoder;
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
fn connection(blocks: &[&[u8]]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    for block in blocks {
        out.extend(&(block.len() as u32).to_be_bytes()[1..]);
        out.extend([1, 4, 0, 0, 0, 1]);
        out.extend(*block);
    }
    out
}

fn decode(decoder: &mut Decoder<'_>, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    decoder.decode(&mut block.to_vec(), &mut fields).ok()?;
    Some(fields)
}

/// The other decoder knows less of what is forbidden, and its table may outgrow ours: compare as long as both agree on
/// what the client may do.
fn compare(blocks: &[&[u8]]) {
    let out = filtered(&connection(blocks), usize::MAX);
    let mut at = PREFACE.len();
    let (mut before, mut after) = (Decoder::default(), Decoder::default());
    for block in blocks {
        let changed = &out[at + HEAD..at + HEAD + block.len()];
        at += HEAD + block.len();
        let Some(fields) = decode(&mut before, block) else { return };
        if before.max_dynamic_size() > 4096 {
            return;
        }
        let changed = decode(&mut after, changed).expect("a block that could be decoded before");
        assert_eq!(fields.len(), changed.len());
        for (field, changed) in fields.iter().zip(&changed) {
            assert_eq!(field.0, changed.0);
            assert_eq!(field.1.len(), changed.1.len());
            assert!(field.0 == b":authority" || field.1 == changed.1);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((chunk, bytes)) = data.split_first() else { return };
    for stream in [bytes.to_vec(), [PREFACE, bytes].concat()] {
        let whole = filtered(&stream, usize::MAX);
        assert_eq!(filtered(&stream, usize::from(*chunk)), whole);
        assert_eq!(whole.len(), stream.len());
    }
    let blocks: Vec<&[u8]> = bytes.split(|byte| *byte == 0xfe).filter(|block| !block.is_empty()).collect();
    compare(&blocks);
    let stream = connection(&blocks);
    assert_eq!(filtered(&stream, usize::from(*chunk)), filtered(&stream, usize::MAX));
});
