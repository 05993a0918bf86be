//! A snapshot on the store that made it: an engine snapshot, cut into chunks as they are asked for.
//!
//! The engine snapshot is taken in the raft loop and costs nothing there; it is read when a receiver asks, outside of the
//! loop. Chunk boundaries are remembered, so a chunk that is asked for again is the same one, and at the end this side
//! knows on its own what the chunks add up to.

use super::rows::{self, FAMILIES, Sum};
use crate::catalog::Members;
use crate::mvcc;
use crate::region::lock;
use bytes::{Bytes, BytesMut};
use nokv_engine::{self as engine, Cf};
use nokv_env::{ClockExt, Env, Instant};
use nokv_proto::key::KeyRange;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::{SnapshotChunkRequest, SnapshotChunkResponse, SnapshotTicket, SnapshotTotal};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

/// How long a snapshot is kept that nobody takes anything of.
pub(super) const KEPT: Duration = Duration::from_secs(60);
/// A snapshot that nobody has begun to take is offered again for this long: perhaps nobody wants it.
const OFFERED_AGAIN: Duration = Duration::from_secs(5);

/// A snapshot that receivers may fetch.
pub(crate) struct Export {
    pub(crate) ticket: SnapshotTicket,
    pub(crate) members: Members,
    content: engine::Snapshot,
    made: Instant,
    /// Where the chunks begin that were cut so far, and the next one.
    cuts: Mutex<Vec<Cut>>,
    /// When each peer last took a chunk.
    takers: Mutex<BTreeMap<u64, Instant>>,
}

/// The beginning of a chunk.
#[derive(Clone, Default)]
struct Cut {
    /// The first row; no key: the first of the family.
    at: (Cf, Bytes),
    /// What all chunks before add up to.
    sum: Sum,
}

impl Export {
    pub(crate) fn new(
        ticket: SnapshotTicket,
        members: Members,
        content: engine::Snapshot,
        now: Instant,
    ) -> Self {
        let (cuts, takers) = (Mutex::new(vec![Cut::default()]), Mutex::default());
        Self { ticket, members, content, made: now, cuts, takers }
    }

    fn range(&self) -> KeyRange {
        self.ticket.region.as_ref().map(RegionDescriptor::range).unwrap_or_default()
    }

    /// Whether a request means this snapshot.
    pub(super) fn is_meant(&self, request: &SnapshotChunkRequest) -> bool {
        let region_id = self.ticket.region.as_ref().map_or(0, |region| region.region_id);
        (region_id, self.ticket.snapshot_id, self.ticket.index)
            == (request.region_id, request.snapshot_id, request.index)
    }

    /// A chunk of about so many bytes, the same for all; `None` when it is asked for before the one in front of it.
    pub(crate) fn chunk(&self, number: u64, bytes: usize) -> engine::Result<Option<SnapshotChunkResponse>> {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(cut) = lock(&self.cuts).get(at).cloned() else { return Ok(None) };
        let piece = read(&self.content, &self.range(), &cut.at, bytes)?;
        let sum = cut.sum.and(&piece.rows, piece.count);
        let total = match piece.next {
            Some(next) => {
                let mut cuts = lock(&self.cuts);
                if cuts.len() == at + 1 {
                    cuts.push(Cut { at: next, sum });
                }
                None
            }
            None => Some(SnapshotTotal { chunks: number + 1, rows: sum.rows, crc32c: sum.crc }),
        };
        Ok(Some(SnapshotChunkResponse { crc32c: crc32c::crc32c(&piece.rows), rows: piece.rows, total }))
    }

    /// A peer took a chunk.
    pub(crate) fn taken(&self, peer: u64, now: Instant) {
        lock(&self.takers).insert(peer, now);
    }

    /// When `peer` last took a chunk.
    pub(super) fn last_taken(&self, peer: u64) -> Option<Instant> {
        lock(&self.takers).get(&peer).copied()
    }

    fn idle(&self, now: Instant) -> (bool, Duration) {
        let last = lock(&self.takers).values().max().copied();
        (last.is_some(), now.since(last.unwrap_or(self.made)))
    }

    /// Nobody takes anything any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.idle(now).1 > KEPT
    }

    /// Whether it makes sense to offer this one once more, rather than a new one.
    pub(super) fn is_worth_offering(&self, now: Instant) -> bool {
        let (begun, idle) = self.idle(now);
        idle <= if begun { KEPT } else { OFFERED_AGAIN }
    }
}

/// Some rows of a region.
struct Piece {
    rows: Bytes,
    count: u64,
    /// The first row that is not in it any more.
    next: Option<(Cf, Bytes)>,
}

/// Rows from `from` on: about `bytes` of them, at least one.
fn read(
    content: &engine::Snapshot,
    range: &KeyRange,
    from: &(Cf, Bytes),
    bytes: usize,
) -> engine::Result<Piece> {
    let (mut out, mut count) = (BytesMut::new(), 0);
    for cf in FAMILIES.into_iter().filter(|cf| *cf >= from.0) {
        let (mut lower, upper) = mvcc::stored_bounds(range);
        if cf == from.0 && !from.1.is_empty() {
            lower = Bound::Included(from.1.clone());
        }
        for entry in content.iter(cf, (lower, upper)) {
            let (key, value) = entry?;
            if count > 0 && out.len() + key.len() + value.len() > bytes {
                return Ok(Piece { rows: out.freeze(), count, next: Some((cf, key)) });
            }
            rows::push(&mut out, cf, &key, &value);
            count += 1;
        }
    }
    Ok(Piece { rows: out.freeze(), count, next: None })
}

/// The same as [`sum`] outside of the raft loop: others get their turn after every few rows.
pub(crate) async fn sum_slowly(
    env: &Env,
    content: &engine::Snapshot,
    range: &KeyRange,
) -> engine::Result<Sum> {
    let mut sum = Sum::default();
    let mut from = Some((Cf(0), Bytes::new()));
    while let Some(at) = from {
        let begun = env.clock.now();
        let piece = read(content, range, &at, 64 << 10)?;
        sum = sum.and(&piece.rows, piece.count);
        from = piece.next;
        // At most half a processor.
        env.tasks.yield_now().await;
        env.clock.sleep(env.clock.now().since(begun)).await;
    }
    Ok(sum)
}

/// What all rows of a range add up to.
pub(crate) fn sum(content: &engine::Snapshot, range: &KeyRange) -> engine::Result<Sum> {
    let mut sum = Sum::default();
    let mut from = Some((Cf(0), Bytes::new()));
    while let Some(at) = from {
        let piece = read(content, range, &at, 64 << 10)?;
        sum = sum.and(&piece.rows, piece.count);
        from = piece.next;
    }
    Ok(sum)
}
