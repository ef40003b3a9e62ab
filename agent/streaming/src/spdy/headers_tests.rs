use flate2::{Compress, Compression, FlushCompress};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::super::tests_support::{Deflater, unhex};
use super::*;

/// A name and its value.
type Pair<'a> = (&'a [u8], &'a [u8]);

fn plain(headers: &[Pair]) -> Vec<u8> {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u32).to_be_bytes());
        block.extend_from_slice(text);
    }
    block
}

#[test]
fn the_dictionary_is_the_one_of_the_specification() {
    assert_eq!(DICTIONARY.len(), 1423);
    let adler = Compress::new(Compression::fast(), true).set_dictionary(&DICTIONARY).expect("dictionary");
    assert_eq!(adler, 0xe3c6_a7c2);
    assert_eq!(ZLIB_HEAD[2..], adler.to_be_bytes());
    assert_eq!(u16::from_be_bytes([ZLIB_HEAD[0], ZLIB_HEAD[1]]) % 31, 0);
}

// The hex is what github.com/moby/spdystream v0.5.1 writes, in one stream.
#[test]
fn blocks_of_the_go_implementation() {
    let mut inflater = Inflater::new(1024);
    let mut next = |hex| Headers::parse(inflater.inflate(&unhex(hex)).expect("block")).expect("headers");
    let error = next("78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff");
    assert_eq!(error.get("streamtype"), Some("error"));
    assert_eq!(error.get("streamType"), Some("error"));
    assert_eq!(error.get("port"), None);
    assert_eq!(next("c22e555c92929907000000ffff").get("streamtype"), Some("stdin"));
    let data = next("0225550c295001940829cb8bc0d9c6c2c0c280818181b30812f799a03cc16800000000ffff");
    assert_eq!(
        ["streamtype", "port", "requestid"].map(|name| data.get(name)),
        [Some("data"), Some("8080"), Some("0")]
    );
    let more = next("821acb929b5f04ce95f979a90c25e5f900000000ffff");
    assert_eq!(more.get("more"), Some("one"));
    assert_eq!(more.iter().collect::<Vec<_>>(), [(&b"more"[..], &b"one\0two"[..])]);
}

#[test]
fn our_blocks_are_one_zlib_stream() {
    let (mut encoder, mut inflater) = (Encoder::default(), Inflater::new(200_000));
    assert_eq!(encoder.encode(&[]), encoder.encode(&[]));
    let long = "x".repeat(150_000);
    for headers in [&[][..], &[("a", "b"), ("c", "")], &[("long", long.as_str())], &[]] {
        let block = encoder.encode(headers);
        assert!(block.ends_with(&[0, 0, 0, 0xff, 0xff]), "Go's inflater needs the sync flush");
        encoder.sent();
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        assert_eq!(inflater.inflate(&block).expect("block"), plain(&headers));
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let mut deflater = Deflater::new();
    let block = deflater.deflate(&vec![0; 10 << 20]);
    assert!(block.len() < 64 * 1024);
    let error = Inflater::new(64 * 1024).inflate(&block).expect_err("too large");
    assert_eq!(error.to_string(), "a header block of more than 65536 bytes");
}

#[test]
fn a_block_of_exactly_the_limit_is_good() {
    for size in [STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 2 * STEP_BYTES] {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new(size));
        for _ in 0..3 {
            assert_eq!(inflater.inflate(&deflater.deflate(&vec![7; size])).expect("block").len(), size);
        }
        assert!(matches!(
            inflater.inflate(&deflater.deflate(&vec![7; size + 1])),
            Err(InflateError::TooLarge { .. })
        ));
    }
}

#[test]
fn broken_streams_are_errors() {
    assert!(matches!(Inflater::new(64).inflate(b"no zlib at all"), Err(InflateError::Corrupt(_))));
    // Another dictionary.
    assert!(matches!(Inflater::new(64).inflate(&unhex("78bb01020304000000")), Err(InflateError::Corrupt(_))));
    let mut ended = Vec::with_capacity(64);
    let mut zlib = Compress::new(Compression::fast(), true);
    zlib.compress_vec(b"abc", &mut ended, FlushCompress::Finish).expect("deflate");
    assert!(matches!(Inflater::new(64).inflate(&ended), Err(InflateError::Ended)));
}

#[test]
fn bad_blocks() {
    let cases: [(&[Pair], BlockError); 5] = [
        (&[(b"", b"x")], BlockError::NoName),
        (&[(b"Name", b"x")], BlockError::NotLowerCase),
        (&[(b"a b", b"x")], BlockError::NotLowerCase),
        (&[("\u{e9}".as_bytes(), b"x")], BlockError::NotLowerCase),
        (&[(b"a", b"x"), (b"b", b"y"), (b"a", b"x")], BlockError::Duplicate),
    ];
    for (headers, error) in cases {
        assert_eq!(Headers::parse(plain(headers)), Err(error));
    }
    for block in ["", "000000", "00000001", "00000001000000016100000002ff", "0000000000", "ffffffff"] {
        assert_eq!(Headers::parse(unhex(block)), Err(BlockError::Lengths), "{block}");
    }
    assert_eq!(Headers::parse(plain(&[(b"a", b"\xff")])).expect("block").get("a"), None);
}

proptest! {
    #[test]
    fn blocks_come_back_as_they_were(
        blocks in vec(btree_map("[a-z0-9:-]{1,20}", "\\PC{0,40}", 0..10), 1..6),
    ) {
        let (mut encoder, mut deflater) = (Encoder::default(), Deflater::new());
        let (mut ours, mut theirs) = (Inflater::new(64 * 1024), Inflater::new(64 * 1024));
        for headers in &blocks {
            let list: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let expected: Vec<_> = list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            let block = encoder.encode(&list);
            encoder.sent();
            let parsed = Headers::parse(ours.inflate(&block).expect("inflate")).expect("parse");
            prop_assert_eq!(parsed.iter().collect::<Vec<_>>(), expected.clone());
            let block = deflater.deflate(&plain(&expected));
            let parsed = Headers::parse(theirs.inflate(&block).expect("inflate")).expect("parse");
            prop_assert_eq!(parsed.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn no_bytes_do_harm(blocks in vec(vec(any::<u8>(), 0..400), 1..4), headed in any::<bool>()) {
        let mut inflater = Inflater::new(4096);
        let mut head = if headed { ZLIB_HEAD.to_vec() } else { Vec::new() };
        for block in blocks {
            head.extend_from_slice(&block);
            let Ok(plain) = inflater.inflate(&std::mem::take(&mut head)) else { break };
            prop_assert!(plain.len() <= 4096);
            let _ = Headers::parse(plain);
        }
    }

    #[test]
    fn no_block_does_harm(block in vec(any::<u8>(), 0..300)) {
        if let Ok(headers) = Headers::parse(block) {
            let _ = headers.get("streamtype");
            prop_assert!(headers.iter().count() <= 40);
        }
    }
}
