//! A client's side of a connection (RFC 9113, sections 3.4 and 4): the preface, then frames.

use crate::block::{Blocks, Lost};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame before its payload.
const HEAD: usize = 9;
/// Bytes of a stream dependency and a weight in HEADERS (section 6.2).
const PRIORITY_BYTES: usize = 5;

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Filter for the bytes that one connection's client sends to the server. See the crate.
#[derive(Debug)]
pub struct Filter {
    place: Place,
    /// HEADERS without END_HEADERS has come: CONTINUATION must follow.
    is_open: bool,
    blocks: Blocks,
}

/// Position within the client's byte stream.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// So many bytes into the preface.
    Preface(usize),
    /// So many bytes into a frame's head.
    Head([u8; HEAD], usize),
    /// At the byte of HEADERS that says how much padding there is.
    PadLength { payload: usize, skip: usize },
    /// Before a header block, in fields of HEADERS.
    Fields { left: usize, block: usize, padding: usize },
    /// Within a header block.
    Block { left: usize, padding: usize },
    /// In what has no header block.
    Skip(usize),
    /// The protocol is broken: no more is looked at.
    Lost,
}

impl Default for Filter {
    fn default() -> Self {
        Self { place: Place::Preface(0), is_open: false, blocks: Blocks::default() }
    }
}

impl Filter {
    /// Takes the next bytes from the client, in pieces of any size, and changes authorities in them.
    pub fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() && !matches!(self.place, Place::Lost) {
            let count = self.step(bytes).unwrap_or_else(|Lost| {
                self.place = Place::Lost;
                bytes.len()
            });
            bytes = &mut bytes[count..];
        }
    }

    /// Takes some bytes, at least one; how many.
    fn step(&mut self, bytes: &mut [u8]) -> Result<usize, Lost> {
        match self.place {
            Place::Preface(seen) => self.preface(seen, bytes),
            Place::Head(head, seen) => self.head(head, seen, bytes),
            Place::PadLength { payload, skip } => {
                let padding = usize::from(bytes[0]);
                self.begin_fields(payload.checked_sub(1).ok_or(Lost)?, skip, padding)?;
                Ok(1)
            }
            Place::Fields { left, block, padding } => {
                let count = left.min(bytes.len());
                self.place = Place::Fields { left: left - count, block, padding };
                if count == left {
                    self.begin_block(block, padding)?;
                }
                Ok(count)
            }
            Place::Block { left, padding } => {
                let count = left.min(bytes.len());
                self.blocks.pass(&mut bytes[..count])?;
                self.begin_block(left - count, padding)?;
                Ok(count)
            }
            Place::Skip(left) => {
                let count = left.min(bytes.len());
                self.skip(left - count);
                Ok(count)
            }
            Place::Lost => Ok(bytes.len()),
        }
    }

    fn preface(&mut self, seen: usize, bytes: &[u8]) -> Result<usize, Lost> {
        let count = (PREFACE.len() - seen).min(bytes.len());
        if PREFACE[seen..seen + count] != bytes[..count] {
            return Err(Lost);
        }
        self.place = if seen + count == PREFACE.len() {
            Place::Head([0; HEAD], 0)
        } else {
            Place::Preface(seen + count)
        };
        Ok(count)
    }

    fn head(&mut self, mut head: [u8; HEAD], seen: usize, bytes: &[u8]) -> Result<usize, Lost> {
        let count = (HEAD - seen).min(bytes.len());
        head[seen..seen + count].copy_from_slice(&bytes[..count]);
        if seen + count == HEAD {
            self.begin(head)?;
        } else {
            self.place = Place::Head(head, seen + count);
        }
        Ok(count)
    }

    /// Begins a frame.
    fn begin(&mut self, head: [u8; HEAD]) -> Result<(), Lost> {
        let [a, b, c, kind, flags, ..] = head;
        let payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match (kind, self.is_open) {
            (HEADERS, false) => {
                self.is_open = flags & END_HEADERS == 0;
                let skip = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
                if flags & PADDED == 0 {
                    return self.begin_fields(payload, skip, 0);
                }
                self.place = Place::PadLength { payload, skip };
                Ok(())
            }
            (CONTINUATION, true) => {
                self.is_open = flags & END_HEADERS == 0;
                self.begin_block(payload, 0)
            }
            // Clients promise nothing.
            (HEADERS | CONTINUATION | PUSH_PROMISE, _) | (_, true) => Err(Lost),
            _ => {
                self.skip(payload);
                Ok(())
            }
        }
    }

    fn begin_fields(&mut self, payload: usize, skip: usize, padding: usize) -> Result<(), Lost> {
        let block = payload.checked_sub(skip + padding).ok_or(Lost)?;
        if skip == 0 {
            return self.begin_block(block, padding);
        }
        self.place = Place::Fields { left: skip, block, padding };
        Ok(())
    }

    /// Goes on within a block, or behind it.
    fn begin_block(&mut self, left: usize, padding: usize) -> Result<(), Lost> {
        if left > 0 {
            self.place = Place::Block { left, padding };
            return Ok(());
        }
        if !self.is_open && !self.blocks.is_between_fields() {
            return Err(Lost);
        }
        self.skip(padding);
        Ok(())
    }

    /// Goes on within what is of no interest, or with the next frame.
    fn skip(&mut self, left: usize) {
        self.place = if left > 0 { Place::Skip(left) } else { Place::Head([0; HEAD], 0) };
    }
}
