//! Waits between attempts at something that has to succeed in the end.

use std::time::Duration;

/// The longest wait.
const LONGEST: Duration = Duration::from_mins(5);

/// Waits that double up to five minutes.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Begins with that wait.
    pub fn new(first: Duration) -> Self {
        Self { next: first }
    }

    /// The wait after one more failure.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = LONGEST.min(wait * 2);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let waits: Vec<u64> = (0..11).map(|_| backoff.wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
