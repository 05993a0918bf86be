//! Drawing plans, workloads and configurations: small conveniences over one ChaCha stream.

use nokv_env::RngSource;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// A stream of draws for one purpose.
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The world's stream for `purpose`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(RngSource::new(seed, 0).stream(purpose))
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high - low + 1)
    }

    /// True once in `n` draws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.between(1, n) == 1
    }

    /// True in `percent` of the draws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of several, each as likely.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() as u64 - 1) as usize]
    }

    /// About `mean`, memoryless in spirit: often short, sometimes long.
    pub fn around(&mut self, mean: u64) -> u64 {
        let (a, b) = (self.between(0, mean), self.between(0, mean));
        if self.one_in(8) { a + b + mean } else { a.midpoint(b) + mean / 4 }
    }
}
