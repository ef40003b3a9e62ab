//! The Huffman code of HPACK (RFC 7541, appendix B), bit by bit and without its table.
//!
//! The code is canonical: codes of one length are consecutive numbers, and the first of a length follows the last
//! of the shorter ones. So the number of codes of each length tells where a character ends.
//!
//! A character can begin in one read of the socket and end in the next, when the server has its first bits already.
//! So a replacement must have the same bits up to the one at which it is known that there must be one:
//!
//! | character | code | becomes | code |
//! |---|---|---|---|
//! | space, `%` | 01010x | `-`, `.` | 01011x |
//! | `/` | 011000 | `3` | 011001 |
//! | `:` | 1011100 | `B` | 1011101 |
//! | `"` | 1111111001 | `!` | 1111111000 |
//!
//! Others that no authority may have (`?`, `#`, `<` and rarer ones) have no such neighbour.

/// Codes of each length.
const COUNTS: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
/// The first code of each length.
const FIRST: [u32; 31] = first();

const fn first() -> [u32; 31] {
    let mut first = [0; 31];
    let mut length = 1;
    while length < first.len() {
        first[length] = (first[length - 1] + COUNTS[length - 1]) << 1;
        length += 1;
    }
    first
}

/// Counts the characters of a coded string.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measure {
    /// The last bits, the newest lowest; those of the character that has not ended are less than the longest code.
    bits: u64,
    pending: u32,
    /// Characters that have ended.
    pub characters: usize,
}

impl Measure {
    /// Takes the next bytes.
    pub fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bits = self.bits << 8 | u64::from(*byte);
            self.pending += 8;
            // The bits in front, then zeros. If these are needed for a whole code, it is longer than what is there.
            while let length = code_length((self.bits << (64 - self.pending) >> 32) as u32)
                && length <= self.pending
            {
                self.pending -= length;
                self.characters += 1;
                if self.pending == 0 {
                    break;
                }
            }
        }
    }
}

/// Bits of the code in front.
fn code_length(front: u32) -> u32 {
    let is_within = |length: u32| {
        let (first, count) = (FIRST[length as usize], COUNTS[length as usize]);
        front >> (32 - length) < first + count
    };
    // The last code of the greatest length is all ones.
    (5..30).find(|length| is_within(*length)).unwrap_or(30)
}

/// Bits of a character that has not ended.
#[derive(Debug, Clone, Copy, Default)]
struct Prefix {
    code: u32,
    length: usize,
}

impl Prefix {
    fn push(&mut self, bit: bool) {
        self.code = self.code << 1 | u32::from(bit);
        self.length += 1;
    }

    fn is_whole(self) -> bool {
        self.code.wrapping_sub(FIRST[self.length]) < COUNTS[self.length]
    }
}

/// Replaces the characters of a coded string that no authority has, and counts all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mend {
    prefix: Prefix,
    /// Characters that have ended.
    pub characters: usize,
    /// A character has been replaced.
    mended: bool,
}

impl Mend {
    /// Takes the next bytes.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            for place in (0..8).rev() {
                self.prefix.push(*byte >> place & 1 == 1);
                if let Some(bit) = self.replacement() {
                    *byte = *byte & !(1 << place) | u8::from(bit) << place;
                }
                if self.prefix.is_whole() {
                    self.prefix = Prefix::default();
                    self.characters += 1;
                }
            }
        }
    }

    /// Replacement for the last bit, if it must change. The prefix keeps it as it was: lengths are those of
    /// the client's characters.
    fn replacement(&mut self) -> Option<bool> {
        let bit = match (self.prefix.length, self.prefix.code) {
            // A path's second colon would be that of a second port.
            (7, 0b101_1100) if self.mended => return Some(true),
            (5, 0b0_1010) | (6, 0b01_1000) => true,
            (10, 0b11_1111_1001) => false,
            _ => return None,
        };
        self.mended = true;
        Some(bit)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use httlib_hpack::Encoder;

    use super::*;

    /// A string in the code, by somebody else's table.
    fn coded(text: &[u8]) -> Vec<u8> {
        let mut field = Vec::new();
        let mut encoder = Encoder::default();
        encoder.encode((1, text.to_vec(), Encoder::HUFFMAN_VALUE), &mut field).unwrap();
        // Index, length (short here), string.
        field.split_off(2)
    }

    fn mended(text: &str) -> Vec<u8> {
        let mut bytes = coded(text.as_bytes());
        let mut string = Mend::default();
        string.pass(&mut bytes);
        assert_eq!(string.characters, text.len(), "{text:?}");
        bytes
    }

    #[test]
    fn every_character_ends_where_the_table_says() {
        for first in 0..=255 {
            for second in [0, b'a', b'%', b'/', b'~', 255] {
                let mut bytes = coded(&[first, second, first]);
                let (mut measure, mut mend) = (Measure::default(), Mend::default());
                measure.pass(&bytes[..1]);
                measure.pass(&bytes[1..]);
                mend.pass(&mut bytes);
                assert_eq!((measure.characters, mend.characters), (3, 3), "{first} {second}");
            }
        }
    }

    #[test]
    fn characters_become_others_of_the_same_code_length() {
        for (text, expected) in [
            ("run%2Fholdfast%2Fholdfast.sock", "run.2Fholdfast.2Fholdfast.sock"),
            ("/run/holdfast/holdfast.sock", "3run3holdfast3holdfast.sock"),
            ("/a b:c:d\"", "3a-bBcBd!"),
            ("localhost:80", "localhost:80"),
            ("[::1]:80", "[::1]:80"),
            ("abcdefghijklmnopqrstuvwxyz-._~0123456789", "abcdefghijklmnopqrstuvwxyz-._~0123456789"),
        ] {
            assert_eq!(mended(text), coded(expected.as_bytes()), "{text}");
        }
        for byte in 0..=255 {
            if !b" %/\"".contains(&byte) {
                let mut bytes = coded(&[byte]);
                Mend::default().pass(&mut bytes);
                assert_eq!(bytes, coded(&[byte]), "{byte}");
            }
        }
    }
}
