//! The holder's file: every kernel of its architecture can map it, and it has few pages.

#![allow(clippy::unwrap_used)]

use std::fs;

/// As in build.rs: the largest pages that a kernel may have.
const LARGEST_PAGE: u64 = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };
/// Fields of elf(5), for 64 bits.
const PT_LOAD: u64 = 1;
const PT_INTERP: u64 = 3;

/// A little-endian number of so many bytes.
fn number(file: &[u8], at: u64, bytes: usize) -> u64 {
    let at = at as usize;
    file[at..at + bytes].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[test]
fn segments_can_be_mapped_with_the_largest_pages() {
    let file = fs::read(env!("CARGO_BIN_EXE_holdfast-pod")).unwrap();
    assert!(file.starts_with(b"\x7fELF\x02\x01"), "no little-endian file of 64 bits");
    let (table, size, count) = (number(&file, 32, 8), number(&file, 54, 2), number(&file, 56, 2));
    let mut loaded = 0;
    for segment in (0..count).map(|index| table + index * size) {
        let kind = number(&file, segment, 4);
        assert_ne!(kind, PT_INTERP, "the holder asks for a dynamic linker");
        if kind == PT_LOAD {
            let (offset, address) = (number(&file, segment + 8, 8), number(&file, segment + 16, 8));
            let equal = offset % LARGEST_PAGE == address % LARGEST_PAGE;
            assert!(equal, "offset {offset:#x}, address {address:#x}: EINVAL with pages of {LARGEST_PAGE}");
            loaded += 1;
        }
    }
    assert!(loaded > 0, "nothing is loaded");
}
