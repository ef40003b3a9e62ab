//! The pump's thread, and how the control loop talks to it: two eventfds, a few numbers, and a box for those who attach,
//! whose lock nobody holds for longer than a move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::clients::{Client, Clients, Gone, MOST, Mail};
use super::clock;
use super::file::LogFile;
use super::record::RecordFile;
use super::records::{Records, Stream};
use super::source::{CHUNK, Source};

/// The C library asks for at least 16 KiB and what its thread-local data take. Pages that are not touched cost nothing.
const STACK: usize = 64 * 1024;
/// The wake-up, the container's streams, and two pipes a client.
const MOST_WATCHED: usize = 1 + 2 + 2 * MOST;
/// How long to wait before a disk that took nothing is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Delay after a burst until the memory that it took is given back.
const CALM: Duration = Duration::from_secs(5);
/// Threshold in bytes: more than this at once is a burst. The first pages of all buffers are kept anyway.
const BURST: usize = 4096;

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
    /// To nothing: it will never run.
    Nothing,
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
    /// Nothing more is read, and all is written that could be.
    drained: AtomicBool,
    /// The exit record to be written next. Locked for a move only.
    record: Mutex<Option<Arc<[u8]>>>,
    /// errno of the last exit record, or 0.
    record_errno: AtomicI32,
    /// That record is the last one.
    concluding: AtomicBool,
    finished: AtomicBool,
    dropped: AtomicU64,
    mail: Mail,
}

/// The control loop's side.
#[derive(Debug)]
pub struct Pump {
    shared: Arc<Shared>,
    /// Of all records that the pump was given, so that it is not the one who frees them.
    records: Vec<Arc<[u8]>>,
}

impl Pump {
    /// Starts the thread. Without `record` exit records go nowhere.
    pub fn start(input: Input, log: Option<LogFile>, record: Option<RecordFile>) -> std::io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared {
            wake: event()?,
            notice: event()?,
            reopen_wanted: AtomicU32::new(0),
            reopen_done: AtomicU32::new(0),
            reopen_errno: AtomicI32::new(0),
            drain_ms: AtomicU64::new(0),
            drained: AtomicBool::new(false),
            record: Mutex::new(None),
            record_errno: AtomicI32::new(0),
            concluding: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            mail: Mail::default(),
        });
        let mut worker = Worker::new(input, log, record, Arc::clone(&shared))?;
        std::thread::Builder::new().stack_size(STACK).spawn(move || worker.run())?;
        Ok(Self { shared, records: Vec::new() })
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

    /// The container is over: write this exit record (of [`super::record::encode`]), then read what there is, at most so
    /// long.
    pub fn finish(&mut self, drain: Duration, record: Vec<u8>) {
        self.put_record(record);
        self.shared.drain_ms.store(drain.as_millis() as u64 + 1, Ordering::Release);
        signal(&self.shared.wake);
    }

    /// All of the log is written that could be.
    pub fn is_drained(&self) -> bool {
        self.shared.drained.load(Ordering::Acquire)
    }

    /// Write this exit record, and end.
    pub fn conclude(&mut self, record: Vec<u8>) {
        self.put_record(record);
        self.shared.concluding.store(true, Ordering::Release);
        signal(&self.shared.wake);
    }

    /// It has been told to end.
    pub fn is_concluding(&self) -> bool {
        self.shared.concluding.load(Ordering::Relaxed)
    }

    /// The last record is written, or cannot be.
    pub fn is_finished(&self) -> bool {
        self.shared.finished.load(Ordering::Acquire)
    }

    /// Error that kept the last exit record from being written, if any.
    pub fn record_error(&self) -> Option<Errno> {
        let errno = self.shared.record_errno.load(Ordering::Relaxed);
        (errno != 0).then(|| Errno::from_raw_os_error(errno))
    }

    fn put_record(&mut self, record: Vec<u8>) {
        let record: Arc<[u8]> = record.into();
        self.records.push(Arc::clone(&record));
        *self.shared.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
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

struct Worker {
    sources: Vec<Source>,
    log: Option<LogFile>,
    record: Option<RecordFile>,
    records: Records,
    clients: Clients,
    shared: Arc<Shared>,
    /// Until when output is read.
    end: Option<Instant>,
    drained: bool,
    concluded: bool,
    /// When more than a little was last read at once, if its memory was not given back since.
    burst: Option<Instant>,
}

impl Worker {
    fn new(
        input: Input,
        log: Option<LogFile>,
        record: Option<RecordFile>,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let sources = match input {
            Input::Pipes { stdout, stderr } => {
                vec![Source::pipe(stdout, Stream::Stdout)?, Source::pipe(stderr, Stream::Stderr)?]
            }
            Input::Terminal(master) => vec![Source::terminal(master)?],
            Input::Nothing => Vec::new(),
        };
        Ok(Self {
            sources,
            log,
            record,
            records: Records::default(),
            clients: Clients::default(),
            shared,
            end: None,
            drained: false,
            concluded: false,
            burst: None,
        })
    }

    fn run(&mut self) {
        while !self.concluded {
            self.wait();
            self.take_orders();
            if !self.drained {
                self.work();
            }
        }
        self.shared.finished.store(true, Ordering::Release);
        signal(&self.shared.notice);
    }

    fn work(&mut self) {
        self.read_all(false);
        if !self.records.is_empty() {
            self.records.flush(&mut self.log);
        }
        self.shared.dropped.store(self.records.dropped(), Ordering::Relaxed);
        if self.is_over() {
            self.last_words();
        } else if self.burst.is_some_and(|at| at.elapsed() >= CALM) {
            self.burst = None;
            self.records.give_back();
            self.sources.iter_mut().for_each(Source::give_back);
        }
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
            watch(source.watched(), PollFlags::IN);
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
        if self.drained {
            return None;
        }
        let retry = (!self.records.is_empty()).then_some(RETRY);
        let now = Instant::now();
        let calm = self.burst.map(|at| at + CALM);
        let ends = self.end.into_iter().chain(self.clients.deadline()).chain(calm);
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
        let drain = self.shared.drain_ms.load(Ordering::Acquire);
        if drain > 0 && self.end.is_none() {
            self.end = Some(Instant::now() + Duration::from_millis(drain - 1));
        }
        let concluding = self.shared.concluding.load(Ordering::Acquire);
        self.write_record();
        self.concluded = concluding;
    }

    fn write_record(&mut self) {
        let record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(bytes), Some(file)) = (record, &mut self.record) else { return };
        let errno = file.write(&bytes).err().map_or(0, Errno::raw_os_error);
        self.shared.record_errno.store(errno, Ordering::Relaxed);
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
        let Self { sources, log, records, clients, end, burst, .. } = self;
        for source in sources {
            source.deliver(clients);
            if source.open && (source.held == 0 || force) {
                let len = source.read(records, log, clients, end.is_some());
                if len > BURST || records.waiting() > BURST {
                    *burst = Some(Instant::now());
                }
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

    /// The end of the log, and of all who read along.
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
        // Who still writes gets SIGPIPE, who still reads along the end.
        self.sources.clear();
        self.clients.end(Stream::Stdout);
        self.clients.end(Stream::Stderr);
        self.clients.sweep(&self.shared.mail, [0; 2], false);
        self.drained = true;
        self.shared.dropped.store(self.records.dropped(), Ordering::Relaxed);
        self.shared.drained.store(true, Ordering::Release);
        signal(&self.shared.notice);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "thread_tests.rs"]
mod tests;
