//! One direction between two nodes: how long a packet takes, and whether it gets through at all.
//!
//! Each link draws from a stream of its own, so traffic elsewhere never shifts its latencies. Faults are
//! counted, not switched, so that overlapping faults compose and healing one leaves the other in force.

use nokv_env::RngSource;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
/// The first retransmission of a lost packet comes after this long; it doubles with each further loss.
const RETRANSMIT_NS: u64 = 200 * MILLIS;

/// Latency of a healthy link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Shortest one-way latency, in microseconds.
    pub base_us: u64,
    /// Uniformly distributed addition, in microseconds.
    pub jitter_us: u64,
    /// One packet in this many takes ten times as long (0 = none).
    pub spike_one_in: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { base_us: 150, jitter_us: 350, spike_one_in: 500 }
    }
}

pub(super) struct Link {
    rng: ChaCha8Rng,
    latency: Latency,
    /// How many faults cut this direction now.
    pub(super) cuts: u32,
    /// Added to every packet's latency by faults.
    pub(super) slow_ns: u64,
    /// Probability of losing a packet, in parts per million.
    pub(super) loss_ppm: u64,
}

impl Link {
    pub(super) fn new(seed: u64, from: usize, to: usize, latency: Latency) -> Self {
        let rng = RngSource::new(seed, (from as u64) << 16 | to as u64).stream("link");
        Self { rng, latency, cuts: 0, slow_ns: 0, loss_ppm: 0 }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// One-way delay of the next packet, retransmissions included.
    pub(super) fn delay_ns(&mut self, bytes: usize) -> u64 {
        let draw = self.rng.next_u64();
        let mut delay = self.latency.base_us * MICROS + scale(draw as u32, self.latency.jitter_us * MICROS);
        let one_in = self.latency.spike_one_in;
        if one_in > 0 && (draw >> 32).is_multiple_of(one_in) {
            delay *= 10;
        }
        // A gigabit a second: 8 ns a byte.
        delay += bytes as u64 * 8 + self.slow_ns;
        let mut retransmit = RETRANSMIT_NS;
        while self.loss_ppm > 0
            && scale(self.rng.next_u32(), 1_000_000) < self.loss_ppm
            && retransmit < 5_000 * MILLIS
        {
            delay += retransmit;
            retransmit *= 2;
        }
        delay
    }

    /// A duration between the two, from this link's stream.
    pub(super) fn between(&mut self, low_ns: u64, high_ns: u64) -> u64 {
        low_ns + self.rng.next_u64() % (high_ns - low_ns).max(1)
    }
}

/// `draw` scaled to `0..bound`.
fn scale(draw: u32, bound: u64) -> u64 {
    (u64::from(draw) * bound) >> 32
}
