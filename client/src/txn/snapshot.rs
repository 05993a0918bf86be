//! Reads of one instant: everything committed at or below a timestamp, nothing else.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::Wait;
use crate::txn::Hold;
use bytes::Bytes;
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::{GetRequest, KeyError, ScanRequest};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The database as of one timestamp. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
    version: Timestamp,
    allowed: Duration,
    /// Transactions that hold locks but can only commit above `version`.
    bypass: Arc<Mutex<BTreeSet<u64>>>,
}

impl Snapshot {
    pub(crate) fn new(shared: Arc<Shared>, version: Timestamp, allowed: Duration) -> Self {
        Self { shared, version, allowed, bypass: Arc::default() }
    }

    /// The timestamp of this snapshot.
    pub fn version(&self) -> Timestamp {
        self.version
    }

    /// The value of `key` at this instant.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>> {
        let mut attempt = Attempt::new(&self.shared, "reading a key", self.allowed);
        self.get_within(&key.into(), &mut attempt).await
    }

    pub(crate) async fn get_within(&self, key: &Bytes, attempt: &mut Attempt<'_>) -> Result<Option<Bytes>> {
        loop {
            let request =
                GetRequest { key: key.clone(), version: self.version.0, bypass_locks: self.bypass_list() };
            let reply = self.shared.read(key, &request, self.shared.reading(), attempt).await?;
            match reply.error {
                None => return Ok((!reply.not_found).then_some(reply.value)),
                Some(error) => self.clear(error, attempt).await?,
            }
        }
    }

    /// Keeps this snapshot readable, for as long as the hold exists and a coordinator can be asked at least once in `ttl`.
    pub async fn hold(&self, ttl: Duration) -> Result<Hold> {
        let mut attempt = Attempt::new(&self.shared, "holding a snapshot", self.allowed);
        Hold::begin(&self.shared, self.version, ttl, &mut attempt).await
    }

    /// A reader of the keys of `range`, in order, page by page.
    pub fn scanner(&self, range: KeyRange) -> Scanner {
        Scanner {
            snapshot: self.clone(),
            cursor: Some(range.start),
            end: range.end,
            page: self.shared.config.scan_page,
            keys_only: false,
        }
    }

    /// Deals with a key error of a read.
    async fn clear(&self, error: KeyError, attempt: &mut Attempt<'_>) -> Result<()> {
        if let Some(lock) = &error.locked {
            let mut bypass = self.bypassed();
            self.shared.unlock_for_read(lock, self.version.0, &mut bypass, attempt).await?;
            self.bypass.lock().unwrap_or_else(PoisonError::into_inner).append(&mut bypass);
            return Ok(());
        }
        if !error.retryable.is_empty() {
            return attempt.pause(Wait::Backoff, error.retryable).await;
        }
        if let Some(below) = error.below_safe_point {
            return Err(ClientError::too_old(below));
        }
        if error.abort.is_empty() {
            return Err(ClientError::Protocol(format!("a read was refused: {error:?}")));
        }
        Err(ClientError::InvalidArgument(error.abort))
    }

    fn bypassed(&self) -> BTreeSet<u64> {
        self.bypass.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bypass_list(&self) -> Vec<u64> {
        self.bypassed().into_iter().collect()
    }
}

/// A piece of a scan.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Keys and values, in order. May be empty although more follows.
    pub pairs: Vec<(Bytes, Bytes)>,
    /// Every key of the range below this one has been looked at; empty: the scan is complete.
    pub next: Bytes,
}

/// Reads a range of a [`Snapshot`] page by page.
pub struct Scanner {
    snapshot: Snapshot,
    /// Where to go on; `None` when the range is exhausted.
    cursor: Option<Bytes>,
    /// End of the range, exclusive; empty is infinite.
    end: Bytes,
    page: u32,
    keys_only: bool,
}

impl Scanner {
    /// Asks for at most `keys` per page.
    pub fn page_size(mut self, keys: u32) -> Self {
        self.page = keys.clamp(1, nokv_proto::limits::SCAN_LIMIT_MAX);
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// The timestamp of the scan.
    pub fn version(&self) -> Timestamp {
        self.snapshot.version
    }

    /// The next page, or `None` after the last. Each page has the whole patience of the client.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let shared = self.snapshot.shared.clone();
        let mut attempt = Attempt::new(&shared, "scanning", self.snapshot.allowed);
        self.next_within(&mut attempt).await
    }

    pub(crate) async fn next_within(&mut self, attempt: &mut Attempt<'_>) -> Result<Option<Page>> {
        let Some(start) = self.cursor.clone() else { return Ok(None) };
        if !self.end.is_empty() && start >= self.end {
            self.cursor = None;
            return Ok(None);
        }
        let shared = self.snapshot.shared.clone();
        loop {
            let route = shared.route(&start, attempt).await?;
            let region_end = route.region.end_key.clone();
            let request = ScanRequest {
                start_key: start.clone(),
                limit: self.page,
                version: self.snapshot.version.0,
                include_start: true,
                reverse: false,
                end_key: nearer(&self.end, &region_end),
                bypass_locks: self.snapshot.bypass_list(),
                keys_only: self.keys_only,
            };
            let reply = shared.try_read(&route, &request, shared.reading(), attempt).await?;
            let Some(reply) = reply else { continue };
            let mut pairs: Vec<_> = reply.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
            let next = if let Some(error) = reply.error {
                let locked = error.locked.as_ref().map(|lock| lock.key.clone());
                self.snapshot.clear(error, attempt).await?;
                // What comes before the lock is good; go on at the lock.
                match locked {
                    Some(key) if key > start => {
                        pairs.retain(|(k, _)| *k < key);
                        key
                    }
                    _ => continue,
                }
            } else if reply.more {
                reply.resume_key
            } else {
                nearer(&self.end, &region_end)
            };
            if !next.is_empty() && next <= start {
                return Err(ClientError::Protocol(format!(
                    "a scan from {start:?} was told to go on at {next:?}"
                )));
            }
            let done = next.is_empty() || (!self.end.is_empty() && next >= self.end);
            self.cursor = (!done).then(|| next.clone());
            return Ok(Some(Page { pairs, next: if done { Bytes::new() } else { next } }));
        }
    }
}

/// The smaller of two range ends, of which an empty one is infinite.
fn nearer(a: &Bytes, b: &Bytes) -> Bytes {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.min(b).clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_end_is_infinite() {
        let near = |a: &'static str, b: &'static str| nearer(&a.into(), &b.into());
        assert_eq!(near("", ""), "");
        assert_eq!(near("b", ""), "b");
        assert_eq!(near("", "b"), "b");
        assert_eq!(near("a", "b"), "a");
    }
}
