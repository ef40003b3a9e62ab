//! Signals that end a run: the first one asks for the pod's end, the next one does not wait for it.

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::Instant,
};

/// timeout(1) signals its child and then its child's group: what comes so soon is the same wish.
const SAME: Duration = Duration::from_millis(300);

/// What a run ends with when nobody reads its output any more: as if SIGPIPE had ended it.
pub const PIPE: u8 = 128 + 13;

/// How many signals came, and what to end with because of the first one.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u32,
    code: u8,
    last: Option<Instant>,
}

/// Watches for signals as long as it lives.
#[derive(Debug)]
pub struct Interrupts(watch::Receiver<Seen>);

impl Interrupts {
    /// SIGINT ends a run with 130, SIGTERM with 143, SIGHUP with 129: as shells count.
    pub fn watch() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(Seen::default());
        for (kind, code) in
            [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143), (SignalKind::hangup(), 129)]
        {
            tokio::spawn(pass_on(signal(kind)?, code, sender.clone()));
        }
        Ok(Self(receiver))
    }

    /// Waits for the first one, which may have come already. Returns what to end with.
    pub async fn first(&self) -> u8 {
        self.after(0).await
    }

    /// How many have come.
    pub fn count(&self) -> u32 {
        self.0.borrow().count
    }

    /// Waits until more than `count` have come.
    pub async fn after(&self, count: u32) -> u8 {
        let mut receiver = self.0.clone();
        let seen = receiver.wait_for(|seen| seen.count > count).await.map(|seen| seen.code);
        match seen {
            Ok(code) => code,
            Err(_) => std::future::pending().await,
        }
    }

    /// Signals from elsewhere, for tests.
    #[cfg(test)]
    pub fn fake() -> (Self, impl Fn(u8)) {
        let (sender, receiver) = watch::channel(Seen::default());
        (Self(receiver), move |code| count(&sender, code))
    }
}

async fn pass_on(mut signal: Signal, code: u8, sender: watch::Sender<Seen>) {
    while signal.recv().await.is_some() {
        count(&sender, code);
    }
}

fn count(sender: &watch::Sender<Seen>, code: u8) {
    let now = Instant::now();
    sender.send_if_modified(|seen| {
        if seen.last.is_some_and(|last| now.duration_since(last) < SAME) {
            return false;
        }
        if seen.count == 0 {
            seen.code = code;
        }
        (seen.count, seen.last) = (seen.count + 1, Some(now));
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_at_once_are_one_and_the_first_one_decides() {
        let (interrupts, interrupt) = Interrupts::fake();
        interrupt(143);
        interrupt(130);
        assert_eq!((interrupts.first().await, interrupts.count()), (143, 1));
        tokio::time::sleep(SAME).await;
        interrupt(130);
        assert_eq!((interrupts.after(1).await, interrupts.count()), (143, 2));
    }
}
