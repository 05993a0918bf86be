//! How a number is distributed over runs.

use serde::Serialize;

/// Bars of a histogram, at most.
const BARS_MAX: u64 = 24;

/// A distribution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    /// What was counted.
    pub name: &'static str,
    /// Runs that counted.
    pub runs: u64,
    /// Runs in which it was zero.
    pub zero: u64,
    /// Smallest.
    pub min: u64,
    /// Half of the runs have at most this.
    pub median: u64,
    /// Nine in ten runs have at most this.
    pub p90: u64,
    /// Largest.
    pub max: u64,
    /// Over all runs.
    pub total: u64,
    /// Width of a bar.
    pub bar_width: u64,
    /// Runs with a value in `min + i * bar_width ..`.
    pub bars: Vec<u64>,
}

impl Shape {
    /// The distribution of `values`.
    pub fn of(name: &'static str, mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let (min, max) = (values.first().copied().unwrap_or(0), values.last().copied().unwrap_or(0));
        let bar_width = (max - min) / BARS_MAX + 1;
        let mut bars = vec![0; if values.is_empty() { 0 } else { ((max - min) / bar_width + 1) as usize }];
        for value in &values {
            bars[((value - min) / bar_width) as usize] += 1;
        }
        Self {
            name,
            runs: values.len() as u64,
            zero: values.iter().filter(|value| **value == 0).count() as u64,
            min,
            median: at_most(&values, 50),
            p90: at_most(&values, 90),
            max,
            total: values.iter().sum(),
            bar_width,
            bars,
        }
    }
}

/// The smallest value that `percent` of the sorted values do not exceed.
fn at_most(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_bars_of_small_and_large_samples() {
        let shape = Shape::of("x", vec![5, 1, 3, 2, 4]);
        assert_eq!((shape.min, shape.median, shape.p90, shape.max, shape.total), (1, 3, 5, 5, 15));
        assert_eq!((shape.bar_width, shape.bars.as_slice()), (1, &[1, 1, 1, 1, 1][..]));

        let shape = Shape::of("x", (0..1000).collect());
        assert_eq!((shape.median, shape.p90, shape.zero), (499, 899, 1));
        assert!(shape.bars.len() as u64 <= BARS_MAX + 1, "{}", shape.bars.len());
        assert_eq!(shape.bars.iter().sum::<u64>(), 1000);

        let same = Shape::of("x", vec![7; 3]);
        assert_eq!((same.min, same.max, same.bars.as_slice()), (7, 7, &[3][..]));
        let none = Shape::of("x", Vec::new());
        assert_eq!((none.runs, none.median, none.bars.len()), (0, 0, 0));
    }
}
