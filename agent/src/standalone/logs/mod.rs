//! Follows the containers' logs and prints them, on a thread of its own: a reader of our output that is slow makes
//! nobody wait but itself.

mod printer;
mod record;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::{oneshot, watch};

pub use printer::Printer;
use record::Lines;

/// How long to sleep while nothing is written: short while something may come, longer after some time.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(100);
/// What is read at once.
const CHUNK: usize = 64 << 10;
/// What has been printed gives its room on disk back in pieces of this size: nobody rotates these logs.
const KEPT: u64 = 16 << 20;

enum Order {
    Follow {
        name: String,
        path: PathBuf,
    },
    /// Print what there is of that log, remove it, and answer.
    Finish {
        path: PathBuf,
        done: oneshot::Sender<()>,
    },
}

/// The thread, from outside. It ends when this is dropped.
#[derive(Debug)]
pub struct Logs {
    orders: mpsc::Sender<Order>,
    closed: watch::Receiver<bool>,
}

impl Logs {
    /// Starts the thread.
    pub fn start(printer: Printer) -> io::Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let (close, closed) = watch::channel(false);
        let mut follower = Follower { printer, logs: Vec::new(), close, buffer: vec![0; CHUNK] };
        thread::Builder::new().name("logs".to_owned()).spawn(move || follower.run(&receiver))?;
        Ok(Self { orders, closed })
    }

    /// Follows a log, which need not be there yet.
    pub fn follow(&self, name: &str, path: &Path) {
        // A thread that has ended has nobody to print to any more.
        let _ = self.orders.send(Order::Follow { name: name.to_owned(), path: path.to_owned() });
    }

    /// Prints the rest of a log whose writer has ended, and removes it. Answers when all of it is printed; all of it is
    /// printed even if nobody waits for the answer.
    pub async fn finish(&self, path: &Path) {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Finish { path: path.to_owned(), done });
        let _ = answer.await;
    }

    /// Waits until nobody reads our output any more.
    pub async fn nobody_reads(&self) {
        let mut closed = self.closed.clone();
        if closed.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A log.
struct Log {
    name: String,
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// Up to where the room on disk was given back.
    freed: u64,
    lines: Lines,
}

struct Follower {
    printer: Printer,
    logs: Vec<Log>,
    close: watch::Sender<bool>,
    buffer: Vec<u8>,
}

impl Follower {
    fn run(&mut self, orders: &mpsc::Receiver<Order>) {
        let mut pause = SHORTEST;
        loop {
            match orders.recv_timeout(pause) {
                Ok(order) => {
                    self.obey(order);
                    pause = SHORTEST;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let busy = self.read_all();
                    if !busy && self.printer.is_reader_gone() {
                        self.close.send_replace(true);
                    }
                    pause = if busy { SHORTEST } else { LONGEST.min(pause * 5 / 4) };
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow { name, path } => {
                let lines = Lines::default();
                self.logs.push(Log { name, path, file: None, position: 0, freed: 0, lines });
            }
            Order::Finish { path, done } => {
                let at = self.logs.iter().position(|log| log.path == path);
                if let Some(mut log) = at.map(|at| self.logs.remove(at)) {
                    while self.read(&mut log) {}
                    let printed = log.finish(&mut self.printer);
                    self.note(&printed);
                    // A container may be started again very often: nobody looks at what is behind.
                    let _ = fs::remove_file(&log.path);
                }
                let _ = done.send(());
            }
        }
    }

    /// Reads a piece of each log, so that none waits for another. Whether there was something.
    fn read_all(&mut self) -> bool {
        let mut logs = std::mem::take(&mut self.logs);
        let busy = logs.iter_mut().map(|log| self.read(log)).fold(false, |any, one| any | one);
        self.logs = logs;
        busy
    }

    fn read(&mut self, log: &mut Log) -> bool {
        let len = log.read(&mut self.buffer);
        if len > 0 {
            let printed = log.print(&self.buffer[..len], &mut self.printer);
            self.note(&printed);
        }
        len > 0
    }

    /// A reader that has gone away ends the run. A full disk behind stdout does as well.
    fn note(&self, printed: &io::Result<()>) {
        if printed.is_err() {
            self.close.send_replace(true);
        }
    }
}

impl Log {
    /// How many bytes there are more; 0: none now.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return 0 };
        let len = file.read(buffer).unwrap_or(0);
        self.position += len as u64;
        if self.position - self.freed > KEPT {
            self.give_back();
        }
        len
    }

    /// A hole where nobody reads any more. A file system that makes none keeps the whole log.
    fn give_back(&mut self) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Ok(file) = File::options().write(true).open(&self.path) {
            let _ = fallocate(&file, hole, self.freed, self.position - self.freed);
        }
        self.freed = self.position;
    }

    fn print(&mut self, bytes: &[u8], printer: &mut Printer) -> io::Result<()> {
        let mut printed = Ok(());
        self.lines.feed(bytes, |line| print_line(&self.name, line, printer, &mut printed));
        printed.and_then(|()| printer.flush())
    }

    fn finish(&mut self, printer: &mut Printer) -> io::Result<()> {
        let mut printed = Ok(());
        self.lines.end(|line| print_line(&self.name, line, printer, &mut printed));
        printed.and_then(|()| printer.end_line()).and_then(|()| printer.flush())
    }
}

fn print_line(name: &str, line: &[u8], printer: &mut Printer, printed: &mut io::Result<()>) {
    if printed.is_ok() {
        *printed = printer.print(name, &record::parse(line));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fmt::Write as _, io::Write as _};

    use super::*;
    use crate::standalone::steps::tests::Sink;

    fn line(tag: &str, content: &str) -> String {
        format!("2026-11-24T01:02:03.000000004Z stdout {tag} {content}\n")
    }

    #[tokio::test]
    async fn all_that_was_written_is_printed_before_finish_answers() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::default();
        let printer = Printer::to(true, Box::new(sink.clone()), Box::new(Sink::default()));
        let logs = Logs::start(printer).unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        logs.follow("a", &a);
        logs.follow("b", &b);
        let mut file = File::create(&a).unwrap();
        let mut expected = String::new();
        for number in 0..20_000 {
            file.write_all(line("F", &number.to_string()).as_bytes()).unwrap();
            let _ = writeln!(expected, "[a] {number}");
        }
        file.write_all(line("P", "no ").as_bytes()).unwrap();
        file.write_all(line("F", "end").trim_end().as_bytes()).unwrap();
        logs.finish(&a).await;
        assert_eq!(sink.text(), expected + "[a] no end\n");
        std::fs::write(&b, line("F", "late")).unwrap();
        logs.finish(&b).await;
        assert!(sink.text().ends_with("[b] late\n"));
        assert!(!a.exists() && !b.exists());
        logs.finish(Path::new("/nobody/follows/this")).await;
    }

    #[test]
    fn what_was_printed_gives_its_room_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("log");
        let text = line("F", &"x".repeat(4000)).repeat(10_000);
        fs::write(&path, &text).unwrap();
        let lines = Lines::default();
        let mut log = Log { name: "a".into(), path: path.clone(), file: None, position: 0, freed: 0, lines };
        let mut buffer = vec![0; CHUNK];
        while log.read(&mut buffer) > 0 {}
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.len(), log.position), (text.len() as u64, text.len() as u64));
        assert!(file.blocks() * 512 < KEPT + (1 << 20), "{} of {}", file.blocks() * 512, file.len());
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed() {
        struct Gone;
        impl io::Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let logs = Logs::start(Printer::to(false, Box::new(Gone), Box::new(Gone))).unwrap();
        std::fs::write(&path, line("F", "x")).unwrap();
        logs.follow("a", &path);
        logs.nobody_reads().await;
        logs.finish(&path).await;
    }
}
