//! What clients do, as data: sessions of operations, drawn from a stream of their own.
//!
//! A session does one thing after another; sessions run side by side. Operations name what they touch by small
//! numbers; [`keys`] turns them into keys spread over all regions and values that can be recognised.

pub mod keys;
pub mod session;
mod txns;

use crate::check::bank::Bank;
use crate::config::WorldConfig;
use crate::draw::Draw;
use serde::{Deserialize, Serialize};

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
    /// Read everything in one snapshot.
    Scan,
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

/// Everything clients do in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Accounts of the bank.
    pub accounts: u32,
    /// Keys for single-key operations.
    pub keys: u32,
    /// Lists.
    pub lists: u32,
    /// The sessions.
    pub sessions: Vec<Session>,
}

/// What every account holds at first.
const BALANCE: i64 = 1_000;

impl Workload {
    /// Draws the workload of `seed` for a phase of `for_ms`.
    pub fn draw(seed: u64, config: &WorldConfig, for_ms: u64) -> Self {
        let mut draw = Draw::new(seed, "workload");
        let mut workload = Self {
            accounts: draw.between(2, 8) as u32,
            keys: draw.between(2, 10) as u32,
            lists: draw.between(1, 3) as u32,
            sessions: Vec::new(),
        };
        let pause_ms = draw.pick(&[20, 60, 150]);
        let bytes_max = draw.pick(&[40, 200, 200, 2_000]);
        for session in 0..draw.between(4, 8) {
            let mut steps = Vec::new();
            let mut at_ms = 0;
            while at_ms < for_ms {
                let wait_ms = draw.around(pause_ms);
                steps.push(Step { wait_ms, op: workload.op(&mut draw, session, bytes_max) });
                at_ms += wait_ms.max(3);
            }
            workload
                .sessions
                .push(Session { client: draw.between(1, u64::from(config.clients)) as u16, steps });
        }
        workload
    }

    /// The bank at the beginning.
    pub fn bank(&self) -> Bank {
        Bank { accounts: self.accounts, balance: BALANCE }
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.sessions.iter().map(|session| session.steps.len()).sum()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first three sessions keep to one kind each, so that every run has all kinds; the others mix.
    fn op(&self, draw: &mut Draw, session: u64, bytes_max: u64) -> Op {
        let kind = match session {
            0 => 0,
            1 => 60,
            2 => 82,
            _ => draw.between(0, 99),
        };
        match kind {
            0..=59 => self.single_key(draw, bytes_max),
            60..=81 => self.bank_op(draw),
            82..=91 => {
                let list = draw.between(0, u64::from(self.lists) - 1) as u32;
                if draw.percent(60) { Op::Append { list } } else { Op::ReadList { list } }
            }
            92..=94 => Op::Scan,
            95..=97 => Op::Timestamp { count: draw.pick(&[1, 1, 5]) },
            _ => Op::Id { count: draw.pick(&[1, 1, 100]) },
        }
    }

    fn single_key(&self, draw: &mut Draw, bytes_max: u64) -> Op {
        let key = draw.between(0, u64::from(self.keys) - 1) as u32;
        match draw.between(0, 99) {
            0..=44 => Op::Get { key },
            45..=84 => Op::Put { key, bytes: draw.between(16, bytes_max.max(16)) as u32 },
            85..=96 => Op::Delete { key },
            _ => Op::Scan,
        }
    }

    fn bank_op(&self, draw: &mut Draw) -> Op {
        if draw.percent(35) {
            return Op::Totals { again_ms: draw.pick(&[0, 0, 20, 500]) };
        }
        let from = draw.between(0, u64::from(self.accounts) - 1) as u32;
        let step = draw.between(1, u64::from(self.accounts) - 1) as u32;
        Op::Transfer {
            from,
            to: (from + step) % self.accounts,
            amount: draw.between(1, 100) as i64,
            think_ms: draw.pick(&[0, 0, 5, 50, 1_000]),
            vanish_ms: if draw.one_in(12) { draw.pick(&[1, 2, 4, 8, 20, 60]) } else { 0 },
        }
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
