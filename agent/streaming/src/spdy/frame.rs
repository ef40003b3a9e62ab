//! Frames, on the wire and off it (SPDY/3.1 draft, section 2.2 and 2.6).
//!
//! The [`Decoder`] takes bytes as they come, in chunks of any size. A control frame is gathered, up to a limit; a DATA
//! frame, which may have 16 MiB, is handed on in the pieces that it comes in; frames of no interest are skipped unread.

/// The protocol's version in a control frame; SPDY/3.1 writes 3.
const VERSION: u16 = 3;
/// The first bit of a control frame.
const CONTROL: u32 = 0x8000_0000;
/// Stream ids have 31 bits.
const ID_MASK: u32 = 0x7fff_ffff;
/// Lengths have 24 bits.
const LENGTH_MASK: u32 = 0x00ff_ffff;
/// Bytes before the payload of any frame.
pub const HEAD_BYTES: usize = 8;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is reset (draft, section 2.6.3).
pub mod status {
    /// A rule of the protocol was broken.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// A frame for a stream that is not open.
    pub const INVALID_STREAM: u32 = 2;
    /// Refused before any processing.
    pub const REFUSED_STREAM: u32 = 3;
    /// Not needed any more.
    pub const CANCEL: u32 = 5;
    /// A frame for a stream that was half-closed.
    pub const STREAM_ALREADY_CLOSED: u32 = 9;
}

/// Why a session ends (draft, section 2.6.6).
pub mod away {
    /// Orderly.
    pub const OK: u32 = 0;
    /// A rule of the protocol was broken.
    pub const PROTOCOL_ERROR: u32 = 1;
}

/// What no peer may send; the connection cannot go on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A control frame of another version of SPDY.
    #[error("control frame of SPDY version {0}, not 3")]
    Version(u16),
    /// A control frame longer than allowed.
    #[error("control frame of type {kind} with {length} bytes, more than {limit}")]
    TooLarge {
        /// Type.
        kind: u16,
        /// Bytes of payload.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A control frame whose length does not fit its type.
    #[error("control frame of type {kind} with {length} bytes")]
    Length {
        /// Type.
        kind: u16,
        /// Bytes of payload.
        length: usize,
    },
    /// Stream 0, which cannot be.
    #[error("frame for stream 0")]
    StreamZero,
}

/// A control frame. Header blocks are compressed still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A new stream.
    SynStream {
        /// Stream.
        id: u32,
        /// Half-closed by its opener already.
        fin: bool,
        /// Half-closed by the other side already.
        unidirectional: bool,
        /// Compressed header block.
        block: Vec<u8>,
    },
    /// The answer to a new stream.
    SynReply {
        /// Stream.
        id: u32,
        /// Half-closed as well.
        fin: bool,
        /// Compressed header block.
        block: Vec<u8>,
    },
    /// More headers.
    Headers {
        /// Stream.
        id: u32,
        /// Half-closed as well.
        fin: bool,
        /// Compressed header block.
        block: Vec<u8>,
    },
    /// The end of a stream, in both directions.
    Reset {
        /// Stream.
        id: u32,
        /// One of [`status`].
        status: u32,
    },
    /// To be echoed if the id is of the other side's kind (odd from a client).
    Ping {
        /// Id.
        id: u32,
    },
    /// No new streams any more.
    GoAway {
        /// The last stream that was looked at.
        last: u32,
        /// One of [`away`].
        status: u32,
    },
}

/// What comes out of a [`Decoder`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole control frame.
    Control(Control),
    /// A piece of a DATA frame.
    Data {
        /// Stream, not 0.
        id: u32,
        /// Empty only if the frame is.
        piece: &'a [u8],
        /// The last piece of a frame with FIN.
        fin: bool,
    },
}

/// The head of a DATA frame; `length` is cut to 24 bits.
pub fn data_head(id: u32, length: usize, fin: bool) -> [u8; HEAD_BYTES] {
    head(id & ID_MASK, if fin { FIN } else { 0 }, length)
}

fn head(first: u32, flags: u8, length: usize) -> [u8; HEAD_BYTES] {
    let second = u32::from(flags) << 24 | (length as u32 & LENGTH_MASK);
    (u64::from(first) << 32 | u64::from(second)).to_be_bytes()
}

impl Control {
    /// Its bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let fin = |fin: bool| if fin { FIN } else { 0 };
        match self {
            Self::SynStream { id, fin: half_closed, unidirectional, block } => {
                let flags = fin(*half_closed) | if *unidirectional { UNIDIRECTIONAL } else { 0 };
                // No associated stream, highest priority, no credential slot.
                control(SYN_STREAM, flags, &[*id, 0], &[&[0, 0], block.as_slice()].concat())
            }
            Self::SynReply { id, fin: half_closed, block } => {
                control(SYN_REPLY, fin(*half_closed), &[*id], block)
            }
            Self::Headers { id, fin: half_closed, block } => {
                control(HEADERS, fin(*half_closed), &[*id], block)
            }
            Self::Reset { id, status } => control(RST_STREAM, 0, &[*id, *status], &[]),
            Self::Ping { id } => control(PING, 0, &[*id], &[]),
            Self::GoAway { last, status } => control(GOAWAY, 0, &[*last, *status], &[]),
        }
    }
}

fn control(kind: u16, flags: u8, words: &[u32], rest: &[u8]) -> Vec<u8> {
    let length = words.len() * 4 + rest.len();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + length);
    bytes.extend_from_slice(&head(CONTROL | u32::from(VERSION) << 16 | u32::from(kind), flags, length));
    for word in words {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(rest);
    bytes
}

/// Makes frames of a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    max_frame: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Head { bytes: [u8; HEAD_BYTES], filled: usize },
    Control { kind: u16, flags: u8, length: usize, body: Vec<u8> },
    Data { id: u32, left: usize, fin: bool },
    Skip { left: usize },
}

impl State {
    const START: Self = Self::Head { bytes: [0; HEAD_BYTES], filled: 0 };
}

impl Decoder {
    /// A decoder that gathers control frames of at most `max_frame` bytes of payload.
    pub fn new(max_frame: usize) -> Self {
        Self { max_frame, state: State::START }
    }

    /// The next event. `None` when all of `input` is taken and more is needed. After an error there is nothing to come.
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        loop {
            match &mut self.state {
                State::Head { bytes, filled } => {
                    while let (Some(slot), Some((byte, rest))) = (bytes.get_mut(*filled), input.split_first())
                    {
                        *slot = *byte;
                        *filled += 1;
                        *input = rest;
                    }
                    if *filled < HEAD_BYTES {
                        return Ok(None);
                    }
                    let word = u64::from_be_bytes(*bytes);
                    self.state = self.begin(word)?;
                    if let State::Data { id, left: 0, fin } = self.state {
                        self.state = State::START;
                        return Ok(Some(Event::Data { id, piece: &[], fin }));
                    }
                }
                State::Data { id, left, fin } => {
                    let (piece, rest) = take(input, *left);
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    *input = rest;
                    *left -= piece.len();
                    let done = *left == 0;
                    let event = Event::Data { id: *id, piece, fin: *fin && done };
                    if done {
                        self.state = State::START;
                    }
                    return Ok(Some(event));
                }
                State::Skip { left } => {
                    let (piece, rest) = take(input, *left);
                    *input = rest;
                    *left -= piece.len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::START;
                }
                State::Control { kind, flags, length, body } => {
                    let (piece, rest) = take(input, length.saturating_sub(body.len()));
                    *input = rest;
                    body.extend_from_slice(piece);
                    if body.len() < *length {
                        return Ok(None);
                    }
                    let frame = parse(*kind, *flags, body)?;
                    self.state = State::START;
                    return Ok(Some(Event::Control(frame)));
                }
            }
        }
    }

    /// What follows a head.
    fn begin(&self, word: u64) -> Result<State, FrameError> {
        let (first, second) = ((word >> 32) as u32, word as u32);
        let (flags, length) = ((second >> 24) as u8, (second & LENGTH_MASK) as usize);
        if first & CONTROL == 0 {
            return match first {
                0 => Err(FrameError::StreamZero),
                id => Ok(State::Data { id, left: length, fin: flags & FIN != 0 }),
            };
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let fits = match kind {
            SYN_STREAM => length >= 10,
            SYN_REPLY | HEADERS => length >= 4,
            RST_STREAM | GOAWAY => length == 8,
            PING => length == 4,
            // SETTINGS and WINDOW_UPDATE say nothing to us, and what we do not know we may ignore (2.2.1).
            _ => return Ok(State::Skip { left: length }),
        };
        if !fits {
            return Err(FrameError::Length { kind, length });
        }
        if length > self.max_frame {
            return Err(FrameError::TooLarge { kind, length, limit: self.max_frame });
        }
        // Grows as bytes arrive: a length alone costs nothing.
        Ok(State::Control { kind, flags, length, body: Vec::new() })
    }
}

fn take(input: &[u8], limit: usize) -> (&[u8], &[u8]) {
    input.split_at_checked(limit).unwrap_or((input, &[]))
}

fn parse(kind: u16, flags: u8, body: &[u8]) -> Result<Control, FrameError> {
    let error = FrameError::Length { kind, length: body.len() };
    let word = |at: usize| {
        let bytes = body.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(error)
    };
    let block = |from: usize| body.get(from..).unwrap_or_default().to_vec();
    let fin = flags & FIN != 0;
    let id = word(0)? & ID_MASK;
    if id == 0 && !matches!(kind, PING | GOAWAY) {
        return Err(FrameError::StreamZero);
    }
    Ok(match kind {
        SYN_STREAM => {
            Control::SynStream { id, fin, unidirectional: flags & UNIDIRECTIONAL != 0, block: block(10) }
        }
        SYN_REPLY => Control::SynReply { id, fin, block: block(4) },
        HEADERS => Control::Headers { id, fin, block: block(4) },
        RST_STREAM => Control::Reset { id, status: word(4)? },
        PING => Control::Ping { id: word(0)? },
        GOAWAY => Control::GoAway { last: id, status: word(4)? },
        _ => return Err(error),
    })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
