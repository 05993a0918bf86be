//! The safe point: versions that no read at or above it can see may be removed. A pure core, driven by [`crate::Shared`].
//!
//! The lease holder names a *target* first: so long ago that nobody should need it any more, and not above any timestamp
//! that somebody *holds*. Stores rid their regions of the locks of older transactions and say so in their heartbeats. When
//! all keys are covered by such words, the target is committed at the meta-root as the safe point, under the holder's lease
//! generation, and stores hear of it. The meta-root's number only rises, so a change of holders cannot take it back.
//!
//! What holds:
//!
//! - What a store said of a range stays true of it, so words of different times, epochs and leaders add up.
//! - A hold that was accepted, and has been renewed in time, is at or above the safe point. Holds are not durable: a new
//!   holder of the lease names no target before every hold it has not heard of must have ended.
//! - A hold is accepted only at or above the target: from there down anything may go any moment.

use bytes::Bytes;
use nokv_env::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// A timestamp that somebody needs.
#[derive(Debug, Clone, Copy)]
struct Hold {
    at: u64,
    until: Instant,
}

/// What the holder of one lease generation knows.
#[derive(Debug, Default)]
pub struct Gc {
    generation: u64,
    /// No target before this.
    wait_until: Instant,
    /// The safe point is known.
    opened: bool,
    safe_point: u64,
    target: u64,
    holds: BTreeMap<String, Hold>,
}

impl Gc {
    /// This coordinator holds the lease of `generation` at `now`. Holds of other generations are forgotten; whoever has one
    /// renews it here within `hold_ttl_max`, or has lost it.
    pub fn enter(&mut self, generation: u64, now: Instant, hold_ttl_max: Duration) {
        if self.generation != generation {
            // A tenth more than a hold lasts: clocks differ in rate.
            let wait_until = now + hold_ttl_max + hold_ttl_max / 10;
            *self = Self { generation, wait_until, ..Self::default() };
        }
    }

    /// The meta-root has committed `safe_point`, as an answer to `generation`.
    pub fn committed(&mut self, generation: u64, safe_point: u64) {
        if self.generation == generation {
            self.opened = true;
            self.safe_point = self.safe_point.max(safe_point);
            self.target = self.target.max(safe_point);
        }
    }

    /// Whether the safe point is yet to be asked for.
    pub fn is_closed(&self) -> bool {
        !self.opened
    }

    /// Holds the safe point at or below `at` until `until`. Refused when it may pass any moment; then says from where on
    /// one can hold.
    pub fn hold(&mut self, holder: String, at: u64, until: Instant) -> Result<(), u64> {
        if at < self.target {
            self.holds.remove(&holder);
            return Err(self.target);
        }
        self.holds.insert(holder, Hold { at, until });
        Ok(())
    }

    /// Ends a hold.
    pub fn release(&mut self, holder: &str) {
        self.holds.remove(holder);
    }

    /// Raises the target towards `wanted`, as far as holds allow, once the last one is the safe point: stores need time to
    /// get there. Gives the target.
    pub fn advance(&mut self, now: Instant, wanted: u64) -> u64 {
        self.holds.retain(|_, hold| hold.until > now);
        if self.opened && now >= self.wait_until && self.outstanding().is_none() {
            let held = self.holds.values().map(|hold| hold.at).min().unwrap_or(u64::MAX);
            self.target = self.target.max(wanted.min(held));
        }
        self.target
    }

    /// The target while `generation` holds the lease; 0 when it has named none.
    pub fn target(&self, generation: u64) -> u64 {
        if self.generation == generation { self.target } else { 0 }
    }

    /// The target, if it is not the safe point yet.
    pub fn outstanding(&self) -> Option<u64> {
        (self.opened && self.target > self.safe_point).then_some(self.target)
    }

    /// How many holds there are.
    pub fn hold_count(&self) -> usize {
        self.holds.len()
    }
}

/// Whether ranges (start, end; an empty end is infinite) together cover all keys.
pub fn covers_everything(ranges: impl IntoIterator<Item = (Bytes, Bytes)>) -> bool {
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    ranges.sort();
    let mut covered = Bytes::new();
    for (start, end) in ranges {
        if start > covered {
            return false;
        }
        if end.is_empty() {
            return true;
        }
        covered = covered.max(end);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn open(safe_point: u64) -> Gc {
        let mut gc = Gc::default();
        gc.enter(1, at(0), TTL);
        gc.committed(1, safe_point);
        gc
    }

    #[test]
    fn a_new_holder_waits_until_every_hold_it_has_not_heard_of_has_ended() {
        let mut gc = open(5);
        assert_eq!(gc.advance(at(10), 100), 5);
        gc.hold("h".into(), 50, at(20)).unwrap();
        assert_eq!(gc.advance(at(11), 100), 50);
        assert_eq!(gc.outstanding(), Some(50));
        assert_eq!(gc.advance(at(20), 100), 50, "stores have yet to get there");
        gc.committed(1, 50);
        assert_eq!(gc.advance(at(20), 100), 100, "the hold has ended");
        gc.enter(2, at(30), TTL);
        assert!(gc.is_closed());
        assert_eq!((gc.advance(at(60), 200), gc.outstanding()), (0, None), "the safe point is not known");
        gc.committed(1, 70);
        assert!(gc.is_closed(), "an answer to the generation before");
    }

    #[test]
    fn a_hold_is_never_passed_and_one_below_the_target_is_refused() {
        let mut gc = open(0);
        gc.hold("a".into(), 30, at(90)).unwrap();
        gc.hold("b".into(), 20, at(90)).unwrap();
        assert_eq!(gc.advance(at(50), 100), 20);
        assert_eq!(gc.hold("c".into(), 19, at(90)), Err(20));
        gc.release("b");
        gc.committed(1, 20);
        assert_eq!(gc.advance(at(50), 100), 30);
        gc.committed(1, 30);
        assert_eq!(gc.advance(at(50), 10), 30, "never back");
        assert_eq!(gc.outstanding(), None);
    }

    #[test]
    fn coverage_has_no_holes() {
        let covers = |ranges: &[(&'static str, &'static str)]| {
            covers_everything(ranges.iter().map(|(a, b)| (Bytes::from(*a), Bytes::from(*b))))
        };
        assert!(covers(&[("", "")]));
        assert!(covers(&[("m", ""), ("", "c"), ("b", "m")]));
        assert!(covers(&[("", "z"), ("a", "b"), ("z", "")]), "one within another");
        assert!(!covers(&[("", "c"), ("d", "")]) && !covers(&[("", "m")]) && !covers(&[("a", "")]));
        assert!(!covers(&[]));
    }
}
