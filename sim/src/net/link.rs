//! One direction between two nodes: how long a packet takes, and whether it gets through at all.
//!
//! Each link draws from a stream of its own, so traffic elsewhere never shifts its latencies. What goes beyond the
//! healthy latency is a decision of the world, see [`crate::atoms`]. Faults are counted, not switched, so that
//! overlapping faults compose and healing one leaves the other in force.

use crate::atoms::{Decider, Point};
use nokv_env::RngSource;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;
/// The first retransmission of a lost packet comes after this long; it doubles with each further loss.
const RETRANSMIT_NS: u64 = 200 * MILLIS;
/// The first request of a method on a link arrives once more with a chance of one in this many; each further one is
/// a little less likely to. Else what a cluster asks once an hour would hardly ever come twice.
const FIRST_AGAIN_ONE_IN: u64 = 6;
/// A late packet takes this many times its latency longer.
const SPIKE_TIMES: u64 = 9;

/// Latency of a healthy link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Shortest one-way latency, in microseconds.
    pub base_us: u64,
    /// Uniformly distributed addition, in microseconds.
    pub jitter_us: u64,
    /// One packet in this many takes ten times as long (0 = none).
    pub spike_one_in: u64,
    /// One request, or message of a stream, in this many arrives once more, up to seconds late, and the first ones of
    /// each method more often than that; of the streams that are cut off, every second one's newest messages do (0 = none).
    #[serde(default)]
    pub again_one_in: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { base_us: 150, jitter_us: 350, spike_one_in: 500, again_one_in: 0 }
    }
}

pub(super) struct Link {
    rng: ChaCha8Rng,
    latency: Latency,
    late: Point,
    lost: Point,
    decider: Arc<Decider>,
    name: String,
    /// By method.
    again: BTreeMap<String, Point>,
    rest: Point,
    /// How many faults cut this direction now.
    pub(super) cuts: u32,
    /// Added to every packet's latency by faults.
    pub(super) slow_ns: u64,
    /// Probability of losing a packet, in parts per million.
    pub(super) loss_ppm: u64,
}

impl Link {
    /// A link called `name`; `number` tells its stream from those of other links.
    pub(super) fn new(decider: &Arc<Decider>, seed: u64, number: u64, name: &str, latency: Latency) -> Self {
        let rng = RngSource::new(seed, number).stream("link");
        let point = |kind: &str| decider.point(format!("{name}/{kind}"));
        let (late, lost, rest) = (point("late"), point("lost"), point("rest"));
        let (decider, name, again) = (decider.clone(), name.to_owned(), BTreeMap::new());
        Self { rng, latency, late, lost, decider, name, again, rest, cuts: 0, slow_ns: 0, loss_ppm: 0 }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// One-way delay of the next packet, retransmissions included.
    pub(super) fn delay_ns(&mut self, bytes: usize) -> u64 {
        let mut delay = self.latency.base_us * MICROS;
        if self.latency.jitter_us > 0 {
            delay += scale(self.rng.next_u32(), self.latency.jitter_us * MICROS);
        }
        let one_in = self.latency.spike_one_in;
        if one_in > 0 {
            let late = self.late.decide(|draw| draw.is_multiple_of(one_in).then_some(delay * SPIKE_TIMES));
            delay += late.unwrap_or(0);
        }
        if self.loss_ppm > 0 {
            let loss_ppm = self.loss_ppm;
            delay += self.lost.decide(|draw| retransmission_ns(draw, loss_ppm)).unwrap_or(0);
        }
        // A gigabit a second: 8 ns a byte.
        delay + bytes as u64 * 8 + self.slow_ns
    }

    /// How long after itself a request of `method` arrives once more, if it does.
    pub(super) fn again_ns(&mut self, method: &str) -> Option<u64> {
        if !self.repeats() {
            return None;
        }
        let point = match self.again.get_mut(method) {
            Some(point) => point,
            None => {
                let point = self.decider.point(format!("{}/{method}/again", self.name));
                self.again.entry(method.to_owned()).or_insert(point)
            }
        };
        let one_in = self.latency.again_one_in.min(FIRST_AGAIN_ONE_IN + point.asked());
        point.decide(|draw| draw.is_multiple_of(one_in).then(|| again_ns(draw)))
    }

    /// How long after its end the newest messages of a stream that was cut off arrive once more, if they do.
    pub(super) fn rest_ns(&mut self) -> Option<u64> {
        if !self.repeats() {
            return None;
        }
        self.rest.decide(|draw| draw.is_multiple_of(2).then(|| again_ns(draw)))
    }

    /// Whether anything may arrive once more.
    pub(super) fn repeats(&self) -> bool {
        self.latency.again_one_in > 0
    }

    /// Healing: from now on nothing arrives twice.
    pub(super) fn calm(&mut self) {
        self.latency.again_one_in = 0;
    }

    /// A duration between the two, from this link's stream.
    pub(super) fn between(&mut self, low_ns: u64, high_ns: u64) -> u64 {
        low_ns + self.rng.next_u64() % (high_ns - low_ns).max(1)
    }
}

/// How long retransmissions delay a packet that gets lost with `loss_ppm`, again and again; `None` if it is not lost.
fn retransmission_ns(draw: u64, loss_ppm: u64) -> Option<u64> {
    let (mut delay, mut retransmit) = (0, RETRANSMIT_NS);
    let mut draws = RngSource::new(draw, 0).stream("lost");
    while scale(draws.next_u32(), 1_000_000) < loss_ppm && retransmit < 5_000 * MILLIS {
        delay += retransmit;
        retransmit *= 2;
    }
    (delay > 0).then_some(delay)
}

/// Between a moment and longer than a lock or a lease lives.
fn again_ns(draw: u64) -> u64 {
    let mut draws = RngSource::new(draw, 0).stream("again");
    let scale_ms = [5, 200, 2_000, 6_000][(draws.next_u32() % 4) as usize];
    scale(draws.next_u32(), scale_ms * MILLIS / MICROS).max(1) * MICROS
}

/// `draw` scaled to `0..bound`.
fn scale(draw: u32, bound: u64) -> u64 {
    (u64::from(draw) * bound) >> 32
}
