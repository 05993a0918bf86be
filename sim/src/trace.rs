//! What happened, as a stream of small events and their rolling hash.
//!
//! The hash is the identity of a run: equal seed, binary and flags give an equal hash. To find out *where* two
//! runs part, the first is recorded and the second compared with it event by event.

use crate::events::{Named, key};
use crate::exec::{Node, lock};
use crate::record::Recording;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What kind of event; `a` and `b` of [`Event`] are its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A task was polled: slot, generation.
    Poll = 1,
    /// A packet left: receiver and bytes, arrival time.
    Send = 2,
    /// A stream opened: receiver, digest of the path.
    Open = 3,
    /// A connection broke: the two ends, when it is noticed.
    Break = 4,
    /// Disk time was slept: nanoseconds, operations so far.
    Disk = 5,
    /// A fault began or ended: digest.
    Fault = 6,
    /// A node started, stopped or died: what, life.
    Life = 7,
    /// A protocol fact: digest.
    Fact = 8,
    /// A client operation was invoked or returned: operation, digest.
    Op = 9,
    /// A probe was reached for the first time: digest.
    Probe = 10,
    /// A chance was taken: digest.
    Chance = 11,
}

impl Kind {
    /// Reads the number of a kind.
    pub fn from_number(number: u8) -> Option<Self> {
        use Kind::{Break, Chance, Disk, Fact, Fault, Life, Op, Open, Poll, Probe, Send};
        let all = [Poll, Send, Open, Break, Disk, Fault, Life, Fact, Op, Probe, Chance];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Simulated time.
    pub at_ns: u64,
    /// Where.
    pub node: Node,
    /// What.
    pub kind: Kind,
    /// Detail; see [`Kind`].
    pub a: u64,
    /// Detail; see [`Kind`].
    pub b: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.at_ns / 1_000_000_000, self.at_ns % 1_000_000_000);
        write!(f, "{seconds}.{nanos:09}s {} {:?} {:#x} {:#x}", self.node, self.kind, self.a, self.b)
    }
}

/// Where two runs of one seed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Number of the event, from 0.
    pub index: u64,
    /// What the first run did; `None` if it had ended.
    pub first: Option<Event>,
    /// What the second run did; `None` if it had ended.
    pub second: Option<Event>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |event: Option<Event>| event.map_or_else(|| "(ended)".to_owned(), |e| e.to_string());
        write!(f, "event {}: first run: {}; second run: {}", self.index, show(self.first), show(self.second))
    }
}

/// How much a trace keeps.
#[derive(Debug, Default)]
pub enum Keep {
    /// The hash only.
    #[default]
    Hash,
    /// Every event.
    Events(Vec<Event>),
    /// Compares with a recorded run.
    Compare(Vec<Event>, Option<Difference>),
    /// What a report shows, and the hash.
    Recording(Box<Recording>),
    /// Every event, and what tasks, paths and facts are called.
    Named(Box<Named>),
}

/// The trace of one run. A world has one thread: the hash needs no lock.
#[derive(Debug)]
pub struct Trace {
    hash: AtomicU64,
    count: AtomicU64,
    keep: Mutex<Keep>,
    /// Single events are kept or compared.
    exact: bool,
    /// Names of what events are about are kept.
    named: bool,
    /// A recording is kept.
    recording: bool,
}

impl Trace {
    /// An empty trace.
    pub fn new(keep: Keep) -> Self {
        Self {
            hash: AtomicU64::new(0xcbf2_9ce4_8422_2325),
            count: AtomicU64::new(0),
            exact: matches!(keep, Keep::Events(_) | Keep::Compare(..) | Keep::Named(_)),
            named: matches!(keep, Keep::Named(_)),
            recording: matches!(keep, Keep::Recording(_)),
            keep: Mutex::new(keep),
        }
    }

    /// Whether a recording is kept: what is told only there need not be found out otherwise.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Tells the recording, if one is kept. Never part of the hash.
    pub fn record(&self, tell: impl FnOnce(&mut Recording)) {
        if self.recording
            && let Keep::Recording(recording) = &mut *lock(&self.keep)
        {
            tell(recording);
        }
    }

    /// Says what the events of `kind` with the details `a` and `b` are about, if that is kept. Never part of the hash.
    pub fn name(&self, kind: Kind, a: u64, b: u64, name: impl FnOnce() -> String) {
        if self.named
            && let Keep::Named(named) = &mut *lock(&self.keep)
        {
            named.names.entry(key(kind, a, b)).or_insert_with(name);
        }
    }

    /// Appends an event.
    pub fn event(&self, at_ns: u64, node: Node, kind: Kind, a: u64, b: u64) {
        let head = (kind as u64) << 56 | u64::from(node.0) << 40;
        let mut hash = mix(self.hash.load(Ordering::Relaxed), at_ns ^ head);
        hash = mix(hash, a);
        self.hash.store(mix(hash, b), Ordering::Relaxed);
        let index = self.count.load(Ordering::Relaxed);
        self.count.store(index + 1, Ordering::Relaxed);
        if self.exact {
            self.keep_event(index, Event { at_ns, node, kind, a, b });
        }
    }

    #[cold]
    fn keep_event(&self, index: u64, event: Event) {
        match &mut *lock(&self.keep) {
            Keep::Hash | Keep::Recording(_) => {}
            Keep::Events(events) => events.push(event),
            Keep::Named(named) => named.events.push(event),
            Keep::Compare(expected, difference) => {
                let first = expected.get(index as usize).copied();
                if difference.is_none() && first != Some(event) {
                    *difference = Some(Difference { index, first, second: Some(event) });
                }
            }
        }
    }

    /// The rolling hash and the number of events so far.
    pub fn summary(&self) -> (u64, u64) {
        (self.hash.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed))
    }

    /// Takes what was kept.
    pub fn take(&self) -> Keep {
        let count = self.count.load(Ordering::Relaxed);
        let mut keep = std::mem::take(&mut *lock(&self.keep));
        if let Keep::Compare(expected, difference) = &mut keep
            && difference.is_none()
            && let Some(first) = expected.get(count as usize)
        {
            *difference = Some(Difference { index: count, first: Some(*first), second: None });
        }
        keep
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// FNV-1a over bytes: a digest for events.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_names_the_first_difference() {
        let first = Trace::new(Keep::Events(Vec::new()));
        for i in 0..3 {
            first.event(i, Node(1), Kind::Poll, i, 0);
        }
        let Keep::Events(events) = first.take() else { panic!("recorded") };
        let second = Trace::new(Keep::Compare(events, None));
        for i in 0..3 {
            second.event(i, Node(1), Kind::Poll, if i == 1 { 7 } else { i }, 0);
        }
        let Keep::Compare(_, Some(difference)) = second.take() else { panic!("different") };
        assert_eq!(difference.index, 1);
        assert_ne!(first.summary().0, second.summary().0);
    }
}
