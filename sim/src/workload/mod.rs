//! What clients do, as data: sessions of operations, drawn from a stream of their own.
//!
//! A session does one thing after another; sessions run side by side. Operations name what they touch by small
//! numbers; [`keys`] turns them into keys spread over all regions and values that can be recognised.

pub mod keys;
mod past;
mod scans;
pub mod session;
mod txns;

use crate::check::bank::Bank;
use crate::config::WorldConfig;
use crate::draw::Draw;
use bytes::Bytes;
use keys::Name;
pub(crate) use past::HOLD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One operation of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Read a key.
    Get {
        /// Which.
        key: u32,
    },
    /// Write a unique value.
    Put {
        /// Which key.
        key: u32,
        /// Size of the value in bytes (at least 16).
        bytes: u32,
    },
    /// Delete a key.
    Delete {
        /// Which.
        key: u32,
    },
    /// Write a unique value if the key has none.
    Insert {
        /// Which key.
        key: u32,
        /// Size of the value in bytes (at least 16).
        bytes: u32,
    },
    /// Read a key and write it, in one transaction.
    Swap {
        /// Which key.
        key: u32,
        /// Size of the value in bytes (at least 16).
        bytes: u32,
        /// Pause between reading and committing.
        think_ms: u64,
    },
    /// Write and delete several keys in one transaction, without looking.
    Multi {
        /// Keys to write.
        puts: Vec<u32>,
        /// Other keys, to delete.
        deletes: Vec<u32>,
        /// Size of the values in bytes (at least 16).
        bytes: u32,
        /// The client vanishes this long after it began to commit (0 = it stays).
        vanish_ms: u64,
    },
    /// Read several keys in one transaction, and again after a pause (0 = once).
    Snapshot {
        /// Which.
        keys: Vec<u32>,
        /// The pause.
        again_ms: u64,
    },
    /// Read everything in one snapshot.
    Scan,
    /// Read a range in one snapshot, in pages. Keys begin with two hex digits.
    Range {
        /// First two digits of the range.
        from: u8,
        /// Two digits behind the range; `None` is the end.
        to: Option<u8>,
        /// At most so many pairs.
        limit: usize,
        /// At most so many pairs a page.
        page: u32,
    },
    /// Move money between two accounts.
    Transfer {
        /// Who pays.
        from: u32,
        /// Who gets.
        to: u32,
        /// How much.
        amount: i64,
        /// Pause between reading and committing.
        think_ms: u64,
        /// The client vanishes this long after it began to commit (0 = it stays).
        vanish_ms: u64,
    },
    /// Read all accounts in one transaction, and again after a pause (0 = once).
    Totals {
        /// The pause.
        again_ms: u64,
    },
    /// Append a unique value to a list.
    Append {
        /// Which list.
        list: u32,
    },
    /// Read a list.
    ReadList {
        /// Which.
        list: u32,
    },
    /// Read and append to several lists in one transaction.
    Lists {
        /// What to do, in order.
        steps: Vec<ListOp>,
        /// Pause before committing.
        think_ms: u64,
        /// The client vanishes this long after it began to commit (0 = it stays).
        vanish_ms: u64,
    },
    /// At most one side of a pair should be on: look at both, turn the own side on if none is, else off. Transactions on
    /// pairs with odd numbers guard the other side, so there it holds; on the others write skew may show.
    Skew {
        /// Which pair.
        pair: u32,
        /// Which side is the own one: 0 or 1.
        side: u32,
        /// Pause between looking and committing.
        think_ms: u64,
    },
    /// Write one of two independent keys.
    ForkWrite {
        /// Which pair.
        pair: u32,
        /// 0 or 1.
        side: u32,
    },
    /// Look at two independent keys in one snapshot.
    ForkRead {
        /// Which pair.
        pair: u32,
    },
    /// Read a key from any replica, as old as the bound allows.
    Stale {
        /// Which.
        key: u32,
        /// The bound: everything acknowledged longer ago is to be seen.
        stale_ms: u64,
        /// So many changes of the region may be missing on top.
        behind: u64,
    },
    /// Read several keys in one snapshot, again and again, for longer than old versions live.
    Old {
        /// Which.
        keys: Vec<u32>,
        /// How long.
        for_ms: u64,
        /// Whether the snapshot is held. One that is not may be refused.
        hold: bool,
    },
    /// Ask for timestamps.
    Timestamp {
        /// How many.
        count: u64,
    },
    /// Ask for ids.
    Id {
        /// How many.
        count: u64,
    },
}

/// What a transaction does with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOp {
    /// Which list.
    pub list: u32,
    /// Append a unique value to it, or only read it.
    pub append: bool,
}

/// An operation and the pause before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Pause in milliseconds.
    pub wait_ms: u64,
    /// What to do then.
    #[serde(flatten)]
    pub op: Op,
}

/// What one session does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Client node it runs on, from 1.
    pub client: u16,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl Session {
    /// Leaves out what begins within `millis`, as if operations took no time.
    pub fn skip(&mut self, millis: u64) {
        let mut at_ms = 0;
        let begins = self.steps.iter().position(|step| {
            at_ms += step.wait_ms;
            at_ms >= millis
        });
        self.steps.drain(..begins.unwrap_or(self.steps.len()));
        if let Some(first) = self.steps.first_mut() {
            first.wait_ms = at_ms - millis;
        }
    }
}

/// How many things of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Accounts of the bank.
    pub accounts: u32,
    /// Keys for single-key operations.
    pub keys: u32,
    /// Lists.
    pub lists: u32,
    /// Pairs in which write skew may show.
    #[serde(default)]
    pub skews: u32,
    /// Pairs in which long forks may show.
    #[serde(default)]
    pub forks: u32,
}

impl Shape {
    /// Everything there is, in the order of keys.
    pub fn rows(self) -> Vec<(Bytes, Name)> {
        let mut names: Vec<Name> = (0..self.keys).map(Name::Key).collect();
        names.extend((0..self.accounts).map(Name::Account));
        names.extend((0..self.lists).map(Name::List));
        names.extend((0..2 * self.skews).map(Name::Skew));
        names.extend((0..2 * self.forks).map(Name::Fork));
        let mut rows: Vec<(Bytes, Name)> = names.into_iter().map(|name| (name.key(), name)).collect();
        rows.sort_unstable();
        rows
    }
}

/// Everything clients do in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// How much there is to work on.
    #[serde(flatten)]
    pub shape: Shape,
    /// The sessions.
    pub sessions: Vec<Session>,
}

/// What every account holds at first.
const BALANCE: i64 = 1_000;
/// Each pair of independent keys is in use for so long.
const FORK_MS: u64 = 400;

impl Workload {
    /// Draws the workload of `seed` for a phase of `for_ms`.
    pub fn draw(seed: u64, config: &WorldConfig, for_ms: u64) -> Self {
        let mut draw = Draw::new(seed, "workload");
        let shape = Shape {
            accounts: draw.between(2, 8) as u32,
            keys: draw.between(2, 10) as u32,
            lists: draw.between(2, 5) as u32,
            skews: draw.between(1, 2) as u32,
            forks: (for_ms / FORK_MS) as u32 + 1,
        };
        let pause_ms = draw.pick(&[20, 60, 150]);
        let mut drawing = Drawing {
            shape,
            bytes_max: draw.pick(&[40, 200, 200, 2_000, 2_000, 20_000]),
            vanish_one_in: draw.pick(&[4, 12, 40]),
            hot_percent: draw.pick(&[0, 40, 80]),
            at_ms: 0,
            draw: &mut draw,
        };
        let mut sessions = Vec::new();
        for session in 0..drawing.draw.between(4, 8) {
            let mut steps = Vec::new();
            drawing.at_ms = 0;
            while drawing.at_ms < for_ms {
                let wait_ms = drawing.draw.around(pause_ms);
                steps.push(Step { wait_ms, op: drawing.op(session) });
                drawing.at_ms += wait_ms.max(3);
            }
            let client = drawing.draw.between(1, u64::from(config.clients)) as u16;
            sessions.push(Session { client, steps });
        }
        for old in [true, false] {
            sessions.push(Self::reader(seed, old, config, shape, for_ms));
        }
        Self { shape, sessions }
    }

    /// A session that looks at the past: old snapshots, or replicas that may be behind.
    fn reader(seed: u64, old: bool, config: &WorldConfig, shape: Shape, for_ms: u64) -> Session {
        let mut draw = Draw::new(seed, if old { "workload-old" } else { "workload-stale" });
        let (mut steps, mut at_ms) = (Vec::new(), 0);
        while at_ms < for_ms {
            let wait_ms = draw.around(100);
            let key = draw.between(0, u64::from(shape.keys) - 1) as u32;
            at_ms += wait_ms.max(3);
            let op = if old {
                let for_ms = draw.pick(&[1_000, 3_000, 6_000]);
                at_ms += for_ms;
                Op::Old { keys: vec![key, (key + 1) % shape.keys], for_ms, hold: draw.percent(60) }
            } else {
                let stale_ms = draw.pick(&[0, 50, 200, 1_000, 1_000]);
                Op::Stale { key, stale_ms, behind: draw.pick(&[0, 0, 0, 5]) }
            };
            steps.push(Step { wait_ms, op });
        }
        Session { client: draw.between(1, u64::from(config.clients)) as u16, steps }
    }

    /// The bank at the beginning.
    pub fn bank(&self) -> Bank {
        Bank { accounts: self.shape.accounts, balance: BALANCE }
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.sessions.iter().map(|session| session.steps.len()).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A workload being drawn: what is the same for all its operations, and the time of the next.
struct Drawing<'a> {
    draw: &'a mut Draw,
    shape: Shape,
    bytes_max: u64,
    /// One in so many transactions loses its client while it commits.
    vanish_one_in: u64,
    /// Share of operations that go where many go.
    hot_percent: u64,
    at_ms: u64,
}

impl Drawing<'_> {
    /// The first three sessions keep to one kind each, so that every run has all kinds; the others mix.
    fn op(&mut self, session: u64) -> Op {
        let kind = match session {
            0 => 0,
            1 => 55,
            2 => 75,
            _ => self.draw.between(0, 99),
        };
        match kind {
            0..=54 => self.single_key(),
            55..=74 => self.bank(),
            75..=84 => self.lists(),
            85..=90 => self.pair(),
            91..=94 => self.range(),
            95..=97 => Op::Timestamp { count: self.draw.pick(&[1, 1, 5]) },
            _ => Op::Id { count: self.draw.pick(&[1, 1, 100]) },
        }
    }

    /// One of `count` things; the first ones are hot.
    fn one_of(&mut self, count: u32) -> u32 {
        let last = u64::from(count.max(1)) - 1;
        let mut one = self.draw.between(0, last);
        while one > 0 && self.draw.percent(self.hot_percent) {
            one = self.draw.between(0, one - 1);
        }
        one as u32
    }

    fn key(&mut self) -> u32 {
        self.one_of(self.shape.keys)
    }

    /// Up to `most` different keys.
    fn keys(&mut self, most: u64) -> Vec<u32> {
        let count = self.draw.between(1, most);
        let keys: BTreeSet<u32> = (0..count).map(|_| self.key()).collect();
        keys.into_iter().collect()
    }

    fn bytes(&mut self) -> u32 {
        self.draw.between(16, self.bytes_max.max(16)) as u32
    }

    fn think_ms(&mut self) -> u64 {
        self.draw.pick(&[0, 0, 5, 50, 1_000])
    }

    fn vanish_ms(&mut self) -> u64 {
        if self.draw.one_in(self.vanish_one_in) { self.draw.pick(&[1, 2, 4, 8, 20, 60]) } else { 0 }
    }

    fn again_ms(&mut self) -> u64 {
        self.draw.pick(&[0, 0, 20, 500])
    }

    fn single_key(&mut self) -> Op {
        match self.draw.between(0, 99) {
            0..=32 => Op::Get { key: self.key() },
            33..=58 => Op::Put { key: self.key(), bytes: self.bytes() },
            59..=68 => Op::Delete { key: self.key() },
            69..=74 => Op::Insert { key: self.key(), bytes: self.bytes() },
            75..=80 => Op::Swap { key: self.key(), bytes: self.bytes(), think_ms: self.think_ms() },
            81..=88 => {
                let puts = self.keys(3);
                let deletes = self.keys(2).into_iter().filter(|key| !puts.contains(key)).collect();
                Op::Multi { puts, deletes, bytes: self.bytes(), vanish_ms: self.vanish_ms() }
            }
            89..=96 => Op::Snapshot { keys: self.keys(5), again_ms: self.again_ms() },
            _ => Op::Scan,
        }
    }

    fn bank(&mut self) -> Op {
        if self.draw.percent(35) {
            return Op::Totals { again_ms: self.again_ms() };
        }
        let accounts = self.shape.accounts;
        let from = self.one_of(accounts);
        let step = self.draw.between(1, u64::from(accounts) - 1) as u32;
        Op::Transfer {
            from,
            to: (from + step) % accounts,
            amount: self.draw.between(1, 100) as i64,
            think_ms: self.think_ms(),
            vanish_ms: self.vanish_ms(),
        }
    }

    fn lists(&mut self) -> Op {
        if self.draw.percent(15) {
            return Op::ReadList { list: self.one_of(self.shape.lists) };
        }
        let steps = (0..self.draw.between(1, 5))
            .map(|_| ListOp { list: self.one_of(self.shape.lists), append: self.draw.percent(55) })
            .collect();
        Op::Lists { steps, think_ms: self.think_ms(), vanish_ms: self.vanish_ms() }
    }

    fn pair(&mut self) -> Op {
        let side = self.draw.between(0, 1) as u32;
        if self.draw.percent(40) {
            return Op::Skew { pair: self.one_of(self.shape.skews), side, think_ms: self.think_ms() };
        }
        let pair = ((self.at_ms / FORK_MS) as u32).min(self.shape.forks - 1);
        if self.draw.percent(40) { Op::ForkWrite { pair, side } } else { Op::ForkRead { pair } }
    }

    fn range(&mut self) -> Op {
        let from = self.draw.between(0, 255) as u8;
        let to = from.checked_add(self.draw.between(1, 255) as u8);
        let limit = self.draw.pick(&[1, 3, 10, 10_000, 10_000]);
        Op::Range { from, to, limit, page: self.draw.pick(&[1, 2, 7, 256]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_survives_its_json() {
        let workload = Workload::draw(5, &WorldConfig::draw(5), 5_000);
        let text = serde_json::to_string(&workload).expect("serializable");
        assert_eq!(serde_json::from_str::<Workload>(&text).expect("readable"), workload);
        assert!(workload.len() > 50);
    }
}
