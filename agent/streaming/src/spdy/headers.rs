//! Header blocks (draft, section 2.6.10): names and values behind one zlib stream per direction.
//!
//! The two directions are different in kind. What the client sends has to be inflated, block after block, in one stream
//! that begins with the preset dictionary; losing a single block loses the connection. What the server sends is only
//! ever an empty block or a few names, so that [`Encoder`] writes stored blocks: valid for every inflater, and without
//! the quarter of a mebibyte that a deflater keeps for each connection.

use std::collections::HashSet;

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Bytes inflated at a time.
const STEP_BYTES: usize = 2048;
/// A zlib header (deflate, window of 32 KiB, preset dictionary) and the adler32 of the dictionary.
const ZLIB_HEAD: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
/// What a deflater's sync flush ends with: an empty stored block. Go's inflater holds its output back until it comes,
/// and fails for good if the frame ends before.
const SYNC_FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// The most bytes that a stored block can have.
const STORED_BYTES: usize = u16::MAX as usize;

/// Why a block could not be inflated. The stream of blocks is lost then, and the connection with it.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// Not zlib, another dictionary, or damage.
    #[error("inflate a header block")]
    Corrupt(#[source] flate2::DecompressError),
    /// The zlib stream has ended, which it must not before the connection does.
    #[error("a header block ends the zlib stream")]
    Ended,
    /// More than allowed.
    #[error("a header block of more than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
}

/// What is wrong with an inflated block. Only its stream has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Counts and lengths do not match the bytes.
    #[error("a header block whose lengths do not match")]
    Lengths,
    /// A name of no bytes.
    #[error("a header without a name")]
    NoName,
    /// A name that is not lower-case ASCII text.
    #[error("a header name that is not in lower case")]
    NotLowerCase,
    /// A name twice; values of one name are joined by a NUL byte.
    #[error("a header name that comes twice")]
    Duplicate,
}

/// Inflates the blocks of one direction, each of them once and in order.
#[derive(Debug)]
pub struct Inflater {
    stream: Decompress,
    limit: usize,
    primed: bool,
}

impl Inflater {
    /// An inflater that gives at most `limit` bytes for a block.
    pub fn new(limit: usize) -> Self {
        Self { stream: Decompress::new(true), limit, primed: false }
    }

    /// The bytes of the next block. After an error there is nothing to come.
    pub fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, InflateError> {
        let mut all = Vec::new();
        let mut step = [0_u8; STEP_BYTES];
        loop {
            let (taken, given) = (self.stream.total_in(), self.stream.total_out());
            let status = match self.stream.decompress(block, &mut step, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() && !self.primed => {
                    self.primed = true;
                    self.stream.set_dictionary(&DICTIONARY).map_err(InflateError::Corrupt)?;
                    Status::Ok
                }
                Err(error) => return Err(InflateError::Corrupt(error)),
            };
            let taken = self.stream.total_in().saturating_sub(taken) as usize;
            let given = self.stream.total_out().saturating_sub(given) as usize;
            block = block.get(taken..).unwrap_or_default();
            all.extend_from_slice(step.get(..given).unwrap_or_default());
            if all.len() > self.limit {
                return Err(InflateError::TooLarge { limit: self.limit });
            }
            if status == Status::StreamEnd {
                return Err(InflateError::Ended);
            }
            // A step that was filled may have left something inside; one that moved nothing never will.
            if (block.is_empty() && given < STEP_BYTES) || (taken == 0 && given == 0) {
                return Ok(all);
            }
        }
    }
}

/// Writes the blocks of the other direction.
#[derive(Debug, Default)]
pub struct Encoder {
    begun: bool,
}

impl Encoder {
    /// The next block. It counts only with [`Encoder::sent`]; until then a block may be asked for anew.
    pub fn encode(&self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = if self.begun { Vec::new() } else { ZLIB_HEAD.to_vec() };
        for stored in plain.chunks(STORED_BYTES) {
            // Not the last one, of type 0, and padding to the byte: always 0 where a byte begins, as here.
            block.push(0);
            let length = stored.len() as u16;
            block.extend_from_slice(&length.to_le_bytes());
            block.extend_from_slice(&(!length).to_le_bytes());
            block.extend_from_slice(stored);
        }
        block.extend_from_slice(&SYNC_FLUSH);
        block
    }

    /// The peer has the block.
    pub fn sent(&mut self) {
        self.begun = true;
    }
}

/// A block that has been looked through. It keeps the bytes as they came: one allocation, whatever the peer makes up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    block: Vec<u8>,
}

impl Headers {
    /// Looks through an inflated block.
    pub fn parse(mut block: Vec<u8>) -> Result<Self, BlockError> {
        let mut rest = block.as_slice();
        let count = word(&mut rest).ok_or(BlockError::Lengths)?;
        let mut names = HashSet::new();
        for _ in 0..count {
            let (name, _) = pair(&mut rest).ok_or(BlockError::Lengths)?;
            if name.is_empty() {
                return Err(BlockError::NoName);
            }
            if name.iter().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic()) {
                return Err(BlockError::NotLowerCase);
            }
            if !names.insert(name) {
                return Err(BlockError::Duplicate);
            }
        }
        if !rest.is_empty() {
            return Err(BlockError::Lengths);
        }
        block.shrink_to_fit();
        Ok(Self { block })
    }

    /// The first value of a header, `name` in any case. `None` also if the value is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.iter().find(|(this, _)| this.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
    }

    /// Names and values, the latter with all that a name has, joined by NUL bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.block.get(4..).unwrap_or_default();
        std::iter::from_fn(move || pair(&mut rest))
    }
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(u32::from_be_bytes(*bytes))
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = word(rest)? as usize;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

fn pair<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    Some((text(rest)?, text(rest)?))
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
