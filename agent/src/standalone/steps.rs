//! What happens, step by step, on stderr: how long each step took, and what it was.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Where steps go. Clones go to the same place.
#[derive(Clone)]
pub struct Steps {
    begun: Instant,
    terminal: bool,
    out: Arc<Mutex<Out>>,
}

struct Out {
    to: Box<dyn Write + Send>,
    /// The last line is one that the next one replaces.
    progress: bool,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Steps {
    /// On stderr. `begun`: when the run was asked for.
    pub fn stderr(begun: Instant) -> Self {
        Self { terminal: io::stderr().is_terminal(), ..Self::to(begun, Box::new(io::stderr())) }
    }

    /// Somewhere else.
    pub fn to(begun: Instant, out: Box<dyn Write + Send>) -> Self {
        Self { begun, terminal: false, out: Arc::new(Mutex::new(Out { to: out, progress: false })) }
    }

    /// A step begins now.
    pub fn begin(&self) -> Step<'_> {
        Step { steps: self, begun: Instant::now() }
    }

    /// Something that took `time`.
    pub fn took(&self, time: Duration, text: &str) {
        self.line(&format!("{:>8.3}s  {text}", time.as_secs_f64()));
    }

    /// Something that takes no time.
    pub fn note(&self, text: &str) {
        self.line(&format!("{:>8}   {text}", ""));
    }

    /// All of it.
    pub fn end(&self, text: &str) {
        self.took(self.begun.elapsed(), text);
    }

    /// How far something is, in a line that the next one replaces. On a terminal only.
    pub fn progress(&self, text: &str) {
        if self.terminal {
            self.write(&format!("{:>8}   {text}", ""), true);
        }
    }

    fn line(&self, text: &str) {
        self.write(&format!("{text}\n"), false);
    }

    /// What cannot be shown is not worth an error.
    fn write(&self, text: &str, progress: bool) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = if std::mem::replace(&mut out.progress, progress) { "\r\x1b[K" } else { "" };
        let _ = out.to.write_all(format!("{replaced}{text}").as_bytes()).and_then(|()| out.to.flush());
    }
}

/// A step that has begun.
#[derive(Debug)]
pub struct Step<'a> {
    steps: &'a Steps,
    begun: Instant,
}

impl Step<'_> {
    /// It is done; says what has been done.
    pub fn done(self, text: &str) {
        self.steps.took(self.begun.elapsed(), text);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;

    /// A sink whose text can be looked at.
    #[derive(Clone, Default)]
    pub struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_stand_below_each_other() {
        let sink = Sink::default();
        let steps = Steps::to(Instant::now(), Box::new(sink.clone()));
        steps.took(Duration::from_millis(1234), "image pulled");
        steps.note("container main restarts in 10 s");
        steps.progress("not on a terminal");
        assert_eq!(sink.text(), "   1.234s  image pulled\n           container main restarts in 10 s\n");
    }

    #[test]
    fn a_terminals_last_line_is_replaced() {
        let sink = Sink::default();
        let steps = Steps { terminal: true, ..Steps::to(Instant::now(), Box::new(sink.clone())) };
        steps.progress("1 of 2");
        steps.progress("2 of 2");
        steps.note("done");
        steps.note("next");
        let shown = sink.text();
        assert_eq!(
            shown,
            "           1 of 2\r\x1b[K           2 of 2\r\x1b[K           done\n           next\n"
        );
    }
}
