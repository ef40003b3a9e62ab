//! Cost of the filter: `cargo bench -p holdfast-authority`.
//!
//! A call's bytes as real clients send them, again and again, and a large message. The bytes are copied anew for each
//! round, since the filter works in place; the same rounds without it are taken off.

use std::{hint::black_box, time::Instant};

use holdfast_authority::Filter;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Rounds between two looks at the clock, and how often: the least time counts, since others work on the machine.
const ROUNDS: u32 = 1000;
const LOOKS: u32 = 2000;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// The first request of a client: all names and values are written out, and go into the table.
fn first() -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let literal = |name: &str, value: &str| [vec![0x40], text(name), text(value)].concat();
    let block = [
        literal(":path", "/runtime.v1.RuntimeService/Version"),
        literal(":authority", "run%2Fholdfast%2Fholdfast.sock"),
        vec![0x83, 0x86],
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
        literal("user-agent", "grpc-python/1.85.3 grpc-c/58.0.0 (linux; chttp2)"),
    ];
    frame(1, 4, &block.concat())
}

/// A later one: indices, and a timeout that is another one each time (`199976u`, in Huffman's code, as grpc-go has it).
fn again() -> Vec<u8> {
    let block = [
        &b"\xc2\xc1\x83\x86\xc0\xbf\xbe\x40\x89\x9a\xca\xc8\xb2\x4d\x49\x4f\x6a\x7f\x85"[..],
        b"\x0b\xef\xb8\xed\xad",
    ];
    [frame(1, 4, &block.concat()), frame(0, 1, &[0, 0, 0, 0, 4, 10, 2, b'v', b'1'])].concat()
}

/// Time of one round.
fn measure(bytes: &[u8], mut work: impl FnMut(&mut [u8])) -> f64 {
    let mut copy = bytes.to_vec();
    let mut look = || {
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            copy.copy_from_slice(bytes);
            work(black_box(&mut copy));
        }
        begin.elapsed()
    };
    let least = (0..LOOKS).map(|_| look()).min().unwrap_or_default();
    least.as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

fn report(what: &str, bytes: &[u8]) {
    let mut filter = Filter::default();
    filter.pass(&mut [PREFACE, &first()].concat());
    let without = measure(bytes, |bytes| {
        black_box(bytes);
    });
    let with = measure(bytes, |bytes| filter.pass(bytes));
    println!("{what:<40} {:>6} bytes {:>6.0} ns", bytes.len(), with - without);
}

fn main() {
    report("a client's first request", &first());
    report("a later one, with a timeout of its own", &again());
    report("a message of 16 KiB", &frame(0, 0, &[0; 16 << 10]));
}
