//! Requests that took long, one line each in the log: who asked, for what, and where the time went.
//!
//! ```text
//! write  began ─ queue ─► appended ─ commit ─► committed ─ apply ─► ended     the raft loop, disks and followers, the engine
//! read   began ─ raft ──► confirmed ─ read ──► ended                          leadership and what must be applied, the engine
//! ```
//!
//! A request that never got to a mark has all of its rest in the part before it. One whose caller has gone is dropped where
//! it waits, and told of all the same: those are the slowest. Lines are limited, the count of slow requests is not.

use crate::admission::Refused;
use crate::region::lock;
use crate::store::Shared;
use bytes::Bytes;
use nokv_env::Instant;
use nokv_proto::limits::{TRACE_ID_METADATA, is_trace_id};
use nokv_replica::Marks;
use std::fmt::Write;
use std::fmt::{Display, Formatter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request};

/// Lines in one second, at most.
const LINES_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Bytes of a key that are shown.
const KEY_SHOWN: usize = 8;

/// What a store knows of its slow requests.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    count: AtomicU64,
    budget: Mutex<Budget>,
}

impl SlowLog {
    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// So that a store that is slow is not slowed down by saying so.
#[derive(Debug, Default)]
struct Budget {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

impl Budget {
    /// Whether there may be a line now; if so, how many there could not be since the last one.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.since(self.since) >= SECOND {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines == LINES_MAX {
            self.unsaid += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Its caller has gone.
    Abandoned,
    Answered,
    /// It belongs elsewhere, or the region has changed.
    Elsewhere,
    Failed(Code),
}

impl Display for Ending {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Abandoned => f.write_str("abandoned"),
            Ending::Answered => f.write_str("answered"),
            Ending::Elsewhere => f.write_str("elsewhere"),
            Ending::Failed(code) => write!(f, "failed: {}", code.description()),
        }
    }
}

/// One request on its way through the store. It ends when this is dropped.
pub(crate) struct Trip<'a> {
    shared: &'a Shared,
    rpc: &'static str,
    trace_id: Option<AsciiMetadataValue>,
    began: Instant,
    region: u64,
    keys: usize,
    /// The first key and the last.
    ends: Option<(Bytes, Bytes)>,
    /// Of a write that was proposed.
    marks: Option<Arc<Marks>>,
    /// Of a read: when it might look at the engine.
    confirmed: Option<Instant>,
    is_read: bool,
    ending: Ending,
}

impl<'a> Trip<'a> {
    /// A request came.
    pub(crate) fn begin<T>(shared: &'a Shared, rpc: &'static str, request: &Request<T>) -> Self {
        Self {
            shared,
            rpc,
            trace_id: request.metadata().get(TRACE_ID_METADATA).cloned(),
            began: shared.env.clock.now(),
            region: 0,
            keys: 0,
            ends: None,
            marks: None,
            confirmed: None,
            is_read: true,
            ending: Ending::Abandoned,
        }
    }

    /// What it is about; keys come in order.
    pub(crate) fn touches<'k>(&mut self, region: u64, keys: impl Iterator<Item = &'k Bytes>) {
        self.region = region;
        let mut ends: Option<(&Bytes, &Bytes)> = None;
        for key in keys {
            self.keys += 1;
            ends = Some((ends.map_or(key, |(first, _)| first), key));
        }
        self.ends = ends.map(|(first, last)| (first.clone(), last.clone()));
    }

    /// It writes; how far it is will be marked there.
    pub(crate) fn proposes(&mut self) -> Arc<Marks> {
        self.is_read = false;
        self.marks.insert(Arc::default()).clone()
    }

    /// It reads, and may look at the engine now.
    pub(crate) fn confirmed(&mut self) {
        self.confirmed = Some(self.shared.env.clock.now());
    }

    /// Takes note of how it ended.
    pub(crate) fn ended<T>(&mut self, ended: &Result<T, Refused>) {
        self.ending = match ended {
            Ok(_) => Ending::Answered,
            Err(Refused::Region(_)) => Ending::Elsewhere,
            Err(Refused::Status(status)) => Ending::Failed(status.code()),
        };
    }

    fn parts(&self, ended: Instant) -> Parts {
        if self.is_read {
            return Parts::of_read(self.began, self.confirmed, ended);
        }
        let marks = self.marks.as_ref();
        let (appended, committed) = (marks.and_then(|m| m.appended()), marks.and_then(|m| m.committed()));
        Parts::of_write(self.began, appended, committed, ended)
    }
}

impl Drop for Trip<'_> {
    fn drop(&mut self) {
        let (limit, now) = (self.shared.config.slow_log, self.shared.env.clock.now());
        let took = now.since(self.began);
        if limit.is_zero() || took < limit {
            return;
        }
        let slow = &self.shared.slow;
        slow.count.fetch_add(1, Ordering::Relaxed);
        let Some(unsaid) = lock(&slow.budget).take(now) else { return };
        let parts = self.parts(now);
        let trace_id = self.trace_id.as_ref().and_then(|id| id.to_str().ok()).filter(|id| is_trace_id(id));
        let ends = self.ends.as_ref();
        tracing::warn!(
            rpc = self.rpc,
            trace_id,
            region = self.region,
            keys = self.keys,
            first_key = ends.map(|(first, _)| shortened(first)),
            last_key = ends.filter(|_| self.keys > 1).map(|(_, last)| shortened(last)),
            ended = %self.ending,
            took_ms = millis(took),
            queue_ms = parts.queue.map(millis),
            commit_ms = parts.commit.map(millis),
            apply_ms = parts.apply.map(millis),
            raft_ms = parts.raft.map(millis),
            read_ms = parts.read.map(millis),
            unsaid = (unsaid > 0).then_some(unsaid),
            "a request was slow"
        );
    }
}

/// Where the time of a request went; together they are all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Parts {
    queue: Option<Duration>,
    commit: Option<Duration>,
    apply: Option<Duration>,
    raft: Option<Duration>,
    read: Option<Duration>,
}

impl Parts {
    fn of_write(
        began: Instant,
        appended: Option<Instant>,
        committed: Option<Instant>,
        ended: Instant,
    ) -> Self {
        let until = |mark: Option<Instant>| mark.unwrap_or(ended);
        Self {
            queue: Some(until(appended).since(began)),
            commit: appended.map(|at| until(committed).since(at)),
            apply: committed.map(|at| ended.since(at)),
            ..Self::default()
        }
    }

    fn of_read(began: Instant, confirmed: Option<Instant>, ended: Instant) -> Self {
        Self {
            raft: Some(confirmed.unwrap_or(ended).since(began)),
            read: confirmed.map(|at| ended.since(at)),
            ..Self::default()
        }
    }
}

/// The beginning of a key in hexadecimal digits: enough to find its place, too little to read it.
fn shortened(key: &[u8]) -> String {
    let shown = &key[..key.len().min(KEY_SHOWN)];
    let mut digits = String::with_capacity(2 * shown.len());
    for byte in shown {
        // Writing into a string does not fail.
        let _ = write!(digits, "{byte:02x}");
    }
    if key.len() > KEY_SHOWN { format!("{digits}..") } else { digits }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn told(parts: Parts) -> [Option<u128>; 5] {
        [parts.queue, parts.commit, parts.apply, parts.raft, parts.read].map(|part| Some(part?.as_millis()))
    }

    #[test]
    fn the_parts_of_a_request_are_all_of_it() {
        let write = Parts::of_write(at(100), Some(at(103)), Some(at(150)), at(160));
        assert_eq!(told(write), [Some(3), Some(47), Some(10), None, None]);
        let read = Parts::of_read(at(100), Some(at(140)), at(141));
        assert_eq!(told(read), [None, None, None, Some(40), Some(1)]);
    }

    #[test]
    fn what_never_came_is_where_the_time_went() {
        let queued = Parts::of_write(at(0), None, None, at(2000));
        assert_eq!(told(queued), [Some(2000), None, None, None, None]);
        let uncommitted = Parts::of_write(at(0), Some(at(1)), None, at(2000));
        assert_eq!(told(uncommitted), [Some(1), Some(1999), None, None, None]);
        let unconfirmed = Parts::of_read(at(0), None, at(2000));
        assert_eq!(told(unconfirmed), [None, None, None, Some(2000), None]);
    }

    #[test]
    fn lines_are_limited_and_what_is_not_said_is_counted() {
        let mut budget = Budget::default();
        let said = (0..100).filter(|_| budget.take(at(5_000)).is_some()).count();
        assert_eq!(said, LINES_MAX as usize);
        assert_eq!(budget.take(at(5_999)), None);
        assert_eq!(budget.take(at(6_000)), Some(91));
        assert_eq!(budget.take(at(6_000)), Some(0));
    }

    #[test]
    fn keys_are_shortened() {
        assert_eq!(shortened(b"ab"), "6162");
        assert_eq!(shortened(b"12345678"), "3132333435363738");
        assert_eq!(shortened(b"123456789"), "3132333435363738..");
    }
}
