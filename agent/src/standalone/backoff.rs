//! How long a container waits before it is started again, as with a kubelet (client-go, util/flowcontrol).

use std::time::Duration;

use tokio::time::Instant;

/// The first wait.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
const LONGEST: Duration = Duration::from_mins(5);
/// A container that has run for so long since its restart begins anew.
const STABLE: Duration = Duration::from_mins(10);

/// The waits of one container: none at first, then 10 s, doubled each time up to 5 min.
#[derive(Debug, Default)]
pub struct Backoff {
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    /// When a container that ended at `ended` is to be started again.
    pub fn restart_at(&mut self, ended: Instant) -> Instant {
        let (wait, next) = match self.last {
            Some((restarted, wait)) if ended.duration_since(restarted) <= STABLE => {
                (wait, LONGEST.min(wait * 2))
            }
            _ => (Duration::ZERO, FIRST),
        };
        let at = ended + wait;
        self.last = Some((at, next));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits in seconds of a container that each time runs for so many seconds.
    fn waits(runs_s: &[u64]) -> Vec<u64> {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let wait = |run: &u64| {
            now += Duration::from_secs(*run);
            let at = backoff.restart_at(now);
            let wait = at - now;
            now = at;
            wait.as_secs()
        };
        runs_s.iter().map(wait).collect()
    }

    #[test]
    fn doubled_up_to_five_minutes() {
        assert_eq!(waits(&[1; 8]), [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_make_it_forget() {
        assert_eq!(waits(&[1, 1, 1, 601, 1, 1]), [0, 10, 20, 0, 10, 20]);
        assert_eq!(waits(&[1, 1, 1, 600, 1]), [0, 10, 20, 40, 80]);
        assert_eq!(waits(&[5000, 5000, 5000]), [0, 0, 0]);
    }
}
