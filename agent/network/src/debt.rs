//! A DEL that has been asked for and is not done yet.

use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// How often it was tried, and when it is tried again. It is never given up.
#[derive(Debug, Clone)]
pub(crate) struct Debt {
    tries: u32,
    next: Instant,
    /// Tasks that wait for the pod's lock to try it, or do.
    workers: usize,
    /// A client has waited for the try that is under way for as long as clients do.
    waited_out: bool,
    /// Of the last try.
    error: Option<String>,
}

impl Debt {
    /// Not tried yet, and due.
    pub(crate) fn due(now: Instant) -> Self {
        Self { tries: 0, next: now, workers: 0, waited_out: false, error: None }
    }

    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// Of the last try; empty: the first one is under way.
    pub(crate) fn error(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// Why it is not done, for whoever is in need of what it holds.
    pub(crate) fn reason(&self) -> String {
        match &self.error {
            Some(error) => format!("DEL has failed {} times: {error}", self.tries),
            None => "DEL is under way".to_owned(),
        }
    }

    /// When it is to be tried, if nobody works at it.
    pub(crate) fn idle_until(&self) -> Option<Instant> {
        (self.workers == 0).then_some(self.next)
    }

    pub(crate) fn add_worker(&mut self) {
        self.workers += 1;
    }

    pub(crate) fn remove_worker(&mut self) {
        self.workers = self.workers.saturating_sub(1);
    }

    pub(crate) fn is_waited_out(&self) -> bool {
        self.waited_out
    }

    pub(crate) fn wait_out(&mut self) {
        self.waited_out = true;
    }

    /// It has failed, or takes longer than a client waits.
    pub(crate) fn is_overdue(&self) -> bool {
        self.tries > 0 || self.waited_out
    }

    /// A try has failed; whether that, or why, is news.
    pub(crate) fn failed(&mut self, error: &str) -> bool {
        let is_news = self.error.as_deref() != Some(error);
        self.tries += 1;
        self.next = Instant::now() + wait_after(self.tries);
        self.waited_out = false;
        self.error = Some(error.to_owned());
        is_news
    }
}

/// How long until the next try after so many.
fn wait_after(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 1000].map(|tries| wait_after(tries).as_secs()).to_vec();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn nobody_tries_what_another_is_at() {
        let mut debt = Debt::due(Instant::now());
        assert!(debt.idle_until().is_some_and(|until| until <= Instant::now()));
        debt.add_worker();
        assert!(debt.idle_until().is_none() && !debt.is_overdue());
        debt.wait_out();
        assert!(debt.is_overdue());
        assert!(debt.failed("no") && !debt.failed("no") && debt.failed("other"));
        debt.remove_worker();
        assert!(!debt.is_waited_out() && debt.idle_until().is_some_and(|until| until > Instant::now()));
    }
}
