//! Log records on their way to the file: a buffer that is written in pieces as large as possible, and that drops whole
//! lines, counted, when the disk takes none.

use holdfast_sys::pages::Pages;

use super::clock;
use super::lines::{LONGEST, Tag};

/// Bytes that wait to be written.
const CAPACITY: usize = 64 * 1024;
/// `stamp SP stream SP tag SP content LF` without the content.
const FRAME: usize = clock::LEN + 1 + 6 + 1 + 1 + 1 + 1;
const _: () = assert!(CAPACITY > 2 * (LONGEST + FRAME));

/// Where bytes go. Returns how many it took.
pub trait Sink {
    /// One write(2).
    fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<usize>;
}

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is known of a stream's line that is told in pieces.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    /// Pieces of it are in the log, and its end is not.
    open: bool,
    /// A piece of it was dropped, so the rest is dropped as well.
    dropping: bool,
}

/// Records that wait to be written.
#[derive(Debug)]
pub struct Records {
    bytes: Pages,
    len: usize,
    /// The file ends within a record: its rest, which stands first, must be written before anything else.
    torn: usize,
    lines: [Line; 2],
    dropped: u64,
}

impl Default for Records {
    fn default() -> Self {
        let bytes = Pages::new(CAPACITY);
        Self { bytes, len: 0, torn: 0, lines: [Line::default(); 2], dropped: 0 }
    }
}

impl Records {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.len
    }

    /// Lines that were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Gives memory back that a flood needed.
    pub fn give_back(&mut self) {
        self.bytes.give_back(self.len);
    }

    /// Takes one record; writes first if there is no room, and drops the line if there is none then.
    pub fn push(
        &mut self,
        sink: &mut impl Sink,
        stamp: &[u8],
        stream: Stream,
        tag: Tag,
        content: [&[u8]; 2],
    ) {
        let number = stream as usize;
        let len = FRAME + content[0].len() + content[1].len();
        if self.lines[number].dropping {
            if tag == Tag::Full {
                self.lines[number].dropping = false;
            }
            return;
        }
        // An end for a line whose rest was dropped: without it a reader would join it to the next one.
        let close =
            self.lines[number].open && tag == Tag::Full && content[0].is_empty() && content[1].is_empty();
        // Room is kept for one such end a stream, so that it can always be told.
        let kept = if close { 0 } else { 2 * FRAME };
        if self.len + len + kept > CAPACITY {
            self.flush(sink);
        }
        if self.len + len + kept > CAPACITY {
            self.drop_line(stamp, stream, tag);
            return;
        }
        self.append(stamp, stream, tag, content);
        self.lines[number].open = tag == Tag::Partial;
    }

    fn drop_line(&mut self, stamp: &[u8], stream: Stream, tag: Tag) {
        let number = stream as usize;
        self.dropped += 1;
        self.lines[number].dropping = tag == Tag::Partial;
        if self.lines[number].open {
            self.append(stamp, stream, Tag::Full, [b"", b""]);
            self.lines[number].open = false;
        }
    }

    fn append(&mut self, stamp: &[u8], stream: Stream, tag: Tag, content: [&[u8]; 2]) {
        let stream: &[u8] = if stream == Stream::Stdout { b" stdout " } else { b" stderr " };
        let tag: &[u8] = if tag == Tag::Full { b"F " } else { b"P " };
        for part in [stamp, stream, tag, content[0], content[1], b"\n"] {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
    }

    /// Writes all that waits. `false`: the disk takes nothing more now; what waits is kept.
    pub fn flush(&mut self, sink: &mut impl Sink) -> bool {
        let mut done = 0;
        while done < self.len {
            match sink.write(&self.bytes[done..self.len]) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if done == 0 {
            return self.len == 0;
        }
        // What was cut: from the last newline that was written to the next one.
        let whole = self.bytes[..done].last() == Some(&b'\n');
        self.bytes.copy_within(done..self.len, 0);
        self.len -= done;
        self.torn = if whole { 0 } else { self.first_line() };
        self.len == 0
    }

    fn first_line(&self) -> usize {
        self.bytes[..self.len].iter().position(|byte| *byte == b'\n').map_or(self.len, |end| end + 1)
    }

    /// Gives up what waits, counted: for an end that cannot wait for the disk.
    pub fn abandon(&mut self) {
        self.dropped += self.bytes[..self.len].split(|byte| *byte == b'\n').count() as u64 - 1;
        (self.len, self.torn) = (0, 0);
    }

    /// Forgets the rest of a record that was cut: the next write goes to another file.
    pub fn change_file(&mut self) {
        if self.torn > 0 {
            self.bytes.copy_within(self.torn..self.len, 0);
            self.len -= self.torn;
            self.torn = 0;
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    /// A disk that takes so many bytes, and then none.
    #[derive(Default)]
    struct Disk {
        room: usize,
        file: Vec<u8>,
    }

    impl Sink for Disk {
        fn write(&mut self, bytes: &[u8]) -> rustix::io::Result<usize> {
            let len = bytes.len().min(self.room);
            if len == 0 {
                return Err(Errno::NOSPC);
            }
            self.file.extend_from_slice(&bytes[..len]);
            self.room -= len;
            Ok(len)
        }
    }

    const STAMP: &[u8] = b"2026-11-24T01:02:03.000000004Z";

    fn push(records: &mut Records, disk: &mut Disk, tag: Tag, content: &[u8]) {
        records.push(disk, STAMP, Stream::Stdout, tag, [content, b""]);
    }

    fn contents(file: &[u8]) -> Vec<(String, usize)> {
        let text = std::str::from_utf8(file).unwrap();
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "torn: {:?}",
            &text[text.len().saturating_sub(80)..]
        );
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ');
                assert_eq!(parts.next().unwrap().as_bytes(), STAMP);
                assert_eq!(parts.next(), Some("stdout"));
                (parts.next().unwrap().to_owned(), parts.next().unwrap().len())
            })
            .collect()
    }

    #[test]
    fn a_disk_that_recovers_has_whole_lines_and_the_rest_is_counted() {
        for room in 0..400 {
            let mut disk = Disk { room, ..Disk::default() };
            let mut records = Records::default();
            for _ in 0..2_000 {
                push(&mut records, &mut disk, Tag::Full, &[b'x'; 100]);
            }
            records.flush(&mut disk);
            disk.room = usize::MAX;
            push(&mut records, &mut disk, Tag::Full, b"after");
            assert!(records.flush(&mut disk));
            let lines = contents(&disk.file);
            assert_eq!(lines.len() as u64 + records.dropped(), 2_001);
            assert_eq!(lines.last().unwrap().1, 5);
        }
    }

    #[test]
    fn a_long_line_that_is_cut_off_gets_an_end() {
        let mut disk = Disk::default();
        let mut records = Records::default();
        for _ in 0..10 {
            push(&mut records, &mut disk, Tag::Partial, &[b'x'; LONGEST]);
        }
        push(&mut records, &mut disk, Tag::Full, b"end");
        disk.room = usize::MAX;
        push(&mut records, &mut disk, Tag::Full, b"next");
        records.flush(&mut disk);
        let lines = contents(&disk.file);
        let partial = lines.iter().filter(|(tag, _)| tag == "P").count();
        assert!(partial > 0 && partial < 10);
        assert_eq!(lines[partial], ("F".to_owned(), 0));
        assert_eq!(lines[partial + 1], ("F".to_owned(), 4));
        assert_eq!(records.dropped(), 1);
    }

    #[test]
    fn a_new_file_begins_with_a_whole_line() {
        let mut disk = Disk { room: 10, ..Disk::default() };
        let mut records = Records::default();
        push(&mut records, &mut disk, Tag::Full, b"cut");
        push(&mut records, &mut disk, Tag::Full, b"kept");
        assert!(!records.flush(&mut disk));
        records.change_file();
        let mut new = Disk { room: usize::MAX, ..Disk::default() };
        assert!(records.flush(&mut new));
        assert_eq!(contents(&new.file), [("F".to_owned(), 4)]);
        assert_eq!(records.dropped(), 1);
        records.abandon();
        assert_eq!(records.dropped(), 1);
    }
}
