//! What a region's replica here serves: counted by the service, told as rates with every heartbeat.
//!
//! A rate is over the last ten seconds or so, for somebody who looks at a cluster that is slow now: long enough not to
//! flicker, short enough that what was hot a minute ago is not in it. Nothing here decides anything.

use crate::region::lock;
use nokv_env::Instant;
use nokv_proto::coordinator::v1::RegionTraffic;
use nokv_proto::kv::v1::{Mutation, mutation};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rates are over this time at most, and over as much of it as there are samples.
const WINDOW: Duration = Duration::from_secs(10);
/// Less says nothing.
const LEAST: Duration = Duration::from_millis(500);

/// Counts of one region since the start, and what they were lately.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: AtomicU64,
    read_keys: AtomicU64,
    read_bytes: AtomicU64,
    write_keys: AtomicU64,
    write_bytes: AtomicU64,
    /// Oldest first; all but the first are from within the window.
    samples: Mutex<VecDeque<(Instant, RegionTraffic)>>,
}

impl Traffic {
    /// A request was admitted.
    pub(crate) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Keys were shown, or found to have no value.
    pub(crate) fn read(&self, keys: usize, bytes: usize) {
        self.read_keys.fetch_add(keys as u64, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A write was applied.
    pub(crate) fn wrote(&self, (keys, bytes): (usize, usize)) {
        self.write_keys.fetch_add(keys as u64, Ordering::Relaxed);
        self.write_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> RegionTraffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RegionTraffic {
            requests: count(&self.requests),
            read_keys: count(&self.read_keys),
            read_bytes: count(&self.read_bytes),
            write_keys: count(&self.write_keys),
            write_bytes: count(&self.write_bytes),
        }
    }

    /// Remembers what was counted until now. To be called about once a second.
    pub(crate) fn sample(&self, now: Instant) {
        let (counts, mut samples) = (self.counts(), lock(&self.samples));
        // Where nothing happens one sample is enough, and it says so up to now.
        if samples.front().is_some_and(|(_, first)| *first == counts) {
            samples.clear();
        }
        samples.push_back((now, counts));
        while samples.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            samples.pop_front();
        }
    }

    /// A second, as of now; `None`: nothing.
    pub(crate) fn rates(&self, now: Instant) -> Option<RegionTraffic> {
        let (counts, samples) = (self.counts(), lock(&self.samples));
        let (at, past) = samples.iter().rfind(|(at, _)| now.since(*at) >= WINDOW).or(samples.front())?;
        let nanos = Some(now.since(*at)).filter(|time| *time >= LEAST)?.as_nanos();
        let rate = |now: u64, then: u64| {
            let rate = (u128::from(now.saturating_sub(then)) * 1_000_000_000 + nanos / 2) / nanos;
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        let rates = RegionTraffic {
            requests: rate(counts.requests, past.requests),
            read_keys: rate(counts.read_keys, past.read_keys),
            read_bytes: rate(counts.read_bytes, past.read_bytes),
            write_keys: rate(counts.write_keys, past.write_keys),
            write_bytes: rate(counts.write_bytes, past.write_bytes),
        };
        (rates != RegionTraffic::default()).then_some(rates)
    }
}

/// Keys and bytes that mutations write; one that only guards its key writes nothing.
pub(crate) fn weight(mutations: &[Mutation]) -> (usize, usize) {
    let written = mutations.iter().filter(|one| one.op() != mutation::Op::Lock);
    written.fold((0, 0), |(keys, bytes), one| (keys + 1, bytes + one.key.len() + one.value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let traffic = Traffic::default();
        assert_eq!(traffic.rates(at(9)), None, "nothing was sampled");
        for second in 0..60 {
            traffic.sample(at(second * 1000));
            // Busy for half a minute, then a tenth of that.
            for _ in 0..if second < 30 { 100 } else { 10 } {
                traffic.asked();
                traffic.read(2, 50);
            }
            traffic.wrote((1, 300));
        }
        let rates = traffic.rates(at(60_000)).expect("rates");
        let want =
            RegionTraffic { requests: 10, read_keys: 20, read_bytes: 500, write_keys: 1, write_bytes: 300 };
        assert_eq!(rates, want);
        assert!(lock(&traffic.samples).len() <= 11, "{:?}", traffic.samples);
    }

    #[test]
    fn what_begins_after_a_pause_is_not_spread_over_the_pause() {
        let traffic = Traffic::default();
        (0..100).for_each(|second| traffic.sample(at(second * 1000)));
        assert_eq!(lock(&traffic.samples).len(), 1);
        assert_eq!(traffic.rates(at(99_900)), None);
        (0..500).for_each(|_| traffic.asked());
        assert_eq!(traffic.rates(at(99_300)), None, "too short a time to tell");
        assert_eq!(traffic.rates(at(100_000)).map(|rates| rates.requests), Some(500));
    }

    #[test]
    fn a_sample_that_came_late_counts_with_its_real_time() {
        let traffic = Traffic::default();
        traffic.sample(at(0));
        (0..400).for_each(|_| traffic.asked());
        traffic.sample(at(40_000));
        assert_eq!(traffic.rates(at(40_000)).map(|rates| rates.requests), Some(10));
    }
}
