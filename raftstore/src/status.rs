//! A store in numbers, for `/debug/vars` and the command line.

use crate::store::Shared;
use nokv_engine::Stats;
use serde::Serialize;
use std::sync::atomic::Ordering;

/// A store at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct StoreStatus {
    /// Its id.
    pub store_id: u64,
    /// The address that others are told.
    pub address: String,
    /// Regions in its catalog.
    pub regions: Vec<RegionStatus>,
    /// Regions that it leads.
    pub leaders: usize,
    /// Events that the meta-root has not accepted yet.
    pub pending_root_events: usize,
    /// The engine.
    pub engine: EngineStatus,
    /// The raft driver.
    pub raft: RaftStatus,
}

/// One region.
#[derive(Debug, Clone, Serialize)]
pub struct RegionStatus {
    /// Its id.
    pub region_id: u64,
    /// First key, printable.
    pub start_key: String,
    /// First key after it, printable; empty = no bound.
    pub end_key: String,
    /// Grows with changes of the range.
    pub version: u64,
    /// Grows with changes of membership.
    pub conf_version: u64,
    /// Our peer; 0 when the region has none here.
    pub peer_id: u64,
    /// The peer that leads; 0 when unknown.
    pub leader_peer_id: u64,
    /// Whether we lead.
    pub is_leader: bool,
    /// The raft term.
    pub term: u64,
    /// Last index committed.
    pub commit_index: u64,
    /// Last index applied.
    pub applied_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Nothing happens in it, so it does not even tick.
    pub hibernates: bool,
}

/// The engine, shortened.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    /// Upper estimate of live keys.
    pub entries: u64,
    /// Tables of all levels.
    pub tables: u64,
    /// Bytes of all tables.
    pub table_bytes: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Compactions done.
    pub compactions: u64,
    /// Block reads answered by the cache.
    pub cache_hits: u64,
    /// Block reads that went to the disk.
    pub cache_misses: u64,
    /// How much it asks writers to hold back.
    pub pressure: String,
    /// Why it stopped accepting writes, if it did.
    pub failed: Option<String>,
}

/// The raft driver.
#[derive(Debug, Clone, Serialize)]
pub struct RaftStatus {
    /// Syncs of the raft log.
    pub syncs: u64,
    /// Entries appended.
    pub entries: u64,
    /// Entries applied.
    pub applied: u64,
    /// Messages given to the transport.
    pub messages_sent: u64,
    /// Messages dropped on the way out.
    pub messages_dropped: u64,
    /// Messages taken in.
    pub messages_received: u64,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Why it stopped, if it did.
    pub failed: Option<String>,
}

pub(crate) fn collect(shared: &Shared) -> StoreStatus {
    let regions: Vec<_> =
        shared.door.regions.all().iter().map(|region| region_status(shared, region)).collect();
    StoreStatus {
        store_id: shared.config.store_id,
        address: shared.advertised(),
        leaders: regions.iter().filter(|region| region.is_leader).count(),
        regions,
        pending_root_events: shared.publications.pending(),
        engine: engine_status(&shared.db.stats(), shared.db.failed()),
        raft: raft_status(shared),
    }
}

fn region_status(shared: &Shared, region: &crate::region::Region) -> RegionStatus {
    let state = region.state();
    let raft = shared.raft.status(region.group());
    let (version, conf_version) = state.descriptor.epoch_pair();
    RegionStatus {
        region_id: region.id,
        start_key: state.descriptor.start_key.escape_ascii().to_string(),
        end_key: state.descriptor.end_key.escape_ascii().to_string(),
        version,
        conf_version,
        peer_id: state.peer.unwrap_or(0),
        leader_peer_id: state.role.leader.unwrap_or(0),
        is_leader: state.role.is_leader,
        term: state.role.term,
        commit_index: raft.as_ref().map_or(0, |raft| raft.commit),
        applied_index: state.applied.index,
        last_index: raft.as_ref().map_or(0, |raft| raft.last_index),
        hibernates: raft.as_ref().is_some_and(|raft| raft.hibernates),
    }
}

fn engine_status(stats: &Stats, failed: Option<String>) -> EngineStatus {
    EngineStatus {
        entries: stats.entries,
        tables: stats.levels.iter().map(|level| level.tables).sum(),
        table_bytes: stats.levels.iter().map(|level| level.bytes).sum(),
        memtable_bytes: stats.memtable_bytes + stats.memtables_immutable_bytes,
        flushes: stats.flushes,
        compactions: stats.compactions,
        cache_hits: stats.cache_hits,
        cache_misses: stats.cache_misses,
        pressure: format!("{:?}", stats.pressure).to_lowercase(),
        failed,
    }
}

fn raft_status(shared: &Shared) -> RaftStatus {
    let counters = shared.raft.counters();
    RaftStatus {
        syncs: counters.syncs.load(Ordering::Relaxed),
        entries: counters.entries.load(Ordering::Relaxed),
        applied: counters.applied.load(Ordering::Relaxed),
        messages_sent: counters.messages_sent.load(Ordering::Relaxed),
        messages_dropped: counters.messages_dropped.load(Ordering::Relaxed),
        messages_received: counters.messages_received.load(Ordering::Relaxed),
        snapshots_sent: counters.snapshots_sent.load(Ordering::Relaxed),
        snapshots_installed: counters.snapshots_installed.load(Ordering::Relaxed),
        failed: shared.raft.failure(),
    }
}
