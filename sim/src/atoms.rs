//! Decisions: everything a running world decides against the default, as atoms that can be recorded, removed and replayed.
//!
//! Timed faults are data already, see [`crate::plan`]. What is left are points in the world that choose while it runs:
//! does this chance point fire, is this packet late, what survives this power loss. Each point is a [`Point`] with a
//! key such as `store2/chance/engine.flush.early`; it counts how often it is asked, and its answer is a pure function
//! of (seed, key, count). So what one point answers never shifts what another does.
//!
//! An answer other than the default is an *atom*: key, count, value. A run driven by a seed draws its atoms and records
//! them; a run driven by [`Decisions`] takes the listed ones and the default everywhere else. The recorded decisions of
//! a run replay it exactly; removing some leaves the others in force. That is what shrinking and saved cases live on.
//!
//! | key | default | value of the atom |
//! |---|---|---|
//! | `world/schedule` | ready tasks run first in, first out | number of the random order |
//! | `world/jitter` | a packet takes the link's base latency | 1: plus a random part, drawn for each link |
//! | `NODE/clock/rate` | true time | rate error, parts per billion, as `i64` |
//! | `NODE/clock/wall` | true time | error of the wall clock, milliseconds, as `i64` |
//! | `NODE/chance/NAME` | the ordinary branch | 1: the rare branch |
//! | `NODE/disk/survival` | everything unsynced survives the power loss | what does: number of the draws |
//! | `core/KIND` | everything is healed at once | which node of the kind is left out of the core, and how |
//! | `A>B/late` | on time | extra delay of the packet, nanoseconds |
//! | `A>B/METHOD/again` | a request, or a message of a stream, arrives once | how long after itself it arrives once more, nanoseconds |
//! | `A>B/rest` | what a stream held when it was cut off is lost | how long after that it arrives once more, nanoseconds |
//! | `A>B/lost` | the packet gets through (asked only on lossy links) | delay by retransmission, nanoseconds |

use crate::exec::lock;
use nokv_env::RngSource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Atoms by key and count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Decisions(pub BTreeMap<String, BTreeMap<u64, u64>>);

impl Decisions {
    /// How many atoms there are.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether everything takes the default.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an atom.
    pub fn insert(&mut self, key: impl Into<String>, nth: u64, value: u64) {
        self.0.entry(key.into()).or_default().insert(nth, value);
    }

    /// All atoms, flat.
    pub fn atoms(&self) -> impl Iterator<Item = Atom> + '_ {
        self.0.iter().flat_map(|(key, answers)| {
            answers.iter().map(|(nth, value)| Atom { key: key.clone(), nth: *nth, value: *value })
        })
    }
}

impl FromIterator<Atom> for Decisions {
    fn from_iter<I: IntoIterator<Item = Atom>>(atoms: I) -> Self {
        let mut decisions = Self::default();
        for atom in atoms {
            decisions.insert(atom.key, atom.nth, atom.value);
        }
        decisions
    }
}

/// One decision against the default.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Atom {
    /// Which point.
    pub key: String,
    /// Which time it was asked, from 0.
    pub nth: u64,
    /// What it answered; see the table of the module.
    pub value: u64,
}

impl Atom {
    /// What kind of decision it is: the key without the node, `chance/engine.flush.early` or `late`.
    pub fn kind(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, kind)| kind)
    }
}

/// Hands out the points of one run and remembers what they decided.
pub struct Decider {
    source: RngSource,
    given: Option<Decisions>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    keys: Vec<String>,
    atoms: Vec<(u32, u64, u64)>,
}

impl Decider {
    /// Decisions drawn from `seed`, or exactly the given ones.
    pub fn new(seed: u64, given: Option<Decisions>) -> Arc<Self> {
        Arc::new(Self { source: RngSource::new(seed, 0), given, taken: Mutex::default() })
    }

    /// The point called `key`. Ask for each once: a point counts for itself.
    pub fn point(self: &Arc<Self>, key: impl Into<String>) -> Point {
        let key = key.into();
        let answers = match &self.given {
            None => Answers::Drawn(self.source.pure(&key, 0)),
            Some(given) => Answers::Given(given.0.get(&key).cloned().unwrap_or_default()),
        };
        let mut taken = lock(&self.taken);
        taken.keys.push(key);
        Point { decider: self.clone(), id: taken.keys.len() as u32 - 1, asked: 0, answers }
    }

    /// Asks a point that exists only for one question.
    pub fn once(
        self: &Arc<Self>,
        key: impl Into<String>,
        draw: impl FnOnce(u64) -> Option<u64>,
    ) -> Option<u64> {
        self.point(key).decide(draw)
    }

    /// What was decided against the default so far.
    pub fn taken(&self) -> Decisions {
        let taken = lock(&self.taken);
        let mut decisions = Decisions::default();
        for (id, nth, value) in &taken.atoms {
            decisions.insert(taken.keys[*id as usize].as_str(), *nth, *value);
        }
        decisions
    }
}

enum Answers {
    /// By draws from the key's own word.
    Drawn(u64),
    /// By list.
    Given(BTreeMap<u64, u64>),
}

/// A place where the world decides.
pub struct Point {
    decider: Arc<Decider>,
    id: u32,
    asked: u64,
    answers: Answers,
}

impl Point {
    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Asks: `draw` turns a random word into a value, or `None` for the default.
    #[inline]
    pub fn decide(&mut self, draw: impl FnOnce(u64) -> Option<u64>) -> Option<u64> {
        let nth = self.asked;
        self.asked += 1;
        let value = match &self.answers {
            Answers::Drawn(word) => draw(spread(word.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)))),
            Answers::Given(list) if list.is_empty() => None,
            Answers::Given(list) => list.get(&nth).copied(),
        };
        if let Some(value) = value {
            lock(&self.decider.taken).atoms.push((self.id, nth, value));
        }
        value
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn spread(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(decider: &Arc<Decider>, key: &str, times: usize) -> Vec<Option<u64>> {
        let mut point = decider.point(key);
        (0..times).map(|_| point.decide(|word| (word % 4 == 0).then_some(word))).collect()
    }

    #[test]
    fn recorded_decisions_replay_and_each_can_be_removed() {
        let drawn = Decider::new(7, None);
        let (a, b) = (ask(&drawn, "a/x", 50), ask(&drawn, "b/x", 50));
        assert_ne!(a, b);
        let taken = drawn.taken();
        assert!(taken.len() > 10 && taken.len() < 50, "{}", taken.len());

        let replayed = Decider::new(8, Some(taken.clone()));
        assert_eq!(ask(&replayed, "b/x", 50), b, "neither the seed nor the order of points matters");
        assert_eq!(ask(&replayed, "a/x", 50), a);
        assert_eq!(replayed.taken(), taken);

        let dropped = taken.atoms().next().expect("some");
        let fewer: Decisions = taken.atoms().filter(|atom| *atom != dropped).collect();
        let replayed = Decider::new(7, Some(fewer));
        let again = ask(&replayed, "a/x", 50);
        let differ: Vec<usize> = (0..50).filter(|nth| again[*nth] != a[*nth]).collect();
        assert_eq!(differ, [dropped.nth as usize], "only what was removed is gone");
    }

    #[test]
    fn decisions_survive_their_json() {
        let mut decisions = Decisions::default();
        decisions.insert("store1/chance/engine.flush.early", 4, 1);
        decisions.insert("world/schedule", 0, u64::MAX);
        let text = serde_json::to_string(&decisions).expect("serializable");
        assert_eq!(
            text,
            r#"{"store1/chance/engine.flush.early":{"4":1},"world/schedule":{"0":18446744073709551615}}"#
        );
        assert_eq!(serde_json::from_str::<Decisions>(&text).expect("readable"), decisions);
    }
}
