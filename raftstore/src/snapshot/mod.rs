//! A region's rows on their way to a peer that is too far behind for the log.
//!
//! ```text
//! leader                                                       receiver
//!   | raft wants a snapshot: an engine snapshot is taken          |
//!   | -- MsgSnapshot: the ticket, no rows ----------------------> |  `receive`: the message waits with the driver
//!   | <- Chunk 0 ------------------------------------------------ |  `fetch`, outside of the raft loop
//!   | -- rows, checksum ----------------------------------------> |  ... into INCOMING_SNAPSHOTS/region-<id>/<snapshot>.sst
//!   | <- Chunk 1, one at a time, again after a loss ------------- |
//!   | -- rows, checksum, what all chunks add up to -------------> |
//!   |                                                             |  the table is whole: raft sees the message now
//!   | <- acknowledged ------------------------------------------- |  install: the engine adopts the table, one step
//! ```
//!
//! The table holds the region's rows, the deletion of every row that was here and does not come, and the region's
//! records in the catalog: so nothing is half hosted, whenever the power fails. It was made for the region as it was when
//! the fetch began; if that moves on in the meantime, all is dropped and the leader's log or another snapshot follows.
//! Until it is adopted it belongs to nobody: a start sweeps the directory.
//!
//! The same export is written to a file, and such a file takes the place of the chunks, when an operator carries a region by
//! hand: `by_hand`, bytes in [`file`].

mod by_hand;
mod export;
mod fetch;
pub mod file;
pub(crate) mod rows;
mod service;

use crate::catalog::{Members, Position};
use crate::merge;
use crate::region::{Regions, lock};
use bytes::Bytes;
pub(crate) use export::Export;
use nokv_engine::Imported;
use nokv_env::{Disk, Env, Instant};
use nokv_proto::key::KeyRange;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::SnapshotTicket;
use nokv_replica::Fetching;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

pub(crate) use by_hand::{Reading, Source};
pub(crate) use export::{sum, sum_slowly};
pub(crate) use fetch::run;
#[cfg(test)]
pub(crate) use fetch::{Failure, Site, Staging};
pub(crate) use service::SnapshotService;

/// Where tables are until they are adopted, in the working directory.
const DIRECTORY: &str = "INCOMING_SNAPSHOTS";

/// The snapshots of a store: those it made and those it fetches.
pub(crate) struct Snapshots {
    next_id: AtomicU64,
    state: Mutex<State>,
    /// There is something to fetch, or room for it.
    bell: Notify,
    /// Bytes of rows since the start.
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Default)]
struct State {
    /// By the snapshot's id.
    exports: BTreeMap<u64, Arc<Export>>,
    /// Those that operators read, by the snapshot's id. Only this keeps them.
    read_by_hand: BTreeMap<u64, Arc<Export>>,
    /// By region.
    arrivals: BTreeMap<u64, Arrival>,
    /// Regions of which a fetch was broken off.
    broken: BTreeSet<u64>,
    /// What will not be installed, as its sender has yet to hear.
    refused: Vec<(Ticket, Refused)>,
    /// By region and peer: the snapshot that was sent last.
    sent: BTreeMap<(u64, u64), u64>,
    /// Regions and peers that will not have what was sent to them last.
    given_up: BTreeSet<(u64, u64)>,
}

/// Why a snapshot will not be installed.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// The region moved on while it was fetched.
    Spoiled,
    /// The disk is all but full.
    NoRoom,
}

/// A snapshot that raft was told of and does not have yet.
struct Arrival {
    ticket: Ticket,
    members: Members,
    stage: Stage,
}

enum Stage {
    /// For its turn.
    Waits,
    Fetching,
    Ready(Staged),
    /// With raft, which will have it installed in this very round or not at all.
    Accepted(Staged),
}

/// A region's table, ready to be adopted.
pub(crate) struct Staged {
    pub(crate) table: Imported,
    /// The regions that it replaces, see [`Replaced::positions`].
    pub(crate) replaces: Positions,
}

/// Where regions are in their logs.
pub(crate) type Positions = BTreeMap<u64, Position>;

/// What a snapshot replaces on this store: the region as it is here, and what that took over and is still here.
pub(crate) struct Replaced {
    /// A table that was made for these positions must not be adopted at others: it lies below what was written since.
    pub(crate) positions: Positions,
    pub(crate) ranges: Vec<KeyRange>,
    /// Of what was taken over.
    pub(crate) tombstones: Vec<RegionDescriptor>,
}

impl Replaced {
    /// By a snapshot of `new`.
    pub(crate) fn by(regions: &Regions, new: &RegionDescriptor) -> Self {
        let mut replaced = Self { positions: BTreeMap::new(), ranges: Vec::new(), tombstones: Vec::new() };
        for region in regions.all() {
            let state = region.state();
            let is_part = merge::is_absorbed(&state.descriptor, new);
            if !state.is_hosted() || (region.id != new.region_id && !is_part) {
                continue;
            }
            replaced.positions.insert(region.id, state.applied);
            replaced.ranges.push(state.descriptor.range());
            if is_part {
                replaced.tombstones.push(merge::tombstone(&state.descriptor, new));
            }
        }
        replaced
    }
}

/// What a snapshot message carries, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    /// The store that has the rows; 0: an operator brings them.
    pub(crate) store_id: u64,
    pub(crate) region: RegionDescriptor,
    pub(crate) at: Position,
    pub(crate) gc: crate::catalog::Gc,
}

impl Ticket {
    /// `None`: it makes no sense.
    pub(crate) fn decode(data: &Bytes) -> Option<Self> {
        let SnapshotTicket { snapshot_id, store_id, region, index, term, gc_fence, gc_safe_point } =
            SnapshotTicket::decode(data.clone()).ok()?;
        let region = region.filter(|region| region.problem().is_none())?;
        let gc = crate::catalog::Gc { fence: gc_fence, safe_point: gc_safe_point };
        Some(Self { id: snapshot_id, store_id, region, at: Position { index, term }, gc })
    }

    pub(crate) fn is_by_hand(&self) -> bool {
        self.store_id == 0
    }

    pub(crate) fn encode(&self) -> SnapshotTicket {
        SnapshotTicket {
            snapshot_id: self.id,
            store_id: self.store_id,
            region: Some(self.region.clone()),
            index: self.at.index,
            term: self.at.term,
            gc_fence: self.gc.fence,
            gc_safe_point: self.gc.safe_point,
        }
    }
}

/// How far the snapshot of a ticket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing of it is here.
    Unknown,
    /// It is being fetched, or will be.
    OnItsWay,
    /// It is here.
    Ready,
    /// Something else is on its way that must not be disturbed.
    Busy,
}

/// The directory of a region's tables.
fn region_dir(workdir: &Path, region_id: u64) -> PathBuf {
    workdir.join(DIRECTORY).join(format!("region-{region_id:020}"))
}

/// Removes what an earlier life did not finish. Nobody adopted it, so nobody misses it.
pub(crate) fn sweep(env: &Env, workdir: &Path) -> io::Result<()> {
    let (disk, dir): (&dyn Disk, _) = (&*env.disk, workdir.join(DIRECTORY));
    if !disk.exists(&dir)? {
        return Ok(());
    }
    for region in disk.list(&dir)? {
        // What cannot be listed is no directory, and goes as well.
        if disk.list(&dir.join(region)).is_ok_and(|files| !files.is_empty()) {
            env.probe("store.snapshot.swept");
        }
    }
    disk.remove_dir_all(&dir)?;
    disk.sync_dir(workdir)
}

impl Snapshots {
    /// None yet.
    pub(crate) fn new(env: &Env) -> Self {
        // No id of an earlier life means anything now.
        let first = env.rng.pure("store.snapshot", env.clock.now().0);
        Self {
            next_id: AtomicU64::new(first),
            state: Mutex::default(),
            bell: Notify::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// Rows of a snapshot left, or came.
    fn moved(counter: &AtomicU64, rows: &Bytes) {
        counter.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }

    /// Bytes of rows sent since the start.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of rows taken in since the start.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// An id for the next snapshot.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Offers `content`, an engine snapshot, to receivers.
    pub(crate) fn offer(
        &self,
        ticket: &Ticket,
        members: Members,
        content: nokv_engine::Snapshot,
        now: Instant,
    ) -> Arc<Export> {
        let export = Arc::new(Export::new(ticket.encode(), members, content, now));
        lock(&self.state).exports.insert(ticket.id, export.clone());
        export
    }

    pub(crate) fn export(&self, id: u64) -> Option<Arc<Export>> {
        lock(&self.state).exports.get(&id).cloned()
    }

    /// The newest snapshot of a region that receivers may go on with.
    pub(crate) fn kept(
        &self,
        region: &RegionDescriptor,
        members: &Members,
        at_least: u64,
        now: Instant,
    ) -> Option<Arc<Export>> {
        let state = lock(&self.state);
        let fits = |export: &&Arc<Export>| {
            export.ticket.region.as_ref() == Some(region)
                && export.members == *members
                && export.ticket.index >= at_least
                && export.is_worth_offering(now)
        };
        state.exports.values().filter(fits).max_by_key(|export| export.ticket.index).cloned()
    }

    /// How `peer` is getting on with a region's snapshots.
    pub(crate) fn fetching(&self, region_id: u64, peer: u64) -> Fetching {
        let mut state = lock(&self.state);
        if state.given_up.remove(&(region_id, peer)) {
            return Fetching::GaveUp;
        }
        let of_region = state.exports.values().filter(|export| is_of(export, region_id));
        of_region.filter_map(|export| export.last_taken(peer)).max().map_or(Fetching::Unknown, Fetching::Took)
    }

    /// A snapshot is on its way to a peer.
    pub(crate) fn sent(&self, region_id: u64, peer: u64, id: u64) {
        let mut state = lock(&self.state);
        state.sent.insert((region_id, peer), id);
        state.given_up.remove(&(region_id, peer));
    }

    /// A peer will not have a snapshot. Of an older one than it was sent last that means nothing.
    pub(crate) fn give_up(&self, region_id: u64, peer: u64, id: u64) {
        let mut state = lock(&self.state);
        if state.sent.get(&(region_id, peer)) == Some(&id) {
            state.given_up.insert((region_id, peer));
        }
    }

    /// Nobody may fetch a region's snapshots from here any more.
    pub(crate) fn withdraw(&self, region_id: u64) {
        lock(&self.state).exports.retain(|_, export| !is_of(export, region_id));
    }

    /// The region is not led here any more.
    pub(crate) fn leave(&self, region_id: u64) {
        self.withdraw(region_id);
        let mut state = lock(&self.state);
        state.sent.retain(|(id, _), _| *id != region_id);
        state.given_up.retain(|(id, _)| *id != region_id);
    }

    /// Drops what nobody fetches any more.
    fn expire(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.exports.retain(|_, export| !export.is_over(now));
        state.read_by_hand.retain(|_, export| !export.is_over(now));
    }

    /// How far the snapshot of `ticket` is, seen from what else arrives for its region. `positions` are those that it replaces.
    /// When it can be installed it is taken for that, see [`Snapshots::take`].
    pub(crate) fn progress(&self, ticket: &Ticket, positions: &Positions) -> Progress {
        let mut state = lock(&self.state);
        let id = ticket.region.region_id;
        let Some(known) = state.arrivals.get_mut(&id) else { return Progress::Unknown };
        if known.ticket.id != ticket.id {
            // Another store is another leader, and a later one: raft knows its term.
            let is_older =
                ticket.store_id == known.ticket.store_id && ticket.at.index < known.ticket.at.index;
            let is_accepted = matches!(known.stage, Stage::Accepted(_));
            return if is_older || is_accepted { Progress::Busy } else { Progress::Unknown };
        }
        match std::mem::replace(&mut known.stage, Stage::Fetching) {
            Stage::Ready(staged) if staged.replaces == *positions => {
                known.stage = Stage::Accepted(staged);
                Progress::Ready
            }
            Stage::Ready(_) => {
                // The region moved on since. It may have all of this by now; if not, its leader sends another one.
                state.arrivals.remove(&id);
                state.broken.insert(id);
                state.refused.push((ticket.clone(), Refused::Spoiled));
                self.bell.notify_one();
                Progress::Busy
            }
            accepted @ Stage::Accepted(_) => {
                known.stage = accepted;
                Progress::Busy
            }
            stage @ (Stage::Waits | Stage::Fetching) => {
                known.stage = stage;
                Progress::OnItsWay
            }
        }
    }

    /// Lets a snapshot be fetched. True when it takes the place of one that was broken off.
    pub(crate) fn expect(&self, ticket: Ticket, members: Members) -> bool {
        let mut state = lock(&self.state);
        let id = ticket.region.region_id;
        let replaced = state.arrivals.insert(id, Arrival { ticket, members, stage: Stage::Waits });
        let again = state.broken.remove(&id) || replaced.is_some();
        drop(state);
        self.bell.notify_one();
        again
    }

    /// There is no room for a snapshot: its sender will hear of it.
    pub(crate) fn turn_away(&self, ticket: Ticket) {
        lock(&self.state).refused.push((ticket, Refused::NoRoom));
        self.bell.notify_one();
    }

    /// Lets a snapshot be brought by hand, unless the region has one on its way already.
    pub(crate) fn expect_by_hand(&self, ticket: Ticket, members: Members) -> bool {
        let mut state = lock(&self.state);
        let id = ticket.region.region_id;
        if state.arrivals.contains_key(&id) {
            return false;
        }
        state.arrivals.insert(id, Arrival { ticket, members, stage: Stage::Fetching });
        true
    }

    /// Keeps a snapshot for an operator to read, unless `most` are read already.
    fn keep_by_hand(&self, id: u64, export: Arc<Export>, most: usize) -> bool {
        let mut state = lock(&self.state);
        let has_room = state.read_by_hand.len() < most;
        if has_room {
            state.read_by_hand.insert(id, export);
        }
        has_room
    }

    /// A snapshot that an operator reads; `None` when nobody read it for too long.
    fn kept_by_hand(&self, id: u64) -> Option<Arc<Export>> {
        lock(&self.state).read_by_hand.get(&id).cloned()
    }

    /// Nobody reads it any more.
    fn drop_by_hand(&self, id: u64) {
        lock(&self.state).read_by_hand.remove(&id);
    }

    /// Snapshots that are being fetched, or brought by hand.
    fn on_their_way(&self) -> usize {
        let state = lock(&self.state);
        state.arrivals.values().filter(|arrival| matches!(arrival.stage, Stage::Fetching)).count()
    }

    /// The ranges that will be here, by region.
    pub(crate) fn arriving(&self) -> Vec<(u64, KeyRange)> {
        let state = lock(&self.state);
        state.arrivals.iter().map(|(id, arrival)| (*id, arrival.ticket.region.range())).collect()
    }

    /// The table that raft accepted a moment ago, to be adopted now.
    pub(crate) fn take(&self, region_id: u64, at: Position) -> Option<(Ticket, Members, Staged)> {
        let Arrival { ticket, members, stage } = lock(&self.state).arrivals.remove(&region_id)?;
        match stage {
            Stage::Accepted(staged) if ticket.at == at => Some((ticket, members, staged)),
            _ => None,
        }
    }

    /// Nothing will be installed in the region for now.
    pub(crate) fn dismiss(&self, region_id: u64) {
        if lock(&self.state).arrivals.remove(&region_id).is_some() {
            self.bell.notify_one();
        }
    }

    /// The next snapshot to fetch, unless `most` are being fetched.
    pub(crate) fn next(&self, most: usize) -> Option<(Ticket, Members)> {
        let mut state = lock(&self.state);
        let fetching = |arrival: &&Arrival| matches!(arrival.stage, Stage::Fetching);
        if state.arrivals.values().filter(fetching).count() >= most {
            return None;
        }
        let next = state.arrivals.values_mut().find(|arrival| matches!(arrival.stage, Stage::Waits))?;
        next.stage = Stage::Fetching;
        Some((next.ticket.clone(), next.members.clone()))
    }

    /// What was refused since the last call.
    fn take_refused(&self) -> Vec<(Ticket, Refused)> {
        std::mem::take(&mut lock(&self.state).refused)
    }

    /// Whether a snapshot is still to be fetched.
    fn is_wanted(&self, ticket: &Ticket) -> bool {
        let state = lock(&self.state);
        state.arrivals.get(&ticket.region.region_id).is_some_and(|arrival| arrival.ticket.id == ticket.id)
    }

    /// A fetch is over, with a table or without. True when raft is to hear of it.
    pub(crate) fn fetched(&self, ticket: &Ticket, staged: Option<Staged>) -> bool {
        let mut state = lock(&self.state);
        let (id, mut is_ready) = (ticket.region.region_id, false);
        if let Some(arrival) = state.arrivals.get_mut(&id).filter(|arrival| arrival.ticket.id == ticket.id) {
            if let Some(staged) = staged {
                (arrival.stage, is_ready) = (Stage::Ready(staged), true);
            } else {
                state.arrivals.remove(&id);
                state.broken.insert(id);
            }
        }
        drop(state);
        self.bell.notify_one();
        is_ready
    }
}

fn is_of(export: &Export, region_id: u64) -> bool {
    export.ticket.region.as_ref().is_some_and(|region| region.region_id == region_id)
}
