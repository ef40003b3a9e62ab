//! Header blocks (RFC 7541, section 6): representations of fields one after the other, in pieces of any size.

use crate::{
    names::{MAX_TABLE, Name, Names},
    text::{Purpose, Text},
};

/// The client breaks the protocol, or is about to: the server will end the connection.
#[derive(Debug)]
pub struct Lost;

/// The header blocks of a connection; its tables live as long.
#[derive(Debug, Default)]
pub struct Blocks {
    step: Step,
    field: Field,
    names: Names,
}

/// Position within a header block.
#[derive(Debug, Default)]
enum Step {
    /// A representation begins with the next byte.
    #[default]
    Begin,
    /// The length of a string begins with the next byte.
    Length(Part),
    /// Within a number.
    Number(Meaning, Number),
    /// Within a string.
    Text(Part, Text),
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Name,
    Value,
}

/// Meaning of a decoded integer.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// The field at an index (section 6.1).
    Indexed,
    /// A new size of the dynamic table (section 6.3).
    TableSize,
    /// The name of a literal at an index, 0 if it follows (section 6.2); whether the literal goes into the table.
    Name { is_kept: bool },
    /// Bytes of a string (section 5.2).
    Length(Part, IsCoded),
}

type IsCoded = bool;

/// A number whose prefix was full (section 5.1).
#[derive(Debug, Clone, Copy)]
struct Number {
    value: usize,
    shift: u32,
}

/// More bits than h2 takes either; the length of a frame has 24.
const MAX_SHIFT: u32 = 28;

/// The literal that is being read.
#[derive(Debug)]
struct Field {
    name: Name,
    is_kept: bool,
}

impl Default for Field {
    fn default() -> Self {
        Self { name: Name { length: 0, is_authority: false }, is_kept: false }
    }
}

impl Blocks {
    /// Whether a block could end here.
    pub fn is_between_fields(&self) -> bool {
        matches!(self.step, Step::Begin)
    }

    /// Takes the next bytes of a block, and changes authorities in them.
    pub fn pass(&mut self, mut bytes: &mut [u8]) -> Result<(), Lost> {
        while !bytes.is_empty() {
            if let Step::Text(part, text) = &mut self.step {
                let part = *part;
                bytes = text.pass(bytes);
                self.end_text(part);
                continue;
            }
            let (byte, rest) = (bytes[0], &mut bytes[1..]);
            bytes = rest;
            self.byte(byte)?;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), Lost> {
        match self.step {
            Step::Begin => match byte {
                0x80.. => self.number(Meaning::Indexed, byte, 7),
                0x40.. => self.number(Meaning::Name { is_kept: true }, byte, 6),
                0x20.. => self.number(Meaning::TableSize, byte, 5),
                _ => self.number(Meaning::Name { is_kept: false }, byte, 4),
            },
            Step::Length(part) => self.number(Meaning::Length(part, byte & 0x80 != 0), byte, 7),
            Step::Number(meaning, Number { value, shift }) => {
                let value = value + (usize::from(byte & 0x7f) << shift);
                let shift = shift + 7;
                match (byte & 0x80, shift) {
                    (0, _) => self.end_number(meaning, value),
                    (_, MAX_SHIFT) => Err(Lost),
                    _ => {
                        self.step = Step::Number(meaning, Number { value, shift });
                        Ok(())
                    }
                }
            }
            Step::Text(..) => Err(Lost),
        }
    }

    /// Begins a number with a prefix of so many bits.
    fn number(&mut self, meaning: Meaning, byte: u8, bits: u32) -> Result<(), Lost> {
        let full = (1 << bits) - 1;
        let value = usize::from(byte) & full;
        if value < full {
            return self.end_number(meaning, value);
        }
        self.step = Step::Number(meaning, Number { value, shift: 0 });
        Ok(())
    }

    fn end_number(&mut self, meaning: Meaning, value: usize) -> Result<(), Lost> {
        match meaning {
            Meaning::Indexed => {
                self.names.get(value).ok_or(Lost)?;
                self.step = Step::Begin;
            }
            Meaning::TableSize if value > MAX_TABLE => return Err(Lost),
            Meaning::TableSize => {
                self.names.resize(value);
                self.step = Step::Begin;
            }
            Meaning::Name { is_kept } => {
                self.field.is_kept = is_kept;
                self.step = Step::Length(Part::Name);
                if value != 0 {
                    self.field.name = self.names.get(value).ok_or(Lost)?;
                    self.step = Step::Length(Part::Value);
                }
            }
            Meaning::Length(part, is_coded) => {
                self.step = Step::Text(part, Text::new(self.purpose(part), is_coded, value));
                self.end_text(part);
            }
        }
        Ok(())
    }

    fn purpose(&self, part: Part) -> Purpose {
        match part {
            Part::Name => Purpose::Name,
            Part::Value if self.field.name.is_authority => Purpose::Authority,
            Part::Value if self.field.is_kept => Purpose::Measure,
            Part::Value => Purpose::Skip,
        }
    }

    /// Goes on after a string, if it is whole.
    fn end_text(&mut self, part: Part) {
        let Step::Text(_, text) = &self.step else { return };
        if !text.is_whole() {
            return;
        }
        match part {
            Part::Name => {
                self.field.name = Name { length: text.characters(), is_authority: text.is_authority() };
                self.step = Step::Length(Part::Value);
            }
            Part::Value => {
                if self.field.is_kept {
                    self.names.insert(self.field.name, text.characters());
                }
                self.step = Step::Begin;
            }
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
