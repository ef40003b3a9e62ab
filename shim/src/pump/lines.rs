//! Cutting a stream of bytes into log lines.

use holdfast_sys::pages::Pages;

/// Longest content of one record in bytes; a longer line is told in pieces.
pub const LONGEST: usize = 16 * 1024;

/// The tag of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// A piece of a line that goes on, or that the stream's end has cut off.
    Partial,
    /// A whole line, or its last piece.
    Full,
}

/// Keeps what has been read of a line whose end has not come yet.
#[derive(Debug)]
pub struct Lines {
    begun: Pages,
    len: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { begun: Pages::new(LONGEST), len: 0 }
    }
}

impl Lines {
    /// Takes `input` and gives each record as two parts, what was kept and what is new. No part has a newline.
    ///
    /// A piece is told only when a byte of the same line follows it, so that a line of exactly [`LONGEST`] bytes is
    /// one record.
    pub fn feed(&mut self, mut input: &[u8], mut record: impl FnMut(Tag, [&[u8]; 2])) {
        while !input.is_empty() {
            let room = LONGEST - self.len;
            let seen = &input[..input.len().min(room + 1)];
            let (tag, len, skipped) = match seen.iter().position(|byte| *byte == b'\n') {
                Some(end) => (Tag::Full, end, 1),
                None if seen.len() > room => (Tag::Partial, room, 0),
                None => {
                    self.begun[self.len..self.len + seen.len()].copy_from_slice(seen);
                    self.len += seen.len();
                    return;
                }
            };
            record(tag, [&self.begun[..self.len], &input[..len]]);
            self.len = 0;
            input = &input[len + skipped..];
        }
    }

    /// Gives memory back that a long line needed.
    pub fn give_back(&mut self) {
        self.begun.give_back(self.len);
    }

    /// The stream is over. A line that has no end is a piece, as containerd writes it: whoever puts the output together
    /// again, as the kubelet does for a termination message, must not add a newline that nobody wrote.
    pub fn end(&mut self, mut record: impl FnMut(Tag, [&[u8]; 2])) {
        if self.len > 0 {
            record(Tag::Partial, [&self.begun[..self.len], &[]]);
            self.len = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Tag, Vec<u8>)> {
        let mut lines = Lines::default();
        let mut records = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |tag, parts| records.push((tag, parts.concat())));
        }
        lines.end(|tag, parts| records.push((tag, parts.concat())));
        records
    }

    #[test]
    fn a_line_of_the_limit_is_whole_and_one_more_byte_is_not() {
        let line = vec![b'x'; LONGEST];
        assert_eq!(cut([line.as_slice(), b"\n"]), [(Tag::Full, line.clone())]);
        let records = cut([line.as_slice(), b"y\n"]);
        assert_eq!(records, [(Tag::Partial, line.clone()), (Tag::Full, b"y".to_vec())]);
        assert_eq!(cut([line.as_slice()]), [(Tag::Partial, line)]);
    }

    #[test]
    fn only_a_newline_makes_a_line_whole() {
        for (chunks, tag) in
            [(["a\nDONE", ""], Tag::Partial), (["a\nDO", "NE"], Tag::Partial), (["a\nDONE", "\n"], Tag::Full)]
        {
            let records = cut(chunks.map(str::as_bytes));
            assert_eq!(records, [(Tag::Full, b"a".to_vec()), (tag, b"DONE".to_vec())]);
        }
    }

    #[test]
    fn empty_lines_are_lines_and_nothing_is_none() {
        assert_eq!(cut([b"\n\n".as_slice()]).len(), 2);
        assert!(cut([b"".as_slice()]).is_empty());
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let run =
            (prop_oneof![Just(b'\n'), Just(0), any::<u8>()], prop_oneof![1..4usize, 16_380..16_390usize]);
        proptest::collection::vec(run, 0..8).prop_map(|runs| {
            runs.into_iter().flat_map(|(byte, len)| std::iter::repeat_n(byte, len)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn however_it_is_read_the_bytes_are_the_same(
            bytes in stream(), cuts in proptest::collection::vec(1..20_000usize, 1..20)
        ) {
            let mut rest = bytes.as_slice();
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let records = cut(chunks);
            prop_assert_eq!(&records, &cut([bytes.as_slice()]));
            let mut joined = Vec::new();
            for (at, (tag, content)) in records.iter().enumerate() {
                prop_assert!(content.len() <= LONGEST && !content.contains(&b'\n'));
                prop_assert!(*tag == Tag::Full || content.len() == LONGEST || at + 1 == records.len());
                joined.extend_from_slice(content);
                if *tag == Tag::Full { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, bytes);
        }
    }
}
