//! A transaction as its owner sees it: reads of one snapshot, own writes on top, commit or nothing.

use crate::attempt::Attempt;
use crate::client::{Client, check_key, check_value, deletion, guard, put};
use crate::error::Result;
use crate::txn::{Commit, Hold, Snapshot};
use bytes::Bytes;
use nokv_env::Instant;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::Mutation;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// A transaction under snapshot isolation. Dropping it without [`Txn::commit`] leaves no trace.
pub struct Txn {
    client: Client,
    snapshot: Snapshot,
    began: Instant,
    /// Own writes; `None` deletes.
    writes: BTreeMap<Bytes, Write>,
    /// Keys that nobody may write between our start and our commit.
    guarded: BTreeSet<Bytes>,
}

#[derive(Debug, Clone)]
struct Write {
    value: Option<Bytes>,
    must_be_new: bool,
}

impl Txn {
    pub(crate) fn new(client: Client, snapshot: Snapshot, began: Instant) -> Self {
        Self { client, snapshot, began, writes: BTreeMap::new(), guarded: BTreeSet::new() }
    }

    /// The timestamp this transaction reads at.
    pub fn start_ts(&self) -> Timestamp {
        self.snapshot.version()
    }

    /// Keeps the transaction's snapshot readable, and lets it commit, however long it takes: see [`Snapshot::hold`].
    pub async fn hold(&self, ttl: Duration) -> Result<Hold> {
        self.snapshot.hold(ttl).await
    }

    /// The value of `key`: our own write, else the snapshot's.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>> {
        let key = key.into();
        check_key(&key)?;
        match self.writes.get(&key) {
            Some(own) => Ok(own.value.clone()),
            None => self.snapshot.get(key).await,
        }
    }

    /// Writes `value` at commit.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<()> {
        self.write(key.into(), Some(value.into()), false)
    }

    /// Writes `value` at commit; the commit fails with [`crate::ClientError::AlreadyExists`] if the key has a value.
    pub fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<()> {
        self.write(key.into(), Some(value.into()), true)
    }

    /// Deletes `key` at commit.
    pub fn delete(&mut self, key: impl Into<Bytes>) -> Result<()> {
        self.write(key.into(), None, false)
    }

    /// Makes the commit fail if somebody else writes or guards `key` between the start of this transaction and its commit.
    ///
    /// Snapshot isolation does not notice when two transactions read the same keys and write different ones (write skew).
    /// A transaction whose writes rest on what it read at a key guards that key.
    pub fn guard(&mut self, key: impl Into<Bytes>) -> Result<()> {
        let key = key.into();
        check_key(&key)?;
        self.guarded.insert(key);
        Ok(())
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>, must_be_new: bool) -> Result<()> {
        check_key(&key)?;
        if let Some(value) = &value {
            check_value(value)?;
        }
        self.writes.insert(key, Write { value, must_be_new });
        Ok(())
    }

    /// Up to `limit` pairs of `range` in order, own writes included.
    pub async fn scan(&self, range: KeyRange, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let mut attempt = self.client.attempt("scanning");
        let mut from = range.start.clone();
        let mut scanner = self.snapshot.scanner(range.clone());
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let Some(page) = scanner.next_within(&mut attempt).await? else { break };
            let until = if page.next.is_empty() { range.end.clone() } else { page.next.clone() };
            pairs.extend(overlay(&self.writes, page.pairs, &from, &until));
            from = page.next;
            if from.is_empty() {
                break;
            }
        }
        pairs.truncate(limit);
        Ok(pairs)
    }

    /// Makes the writes visible, all at once, at the returned timestamp.
    pub async fn commit(self) -> Result<Timestamp> {
        let mut attempt = self.client.attempt("committing");
        self.commit_within(&mut attempt).await
    }

    async fn commit_within(&self, attempt: &mut Attempt<'_>) -> Result<Timestamp> {
        if self.writes.is_empty() {
            return Ok(self.start_ts());
        }
        let guards = self.guarded.iter().map(|key| (key.clone(), guard(key.clone())));
        let mut mutations: BTreeMap<Bytes, Mutation> = guards.collect();
        mutations.extend(self.writes.iter().map(|(key, write)| (key.clone(), mutation(key, write))));
        let mutations = mutations.into_values().collect();
        Commit::run(self.client.shared(), self.start_ts(), self.began, mutations, None, attempt).await
    }

    /// Forgets the writes. The same as dropping; nothing has left this process before the commit.
    pub fn rollback(self) {}
}

fn mutation(key: &Bytes, write: &Write) -> Mutation {
    match &write.value {
        Some(value) => Mutation { assertion_not_exist: write.must_be_new, ..put(key.clone(), value.clone()) },
        None => deletion(key.clone()),
    }
}

/// Snapshot pairs of `[from, until)` with own writes on top.
fn overlay(
    writes: &BTreeMap<Bytes, Write>,
    pairs: Vec<(Bytes, Bytes)>,
    from: &Bytes,
    until: &Bytes,
) -> BTreeMap<Bytes, Bytes> {
    let mut merged: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
    let end = if until.is_empty() { Bound::Unbounded } else { Bound::Excluded(until.clone()) };
    if !until.is_empty() && until <= from {
        return merged;
    }
    for (key, write) in writes.range((Bound::Included(from.clone()), end)) {
        match &write.value {
            Some(value) => merged.insert(key.clone(), value.clone()),
            None => merged.remove(key),
        };
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static str, value: &'static str) -> (Bytes, Bytes) {
        (key.into(), value.into())
    }

    #[test]
    fn own_writes_lie_on_top_of_the_page_they_belong_to() {
        let write = |value: Option<&'static str>| Write { value: value.map(Bytes::from), must_be_new: false };
        let writes = BTreeMap::from([
            ("a".into(), write(Some("own"))),
            ("b".into(), write(None)),
            ("d".into(), write(Some("new"))),
            ("x".into(), write(Some("next page"))),
        ]);
        let page = vec![pair("a", "old"), pair("b", "old"), pair("c", "old")];
        let merged = overlay(&writes, page, &"a".into(), &"m".into());
        let expected = [pair("a", "own"), pair("c", "old"), pair("d", "new")];
        assert_eq!(merged, BTreeMap::from(expected));
        let rest = overlay(&writes, vec![], &"m".into(), &Bytes::new());
        assert_eq!(rest, BTreeMap::from([pair("x", "next page")]));
    }
}
