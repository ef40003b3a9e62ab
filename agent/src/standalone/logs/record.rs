//! Lines of a container's log: `TIME STREAM TAG CONTENT` (CRI, KEP-kubelet-cri-logging).

/// Which of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it was written.
    pub stream: Stream,
    /// The line ends with it.
    pub full: bool,
    /// What was written, without a line feed.
    pub content: &'a [u8],
}

/// A line of a log without its line feed. What is not of the form is shown as it is, since it is better than nothing.
pub fn parse(line: &[u8]) -> Record<'_> {
    parse_strictly(line).unwrap_or(Record { stream: Stream::Stdout, full: true, content: line })
}

fn parse_strictly(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts.next()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Further tags may follow after colons.
    let full = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let is_time = time.first().is_some_and(u8::is_ascii_digit) && time.contains(&b'T');
    is_time.then(|| Record { stream, full, content: parts.next().unwrap_or_default() })
}

/// Cuts what is read from a log into lines.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

/// Longest line that is kept whole. The shim's are of some 16 KiB.
const LONGEST: usize = 1 << 20;

impl Lines {
    /// Takes bytes and tells each line that is complete with them.
    pub fn feed(&mut self, bytes: &[u8], mut tell: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if self.begun.is_empty() {
                tell(&rest[..end]);
            } else {
                self.begun.extend_from_slice(&rest[..end]);
                tell(&self.begun);
                self.begun.clear();
            }
            rest = &rest[end + 1..];
        }
        self.begun.extend_from_slice(rest);
        if self.begun.len() > LONGEST {
            self.end(tell);
        }
    }

    /// There is no more: what has no end is a line as well.
    pub fn end(&mut self, mut tell: impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            tell(&self.begun);
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records() {
        let record = |stream, full, content| Record { stream, full, content };
        let time = "2026-11-24T01:02:03.000000004Z";
        for (line, expected) in [
            (
                format!("{time} stdout F hello  world "),
                record(Stream::Stdout, true, b"hello  world ".as_slice()),
            ),
            (format!("{time} stderr P half"), record(Stream::Stderr, false, b"half")),
            (format!("{time} stdout P:x half"), record(Stream::Stdout, false, b"half")),
            (format!("{time} stdout F "), record(Stream::Stdout, true, b"")),
            (format!("{time} stdout F"), record(Stream::Stdout, true, b"")),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        }
        for line in ["", "x", "a stdout F b", "2T stdin F b", "2T stdout X b", "2T stdout"] {
            assert_eq!(parse(line.as_bytes()), record(Stream::Stdout, true, line.as_bytes()), "{line}");
        }
    }

    fn cut<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.feed(chunk, |line| found.push(line.to_vec()));
        }
        lines.end(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn no_line_is_kept_for_ever() {
        let long = vec![b'x'; LONGEST + 5];
        assert_eq!(cut([long.as_slice(), b"y\n"]), [long, b"y".to_vec()]);
    }

    proptest! {
        #[test]
        fn however_it_is_read_the_lines_are_the_same(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), size in 1..20_usize
        ) {
            let expected: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let (last, whole) = expected.split_last().expect("one part at least");
            let mut expected = whole.to_vec();
            if !last.is_empty() {
                expected.push(last.clone());
            }
            prop_assert_eq!(cut(bytes.chunks(size)), expected);
        }
    }
}
