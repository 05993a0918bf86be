//! A store in a `BTreeMap`, and words for talking to it.

use super::record::{Kind, Lock, Write};
use super::{
    Bounds, CF_DEFAULT, CF_LOCK, CF_WRITE, Entries, Reader, Result, Writes, batch_rollback,
    check_secondary_locks, check_txn_status, commit, get, key, look, prewrite, resolve_lock, scan,
};
use bytes::Bytes;
use nokv_engine::Cf;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::mutation::Op;
use nokv_proto::kv::v1::*;
use std::collections::BTreeMap;

#[derive(Default, Clone)]
pub(crate) struct Map(pub(crate) BTreeMap<(u8, Bytes), Bytes>);

impl Map {
    fn range(
        &self,
        cf: Cf,
        bounds: Bounds,
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Bytes)>> + Send {
        use std::ops::Bound;
        let lower = match bounds.0 {
            Bound::Included(key) => Bound::Included((cf.0, key)),
            Bound::Excluded(key) => Bound::Excluded((cf.0, key)),
            Bound::Unbounded => Bound::Included((cf.0, Bytes::new())),
        };
        let upper = match bounds.1 {
            Bound::Included(key) => Bound::Included((cf.0, key)),
            Bound::Excluded(key) => Bound::Excluded((cf.0, key)),
            Bound::Unbounded => Bound::Excluded((cf.0 + 1, Bytes::new())),
        };
        self.0.range((lower, upper)).map(|((_, key), value)| Ok((key.clone(), value.clone())))
    }

    pub(crate) fn apply(&mut self, writes: Writes) {
        for (cf, key, value) in writes.changes {
            match value {
                Some(value) => _ = self.0.insert((cf.0, key), value),
                None => _ = self.0.remove(&(cf.0, key)),
            }
        }
    }
}

impl Reader for Map {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(cf.0, Bytes::copy_from_slice(key))).cloned())
    }

    fn iter(&self, cf: Cf, bounds: Bounds) -> Entries<'_> {
        Box::new(self.range(cf, bounds))
    }

    fn iter_rev(&self, cf: Cf, bounds: Bounds) -> Entries<'_> {
        Box::new(self.range(cf, bounds).rev())
    }
}

pub(crate) struct Db {
    pub(crate) map: Map,
    pub(crate) region: KeyRange,
    pub(crate) wall_ms: u64,
}

/// Checks that a response carries no error.
pub(crate) trait Ok: Sized {
    fn ok(self) -> Self;
}

impl Ok for PrewriteResponse {
    #[track_caller]
    fn ok(self) -> Self {
        assert!(self.errors.is_empty(), "{:?}", self.errors);
        self
    }
}

macro_rules! ok {
    ($($response:ty)*) => {
        $(impl Ok for $response {
            #[track_caller]
            fn ok(self) -> Self {
                assert!(self.error.is_none(), "{:?}", self.error);
                self
            }
        })*
    };
}

ok!(CommitResponse BatchRollbackResponse ResolveLockResponse CheckTxnStatusResponse);

macro_rules! run {
    ($db:expr, $function:ident, $request:expr) => {{
        let mut writes = Writes::new();
        let response = $function(&$db.map, $request, &mut writes).unwrap();
        $db.map.apply(writes);
        response
    }};
}

impl Db {
    pub(crate) fn new() -> Self {
        Self { map: Map::default(), region: KeyRange::default(), wall_ms: 0 }
    }

    pub(crate) fn run_prewrite(&mut self, request: Prewrite) -> PrewriteResponse {
        run!(self, prewrite, &request.0)
    }

    pub(crate) fn prewrite(&mut self, primary: &str, mutations: &[Change], start: u64) -> PrewriteResponse {
        self.run_prewrite(prewrite_request(primary, mutations, start))
    }

    pub(crate) fn commit(&mut self, keys: &[&str], start: u64, commit_ts: u64) -> CommitResponse {
        let request = CommitRequest { keys: to_keys(keys), start_version: start, commit_version: commit_ts };
        run!(self, commit, &request)
    }

    pub(crate) fn commit_put(&mut self, key: &str, value: &str, start: u64, commit_ts: u64) {
        self.prewrite(key, &[put(key, value)], start).ok();
        self.commit(&[key], start, commit_ts).ok();
    }

    pub(crate) fn rollback(&mut self, keys: &[&str], start: u64) -> BatchRollbackResponse {
        run!(self, batch_rollback, &BatchRollbackRequest { keys: to_keys(keys), start_version: start })
    }

    pub(crate) fn resolve(&mut self, keys: &[&str], start: u64, commit_ts: u64) -> ResolveLockResponse {
        let request =
            ResolveLockRequest { keys: to_keys(keys), start_version: start, commit_version: commit_ts };
        run!(self, resolve_lock, &request)
    }

    pub(crate) fn check(&mut self, request: Status) -> CheckTxnStatusResponse {
        run!(self, check_txn_status, &request.0)
    }

    pub(crate) fn secondaries(
        &mut self,
        keys: &[&str],
        start: u64,
        rollback_missing: bool,
    ) -> CheckSecondaryLocksResponse {
        let request =
            CheckSecondaryLocksRequest { keys: to_keys(keys), start_version: start, rollback_missing };
        run!(self, check_secondary_locks, &request)
    }

    pub(crate) fn get(&self, key: &str, version: u64) -> GetResponse {
        self.get_bypassing(key, version, &[])
    }

    pub(crate) fn get_bypassing(&self, key: &str, version: u64, bypass: &[u64]) -> GetResponse {
        let request = GetRequest { key: bytes(key), version, bypass_locks: bypass.to_vec() };
        get(&self.map, &request, self.wall_ms).unwrap()
    }

    #[track_caller]
    pub(crate) fn value(&self, key: &str, version: u64) -> Option<String> {
        let response = self.get(key, version);
        assert!(response.error.is_none(), "{:?}", response.error);
        (!response.not_found).then(|| String::from_utf8(response.value.to_vec()).unwrap())
    }

    pub(crate) fn scan(&self, request: Scan) -> ScanResponse {
        scan(&self.map, &request.0, &self.region, self.wall_ms).unwrap()
    }

    #[track_caller]
    pub(crate) fn keys(&self, request: Scan) -> Vec<String> {
        let response = self.scan(request);
        assert!(response.error.is_none(), "{:?}", response.error);
        response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    }

    pub(super) fn lock(&self, key: &str) -> Option<Lock> {
        look::lock(&self.map, &key::stored(key.as_bytes())).unwrap()
    }

    pub(super) fn record(&self, key: &str, ts: u64) -> Option<Write> {
        look::record_at(&self.map, &key::stored(key.as_bytes()), ts).unwrap()
    }

    pub(crate) fn default_is_empty(&self) -> bool {
        !self.map.0.keys().any(|(cf, _)| *cf == CF_DEFAULT.0)
    }

    /// A lock that no rule would have allowed.
    pub(crate) fn force_lock(&mut self, key: &str, start_ts: u64) {
        let lock = Lock {
            kind: Kind::Put,
            start_ts,
            ttl_ms: 1,
            min_commit_ts: 0,
            expires_at: 0,
            primary: bytes(key),
            async_with: None,
            short_value: Some(Bytes::new()),
        };
        self.map.0.insert((CF_LOCK.0, key::stored(key.as_bytes())), lock.encode());
    }

    /// A record that no rule would have allowed.
    pub(crate) fn force_record(&mut self, key: &str, value: &str, start_ts: u64, ts: u64) {
        let write = Write { kind: Kind::Put, short_value: Some(bytes(value)), ..Write::rollback(start_ts) };
        self.map.0.insert((CF_WRITE.0, key::version(&key::stored(key.as_bytes()), ts)), write.encode());
    }

    /// No lock stands beside a record of its own transaction, and every long value belongs to somebody.
    pub(crate) fn check_invariants(&self) {
        for ((cf, key), data) in &self.map.0 {
            if *cf == CF_LOCK.0 {
                let lock = Lock::decode(key, data.clone()).unwrap();
                assert_eq!(
                    look::fate(&self.map, key, lock.start_ts).unwrap(),
                    look::Fate::Unknown,
                    "{key:?}"
                );
            } else if *cf == CF_WRITE.0 {
                let (stored, ts, write) = look::decode_record(key, data.clone()).unwrap();
                assert!(if write.kind == Kind::Rollback {
                    ts == write.start_ts
                } else {
                    ts > write.start_ts
                });
                if write.kind == Kind::Put {
                    look::value_of(&self.map, &stored, &write).unwrap();
                }
            }
        }
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn to_keys(keys: &[&str]) -> Vec<Bytes> {
    keys.iter().map(|key| bytes(key)).collect()
}

/// A timestamp of so many milliseconds.
pub(crate) fn ts(ms: u64) -> u64 {
    Timestamp::compose(ms, 0).0
}

#[derive(Clone)]
pub(crate) struct Change(pub(crate) Mutation);

impl Change {
    fn new(op: Op, key: &str, value: &str) -> Self {
        Self(Mutation { op: op.into(), key: bytes(key), value: bytes(value), ..Default::default() })
    }

    pub(crate) fn insert(mut self) -> Self {
        self.0.assertion_not_exist = true;
        self
    }

    pub(crate) fn expires(mut self, at: u64) -> Self {
        self.0.expires_at = at;
        self
    }
}

pub(crate) fn put(key: &str, value: &str) -> Change {
    Change::new(Op::Put, key, value)
}

pub(crate) fn delete(key: &str) -> Change {
    Change::new(Op::Delete, key, "")
}

pub(crate) fn lock_only(key: &str) -> Change {
    Change::new(Op::Lock, key, "")
}

#[derive(Clone)]
pub(crate) struct Prewrite(pub(crate) PrewriteRequest);

pub(crate) fn prewrite_request(primary: &str, mutations: &[Change], start: u64) -> Prewrite {
    Prewrite(PrewriteRequest {
        mutations: mutations.iter().map(|change| change.0.clone()).collect(),
        primary_lock: bytes(primary),
        start_version: start,
        lock_ttl: 3000,
        ..Default::default()
    })
}

impl Prewrite {
    pub(crate) fn one_pc(mut self, commit_ts: u64) -> Self {
        self.0.one_pc_commit_version = commit_ts;
        self
    }

    /// An asynchronous commit; `secondaries` in the request that has the primary.
    pub(crate) fn async_commit(mut self, commit_ts: u64, secondaries: &[&str]) -> Self {
        self.0.async_commit_version = commit_ts;
        self.0.secondaries = to_keys(secondaries);
        self
    }

    pub(crate) fn ttl(mut self, ms: u64) -> Self {
        self.0.lock_ttl = ms;
        self
    }
}

pub(crate) struct Status(CheckTxnStatusRequest);

pub(crate) fn status(primary: &str, lock_ts: u64) -> Status {
    Status(CheckTxnStatusRequest { primary_key: bytes(primary), lock_ts, ..Default::default() })
}

impl Status {
    pub(crate) fn caller(mut self, start_ts: u64) -> Self {
        self.0.caller_start_ts = start_ts;
        self
    }

    pub(crate) fn now(mut self, ts: u64) -> Self {
        self.0.current_ts = ts;
        self
    }

    pub(crate) fn not_async(mut self) -> Self {
        self.0.not_async = true;
        self
    }

    pub(crate) fn rollback(mut self) -> Self {
        self.0.rollback_if_not_exist = true;
        self
    }
}

#[derive(Clone)]
pub(crate) struct Scan(ScanRequest);

pub(crate) fn scan_from(key: &str) -> Scan {
    Scan(ScanRequest { start_key: bytes(key), include_start: true, ..Default::default() })
}

impl Scan {
    pub(crate) fn from(mut self, key: &str) -> Self {
        self.0.start_key = bytes(key);
        self
    }

    pub(crate) fn limit(mut self, limit: u32) -> Self {
        self.0.limit = limit;
        self
    }

    pub(crate) fn at(mut self, version: u64) -> Self {
        self.0.version = version;
        self
    }

    pub(crate) fn end(mut self, key: &str) -> Self {
        self.0.end_key = bytes(key);
        self
    }

    pub(crate) fn exclusive(mut self) -> Self {
        self.0.include_start = false;
        self
    }

    pub(crate) fn down(mut self) -> Self {
        self.0.reverse = true;
        self
    }

    pub(crate) fn bypass(mut self, start_ts: u64) -> Self {
        self.0.bypass_locks.push(start_ts);
        self
    }

    pub(crate) fn keys_only(mut self) -> Self {
        self.0.keys_only = true;
        self
    }
}
