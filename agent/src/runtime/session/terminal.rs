//! The master of a terminal, read and written by tokio.
//!
//! While nobody has its other end open, a master reads and writes as EIO and hangs up. That is not the end: a shell whose
//! stdio goes elsewhere for a moment opens `/dev/tty` again. So EIO counts as "not now", until the process has ended.
//! tokio takes a hang-up for final, and would then report readiness for ever: it is given an epoll instance that tells of
//! edges alone, and that never hangs up itself.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use super::super::async_fd::async_fd;

/// Clones are the same end; with the last one the terminal hangs up.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<Master>);

#[derive(Debug)]
struct Master {
    fd: OwnedFd,
    input: Edge,
    room: Edge,
    /// Its process has ended: nobody opens it again.
    over: AtomicBool,
}

/// Tells when a descriptor may have become ready.
#[derive(Debug)]
struct Edge(AsyncFd<OwnedFd>);

impl Edge {
    fn new(fd: &OwnedFd, of: EventFlags) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, fd, EventData::new_u64(0), of | EventFlags::ET)?;
        Ok(Self(async_fd(epoll)?))
    }

    /// Tries `call` whenever something has happened, until it does more than to say "not now".
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut() -> rustix::io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            // Before the call, so that what happens after it is told of again.
            let mut events = [MaybeUninit::uninit(); 1];
            let _ = epoll::wait(self.0.get_ref(), &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            match call() {
                // There may be more to do, though the edge is spent: `ready` stays.
                Ok(Some(done)) => return Poll::Ready(Ok(done)),
                Ok(None) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl Terminal {
    /// Takes a master.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let input = Edge::new(&master, EventFlags::IN)?;
        // Opening the other end is no edge; what is written there is the first that is heard of it.
        let room = Edge::new(&master, EventFlags::OUT | EventFlags::IN)?;
        Ok(Self(Arc::new(Master { fd: master, input, room, over: AtomicBool::new(false) })))
    }

    /// Its process has ended: from now on it reads as at its end when nobody has the other end open.
    pub fn process_has_ended(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// Sets its size; never waits.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Err(error) = holdfast_sys::tty::resize(&self.0.fd, columns, rows) {
            tracing::debug!(%error, "resize an exec's terminal");
        }
    }
}

impl Master {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// `None`: not now.
    fn read(&self, buffer: &mut [u8]) -> rustix::io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, buffer) {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::IO) if self.is_over() => Ok(Some(0)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::IO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: not now.
    fn write(&self, bytes: &[u8]) -> rustix::io::Result<Option<usize>> {
        match rustix::io::write(&self.fd, bytes) {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(rustix::io::Errno::IO) if !self.is_over() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let master = &self.0;
        // The hang-up may have been seen, and waited over, before the process was known to be over.
        if master.is_over()
            && let Some(len) = master.read(buffer.initialize_unfilled())?
        {
            buffer.advance(len);
            return Poll::Ready(Ok(()));
        }
        let len = ready!(master.input.poll(cx, || master.read(buffer.initialize_unfilled())))?;
        buffer.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let master = &self.0;
        master.room.poll(cx, || master.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use rustix::{
        fs::{CWD, Mode, OFlags, openat},
        pty::{OpenptFlags, ioctl_tiocgptpeer},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn pair() -> Option<(OwnedFd, OwnedFd)> {
        let devpts = openat(CWD, "/dev/pts", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let terminal = holdfast_sys::tty::open_in(&devpts).ok()?;
        Some((terminal.master, terminal.slave))
    }

    fn open_again(terminal: &Terminal) -> OwnedFd {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        ioctl_tiocgptpeer(&terminal.0.fd, flags).unwrap()
    }

    #[tokio::test]
    async fn what_comes_after_a_hang_up_is_read_and_the_end_of_the_process_is_the_end() {
        let Some((master, slave)) = pair() else {
            println!("SKIP: no usable /dev/pts/ptmx");
            return;
        };
        let mut terminal = Terminal::new(master).unwrap();
        let mut slave = Some(slave);
        let mut buffer = [0; 64];
        for round in 0..20 {
            let end = slave.take().unwrap_or_else(|| open_again(&terminal));
            rustix::io::write(&end, b"hi\n").unwrap();
            drop(end);
            let len = timeout(LIMIT, terminal.read(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..len], b"hi\r\n", "round {round}");
            // Deserted: neither an end nor an error, and no spinning either.
            assert!(timeout(Duration::from_millis(5), terminal.read(&mut buffer)).await.is_err());
        }
        let writer = {
            let mut terminal = terminal.clone();
            tokio::spawn(async move { terminal.write_all(b"typed\n").await })
        };
        let end = open_again(&terminal);
        // Its echo: somebody has it open again.
        rustix::io::write(&end, b"!").unwrap();
        timeout(LIMIT, writer).await.unwrap().unwrap().unwrap();
        let len = rustix::io::read(&end, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"typed\n");
        drop(end);
        terminal.process_has_ended();
        let mut rest = Vec::new();
        timeout(LIMIT, terminal.read_to_end(&mut rest)).await.unwrap().unwrap();
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains('!') && rest.contains("typed"), "{rest:?}");
    }

    #[tokio::test]
    async fn much_goes_both_ways() {
        let Some((master, slave)) = pair() else {
            println!("SKIP: no usable /dev/pts/ptmx");
            return;
        };
        let mut terminal = Terminal::new(master).unwrap();
        let writer = std::thread::spawn(move || {
            for number in 0..20_000 {
                rustix::io::write(&slave, format!("{number}\n").as_bytes()).unwrap();
            }
        });
        let mut text = Vec::new();
        let mut buffer = vec![0; 4096];
        while !text.ends_with(b"19999\r\n") {
            let len = timeout(LIMIT, terminal.read(&mut buffer)).await.unwrap().unwrap();
            text.extend_from_slice(&buffer[..len]);
        }
        writer.join().unwrap();
        let expected = (0..20_000).map(|number| format!("{number}\r\n")).collect::<Vec<_>>().concat();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
