//! The physical part of timestamps: the wall clock, and a clock that goes on when timestamps are ahead of it.
//!
//! Timestamps may not go back, so after a wall clock that jumped forward and back, or after a lease holder whose window
//! reached ahead, they start above the wall clock. If their physical part then stood still until the wall clock
//! has caught up, so would everything that is counted in it: no lock would expire for as long as the jump was wide. So
//! it goes on, a little slower than time does, until the wall clock has caught up.

use nokv_env::Instant;

/// Ahead of the wall clock, one part in this many of the time that passes is left out.
const CATCH_UP: u64 = 8;
const NANOS_A_MILLI: u64 = 1_000_000;

/// Where the physical part of timestamps is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When it was last known.
    at: Instant,
    /// What it was then, in nanoseconds since the Unix epoch.
    nanos: u64,
}

impl Pace {
    /// From `now` on it is at least `millis`.
    pub fn restart(&mut self, now: Instant, millis: u64) {
        *self = Pace { at: now, nanos: millis.saturating_mul(NANOS_A_MILLI) };
    }

    /// Milliseconds since the Unix epoch at `now`, when the wall clock shows `wall_millis`. Never goes back.
    pub fn millis(&mut self, now: Instant, wall_millis: u64) -> u64 {
        let passed = now.since(self.at).as_nanos() as u64;
        let slowed = self.nanos.saturating_add(passed - passed / CATCH_UP);
        let wall = wall_millis.saturating_mul(NANOS_A_MILLI);
        if wall >= slowed {
            *self = Pace { at: now, nanos: wall };
            return wall_millis;
        }
        slowed / NANOS_A_MILLI
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * NANOS_A_MILLI)
    }

    #[test]
    fn it_is_the_wall_clock_unless_that_went_back() {
        let mut pace = Pace::default();
        assert_eq!(pace.millis(at(10), 5_000), 5_000);
        assert_eq!(pace.millis(at(20), 65_000), 65_000, "a jump forward is followed");
        assert_eq!(pace.millis(at(28), 5_018), 65_007, "a jump back is not, but time goes on");
        assert_eq!(pace.millis(at(820), 5_810), 65_700);
    }

    #[test]
    fn the_wall_clock_catches_up() {
        let mut pace = Pace::default();
        pace.restart(at(0), 4_000);
        let mut last = 0;
        for passed in 0..40_000 {
            let millis = pace.millis(at(passed), 1_000 + passed);
            assert!(millis >= last, "never back");
            last = millis;
        }
        assert_eq!(last, 1_000 + 39_999, "3 s are caught up after 24");
    }
}
