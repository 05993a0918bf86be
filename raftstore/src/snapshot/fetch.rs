//! Fetching a snapshot: chunk by chunk into a table that the engine adopts later.

use super::rows::{self, FAMILIES, Sum};
use super::service::GIVEN_UP;
use super::{Refused, Replaced, Snapshots, Staged, Ticket, region_dir};
use crate::catalog::{self, CF_META, Members};
use crate::mvcc;
use crate::region::Regions;
use crate::store::Shared;
use bytes::Bytes;
use futures_util::future::select;
use nokv_engine::{self as engine, Cf, Db, Import};
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_env::{Channel, ClockExt, Env, TasksExt};
use nokv_proto::key::{KeyRange, decode_key};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::region_snapshots_client::RegionSnapshotsClient;
use nokv_proto::raft::v1::{SnapshotChunkRequest, SnapshotChunkResponse};
use nokv_replica::{GroupId, Resolver};
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// Pauses after a chunk that did not come.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A chunk that did not come for this many times a request's patience will not come any more.
const PATIENCE: u32 = 10;
/// Time between two looks at snapshots that nobody fetches.
const LOOK: Duration = Duration::from_secs(5);
/// Rows between two yields.
const ROWS_AT_ONCE: usize = 512;

/// Why a snapshot will not be here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it is not wanted any more")]
    Unwanted,
    #[error("store {0} does not have it any more")]
    Gone(u64),
    #[error("store {0} does not answer")]
    Silent(u64),
    #[error("the region moved on meanwhile")]
    Overtaken,
    #[error("{0}")]
    Damaged(&'static str),
    #[error("{0}")]
    Engine(#[from] engine::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Fetches what there is to fetch, a few at a time, and drops what nobody fetches here; for ever.
pub(crate) async fn run(shared: &Arc<Shared>) {
    loop {
        while let Some((ticket, members)) = shared.snapshots.next(shared.config.snapshot_fetches_max) {
            let worker = shared.clone();
            shared.env.tasks.go("store-snapshot", async move {
                let work = pin!(fetch_one(&worker, ticket, members));
                select(work, pin!(worker.stop.stopped())).await;
            });
        }
        for (ticket, why) in shared.snapshots.take_refused() {
            match why {
                Refused::Spoiled => shared.env.probe("store.snapshot.spoiled"),
                Refused::NoRoom => shared.env.probe("store.snapshot.no_room"),
            }
            let worker = shared.clone();
            shared.env.tasks.go("store-snapshot", async move { tell_given_up(&worker, &ticket).await });
        }
        shared.snapshots.expire(shared.env.clock.now());
        select(pin!(shared.snapshots.bell.notified()), shared.env.clock.sleep(LOOK)).await;
    }
}

async fn fetch_one(shared: &Shared, ticket: Ticket, members: Members) {
    let region = ticket.region.region_id;
    match fetch(shared, &ticket, members).await {
        Ok(staged) => {
            shared.env.probe("store.snapshot.fetched");
            if !shared.snapshots.fetched(&ticket, Some(staged)) {
                return;
            }
            while !shared.raft.snapshot_fetched(GroupId(region)) {
                shared.env.clock.sleep(BACKOFF_MIN).await;
            }
        }
        Err(failure) => {
            match failure {
                Failure::Overtaken => shared.env.probe("store.snapshot.overtaken"),
                Failure::Gone(_) => shared.env.probe("store.snapshot.gone"),
                Failure::Damaged(_) => shared.env.probe("store.snapshot.not_whole"),
                _ => shared.env.probe("store.snapshot.given_up"),
            }
            tracing::info!(region, index = ticket.at.index, %failure, "a snapshot was not fetched");
            shared.snapshots.fetched(&ticket, None);
            if !matches!(failure, Failure::Unwanted | Failure::Gone(_)) {
                tell_given_up(shared, &ticket).await;
            }
        }
    }
}

/// So that the leader need not find out by waiting.
async fn tell_given_up(shared: &Shared, ticket: &Ticket) {
    drop(call(shared, ticket, GIVEN_UP).await);
}

async fn fetch(shared: &Shared, ticket: &Ticket, members: Members) -> Result<Staged, Failure> {
    let site = Site {
        env: &shared.env,
        db: &shared.db,
        regions: &shared.door.regions,
        workdir: &shared.config.workdir,
    };
    let mut staging = Staging::begin(site, ticket, members)?;
    loop {
        let chunk = pull(shared, ticket, staging.chunks).await?;
        Snapshots::moved(&shared.snapshots.received, &chunk.rows);
        if staging.add(&chunk).await? {
            return staging.finish().await;
        }
    }
}

/// One chunk, sound. A chunk that was lost on its way is asked for again, for some time.
async fn pull(shared: &Shared, ticket: &Ticket, number: u64) -> Result<SnapshotChunkResponse, Failure> {
    let patience = shared.config.command_timeout * PATIENCE;
    let give_up = shared.env.clock.now() + patience;
    let mut backoff = BACKOFF_MIN;
    loop {
        if !shared.snapshots.is_wanted(ticket) {
            return Err(Failure::Unwanted);
        }
        match call(shared, ticket, number).await {
            Some(Ok(chunk)) if crc32c::crc32c(&chunk.rows) == chunk.crc32c => {
                if number > 0 && backoff > BACKOFF_MIN {
                    shared.env.probe("store.snapshot.resumed");
                }
                return Ok(chunk);
            }
            Some(Ok(_)) => shared.env.probe("store.snapshot.checksum_refused"),
            Some(Err(Code::NotFound)) => return Err(Failure::Gone(ticket.store_id)),
            Some(Err(_)) | None => {}
        }
        if shared.env.clock.now() > give_up {
            return Err(Failure::Silent(ticket.store_id));
        }
        shared.env.clock.sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Asks for a chunk once. `None`: nobody to ask, or no answer in time.
async fn call(shared: &Shared, ticket: &Ticket, number: u64) -> Option<Result<SnapshotChunkResponse, Code>> {
    let address = shared.addresses.address(ticket.store_id)?;
    let client: RegionSnapshotsClient<Channel> = RegionSnapshotsClient::new(shared.env.net.connect(&address));
    let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = SnapshotChunkRequest {
        region_id: ticket.region.region_id,
        snapshot_id: ticket.id,
        index: ticket.at.index,
        peer_id: ticket.region.peer_on_store(shared.config.store_id)?.peer_id,
        number,
    };
    let answer = shared.env.clock.timeout(shared.config.command_timeout, client.chunk(request)).await;
    Some(answer.ok()?.map(tonic::Response::into_inner).map_err(|status| status.code()))
}

/// Where a table is made.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) env: &'a Env,
    pub(crate) db: &'a Db,
    pub(crate) regions: &'a Regions,
    pub(crate) workdir: &'a Path,
}

impl Site<'_> {
    /// The rows here that a snapshot replaces: in its range, and in the ranges that it has here now. Not those of other
    /// regions that run here.
    fn old_rows(&self, new: &RegionDescriptor, replaced: &Replaced) -> OldRows {
        let is_other = |id: u64| !replaced.positions.contains_key(&id);
        let hosted = self.regions.all().into_iter().map(|region| region.state());
        let others: Vec<KeyRange> = hosted
            .filter(|state| state.is_hosted() && is_other(state.descriptor.region_id))
            .map(|state| state.descriptor.range())
            .collect();
        let ranges = [vec![new.range()], replaced.ranges.clone()].concat();
        let (ranges, content) = (together(ranges), self.db.snapshot());
        let rows = FAMILIES.into_iter().flat_map(move |cf| {
            let content = content.clone();
            let of_range = move |range: KeyRange| content.iter(cf, mvcc::stored_bounds(&range));
            let rows = ranges.clone().into_iter().flat_map(of_range);
            rows.map(move |entry| entry.map(|(key, _)| (cf, key)))
        });
        let is_theirs = move |key: &Bytes| {
            decode_key(key).is_some_and(|(user_key, _)| others.iter().any(|range| range.contains(&user_key)))
        };
        Box::new(rows.filter(move |row| row.as_ref().map_or(true, |(_, key)| !is_theirs(key))))
    }
}

type OldRows = Box<dyn Iterator<Item = engine::Result<(Cf, Bytes)>> + Send>;

/// A table in the making: the snapshot's rows, and deletions of the rows here that do not come.
pub(crate) struct Staging<'a> {
    site: Site<'a>,
    entry: catalog::Entry,
    gc: catalog::Gc,
    replaced: Replaced,
    import: Import,
    /// Rows that are here, in order.
    old: Peekable<OldRows>,
    /// The newest row that came.
    last: Option<(Cf, Bytes)>,
    /// Chunks that came, and what they add up to.
    pub(crate) chunks: u64,
    sum: Sum,
    since_yield: usize,
}

impl<'a> Staging<'a> {
    /// Nothing has come yet.
    pub(crate) fn begin(site: Site<'a>, ticket: &Ticket, members: Members) -> Result<Self, Failure> {
        let region = &ticket.region;
        let dir = region_dir(site.workdir, region.region_id);
        site.env.disk.create_dir_all(&dir)?;
        // The positions go first: whatever is applied behind them is noticed.
        let replaced = Replaced::by(site.regions, region);
        let import = site.db.import(&dir.join(format!("{:016x}.sst", ticket.id)))?;
        Ok(Self {
            entry: catalog::Entry { region: region.clone(), applied: ticket.at, members },
            gc: ticket.gc,
            import,
            old: site.old_rows(region, &replaced).peekable(),
            replaced,
            last: None,
            chunks: 0,
            sum: Sum::default(),
            since_yield: 0,
            site,
        })
    }

    /// Takes the next chunk in. True when it was the last one, and nothing is missing.
    pub(crate) async fn add(&mut self, chunk: &SnapshotChunkResponse) -> Result<bool, Failure> {
        let mut left = chunk.rows.clone();
        let mut count = 0;
        while !left.is_empty() {
            let (cf, key, value) = rows::pop(&mut left).map_err(Failure::Damaged)?;
            self.put((cf, key), value).await?;
            count += 1;
        }
        self.sum = self.sum.and(&chunk.rows, count);
        self.chunks += 1;
        // The time that the disk took passes here.
        self.site.env.tasks.yield_now().await;
        if Replaced::by(self.site.regions, &self.entry.region).positions != self.replaced.positions {
            return Err(Failure::Overtaken);
        }
        let Some(total) = chunk.total else { return Ok(false) };
        if (total.chunks, total.rows, total.crc32c) != (self.chunks, self.sum.rows, self.sum.crc) {
            return Err(Failure::Damaged("the chunks do not add up to the snapshot"));
        }
        Ok(true)
    }

    async fn put(&mut self, row: (Cf, Bytes), value: Bytes) -> Result<(), Failure> {
        if self.last.as_ref().is_some_and(|last| *last >= row) {
            return Err(Failure::Damaged("rows out of order"));
        }
        if decode_key(&row.1).is_none_or(|(user_key, _)| !self.entry.region.contains(&user_key)) {
            return Err(Failure::Damaged("a row outside of the region"));
        }
        self.delete_below(Some(&row)).await?;
        self.old.next_if(|old| old.as_ref().is_ok_and(|old| *old == row));
        self.import.put(row.0, row.1.clone(), value)?;
        self.last = Some(row);
        self.pause().await;
        Ok(())
    }

    /// Deletes the rows here that come before `row`; all that are left when there is none.
    async fn delete_below(&mut self, row: Option<&(Cf, Bytes)>) -> Result<(), Failure> {
        let is_below = |old: &engine::Result<(Cf, Bytes)>| match (old, row) {
            (Ok(old), Some(row)) => old < row,
            _ => true,
        };
        while let Some(old) = self.old.next_if(is_below) {
            let (cf, key) = old?;
            self.import.delete(cf, key)?;
            self.pause().await;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        self.since_yield += 1;
        if self.since_yield >= ROWS_AT_ONCE {
            self.since_yield = 0;
            self.site.env.tasks.yield_now().await;
        }
    }

    /// The table, durable, once everything came.
    pub(crate) async fn finish(mut self) -> Result<Staged, Failure> {
        self.delete_below(None).await?;
        // The last family: behind all rows.
        let entry = catalog::records(&self.entry, self.gc);
        let mut records: BTreeMap<Bytes, Option<Bytes>> =
            entry.into_iter().map(|(key, value)| (key, Some(value))).collect();
        records.extend(self.replaced.tombstones.iter().flat_map(catalog::tombstone_records));
        for (key, value) in records {
            match value {
                Some(value) => self.import.put(CF_META, key, value)?,
                None => self.import.delete(CF_META, key)?,
            }
        }
        let table = self.import.finish().await?;
        self.site.env.tasks.yield_now().await;
        Ok(Staged { table, replaces: self.replaced.positions })
    }
}

/// The keys of all these ranges, as ranges that are disjoint and in order.
fn together(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let mut all: Vec<KeyRange> = Vec::new();
    for range in ranges {
        match all.last_mut().filter(|last| last.overlaps(&range)) {
            None => all.push(range),
            Some(last) if last.end.is_empty() || range.end.is_empty() => last.end = Bytes::new(),
            Some(last) => last.end = last.end.clone().max(range.end),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_in_order() {
        let range = |start: &'static str, end: &'static str| KeyRange::new(start, end);
        let all = |ranges: &[KeyRange]| together(ranges.to_vec());
        assert_eq!(all(&[range("a", "m")]), [range("a", "m")]);
        assert_eq!(all(&[range("a", "m"), range("", "c")]), [range("", "m")]);
        assert_eq!(all(&[range("a", "m"), range("c", "")]), [range("a", "")]);
        assert_eq!(all(&[range("m", ""), range("a", "m")]), [range("a", "m"), range("m", "")]);
        assert_eq!(all(&[range("a", "m"), range("p", "t"), range("b", "q")]), [range("a", "t")]);
    }
}
