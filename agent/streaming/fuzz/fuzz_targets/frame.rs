//! Frames out of any bytes, in any chunks: the chunks make no difference, control frames come back as they were.

#![no_main]

use holdfast_streaming::spdy::frame::{Control, Decoder, Event};
use libfuzzer_sys::fuzz_target;

const MAX_FRAME: usize = 512;

/// Control frames, and all payload of DATA frames with the stream it belongs to; whether there was an error.
fn decode(bytes: &[u8], chunk: usize) -> (Vec<Control>, Vec<(u32, u8)>, bool) {
    let (mut frames, mut payload) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::new(MAX_FRAME);
    for mut input in bytes.chunks(chunk) {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Event::Control(frame))) => frames.push(frame),
                Ok(Some(Event::Data { id, piece, .. })) => {
                    assert_ne!(id, 0);
                    payload.extend(piece.iter().map(|byte| (id, *byte)));
                }
                Ok(None) => break,
                Err(_) => return (frames, payload, true),
            }
        }
        assert!(input.is_empty());
    }
    (frames, payload, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((chunk, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, usize::from(*chunk) + 1), whole);
    for frame in whole.0 {
        let again = frame.encode();
        assert!(again.len() <= 8 + MAX_FRAME);
        assert_eq!(decode(&again, again.len()).0, [frame]);
    }
});
