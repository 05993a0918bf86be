//! Latencies, counted in buckets whose width grows with the value: at most one part in 64 off, whatever the range.

use std::time::Duration;

/// Buckets for each power of two.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_nanos: u128,
    max_nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (64 - STEP_BITS as usize + 1) * STEPS], total: 0, sum_nanos: 0, max_nanos: 0 }
    }
}

/// Values below [`STEPS`] have a bucket each; above, the highest bit chooses a row and the next bits a step.
fn bucket(nanos: u64) -> usize {
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEP_BITS;
    (shift as usize + 1) * STEPS + ((nanos >> shift) as usize - STEPS)
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (row, step) = (bucket / STEPS, bucket % STEPS);
    if row == 0 {
        return step as u64;
    }
    let shift = row as u32 - 1;
    (((STEPS + step) as u64) << shift) + ((1u64 << shift) - 1)
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum_nanos += u128::from(nanos);
        self.max_nanos = self.max_nanos.max(nanos);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.sum_nanos += other.sum_nanos;
        self.max_nanos = self.max_nanos.max(other.max_nanos);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos((self.sum_nanos / u128::from(self.total.max(1))) as u64)
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_nanos)
    }

    /// The value that `per_mille` of a thousand do not exceed.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (at, &count) in self.counts.iter().enumerate() {
            seen += u128::from(count);
            if seen >= rank {
                return Duration::from_nanos(upper(at).min(self.max_nanos));
            }
        }
        self.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_in_order() {
        for nanos in (0..10_000).chain([1 << 20, (1 << 40) + 12345, u64::MAX - 1, u64::MAX]) {
            let at = bucket(nanos);
            assert!(upper(at) >= nanos && (at == 0 || upper(at - 1) < nanos), "{nanos}");
            assert!(upper(at) - nanos <= nanos / 64 + 1, "{nanos}");
        }
    }

    #[test]
    fn quantiles_are_close() {
        let (mut left, mut right) = (Histogram::default(), Histogram::default());
        for micros in 1..=1000 {
            if micros % 2 == 0 { &mut left } else { &mut right }.add(Duration::from_micros(micros));
        }
        left.merge(&right);
        assert_eq!(left.total(), 1000);
        for (per_mille, micros) in [(500, 500.0), (990, 990.0), (999, 999.0), (1000, 1000.0)] {
            let got = left.quantile(per_mille).as_nanos() as f64 / 1000.0;
            assert!((got - micros).abs() / micros < 0.02, "{per_mille}: {got}");
        }
        assert_eq!(Histogram::default().quantile(500), Duration::ZERO);
    }
}
