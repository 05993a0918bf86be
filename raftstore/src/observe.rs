//! A store in numbers, for whoever watches it. Counters run from its start. Nothing here decides anything.

use crate::Store;
use crate::room::Level;
use crate::store::Shared;
use nokv_engine::Stats;
use nokv_proto::id::Timestamp;
use nokv_replica::RaftObservation;
use std::time::Duration;

/// A store at one moment.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Its id.
    pub store_id: u64,
    /// Its regions.
    pub regions: RegionCounts,
    /// The raft loop.
    pub raft: RaftObservation,
    /// The engine.
    pub engine: Stats,
    /// Why the engine stopped accepting writes, if it did.
    pub engine_failed: Option<String>,
    /// The disk.
    pub disk: DiskObservation,
    /// The coordinators, in the order of the configuration.
    pub coordinators: Vec<CoordinatorContact>,
    /// Events that the meta-root has not accepted yet.
    pub pending_root_events: u64,
    /// Bytes of snapshots sent.
    pub snapshot_sent_bytes: u64,
    /// Bytes of snapshots taken in.
    pub snapshot_received_bytes: u64,
    /// Requests that took at least as long as the slow log's limit.
    pub slow_requests: u64,
    /// Versions below may be gone; zero: none yet.
    pub safe_point: Timestamp,
    /// The next safe point, as the coordinator wants it; zero: none.
    pub safe_point_target: Timestamp,
    /// The wall clock, to compare with the safe point.
    pub unix_millis: u64,
}

/// Regions by what they are here.
#[derive(Debug, Clone, Default)]
pub struct RegionCounts {
    /// A peer of theirs runs here.
    pub hosted: u64,
    /// Led here.
    pub leaders: u64,
    /// No leader is known.
    pub leaderless: Vec<u64>,
    /// The peer here holds something else than the others, and serves nothing.
    pub quarantined: Vec<u64>,
    /// Nothing happens in them.
    pub hibernating: u64,
    /// Entries that are committed and not applied, of the region that has most.
    pub apply_lag_max: u64,
    /// Proposals that wait for their outcome.
    pub proposals_waiting: u64,
}

/// The disk of the working directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskObservation {
    /// Bytes still free; `None`: the system does not say.
    pub free_bytes: Option<u64>,
    /// Its size.
    pub total_bytes: Option<u64>,
    /// Bytes that are kept free.
    pub reserve_bytes: u64,
    /// What is refused for want of room.
    pub level: Level,
}

/// What came of talking to a coordinator.
#[derive(Debug, Clone, Default)]
pub struct CoordinatorContact {
    /// Its address.
    pub addr: String,
    /// Time since it last took a heartbeat; `None`: it never did.
    pub heard_ago: Option<Duration>,
    /// For how long it has not; `None`: it does.
    pub missing_for: Option<Duration>,
    /// What the last attempt failed with.
    pub error: String,
}

impl Store {
    /// A handle that looks at the store, also after it moved elsewhere.
    pub fn observer(&self) -> impl Fn() -> Observation + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || observe(&shared)
    }
}

fn observe(shared: &Shared) -> Observation {
    let disk = &shared.env.disk;
    let now = shared.env.clock.now();
    Observation {
        store_id: shared.config.store_id,
        regions: regions(shared),
        raft: shared.raft.observe(now),
        engine: shared.db.stats(),
        engine_failed: shared.db.failed(),
        disk: DiskObservation {
            free_bytes: disk.free_space(&shared.config.workdir).ok(),
            total_bytes: disk.total_space(&shared.config.workdir).ok(),
            reserve_bytes: shared.room.needed(&shared.config),
            level: shared.room.level(),
        },
        coordinators: shared.coordinators.contacts(now),
        pending_root_events: shared.publications.pending() as u64,
        snapshot_sent_bytes: shared.snapshots.sent_bytes(),
        snapshot_received_bytes: shared.snapshots.received_bytes(),
        slow_requests: shared.slow.count(),
        safe_point: Timestamp(shared.points.safe_point()),
        safe_point_target: Timestamp(shared.points.target()),
        unix_millis: shared.env.clock.unix_millis(),
    }
}

fn regions(shared: &Shared) -> RegionCounts {
    let mut counts = RegionCounts::default();
    for region in shared.door.regions.all() {
        let state = region.state();
        if !state.is_hosted() {
            continue;
        }
        counts.hosted += 1;
        counts.leaders += u64::from(state.role.is_leader);
        if state.is_quarantined() {
            counts.quarantined.push(region.id);
        } else if state.role.leader.is_none() {
            counts.leaderless.push(region.id);
        }
        if let Some(raft) = shared.raft.status(region.group()) {
            counts.hibernating += u64::from(raft.hibernates);
            counts.apply_lag_max = counts.apply_lag_max.max(raft.commit.saturating_sub(raft.applied));
            counts.proposals_waiting += raft.proposals as u64;
        }
    }
    counts
}
