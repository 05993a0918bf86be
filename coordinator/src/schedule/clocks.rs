//! How long stores have been silent, regions had the wrong number of replicas, and neighbours been small: counted in the time that this
//! coordinator was awake.
//!
//! A coordinator that stood still (a paused process, a machine that swaps) finds every heartbeat old when it wakes up. By the
//! clock, all stores have been silent for that long; in truth it did not listen. So each look counts for at most
//! twice the pause between two looks.

use super::Limits;
use nokv_env::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Awake time by store and region.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    last: Option<Instant>,
    silent: BTreeMap<u64, Duration>,
    odd: BTreeMap<u64, Duration>,
    /// By a region and its right neighbour.
    small: BTreeMap<(u64, u64), Duration>,
}

impl Clocks {
    /// A look at `now`. `stores` says who is heard of; `regions` who has the wanted number of replicas; `pairs` which
    /// neighbours are large enough.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        limits: &Limits,
        stores: impl Iterator<Item = (u64, bool)>,
        regions: impl Iterator<Item = (u64, bool)>,
        pairs: impl Iterator<Item = ((u64, u64), bool)>,
    ) {
        let passed = self.last.map_or(Duration::ZERO, |last| now.since(last)).min(limits.interval * 2);
        self.last = Some(now);
        count(&mut self.silent, passed, stores);
        count(&mut self.odd, passed, regions);
        count(&mut self.small, passed, pairs);
    }

    /// Whether nothing was heard of the store for `after` beyond the time in which it counts as up.
    pub(crate) fn is_lost(&self, store: u64, after: Duration) -> bool {
        self.silent.get(&store).is_some_and(|silent| *silent >= after)
    }

    /// Whether the region has had the wrong number of replicas for `after`.
    pub(crate) fn is_odd(&self, region: u64, after: Duration) -> bool {
        self.odd.get(&region).is_some_and(|odd| *odd >= after)
    }

    /// Whether a region and its right neighbour have been small for `after`.
    pub(crate) fn are_small(&self, pair: (u64, u64), after: Duration) -> bool {
        self.small.get(&pair).is_some_and(|small| *small >= after)
    }
}

/// Counts on for those that are not well; forgets the others, and those that are gone.
fn count<K: Ord>(times: &mut BTreeMap<K, Duration>, passed: Duration, all: impl Iterator<Item = (K, bool)>) {
    let known = std::mem::take(times);
    for (id, _) in all.filter(|(_, is_well)| !is_well) {
        let time = known.get(&id).map_or(Duration::ZERO, |time| *time + passed);
        times.insert(id, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn look(clocks: &mut Clocks, second: u64, is_well: bool) {
        let all = || [(1, is_well)].into_iter();
        let pairs = [((1, 2), is_well)].into_iter();
        clocks.look(Instant(second * SECOND), &Limits::default(), all(), all(), pairs);
    }

    #[test]
    fn silence_is_counted_until_the_store_is_heard_of() {
        let (mut clocks, after) = (Clocks::default(), Duration::from_secs(5));
        for second in 0..5 {
            look(&mut clocks, second, false);
            assert!(!clocks.is_lost(1, after));
        }
        look(&mut clocks, 5, false);
        assert!(clocks.is_lost(1, after) && clocks.is_odd(1, after) && !clocks.is_lost(2, after));
        assert!(clocks.are_small((1, 2), after) && !clocks.are_small((2, 3), after));
        look(&mut clocks, 6, true);
        look(&mut clocks, 7, false);
        assert!(!clocks.is_lost(1, after));
    }

    #[test]
    fn sleep_does_not_count() {
        let (mut clocks, after) = (Clocks::default(), Duration::from_secs(5));
        look(&mut clocks, 0, false);
        look(&mut clocks, 1_000, false);
        assert!(!clocks.is_lost(1, after));
    }
}
