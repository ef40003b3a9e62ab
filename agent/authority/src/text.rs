//! One string of a header block: a name or a value, plain or in Huffman's code.

use crate::huffman::{Measure, Mend};

/// `:authority` in Huffman's code. There is one code for a string, so it need not be decoded.
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const AUTHORITY: &[u8] = b":authority";

/// Purpose for which a string is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its length in characters, and whether it is `:authority`.
    Name,
    /// Its length in characters.
    Measure,
    /// Its length in characters; it is made a good authority.
    Authority,
    /// Nothing.
    Skip,
}

/// A string on its way.
#[derive(Debug)]
pub struct Text {
    work: Work,
    /// Bytes that are yet to come.
    left: usize,
    /// Bytes in all.
    length: usize,
    /// The bytes that must follow for a name to be `:authority`.
    wanted: Option<&'static [u8]>,
}

/// Processing of a string's bytes.
#[derive(Debug)]
enum Work {
    /// They need not be looked at.
    Skip,
    /// Huffman's code, measured.
    Measure(Measure),
    /// Huffman's code, measured and changed.
    Mend(Mend),
    /// Plain, and changed; whether something has been.
    MendPlain(bool),
}

impl Text {
    /// A string of so many bytes.
    pub fn new(purpose: Purpose, is_coded: bool, length: usize) -> Self {
        let work = match (purpose, is_coded) {
            (Purpose::Authority, true) => Work::Mend(Mend::default()),
            (Purpose::Authority, false) => Work::MendPlain(false),
            (Purpose::Name | Purpose::Measure, true) => Work::Measure(Measure::default()),
            (Purpose::Name | Purpose::Measure, false) | (Purpose::Skip, _) => Work::Skip,
        };
        let wanted = if is_coded { AUTHORITY_CODED } else { AUTHORITY };
        let is_candidate = purpose == Purpose::Name && length == wanted.len();
        Self { work, left: length, length, wanted: is_candidate.then_some(wanted) }
    }

    /// Takes what it can of `bytes`, and returns the rest.
    pub fn pass<'a>(&mut self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let (own, rest) = bytes.split_at_mut(self.left.min(bytes.len()));
        self.left -= own.len();
        self.wanted = self.wanted.and_then(|wanted| wanted.strip_prefix(&*own));
        match &mut self.work {
            Work::Skip => {}
            Work::Measure(measure) => measure.pass(own),
            Work::Mend(mend) => mend.pass(own),
            Work::MendPlain(mended) => own.iter_mut().for_each(|byte| mend_plain(byte, mended)),
        }
        rest
    }

    /// Whether all of it has come.
    pub fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// Its length in characters, once it is whole.
    pub fn characters(&self) -> usize {
        match &self.work {
            Work::Skip | Work::MendPlain(_) => self.length,
            Work::Measure(measure) => measure.characters,
            Work::Mend(mend) => mend.characters,
        }
    }

    /// Whether it is the name `:authority`, once it is whole.
    pub fn is_authority(&self) -> bool {
        self.wanted == Some(&[])
    }
}

/// Makes a character one that an authority may have; the same ones as in Huffman's code, where there are such.
fn mend_plain(byte: &mut u8, mended: &mut bool) {
    *byte = match *byte {
        // A path's second colon would be that of a second port.
        b':' if *mended => b'B',
        b'%' => b'.',
        b'/' => b'3',
        b'"' => b'!',
        b' ' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => b'-',
        _ => return,
    };
    *mended = true;
}
