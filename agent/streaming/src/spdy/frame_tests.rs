use proptest::collection::vec;
use proptest::prelude::*;

use super::super::tests_support::unhex;
use super::*;

/// A control frame, or a DATA frame's stream, bytes and FIN.
type Seen = (Option<Control>, u32, Vec<u8>, bool);

/// Events with pieces of a DATA frame joined.
fn events(bytes: &[u8], chunk: usize) -> Result<Vec<Seen>, FrameError> {
    let mut decoder = Decoder::new(4096);
    let mut all: Vec<Seen> = Vec::new();
    let mut open = false;
    for mut input in bytes.chunks(chunk.max(1)) {
        while let Some(event) = decoder.decode(&mut input)? {
            match event {
                Event::Control(frame) => all.push((Some(frame), 0, Vec::new(), false)),
                Event::Data { id, piece, fin } => {
                    match all.last_mut() {
                        Some((None, this, data, end)) if open && *this == id => {
                            data.extend_from_slice(piece);
                            *end = fin;
                        }
                        _ => all.push((None, id, piece.to_vec(), fin)),
                    }
                    open = matches!(decoder.state, State::Data { .. });
                }
            }
        }
        assert!(input.is_empty());
    }
    Ok(all)
}

fn one(hex: &str) -> Control {
    match events(&unhex(hex), 3).expect("frame").as_slice() {
        [(Some(frame), ..)] => frame.clone(),
        other => panic!("{other:?}"),
    }
}

fn data(id: u32, payload: &[u8], fin: bool) -> Vec<u8> {
    [&data_head(id, payload.len(), fin)[..], payload].concat()
}

// The hex is what github.com/moby/spdystream v0.5.1 writes.
#[test]
fn frames_of_the_go_implementation() {
    let cases = [
        ("80030003000000080000000300000005", Control::Reset { id: 3, status: status::CANCEL }),
        ("800300060000000400000007", Control::Ping { id: 7 }),
        ("80030007000000080000000500000001", Control::GoAway { last: 5, status: away::PROTOCOL_ERROR }),
        (
            "80030002000000140000000178f9e3c6a7c26260606000000000ffff",
            Control::SynReply { id: 1, fin: false, block: unhex("78f9e3c6a7c26260606000000000ffff") },
        ),
        (
            "800300010000001700000003000000000000c22e555c92929907000000ffff",
            Control::SynStream {
                id: 3,
                fin: false,
                unidirectional: false,
                block: unhex("c22e555c92929907000000ffff"),
            },
        ),
        (
            "800300080000001a00000005821acb929b5f04ce95f979a90c25e5f900000000ffff",
            Control::Headers {
                id: 5,
                fin: false,
                block: unhex("821acb929b5f04ce95f979a90c25e5f900000000ffff"),
            },
        ),
    ];
    for (hex, frame) in cases {
        assert_eq!(one(hex), frame);
        assert_eq!(frame.encode(), unhex(hex));
    }
    assert_eq!(data(3, b"hello", false), unhex("000000030000000568656c6c6f"));
    assert_eq!(data(3, b"", true), unhex("0000000301000000"));
}

#[test]
fn settings_window_updates_and_the_unknown_are_skipped() {
    let bytes = unhex(concat!(
        "800300040000000c000000010000000700010000",
        "800300090000000800000003000003e8",
        "800300ff00000003aabbcc",
        "8003000a00000000",
        "800300060000000400000007"
    ));
    let expected = vec![(Some(Control::Ping { id: 7 }), 0, Vec::new(), false)];
    for chunk in 1..bytes.len() {
        assert_eq!(events(&bytes, chunk), Ok(expected.clone()));
    }
}

#[test]
fn a_fin_comes_with_the_last_piece_only() {
    let bytes = data(9, b"abcdef", true);
    let mut decoder = Decoder::new(64);
    let (mut first, mut second) = bytes.split_at(11);
    assert_eq!(decoder.decode(&mut first), Ok(Some(Event::Data { id: 9, piece: b"abc", fin: false })));
    assert_eq!(decoder.decode(&mut first), Ok(None));
    assert_eq!(decoder.decode(&mut second), Ok(Some(Event::Data { id: 9, piece: b"def", fin: true })));
}

#[test]
fn what_no_peer_may_send() {
    let cases = [
        ("80020006000000040000", FrameError::Version(2)),
        ("ffff000600000004", FrameError::Version(0x7fff)),
        ("0000000000000001", FrameError::StreamZero),
        ("80030003000000080000000000000005", FrameError::StreamZero),
        ("8003000600000005", FrameError::Length { kind: 6, length: 5 }),
        ("8003000300000004", FrameError::Length { kind: 3, length: 4 }),
        ("8003000100000009", FrameError::Length { kind: 1, length: 9 }),
        ("8003000800ffffff", FrameError::TooLarge { kind: 8, length: 0x00ff_ffff, limit: 4096 }),
    ];
    for (hex, error) in cases {
        assert_eq!(events(&unhex(hex), 1), Err(error));
    }
}

#[test]
fn a_length_alone_takes_no_memory() {
    let mut decoder = Decoder::new(usize::MAX);
    let bytes = unhex("8003000800ffffff00");
    assert_eq!(decoder.decode(&mut bytes.as_slice()), Ok(None));
    let State::Control { body, .. } = &decoder.state else { panic!("{decoder:?}") };
    assert!(body.capacity() < 64);
}

fn control_frame() -> impl Strategy<Value = Control> {
    let id = 1..=ID_MASK;
    let block = || vec(any::<u8>(), 0..200);
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), block()).prop_map(|(id, fin, unidirectional, block)| {
            Control::SynStream { id, fin, unidirectional, block }
        }),
        (id.clone(), any::<bool>(), block()).prop_map(|(id, fin, block)| Control::SynReply {
            id,
            fin,
            block
        }),
        (id.clone(), any::<bool>(), block()).prop_map(|(id, fin, block)| Control::Headers { id, fin, block }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Control::Reset { id, status }),
        any::<u32>().prop_map(|id| Control::Ping { id }),
        (id, any::<u32>()).prop_map(|(last, status)| Control::GoAway { last, status }),
    ]
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        frames in vec(prop_oneof![
            control_frame().prop_map(|frame| (Some(frame), 0, Vec::new(), false)),
            (1..=ID_MASK, vec(any::<u8>(), 0..300), any::<bool>()).prop_map(|(id, data, fin)| (None, id, data, fin)),
        ], 0..12),
        chunk in 1_usize..400,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(frame, id, payload, fin)| match frame {
            Some(frame) => frame.encode(),
            None => data(*id, payload, *fin),
        }).collect();
        prop_assert_eq!(events(&bytes, chunk), Ok(frames));
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..600), chunk in 1_usize..64) {
        prop_assert_eq!(events(&bytes, chunk), events(&bytes, bytes.len()));
    }

    #[test]
    fn nearly_right_bytes_do_no_harm(
        frame in control_frame(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        chunk in 1_usize..64,
    ) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(events(&bytes, chunk), events(&bytes, bytes.len()));
    }
}
