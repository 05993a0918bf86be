//! For how long nothing went on, of the time in which this process tried.

use nokv_env::Instant;
use std::time::Duration;

/// The time since the last success, without the time in which nobody tried: a process that was stopped, or whose machine
/// slept, finds its request overdue when it goes on, and has not learned from that that the cluster is gone.
#[derive(Debug)]
pub struct Stall {
    /// The most that counts between two events: an attempt ends at its deadline, and the pause behind it is short.
    step_max: Duration,
    stalled: Duration,
    last: Instant,
}

/// What may pass between two events beside the attempt itself: the pause before it, and slowness.
const SLACK: Duration = Duration::from_secs(2);

impl Stall {
    /// Begins now. No attempt takes longer than `deadline`.
    pub fn new(now: Instant, deadline: Duration) -> Self {
        Self { step_max: deadline + SLACK, stalled: Duration::ZERO, last: now }
    }

    /// Something went on.
    pub fn moved(&mut self, now: Instant) {
        self.stalled = Duration::ZERO;
        self.last = now;
    }

    /// An attempt failed. For how long nothing has gone on now.
    pub fn failed(&mut self, now: Instant) -> Duration {
        self.stalled += now.since(self.last).min(self.step_max);
        self.last = now;
        self.stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn attempts_and_pauses_add_up() {
        let mut stall = Stall::new(at(0), DEADLINE);
        assert_eq!(stall.failed(at(10)), Duration::from_secs(10));
        assert_eq!(stall.failed(at(21)), Duration::from_secs(21));
        stall.moved(at(25));
        assert_eq!(stall.failed(at(26)), Duration::from_secs(1));
    }

    #[test]
    fn time_in_which_nobody_tried_does_not_count() {
        let mut stall = Stall::new(at(0), DEADLINE);
        assert_eq!(stall.failed(at(3600)), DEADLINE + SLACK);
        assert_eq!(stall.failed(at(3605)), DEADLINE + SLACK + Duration::from_secs(5));
    }
}
