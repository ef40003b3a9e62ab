//! Fields of a tar header: numbers, the checksum, text.

use super::archive::BLOCK;

/// An octal or base-256 number; an empty field is 0, as in Go's archive/tar.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (head, tail) = field.split_at(field.len() - 8.min(field.len()));
        // Negative numbers and those over 64 bit are none that we have a use for.
        let first_is_plain = match head.split_first() {
            Some((first, rest)) => *first == 0x80 && rest.iter().all(|byte| *byte == 0),
            None => true,
        };
        if !first_is_plain {
            return None;
        }
        let mut value = tail.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        if head.is_empty() {
            value &= !(1 << (field.len() * 8 - 1));
        }
        return Some(value);
    }
    let digits: &[u8] = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// The sum over the header with its own field as spaces, over unsigned and (old writers) signed bytes.
pub(super) fn checksums(block: &[u8; BLOCK]) -> (u64, i64) {
    let mut sums = (0_u64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        sums.0 += u64::from(byte);
        sums.1 += i64::from(byte.cast_signed());
    }
    sums
}

pub(super) fn cut_at_nul(data: &[u8]) -> Vec<u8> {
    data.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}
