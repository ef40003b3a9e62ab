//! The pump's thread, and how the control loop talks to it: two eventfds, a few numbers, and a box for those who attach,
//! whose lock nobody holds for longer than a move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_sys::pages::Pages;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::clients::{Client, Clients, Gone, MOST, Mail};
use super::clock;
use super::file::LogFile;
use super::lines::Lines;
use super::records::{Records, Stream};

/// The C library asks for at least 16 KiB and what its thread-local data take. Pages that are not touched cost nothing.
const STACK: usize = 64 * 1024;
/// Read at once. A pipe holds 64 KiB; more would only be touched by a flood.
const CHUNK: usize = 16 * 1024;
/// The wake-up, the container's streams, and two pipes a client.
const MOST_WATCHED: usize = 1 + 2 + 2 * MOST;
/// How long to wait before a disk that took nothing is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the container writes to.
#[derive(Debug)]
pub enum Input {
    /// Two pipes.
    Pipes {
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
}

/// What became of reopening the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopened {
    /// How often it was asked for and answered.
    pub count: u32,
    /// errno of the last time, or 0.
    pub errno: i32,
}

#[derive(Debug)]
struct Shared {
    /// Control to pump.
    wake: OwnedFd,
    /// Pump to control.
    notice: OwnedFd,
    reopen_wanted: AtomicU32,
    reopen_done: AtomicU32,
    reopen_errno: AtomicI32,
    /// Milliseconds that may still be spent on reading, plus one; 0: no end in sight.
    drain_ms: AtomicU64,
    finished: AtomicBool,
    dropped: AtomicU64,
    mail: Mail,
}

/// The control loop's side.
#[derive(Debug)]
pub struct Pump {
    shared: Arc<Shared>,
}

impl Pump {
    /// Starts the thread.
    pub fn start(input: Input, log: Option<LogFile>) -> std::io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared {
            wake: event()?,
            notice: event()?,
            reopen_wanted: AtomicU32::new(0),
            reopen_done: AtomicU32::new(0),
            reopen_errno: AtomicI32::new(0),
            drain_ms: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            mail: Mail::default(),
        });
        let mut worker = Worker::new(input, log, Arc::clone(&shared));
        std::thread::Builder::new().stack_size(STACK).spawn(move || worker.run())?;
        Ok(Self { shared })
    }

    /// Readable when the pump has something to say.
    pub fn notice(&self) -> BorrowedFd<'_> {
        self.shared.notice.as_fd()
    }

    /// Takes the notice.
    pub fn acknowledge(&self) {
        let _ = rustix::io::read(&self.shared.notice, &mut [0; 8]);
    }

    /// Asks for the log's path to be opened anew; returns the number that [`Pump::reopened`] reaches then.
    pub fn reopen(&self) -> u32 {
        let number = self.shared.reopen_wanted.fetch_add(1, Ordering::Relaxed) + 1;
        signal(&self.shared.wake);
        number
    }

    /// How far reopening has come.
    pub fn reopened(&self) -> Reopened {
        let count = self.shared.reopen_done.load(Ordering::Acquire);
        Reopened { count, errno: self.shared.reopen_errno.load(Ordering::Relaxed) }
    }

    /// Gives the client all that is read from now on. `false`: there are [`super::clients::MOST`] already.
    pub fn attach(&self, client: Client) -> bool {
        let taken = self.shared.mail.put(client);
        signal(&self.shared.wake);
        taken
    }

    /// Which clients have left since.
    pub fn take_gone(&self) -> Vec<Gone> {
        self.shared.mail.take_gone()
    }

    /// The container is over: read what there is, at most so long, then end.
    pub fn finish(&self, drain: Duration) {
        self.shared.drain_ms.store(drain.as_millis() as u64 + 1, Ordering::Relaxed);
        signal(&self.shared.wake);
    }

    /// Everything is written that could be.
    pub fn is_finished(&self) -> bool {
        self.shared.finished.load(Ordering::Acquire)
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

fn signal(event: &OwnedFd) {
    // It fails only when the counter is full, and then it is readable anyway.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

struct Source {
    fd: OwnedFd,
    stream: Stream,
    lines: Lines,
    open: bool,
    chunk: Pages,
    /// How much of the chunk some client has not got yet.
    held: usize,
}

struct Worker {
    sources: Vec<Source>,
    log: Option<LogFile>,
    records: Records,
    clients: Clients,
    shared: Arc<Shared>,
    end: Option<Instant>,
}

impl Worker {
    fn new(input: Input, log: Option<LogFile>, shared: Arc<Shared>) -> Self {
        let source = |fd, stream| Source {
            fd,
            stream,
            lines: Lines::default(),
            open: true,
            chunk: Pages::new(CHUNK),
            held: 0,
        };
        let sources = match input {
            Input::Pipes { stdout, stderr } => {
                vec![source(stdout, Stream::Stdout), source(stderr, Stream::Stderr)]
            }
            Input::Terminal(master) => vec![source(master, Stream::Stdout)],
        };
        for source in &sources {
            let _ = rustix::io::ioctl_fionbio(&source.fd, true);
        }
        Self { sources, log, records: Records::default(), clients: Clients::default(), shared, end: None }
    }

    fn run(&mut self) {
        loop {
            self.wait();
            self.take_orders();
            self.read_all(false);
            if !self.records.is_empty() {
                self.records.flush(&mut self.log);
            }
            self.shared.dropped.store(self.records.dropped(), Ordering::Relaxed);
            if self.is_over() {
                break;
            }
        }
        self.last_words();
    }

    /// All that was to be read has been, or the time for it is up; before the exit there may still be orders.
    fn is_over(&self) -> bool {
        let Some(end) = self.end else { return false };
        let late = Instant::now() >= end;
        let read = self.sources.iter().all(|source| !source.open && source.held == 0);
        late || read && self.records.is_empty()
    }

    /// Until there is something to do; which pipes of clients have lost their reader is found out here.
    fn wait(&mut self) {
        let timeout = self.timeout();
        let held = self.held();
        let mut set: [PollFd<'_>; MOST_WATCHED] =
            std::array::from_fn(|_| PollFd::new(&self.shared.wake, PollFlags::IN));
        let mut len = 1;
        let mut watch = |fd, flags| {
            set[len] = PollFd::from_borrowed_fd(fd, flags);
            len += 1;
        };
        // A closed pipe would be reported for ever, whatever is asked of it: leave it out.
        for source in self.sources.iter().filter(|source| source.open && source.held == 0) {
            watch(source.fd.as_fd(), PollFlags::IN);
        }
        let mut pipes = 0;
        self.clients.watch(held, |fd, flags| {
            watch(fd, flags);
            pipes += 1;
        });
        // Reading and writing find out what is ready: nothing here waits.
        let _ = poll(&mut set[..len], timeout.as_ref());
        let dead: [bool; MOST_WATCHED] = std::array::from_fn(|at| set[at].revents().contains(PollFlags::ERR));
        let mut dead = dead[len - pipes..len].iter();
        self.clients.drop_dead(|| dead.next().is_some_and(|dead| *dead));
    }

    fn held(&self) -> [usize; 2] {
        let mut held = [0; 2];
        for source in &self.sources {
            held[source.stream as usize] = source.held;
        }
        held
    }

    fn timeout(&self) -> Option<Timespec> {
        let retry = (!self.records.is_empty()).then_some(RETRY);
        let now = Instant::now();
        let ends = self.end.into_iter().chain(self.clients.deadline());
        let limit = ends.map(|end| end.saturating_duration_since(now)).chain(retry).min()?;
        Some(Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) })
    }

    fn take_orders(&mut self) {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let wanted = self.shared.reopen_wanted.load(Ordering::Relaxed);
        if wanted != self.shared.reopen_done.load(Ordering::Relaxed) {
            let errno = self.reopen();
            self.shared.reopen_errno.store(errno, Ordering::Relaxed);
            self.shared.reopen_done.store(wanted, Ordering::Release);
            signal(&self.shared.notice);
        }
        let held = self.held();
        self.clients.take_new(&self.shared.mail, held);
        let drain = self.shared.drain_ms.load(Ordering::Relaxed);
        if drain > 0 && self.end.is_none() {
            self.end = Some(Instant::now() + Duration::from_millis(drain - 1));
        }
    }

    /// What waits belongs to the old file. Returns the errno, or 0.
    fn reopen(&mut self) -> i32 {
        self.records.flush(&mut self.log);
        let result = self.log.as_mut().map_or(Ok(()), LogFile::reopen);
        match result {
            Ok(()) => {
                self.records.change_file();
                0
            }
            Err(e) => e.raw_os_error(),
        }
    }

    /// One read of each stream, unless some client has not got the last one yet. `force`: whoever has not is cut off.
    fn read_all(&mut self, force: bool) {
        for source in &mut self.sources {
            source.deliver(&mut self.clients);
        }
        let held = self.held();
        let mut gone = self.clients.sweep(&self.shared.mail, held, force);
        let Self { sources, log, records, clients, .. } = self;
        for source in sources {
            source.deliver(clients);
            if source.open && (source.held == 0 || force) {
                source.read(records, log, clients);
            }
            if !source.open && source.held == 0 {
                clients.end(source.stream);
            }
        }
        let held = self.held();
        gone |= self.clients.sweep(&self.shared.mail, held, false);
        if gone {
            signal(&self.shared.notice);
        }
    }

    fn last_words(&mut self) {
        // What was written before the time was up is the container's; a writer that is still there may not keep us.
        const LARGEST_PIPE: usize = 1 << 20;
        for _ in 0..LARGEST_PIPE / CHUNK {
            self.read_all(true);
        }
        let stamp = clock::stamp(clock::now_ns());
        let Self { sources, log, records, .. } = self;
        for source in sources.iter_mut() {
            source.end(&stamp, records, log);
        }
        if !records.flush(log) {
            records.abandon();
        }
        self.shared.dropped.store(self.records.dropped(), Ordering::Relaxed);
        self.shared.finished.store(true, Ordering::Release);
        signal(&self.shared.notice);
    }
}

impl Source {
    /// One read: the other stream is to have its turn.
    fn read(&mut self, records: &mut Records, log: &mut Option<LogFile>, clients: &mut Clients) {
        let len = match rustix::io::read(&self.fd, &mut *self.chunk) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            // EIO is how a terminal says that nobody holds its other end.
            Ok(0) | Err(_) => {
                self.open = false;
                let stamp = clock::stamp(clock::now_ns());
                return self.end(&stamp, records, log);
            }
            Ok(len) => len,
        };
        let stamp = clock::stamp(clock::now_ns());
        let stream = self.stream;
        self.lines.feed(&self.chunk[..len], |tag, parts| records.push(log, &stamp, stream, tag, parts));
        if clients.begin(stream) {
            self.held = len;
            self.deliver(clients);
        }
    }

    /// What some client has not got yet.
    fn deliver(&mut self, clients: &mut Clients) {
        if self.held > 0 && clients.deliver(self.stream, &self.chunk[..self.held]) {
            self.held = 0;
        }
    }

    fn end(&mut self, stamp: &[u8], records: &mut Records, log: &mut Option<LogFile>) {
        let stream = self.stream;
        self.lines.end(|tag, parts| records.push(log, stamp, stream, tag, parts));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    fn started(log: &std::path::Path) -> (Pump, std::io::PipeWriter, std::io::PipeWriter) {
        let (stdout, out) = std::io::pipe().unwrap();
        let (stderr, err) = std::io::pipe().unwrap();
        let input = Input::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        (Pump::start(input, Some(LogFile::open(log).unwrap())).unwrap(), out, err)
    }

    fn await_notice(pump: &Pump, done: impl Fn(&Pump) -> bool) {
        while !done(pump) {
            let ready = holdfast_sys::socket::wait_readable(pump.notice(), Duration::from_secs(20)).unwrap();
            assert!(ready, "the pump said nothing");
            pump.acknowledge();
        }
    }

    fn contents(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line[clock::LEN + 1..].to_owned()).collect()
    }

    #[test]
    fn both_streams_end_up_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (pump, mut out, mut err) = started(&path);
        out.write_all(b"one\ntwo").unwrap();
        err.write_all(b"oops\n").unwrap();
        drop((out, err));
        pump.finish(Duration::from_secs(20));
        await_notice(&pump, Pump::is_finished);
        let mut lines = contents(&path);
        lines.sort();
        assert_eq!(lines, ["stderr F oops", "stdout F one", "stdout F two"]);
    }

    #[test]
    fn a_pipe_that_somebody_holds_is_drained_for_a_while_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (pump, mut out, _err) = started(&path);
        out.write_all(b"begun").unwrap();
        pump.finish(Duration::from_millis(50));
        await_notice(&pump, Pump::is_finished);
        assert_eq!(contents(&path), ["stdout F begun"]);
    }

    #[test]
    fn no_line_is_lost_over_many_reopens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let (pump, mut out, err) = started(&path);
        let writer = std::thread::spawn(move || {
            for number in 0..20_000 {
                writeln!(out, "line {number}").unwrap();
            }
        });
        let mut files = Vec::new();
        for number in 0..20 {
            let old = dir.path().join(format!("{number}.old"));
            std::fs::rename(&path, &old).unwrap();
            files.push(old);
            let wanted = pump.reopen();
            await_notice(&pump, |pump| pump.reopened().count >= wanted);
            assert_eq!(pump.reopened().errno, 0);
        }
        writer.join().unwrap();
        drop(err);
        pump.finish(Duration::from_secs(20));
        await_notice(&pump, Pump::is_finished);
        files.push(path);
        let all: Vec<String> = files.iter().flat_map(|file| contents(file)).collect();
        let expected: Vec<String> = (0..20_000).map(|number| format!("stdout F line {number}")).collect();
        assert_eq!(all, expected);
        assert_eq!(pump.dropped(), 0);
    }

    #[test]
    fn a_path_that_cannot_be_opened_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let (pump, mut out, err) = started(&logs.join("0.log"));
        let moved = dir.path().join("moved");
        std::fs::rename(&logs, &moved).unwrap();
        let wanted = pump.reopen();
        await_notice(&pump, |pump| pump.reopened().count >= wanted);
        assert_eq!(pump.reopened().errno, Errno::NOENT.raw_os_error());
        out.write_all(b"still here\n").unwrap();
        drop((out, err));
        pump.finish(Duration::from_secs(20));
        await_notice(&pump, Pump::is_finished);
        assert_eq!(contents(&moved.join("0.log")), ["stdout F still here"]);
    }
}
