//! A coordinator in numbers, for whoever watches it. Nothing here decides anything.

use crate::{Coordinator, Shared, handover};
use nokv_env::Instant;
use nokv_proto::id::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When the meta-roots were last heard of.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    /// Nanoseconds of this node's clock, 0: never.
    heard: AtomicU64,
    /// Since when they have not been, 0: they are.
    missing: AtomicU64,
}

impl Contact {
    pub(crate) fn heard(&self, now: Instant) {
        self.heard.store(now.0, Ordering::Relaxed);
        self.missing.store(0, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self, now: Instant) {
        // The first miss counts; only the loop that asks writes here.
        let _ = self.missing.compare_exchange(0, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    fn since(at: &AtomicU64, now: Instant) -> Option<Duration> {
        Some(at.load(Ordering::Relaxed)).filter(|at| *at != 0).map(|at| now.since(Instant(at)))
    }
}

/// A coordinator at one moment.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Its name.
    pub coordinator_id: String,
    /// The lease.
    pub lease: LeaseObservation,
    /// The meta-roots, as seen from here.
    pub root: RootObservation,
    /// Regions known.
    pub regions: u64,
    /// Of them, regions whose leader is not known or whose store is down.
    pub regions_without_leader: u64,
    /// Changes of membership under way.
    pub peer_changes: u64,
    /// Splits and merges under way.
    pub range_changes: u64,
    /// Stores by state.
    pub stores: StoreCounts,
    /// Ids handed out since the start.
    pub ids_given: u64,
    /// Timestamps handed out since the start.
    pub timestamps_given: u64,
    /// Operators by kind.
    pub operators: Vec<OperatorCount>,
    /// What the scheduler cannot do just now.
    pub waiting: u64,
    /// Versions below may be gone; zero: none yet.
    pub safe_point: Timestamp,
    /// Who holds the safe point back.
    pub holds: u64,
    /// The wall clock, to compare with the safe point.
    pub unix_millis: u64,
}

/// The coordinator lease as one coordinator sees it.
#[derive(Debug, Clone, Default)]
pub struct LeaseObservation {
    /// For how long this coordinator may still serve under it; `None`: it does not hold it.
    pub held_for: Option<Duration>,
    /// The newest generation that is known.
    pub generation: u64,
    /// Its phase: none, active, released or sealed.
    pub phase: &'static str,
    /// By this node's wall clock it has run out a while ago. For people only: nothing is decided by it.
    pub is_overdue: bool,
    /// Who has it, as far as known.
    pub holder: String,
    /// Why it is not held here, in words; empty when it is.
    pub reason: String,
}

/// How far wall clocks may lie apart before people are told something wrong.
const OVERDUE_NANOS: i128 = 5_000_000_000;

/// The meta-roots as one coordinator sees them.
#[derive(Debug, Clone, Default)]
pub struct RootObservation {
    /// Time since the last answer; `None`: there was none yet.
    pub heard_ago: Option<Duration>,
    /// For how long there has been none; `None`: they answer.
    pub missing_for: Option<Duration>,
    /// What the last attempt failed with.
    pub error: Option<String>,
    /// Log entries that the view is behind the newest it has heard of.
    pub lag: u64,
}

/// Stores by state.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreCounts {
    /// They send heartbeats.
    pub up: u64,
    /// They do not, or have not yet.
    pub down: u64,
    /// Of all, those that are to be emptied.
    pub decommissioning: u64,
    /// Of all, those that take no new data because their disk is nearly full.
    pub read_only: u64,
}

/// Operators of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct OperatorCount {
    /// What they do.
    pub kind: &'static str,
    /// Under way.
    pub running: u64,
    /// Begun since the start.
    pub begun: u64,
    /// Of them, done.
    pub done: u64,
    /// Of them, given up.
    pub cancelled: u64,
}

impl Coordinator {
    /// A handle that looks at the coordinator, also after it moved elsewhere.
    pub fn observer(&self) -> impl Fn() -> Observation + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || observe(&shared)
    }
}

fn observe(shared: &Shared) -> Observation {
    let now = shared.env.clock.now();
    let lease = shared.lease().clone();
    let operators = shared.operator_counts().into_iter().map(|(kind, running, tally)| OperatorCount {
        kind,
        running,
        begun: tally.begun,
        done: tally.done,
        cancelled: tally.cancelled,
    });
    let operators = operators.collect();
    let waiting = shared.operators(0).map_or(0, |listed| listed.waiting.len() as u64);
    let holds = shared.gc().hold_count() as u64;
    let view = shared.view();
    let known = view.state.coordinator_lease.clone().unwrap_or_default();
    let down_after = shared.config.store_down_after;
    let stores = view.stores(now, down_after);
    let count = |is: fn(&nokv_proto::coordinator::v1::StoreInfo) -> bool| {
        stores.iter().filter(|store| is(store)).count() as u64
    };
    let led = view.leader_reports(now, down_after);
    Observation {
        coordinator_id: shared.config.coordinator_id.clone(),
        lease: LeaseObservation {
            held_for: lease.trusted_for(now),
            generation: known.cert_generation,
            phase: handover::phase(&view.state).name(),
            is_overdue: i128::from(known.expires_unix_nano) + OVERDUE_NANOS
                < i128::from(shared.env.clock.unix_millis()) * 1_000_000,
            holder: lease.other_holder().map_or_else(|| known.holder_id.clone(), str::to_owned),
            reason: lease.generation(now).map_or_else(|| lease.reason(), |_| String::new()),
        },
        root: RootObservation {
            heard_ago: Contact::since(&shared.contact.heard, now),
            missing_for: Contact::since(&shared.contact.missing, now),
            error: view.root_error.clone(),
            lag: view.root_lag(),
        },
        regions: view.region_count() as u64,
        regions_without_leader: view.regions().filter(|region| !led.contains_key(&region.region_id)).count()
            as u64,
        peer_changes: view.pending_peer_changes.len() as u64,
        range_changes: view.pending_range_changes.len() as u64,
        stores: StoreCounts {
            up: count(|store| store.up),
            down: count(|store| !store.up),
            decommissioning: count(|store| store.decommissioning),
            read_only: count(|store| store.read_only),
        },
        ids_given: shared.ids.given(),
        timestamps_given: shared.timestamps.given(),
        operators,
        waiting,
        safe_point: Timestamp(view.state.gc_safe_point),
        holds,
        unix_millis: shared.env.clock.unix_millis(),
    }
}
