//! What the driver shows to others without being asked: each group's status, counters, its end.

use crate::config::GroupId;
use crate::config::SEGMENTS_MAX;
use crate::machine::Role;
use crate::record;
use nokv_engine::log::LogStats;
use nokv_env::task::Stop;
use nokv_env::{Histogram, Instant};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A group as it was after the driver's last round.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupStatus {
    /// This node's peer.
    pub peer: u64,
    /// The peer that leads, if known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// This peer leads.
    pub is_leader: bool,
    /// Highest index known to be committed.
    pub commit: u64,
    /// Highest index applied.
    pub applied: u64,
    /// First index still in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Voting peers.
    pub voters: Vec<u64>,
    /// Learning peers.
    pub learners: Vec<u64>,
    /// A membership transition is under way.
    pub in_transition: bool,
    /// On a leader: how far each other peer is known to have the log.
    pub matched: BTreeMap<u64, u64>,
    /// On a leader: the peers that it has heard of lately, itself included. Updated with `matched`, about once a second.
    pub active: Vec<u64>,
    /// Proposals that wait for their outcome.
    pub proposals: usize,
    /// Nothing happens in the group, so it does not even tick.
    pub hibernates: bool,
}

impl GroupStatus {
    /// The part that [`crate::Machine::role_changed`] reports.
    pub fn role(&self) -> Role {
        Role { leader: self.leader, term: self.term, is_leader: self.is_leader }
    }
}

/// Counters of a driver since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Syncs of the raft log.
    pub syncs: AtomicU64,
    /// How long they took.
    pub sync_times: Histogram,
    /// Rounds: each stores, sends and applies what its groups had ready.
    pub rounds: AtomicU64,
    /// Groups that had something ready, in all rounds.
    pub readies: AtomicU64,
    /// Proposals taken up.
    pub proposals: AtomicU64,
    /// Entries appended to the raft log.
    pub entries: AtomicU64,
    /// Entries applied.
    pub applied: AtomicU64,
    /// Raft messages given to the transport.
    pub messages_sent: AtomicU64,
    /// Raft messages dropped because a node's queue was full or it could not be reached.
    pub messages_dropped: AtomicU64,
    /// Raft messages taken in.
    pub messages_received: AtomicU64,
    /// Raft messages dropped because the driver was behind.
    pub messages_refused: AtomicU64,
    /// Snapshots sent.
    pub snapshots_sent: AtomicU64,
    /// Snapshots installed.
    pub snapshots_installed: AtomicU64,
    /// Read rounds; each serves all reads gathered for it.
    pub read_rounds: AtomicU64,
    /// Streams to other nodes opened.
    pub streams: AtomicU64,
    /// Streams to other nodes that broke, or could not be opened.
    pub streams_lost: AtomicU64,
    /// When that was last, by the wall clock, in milliseconds since 1970; 0: never.
    pub stream_lost_unix_ms: AtomicU64,
    /// Nanoseconds that syncs of the raft log took.
    pub sync_nanos: AtomicU64,
    /// How often segments of the raft log were removed.
    pub purges: AtomicU64,
    /// Segments that went then.
    pub purged: AtomicU64,
    /// When that was last, by the wall clock, in milliseconds since 1970; 0: never.
    pub purged_unix_ms: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// The raft log in numbers: of a driver as they were about a second ago, or of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStatus {
    /// Its segments and their records.
    pub log: LogStats,
    /// Groups that have something in it.
    pub groups: u64,
    /// The oldest segment that some group needs; the newest one when none needs any.
    pub oldest_needed: u64,
    /// How many segments the group that needs the oldest one is behind the newest.
    pub lag_max: u64,
    /// Groups that are further behind than [`LogStatus::LAG_WARN`].
    pub lagging: u64,
}

impl LogStatus {
    /// From this many segments on a log is long: the groups in the oldest one are pressed to let go of it.
    pub const LAG_WARN: u64 = SEGMENTS_MAX as u64;

    /// The records that hold entries.
    pub fn appends(&self) -> u64 {
        self.log.records.of(record::APPEND)
    }

    /// The records that hold where a group stands: hard state, base, truncations.
    pub fn states(&self) -> u64 {
        self.log.records.of(record::STATE) + self.log.records.of(record::TRUNCATE)
    }

    /// The records about snapshots.
    pub fn snapshots(&self) -> u64 {
        self.log.records.of(record::INSTALLING) + self.log.records.of(record::INSTALLED)
    }

    /// All other records.
    pub fn others(&self) -> u64 {
        self.log.records.total() - self.appends() - self.states() - self.snapshots()
    }

    /// `needed`: of each group the oldest segment that it needs, if it needs any.
    pub(crate) fn of(log: LogStats, needed: impl Iterator<Item = Option<u64>>) -> Self {
        let newest = log.active_segment;
        let mut status = Self { log, groups: 0, oldest_needed: newest, lag_max: 0, lagging: 0 };
        for oldest in needed {
            status.groups += 1;
            let lag = newest.saturating_sub(oldest.unwrap_or(newest));
            status.lag_max = status.lag_max.max(lag);
            status.lagging += u64::from(lag > Self::LAG_WARN);
        }
        status.oldest_needed = newest - status.lag_max;
        status
    }
}

/// Shared by the driver, its handles and its transport.
#[derive(Default)]
pub(crate) struct Shared {
    statuses: Mutex<BTreeMap<GroupId, GroupStatus>>,
    log: Mutex<LogStatus>,
    failure: Mutex<Option<String>>,
    /// Raised with `failure`.
    failed: Stop,
    /// Asks the driver and its transport to end.
    pub(crate) stop: Stop,
    /// Raised when the driver has ended, one way or another.
    pub(crate) ended: Stop,
    pub(crate) counters: Counters,
    /// When the driver last began a turn, in nanoseconds of its node's clock; 0: not yet.
    turned: AtomicU64,
    /// Entries and snapshots of leaders elsewhere are dropped, as if they were lost on the way.
    closed_to_entries: AtomicBool,
    /// The disk of the raft log is full: the driver waits for room.
    disk_full: AtomicBool,
}

impl Shared {
    pub(crate) fn status(&self, group: GroupId) -> Option<GroupStatus> {
        lock(&self.statuses).get(&group).cloned()
    }

    pub(crate) fn statuses(&self) -> BTreeMap<GroupId, GroupStatus> {
        lock(&self.statuses).clone()
    }

    pub(crate) fn log(&self) -> LogStatus {
        *lock(&self.log)
    }

    pub(crate) fn update_log(&self, status: LogStatus) {
        *lock(&self.log) = status;
    }

    pub(crate) fn update_status(&self, group: GroupId, update: impl FnOnce(&mut GroupStatus)) {
        update(lock(&self.statuses).entry(group).or_default());
    }

    pub(crate) fn remove_status(&self, group: GroupId) {
        lock(&self.statuses).remove(&group);
    }

    /// The driver begins a turn.
    pub(crate) fn turns(&self, now: Instant) {
        self.turned.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn turned(&self) -> Option<Instant> {
        Some(Instant(self.turned.load(Ordering::Relaxed))).filter(|at| at.0 != 0)
    }

    pub(crate) fn close_to_entries(&self, closed: bool) {
        self.closed_to_entries.store(closed, Ordering::Relaxed);
    }

    pub(crate) fn is_closed_to_entries(&self) -> bool {
        self.closed_to_entries.load(Ordering::Relaxed)
    }

    /// Whether this is news.
    pub(crate) fn set_disk_full(&self, is_full: bool) -> bool {
        self.disk_full.swap(is_full, Ordering::Relaxed) != is_full
    }

    pub(crate) fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Records why the driver cannot go on. The first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        lock(&self.failure).get_or_insert(reason);
        self.failed.stop();
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Completes with the reason when the driver failed.
    pub(crate) async fn failed(&self) -> String {
        self.failed.stopped().await;
        self.failure().unwrap_or_default()
    }
}

/// A short critical section; a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
