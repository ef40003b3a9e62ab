//! Signals that end a run: the first one asks for the pod's end, the next one does not wait for it.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What a run ends with when nobody reads its output any more: as if SIGPIPE had ended it.
pub const PIPE: u8 = 128 + 13;

/// How many signals came, and what to end with because of the first one.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u32,
    code: u8,
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
    sender.send_modify(|seen| {
        seen.count += 1;
        if seen.count == 1 {
            seen.code = code;
        }
    });
}
