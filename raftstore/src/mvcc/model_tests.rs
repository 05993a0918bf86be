//! Random transactions against a model that a child could read.
//!
//! A few clients run transactions over a few keys. Messages are lost, doubled and delivered late in any order.
//! Readers meet locks and clean up by the rules. At the end every transaction that was told "committed at t" must be
//! visible at exactly t, every other one nowhere, and every answer a reader got must agree with that.

use super::testing::*;
use nokv_env::RngSource;
use nokv_proto::kv::v1::{CheckTxnStatusAction as Action, KeyError};
use rand_core::Rng;
use std::collections::BTreeMap;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// One transaction, and what is known of it.
#[derive(Clone)]
struct Txn {
    start: u64,
    /// Key and new value; `None` deletes.
    changes: BTreeMap<&'static str, Option<String>>,
    primary: &'static str,
    one_pc: u64,
    /// The commit timestamp it asks for, once all keys are locked.
    asks: u64,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Prewriting,
    Committing,
    Done,
}

/// A message that may be delivered now, later, twice, or never.
#[derive(Clone)]
enum Message {
    Prewrite(usize),
    Commit(usize, u64, Vec<&'static str>),
    Rollback(usize),
}

struct World {
    db: Db,
    rng: rand_chacha::ChaCha8Rng,
    clock: u64,
    max_read: u64,
    txns: Vec<Txn>,
    late: Vec<Message>,
    /// What snapshot reads returned: (version, key, value).
    reads: Vec<(u64, &'static str, Option<String>)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let rng = RngSource::new(seed, 0).stream("mvcc-model");
        Self { db: Db::new(), rng, clock: 10, max_read: 0, txns: vec![], late: vec![], reads: vec![] }
    }

    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n as u64) as usize
    }

    fn tso(&mut self) -> u64 {
        self.clock += 1 + self.rng.next_u64() % 3;
        self.clock
    }

    fn begin(&mut self) {
        let start = self.tso();
        let mut changes = BTreeMap::new();
        for _ in 0..=self.below(3) {
            let long = if self.below(2) == 0 { "-".repeat(300) } else { String::new() };
            let value = (self.below(4) != 0).then(|| format!("{start}{long}"));
            changes.insert(KEYS[self.below(KEYS.len())], value);
        }
        let primary = changes.keys().copied().next().unwrap();
        let one_pc = if self.below(2) == 0 { self.tso() } else { 0 };
        self.txns.push(Txn { start, changes, primary, one_pc, asks: 0, phase: Phase::Prewriting });
    }

    fn prewrite(&mut self, id: usize, listens: bool) {
        let txn = self.txns[id].clone();
        let changes: Vec<_> = txn
            .changes
            .iter()
            .map(|(key, value)| value.as_ref().map_or_else(|| delete(key), |value| put(key, value)))
            .collect();
        let mut request = prewrite_request(txn.primary, &changes, txn.start);
        // The store's rule: only above everything read so far.
        if txn.one_pc > self.max_read {
            request = request.one_pc(txn.one_pc);
        }
        let response = self.db.run_prewrite(request);
        if !listens || txn.phase != Phase::Prewriting {
            return;
        }
        if response.one_pc_commit_version != 0 {
            self.txns[id].phase = Phase::Done;
        } else if response.errors.is_empty() {
            self.txns[id].asks = self.tso();
            self.txns[id].phase = Phase::Committing;
        } else if let Some(lock) = response.errors.iter().find_map(|error| error.locked.clone()) {
            self.clean_up(&lock.key, &lock.primary_lock, lock.lock_version, 0);
        } else {
            self.txns[id].phase = Phase::Done;
        }
    }

    fn commit(&mut self, id: usize, at: u64, keys: &[&'static str], listens: bool) {
        let txn = self.txns[id].clone();
        let response = self.db.commit(keys, txn.start, at);
        if !listens || txn.phase != Phase::Committing || at != txn.asks {
            return;
        }
        match response.error {
            None => self.txns[id].phase = Phase::Done,
            Some(KeyError { commit_ts_expired: Some(_), .. }) => self.txns[id].asks = self.tso(),
            Some(_) => self.txns[id].phase = Phase::Done,
        }
    }

    /// What a client does about a lock; whether a reader at `reader` may read past it.
    fn clean_up(&mut self, key: &[u8], primary: &[u8], start: u64, reader: u64) -> bool {
        let (key, primary) = (std::str::from_utf8(key).unwrap(), std::str::from_utf8(primary).unwrap());
        let mut check = status(primary, start).caller(reader);
        if self.below(8) == 0 {
            check = check.now(u64::MAX).rollback();
        }
        let status = self.db.check(check).ok();
        if status.commit_version != 0 {
            self.db.resolve(&[key], start, status.commit_version).ok();
            return false;
        }
        match status.action() {
            Action::CheckTxnStatusTtlExpireRollback | Action::CheckTxnStatusLockNotExistRollback => {
                self.db.resolve(&[key], start, 0).ok();
                false
            }
            action => reader != 0 && action == Action::CheckTxnStatusMinCommitTsPushed,
        }
    }

    fn read(&mut self) {
        let (version, key) = (self.tso(), KEYS[self.below(KEYS.len())]);
        self.max_read = self.max_read.max(version);
        let mut bypass = vec![];
        for _ in 0..20 {
            let response = self.db.get_bypassing(key, version, &bypass);
            let Some(error) = response.error else {
                let value = String::from_utf8(response.value.to_vec()).unwrap();
                self.reads.push((version, key, (!response.not_found).then_some(value)));
                return;
            };
            let lock = error.locked.unwrap();
            if self.clean_up(&lock.key, &lock.primary_lock, lock.lock_version, version) {
                bypass.push(lock.lock_version);
            }
        }
    }

    fn step(&mut self) {
        match self.below(10) {
            0 => self.begin(),
            1 | 2 => self.read(),
            3 if !self.late.is_empty() => {
                let at = self.below(self.late.len());
                let message = self.late[at].clone();
                self.deliver(&message, false);
            }
            _ if !self.txns.is_empty() => {
                let id = self.txns.len() - 1 - self.below(self.txns.len().min(6));
                self.advance(id);
            }
            _ => {}
        }
        self.db.check_invariants();
    }

    fn advance(&mut self, id: usize) {
        let txn = self.txns[id].clone();
        let message = match txn.phase {
            Phase::Prewriting if self.below(12) == 0 => {
                self.txns[id].phase = Phase::Done;
                Message::Rollback(id)
            }
            Phase::Prewriting => Message::Prewrite(id),
            Phase::Committing => {
                let mut keys = vec![txn.primary];
                let rest: Vec<_> = txn.changes.keys().copied().filter(|key| *key != txn.primary).collect();
                let asks = txn.asks;
                if self.below(2) == 0 {
                    keys.extend(rest);
                }
                Message::Commit(id, asks, keys)
            }
            Phase::Done => return,
        };
        self.late.push(message.clone());
        match self.below(6) {
            0 => {}
            1 => self.deliver(&message, false),
            _ => self.deliver(&message, true),
        }
    }

    fn deliver(&mut self, message: &Message, listens: bool) {
        match message {
            Message::Prewrite(id) => self.prewrite(*id, listens),
            Message::Commit(id, at, keys) => self.commit(*id, *at, keys, listens),
            Message::Rollback(id) => {
                let keys: Vec<_> = self.txns[*id].changes.keys().copied().collect();
                self.db.rollback(&keys, self.txns[*id].start);
            }
        }
    }

    /// Cleans up every lock, then holds all that was read against the decisions found at the primaries.
    fn judge(mut self) {
        for key in KEYS {
            while let Some(lock) = self.db.lock(key) {
                let primary = std::str::from_utf8(&lock.primary).unwrap().to_owned();
                let status =
                    self.db.check(super::testing::status(&primary, lock.start_ts).now(u64::MAX).rollback());
                self.db.resolve(&[key], lock.start_ts, status.commit_version).ok();
            }
        }
        let mut history: BTreeMap<&str, BTreeMap<u64, Option<String>>> = BTreeMap::new();
        for txn in self.txns.clone() {
            let commit = self.db.check(status(txn.primary, txn.start)).commit_version;
            if commit == 0 {
                continue;
            }
            for (key, value) in txn.changes {
                let twice = history.entry(key).or_default().insert(commit, value);
                assert!(twice.is_none(), "two commits at one timestamp");
            }
        }
        let expected = |key: &str, version: u64| {
            let (_, value) = history.get(key)?.range(..=version).next_back()?;
            value.clone()
        };
        for (version, key, value) in &self.reads {
            assert_eq!(*value, expected(key, *version), "{key} at {version}");
        }
        for version in (0..self.clock).step_by(7).skip(1) {
            let all = KEYS.map(|key| (key, expected(key, version)));
            for (key, value) in &all {
                assert_eq!(self.db.value(key, version), *value, "{key} at {version}, settled");
            }
            let mut present: Vec<_> =
                all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
            assert_eq!(self.pages(scan_from("").at(version)), present, "scan at {version}");
            present.reverse();
            assert_eq!(self.pages(scan_from("").down().at(version)), present, "scan down at {version}");
        }
    }

    /// The keys and values of a scan, two a page.
    fn pages(&self, scan: Scan) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (mut all, mut next) = (Vec::new(), scan.limit(2));
        loop {
            let page = self.db.scan(next.clone());
            assert_eq!(page.error, None);
            all.extend(page.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))));
            if !page.more {
                return all;
            }
            next = next.from(&text(&page.resume_key));
        }
    }
}

#[test]
fn decisions_are_final_and_reads_agree_with_them() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            world.step();
        }
        world.judge();
    }
}
