//! First bytes that real clients send. Recorded from the socket; the fields behind the authority are left as
//! they were.

use holdfast_authority::Filter;
use http::uri::Authority;

use crate::wire::{DATA, END_HEADERS, HEADERS, PREFACE, filtered, frame, read};

/// HEADERS of grpcio 1.x (C core): nothing is in Huffman's code, each name is written out.
fn c_core() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", "/runtime.v1.RuntimeService/Version"),
        (":authority", "run%2Fholdfast%2Fholdfast.sock"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        block.extend(
            [&[0x40, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat(),
        );
    }
    block
}

#[test]
fn the_c_core_names_the_path_in_percents() {
    let first = frame(HEADERS, END_HEADERS, &c_core());
    // All of it is in the dynamic table by then.
    let again = frame(HEADERS, END_HEADERS, &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]);
    let data = frame(DATA, 1, b"\0\0\0\0\x0e\x12\x0crun%2Fx/:/a%");
    let stream = [PREFACE, &first, &data, &again].concat();
    for size in 1..stream.len() {
        let (whole, pieces) = filtered(&stream, &[size]);
        assert_eq!(whole, pieces, "in pieces of {size}");
    }
    let (whole, _) = filtered(&stream, &[]);
    let (lists, _) = read(&whole);
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0][3], (b":authority".to_vec(), b"run.2Fholdfast.2Fholdfast.sock".to_vec()));
    assert_eq!(lists[0][2].1, b"/runtime.v1.RuntimeService/Version");
    assert_eq!(whole.len(), stream.len());
    assert!(whole.windows(data.len()).any(|window| window == data));
}

#[test]
fn what_an_authority_may_be_stays_as_it_is() {
    for good in
        ["localhost", "localhost:80", "a.b-c_d~e", "[::1]:50051", "user@host:1", "10.0.0.1:2", "x!$&'()*+,;="]
    {
        let block = [&[0x41, good.len() as u8], good.as_bytes()].concat();
        let stream = [PREFACE, &frame(HEADERS, END_HEADERS, &block)].concat();
        assert_eq!(filtered(&stream, &[1]), (stream.clone(), stream), "{good}");
    }
}

/// The filter's output for an authority that is sent as a plain string, without Huffman's code.
fn plain(value: &[u8]) -> Vec<u8> {
    let block = [&[0x41, value.len() as u8], value].concat();
    let (out, _) = filtered(&[PREFACE, &frame(HEADERS, END_HEADERS, &block)].concat(), &[]);
    out[out.len() - value.len()..].to_vec()
}

#[test]
fn any_path_becomes_an_authority() {
    for path in [
        "/run/holdfast/holdfast.sock",
        "/var/run/a b/c#d?e.sock",
        "/run/x:y:z.sock",
        "/tmp/{a}|<b>^`c`\\\"d\"",
        "/größe/ß",
        "%2Frun%2Fx.sock",
        "run%2Fx:y:z",
        "/",
        "%",
    ] {
        let value = plain(path.as_bytes());
        assert!(Authority::try_from(&value[..]).is_ok(), "{path}: {}", String::from_utf8_lossy(&value));
    }
}

#[test]
fn other_protocols_pass() {
    for text in ["GET /a%2Fb HTTP/1.1\r\nHost: a%2Fb\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSN", "\0\0\0\0"] {
        let mut bytes = text.as_bytes().to_vec();
        let mut filter = Filter::default();
        filter.pass(&mut bytes);
        assert_eq!(bytes, text.as_bytes());
    }
}

/// A broken frame in front of a header block with a path as authority: nothing changes behind it.
#[test]
fn behind_what_breaks_the_protocol_nothing_changes() {
    let good = frame(HEADERS, END_HEADERS, b"\x41\x01/");
    let broken = [
        frame(5, 4, b"\0\0\0\x02\x82"),
        frame(9, 4, b"\x82"),
        frame(HEADERS, 0, b"\x82"),
        frame(HEADERS, END_HEADERS | 8, b"\x05\x82"),
        frame(HEADERS, END_HEADERS | 8, b""),
        frame(HEADERS, END_HEADERS | 0x20, b"\0\0\0\0"),
        frame(HEADERS, END_HEADERS, b"\x41\x02/"),
        frame(HEADERS, END_HEADERS, b"\xff"),
        frame(HEADERS, END_HEADERS, b"\xbe"),
    ];
    for broken in broken {
        let stream = [PREFACE, &broken, &good].concat();
        let (whole, pieces) = filtered(&stream, &[1]);
        assert_eq!(whole, pieces);
        assert!(whole.ends_with(&good), "{broken:?}");
    }
    let stream = [PREFACE, &frame(DATA, 0, b"/"), &good].concat();
    assert!(filtered(&stream, &[1]).1.ends_with(b"\x41\x013"));
}
