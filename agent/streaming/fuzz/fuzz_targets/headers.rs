//! Header blocks out of any bytes: a few blocks of one zlib stream, and one that was inflated already.

#![no_main]

use holdfast_streaming::spdy::headers::{Encoder, Headers, Inflater};
use libfuzzer_sys::fuzz_target;

const MAX_HEADERS: usize = 4096;

fn look(plain: Vec<u8>) {
    let size = plain.len();
    let Ok(headers) = Headers::parse(plain) else { return };
    let _ = headers.get("streamtype");
    assert!(headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>() + 4 == size);
    let texts: Option<Vec<_>> = headers
        .iter()
        .map(|(name, value)| Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?)))
        .collect();
    let Some(texts) = texts else { return };
    let plain = Inflater::new(size).inflate(&Encoder::default().encode(&texts)).expect("our own block");
    assert_eq!(Headers::parse(plain).as_ref(), Ok(&headers));
}

fuzz_target!(|data: &[u8]| {
    look(data.to_vec());
    // The first byte says where the blocks are cut.
    let Some((cut, stream)) = data.split_first() else { return };
    let mut inflater = Inflater::new(MAX_HEADERS);
    for block in stream.chunks(usize::from(*cut) + 1) {
        let Ok(plain) = inflater.inflate(block) else { return };
        assert!(plain.len() <= MAX_HEADERS);
        look(plain);
    }
});
