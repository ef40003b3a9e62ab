//! The board: a file that is mapped by every process of a test.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

/// Environment variable with the path of the board.
pub const VARIABLE: &str = "HOLDFAST_FAILPOINTS";

/// Longest name of a failpoint, in bytes.
const NAME: usize = 64;
/// Faults that can be wanted at the same time.
const SLOTS: usize = 4;
/// Hits that are remembered.
const TRACE: usize = 16 << 10;

/// A fault to be had at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies as of SIGKILL.
    Kill,
    /// The effect fails with this errno, and is not tried.
    Fail(i32),
    /// The process stalls before the effect, for so many milliseconds.
    Stall(u32),
}

impl Fault {
    fn encode(self) -> (u32, u32) {
        match self {
            Self::Kill => (1, 0),
            Self::Fail(errno) => (2, errno.unsigned_abs()),
            Self::Stall(ms) => (3, ms),
        }
    }

    fn decode(code: u32, value: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Kill),
            2 => i32::try_from(value).ok().map(Self::Fail),
            3 => Some(Self::Stall(value)),
            _ => None,
        }
    }
}

type Name = [AtomicU8; NAME];

#[repr(C)]
struct Slot {
    /// Set last, cleared first.
    armed: AtomicU32,
    /// The hit that has the fault, counted from 1; 0: every hit.
    nth: AtomicU32,
    fault: AtomicU32,
    value: AtomicU32,
    hits: AtomicU32,
    fired: AtomicU32,
    name: Name,
}

#[repr(C)]
struct Layout {
    slots: [Slot; SLOTS],
    traced: AtomicU32,
    trace: [Name; TRACE],
}

/// A mapped board. All of it is atomic, so every process may use it at any time.
#[derive(Debug)]
pub struct Board {
    layout: NonNull<Layout>,
    path: PathBuf,
}

// SAFETY: the mapping is never undone, and everything in it is atomic.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Makes an empty board at `path`, or empties the one that is there.
    ///
    /// # Errors
    /// Those of open(2), ftruncate(2) and mmap(2).
    pub fn create(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.set_len(size_of::<Layout>() as u64)?;
        Self::map(&file, path)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < size_of::<Layout>() as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(&file, path)
    }

    fn map(file: &File, path: &Path) -> io::Result<Self> {
        let (length, protection) = (size_of::<Layout>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours; the file is that long.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let layout = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { layout, path: path.to_owned() })
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping is as long as a Layout, aligned to a page, and never undone. Any bytes are valid atomics.
        unsafe { self.layout.as_ref() }
    }

    /// The board's file, for [`VARIABLE`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Wants `fault` at the `nth` hit of the failpoint `name` from now on (counted from 1, over all processes; 0: at every
    /// hit). Slots are numbered from 0; there are four.
    pub fn arm(&self, slot: usize, name: &str, nth: u32, fault: Fault) {
        let slot = &self.layout().slots[slot];
        slot.armed.store(0, Ordering::SeqCst);
        store(&slot.name, name);
        let (code, value) = fault.encode();
        for (cell, number) in [
            (&slot.nth, nth),
            (&slot.fault, code),
            (&slot.value, value),
            (&slot.hits, 0),
            (&slot.fired, 0),
            (&slot.armed, 1),
        ] {
            cell.store(number, Ordering::SeqCst);
        }
    }

    /// Wants no fault any more.
    pub fn disarm(&self) {
        self.layout().slots.iter().for_each(|slot| slot.armed.store(0, Ordering::SeqCst));
    }

    /// How often the fault of a slot has happened since it was armed.
    pub fn fired(&self, slot: usize) -> u32 {
        self.layout().slots[slot].fired.load(Ordering::SeqCst)
    }

    /// Names of the failpoints that were hit, in order.
    pub fn hits(&self) -> Vec<String> {
        let layout = self.layout();
        let count = layout.traced.load(Ordering::SeqCst) as usize;
        layout.trace[..count.min(TRACE)].iter().map(load).collect()
    }

    /// Forgets the hits.
    pub fn forget_hits(&self) {
        self.layout().traced.store(0, Ordering::SeqCst);
    }

    /// Remembers a hit, and looks whether it is to have a fault.
    fn hit(&self, name: &str) -> Option<Fault> {
        let layout = self.layout();
        let index = layout.traced.fetch_add(1, Ordering::SeqCst) as usize;
        if let Some(entry) = layout.trace.get(index) {
            store(entry, name);
        }
        layout.slots.iter().find_map(|slot| slot.hit(name))
    }
}

impl Slot {
    fn hit(&self, name: &str) -> Option<Fault> {
        if self.armed.load(Ordering::SeqCst) == 0 || !is(&self.name, name) {
            return None;
        }
        let hit = self.hits.fetch_add(1, Ordering::SeqCst) + 1;
        let nth = self.nth.load(Ordering::SeqCst);
        if nth != 0 && nth != hit {
            return None;
        }
        self.fired.fetch_add(1, Ordering::SeqCst);
        Fault::decode(self.fault.load(Ordering::SeqCst), self.value.load(Ordering::SeqCst))
    }
}

fn bytes(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().chain(std::iter::repeat(0)).take(NAME)
}

fn store(cell: &Name, name: &str) {
    cell.iter().zip(bytes(name)).for_each(|(cell, byte)| cell.store(byte, Ordering::Relaxed));
}

fn is(cell: &Name, name: &str) -> bool {
    cell.iter().zip(bytes(name)).all(|(cell, byte)| cell.load(Ordering::Relaxed) == byte)
}

fn load(cell: &Name) -> String {
    let bytes: Vec<u8> = cell.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// This process's board. Found at the first failpoint: a program that changes its root passes one at its start.
static BOARD: OnceLock<Option<Board>> = OnceLock::new();

fn board() -> Option<&'static Board> {
    BOARD.get_or_init(|| Board::open(Path::new(&std::env::var_os(VARIABLE)?)).ok()).as_ref()
}

/// The failpoint `name`, to be passed before an effect.
///
/// # Errors
/// The errno that the test wants there.
pub fn at(name: &'static str) -> io::Result<()> {
    debug_assert!(name.len() <= NAME, "failpoint {name}: its name is too long");
    match board().and_then(|board| board.hit(name)) {
        None => Ok(()),
        Some(Fault::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
        Some(Fault::Stall(ms)) => {
            std::thread::sleep(Duration::from_millis(ms.into()));
            Ok(())
        }
        Some(Fault::Kill) => die(),
    }
}

fn die() -> ! {
    // The first process of a pid namespace gets no SIGKILL of its own.
    if rustix::process::getpid().as_raw_nonzero().get() > 1 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    // SAFETY: ends this process; no handler, no destructor, as with SIGKILL.
    unsafe { libc::_exit(128 + libc::SIGKILL) }
}

/// What a started program needs to find the board.
pub(crate) fn environment() -> Option<OsString> {
    let board = board()?;
    let mut variable = OsString::from(VARIABLE);
    variable.push("=");
    variable.push(board.path());
    Some(variable)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn board() -> (tempfile::TempDir, Board) {
        let dir = tempfile::tempdir().unwrap();
        let board = Board::create(&dir.path().join("board")).unwrap();
        (dir, board)
    }

    #[test]
    fn a_fault_is_had_at_its_hit_alone() {
        let (_dir, board) = board();
        let other = Board::open(board.path()).unwrap();
        board.arm(0, "record.write", 2, Fault::Fail(libc::EIO));
        let faults: Vec<_> = (0..4).map(|_| other.hit("record.write")).collect();
        assert_eq!(faults, [None, Some(Fault::Fail(libc::EIO)), None, None]);
        assert_eq!((board.fired(0), other.hit("record.writ"), other.hit("record.write2")), (1, None, None));
    }

    #[test]
    fn every_hit_two_faults_and_none() {
        let (_dir, board) = board();
        board.arm(0, "a", 0, Fault::Stall(7));
        board.arm(1, "b", 1, Fault::Kill);
        assert_eq!([board.hit("a"), board.hit("a")], [Some(Fault::Stall(7)); 2]);
        assert_eq!([board.hit("b"), board.hit("b")], [Some(Fault::Kill), None]);
        board.disarm();
        assert_eq!(board.hit("a"), None);
    }

    #[test]
    fn hits_are_told_in_order_up_to_a_bound() {
        let (_dir, board) = board();
        board.hit("one");
        board.hit("two");
        assert_eq!(board.hits(), ["one", "two"]);
        board.forget_hits();
        for _ in 0..TRACE + 10 {
            board.hit("x");
        }
        assert_eq!(board.hits().len(), TRACE);
    }

    #[test]
    fn a_file_that_is_no_board_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Board::open(file.path()).is_err());
    }
}
