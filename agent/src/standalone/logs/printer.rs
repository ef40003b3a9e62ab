//! Containers' lines on our own stdout and stderr.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::record::{Record, Stream};

/// Prints records. With several containers each line begins with the name of its own.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    names: bool,
    /// Our own stdout, whose reader may go away.
    watched: bool,
    /// Whose line has been begun and not ended.
    open: Option<(String, Stream)>,
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer")
            .field("names", &self.names)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Printer {
    /// To our own.
    pub fn ours(names: bool) -> Self {
        Self { watched: true, ..Self::to(names, Box::new(io::stdout()), Box::new(io::stderr())) }
    }

    /// To somewhere else.
    pub fn to(names: bool, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { out, err, names, watched: false, open: None }
    }

    /// Prints a record. Pieces of a long line are joined, unless somebody else's comes between them.
    pub fn print(&mut self, name: &str, record: &Record<'_>) -> io::Result<()> {
        let goes_on =
            self.open.as_ref().is_some_and(|(whose, stream)| whose == name && *stream == record.stream);
        if !goes_on {
            self.end_line()?;
        }
        let mut line = Vec::with_capacity(record.content.len() + name.len() + 4);
        if self.names && !goes_on {
            line.extend_from_slice(format!("[{name}] ").as_bytes());
        }
        line.extend_from_slice(record.content);
        if record.full {
            line.push(b'\n');
        }
        self.open = (!record.full).then(|| (name.to_owned(), record.stream));
        self.of(record.stream).write_all(&line)
    }

    /// Whether the other end of our stdout is closed: a pipe's says so before anything is written to it.
    pub fn is_reader_gone(&self) -> bool {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.watched && poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
    }

    /// Lets go what is kept in buffers.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }

    /// Ends a line that somebody has begun.
    pub fn end_line(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((_, stream)) => self.of(stream).write_all(b"\n"),
            None => Ok(()),
        }
    }

    fn of(&mut self, stream: Stream) -> &mut dyn Write {
        match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::standalone::steps::tests::Sink;

    fn printed(names: bool, records: &[(&str, Stream, bool, &str)]) -> (String, String) {
        let (out, err) = (Sink::default(), Sink::default());
        let mut printer = Printer::to(names, Box::new(out.clone()), Box::new(err.clone()));
        for (name, stream, full, content) in records {
            let record = Record { stream: *stream, full: *full, content: content.as_bytes() };
            printer.print(name, &record).unwrap();
        }
        printer.end_line().unwrap();
        (out.text(), err.text())
    }

    #[test]
    fn one_container_is_printed_as_it_is() {
        use Stream::{Stderr, Stdout};
        let (out, err) = printed(
            false,
            &[
                ("a", Stdout, false, "long "),
                ("a", Stdout, true, "line"),
                ("a", Stderr, true, "oh"),
                ("a", Stdout, true, ""),
                ("a", Stdout, false, "cut off"),
            ],
        );
        assert_eq!((out.as_str(), err.as_str()), ("long line\n\ncut off\n", "oh\n"));
    }

    #[test]
    fn several_have_names_and_no_line_is_mixed() {
        use Stream::Stdout;
        let (out, _) = printed(
            true,
            &[
                ("a", Stdout, false, "one "),
                ("a", Stdout, false, "two "),
                ("b", Stdout, true, "x"),
                ("a", Stdout, true, "three"),
            ],
        );
        assert_eq!(out, "[a] one two \n[b] x\n[a] three\n");
    }
}
