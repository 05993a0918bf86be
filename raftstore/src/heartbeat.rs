//! Telling the control plane about this store, and doing what it asks.
//!
//! One loop a coordinator sends heartbeats, so that a dead coordinator holds up nobody else. One loop publishes
//! what the meta-root must know: that the store exists and where, and the regions that it leads (the first leader of
//! a seeded region is the first to tell). Publishing is repeated until accepted; the meta-root takes what it
//! knows already as done. One loop fetches a timestamp for every new leadership, which opens it for commits in one
//! round trip.

use crate::image::FAMILIES;
use crate::mvcc::stored_bounds;
use crate::pending;
use crate::region::lock;
use crate::split;
use crate::store::Shared;
use futures_util::future::{join_all, select};
use nokv_env::{ClockExt, Duty, Fact};
use nokv_proto::coordinator::v1::{PublishRootEventRequest, RegionReport, StoreHeartbeatRequest, TsoRequest};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RegionDescriptor, RootEvent, RootEventKind, RootRegionDescriptor, RootStoreMembership,
};
use nokv_replica::GroupStatus;
use rand_core::Rng;
use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PUBLISH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Events on their way to the meta-root at a time: it makes those that meet durable together.
const PUBLISH_TOGETHER: usize = 32;
const TSO_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Heartbeats that follow a change of leadership keep this distance: one for many changes.
const BEAT_DISTANCE: Duration = Duration::from_millis(50);

/// What the meta-root has yet to hear.
#[derive(Default)]
pub(crate) struct Publications {
    joined: AtomicBool,
    regions: Mutex<BTreeSet<u64>>,
    waiting: AtomicU64,
}

impl Publications {
    /// Whether the meta-root has taken the first descriptor of `region` from us.
    pub(crate) fn has_published(&self, region: u64) -> bool {
        lock(&self.regions).contains(&region)
    }

    /// Events not accepted yet.
    pub(crate) fn pending(&self) -> usize {
        usize::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

/// A pause that doubles from one failure to the next.
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Self {
        Self { next: PAUSE_FIRST, max }
    }

    /// The next pause, a fifth more or less by `dice`.
    fn pause(&mut self, dice: u64) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.max);
        base.mul_f64(0.8 + 0.4 * (dice % 1024) as f64 / 1024.0)
    }
}

/// Sends heartbeats to the coordinator number `at`, for ever.
pub(crate) async fn beat(shared: &Shared, at: usize) {
    let mut accepted = false;
    loop {
        if shared.env.chance("store.heartbeat.skip", 0.05) {
            shared.env.clock.sleep(shared.config.heartbeat_interval).await;
            continue;
        }
        let heartbeat = heartbeat(shared);
        let reply = shared
            .coordinators
            .call(at, |mut client| async move { client.store_heartbeat(heartbeat).await })
            .await;
        match reply {
            Ok(reply) => {
                if !accepted {
                    tracing::info!(coordinator = shared.coordinators.addr(at), "heartbeats are accepted");
                }
                accepted = true;
                if shared.points.learn(reply.gc_target, reply.gc_safe_point) {
                    shared.bells.gc.notify_one();
                }
                shared.operations.take(reply.operations);
            }
            Err(error) => {
                if accepted {
                    tracing::warn!(coordinator = shared.coordinators.addr(at), %error, "heartbeats fail");
                }
                accepted = false;
            }
        }
        shared.env.clock.sleep(BEAT_DISTANCE).await;
        let pause = shared.env.clock.sleep(shared.config.heartbeat_interval.saturating_sub(BEAT_DISTANCE));
        select(pin!(shared.bells.beat(at).notified()), pause).await;
    }
}

fn heartbeat(shared: &Shared) -> StoreHeartbeatRequest {
    let mut regions = Vec::new();
    for region in shared.door.regions.all() {
        let state = region.state();
        if !state.is_hosted() {
            continue;
        }
        let raft = shared.raft.status(region.group()).filter(|_| state.role.is_leader);
        let (learners, silent) = raft.map(|raft| unwell(&state.descriptor, &raft)).unwrap_or_default();
        let bounds = stored_bounds(&state.descriptor.range());
        regions.push(RegionReport {
            learners,
            silent,
            bytes: FAMILIES.iter().map(|cf| shared.db.approximate_bytes(*cf, bounds.clone())).sum(),
            descriptor: Some((*state.descriptor).clone()),
            leader: state.role.is_leader,
            term: state.role.term,
            applied_index: state.applied.index,
            peer_id: state.peer.unwrap_or(0),
            gc_resolved: region.swept().resolved(state.descriptor.epoch_pair().0),
        });
    }
    let disk = &shared.env.disk;
    StoreHeartbeatRequest {
        store_id: shared.config.store_id,
        region_num: regions.len() as u64,
        leader_num: regions.iter().filter(|region| region.leader).count() as u64,
        capacity: disk.total_space(&shared.config.workdir).unwrap_or(0),
        available: disk.free_space(&shared.config.workdir).unwrap_or(0),
        dropped_operations: shared.operations.dropped(),
        address: shared.advertised(),
        regions,
    }
}

/// Of the peers of a region that is led here: those without a vote, and those that nothing was heard of lately.
fn unwell(region: &RegionDescriptor, raft: &GroupStatus) -> (Vec<u64>, Vec<u64>) {
    let peers = region.peers.iter().map(|peer| peer.peer_id);
    let silent = peers.filter(|peer| !raft.active.contains(peer) && *peer != raft.peer);
    (raft.learners.clone(), silent.collect())
}

/// Fetches a timestamp whenever a region begins to lead, for ever.
pub(crate) async fn fetch_timestamps(shared: &Shared) {
    let mut rng = shared.env.rng.stream("store-timestamps");
    let mut backoff = Backoff::new(TSO_PAUSE_MAX);
    let (mut generation, mut sealed) = (0, 0);
    loop {
        let leading: Vec<_> =
            shared.door.regions.all().into_iter().filter(|r| r.state().role.is_leader).collect();
        // Wanted before the timestamp is drawn: it must be later than the election.
        let wanted: Vec<_> = leading
            .into_iter()
            .filter_map(|region| region.one_pc().wants().map(|want| (region.clone(), want)))
            .collect();
        if wanted.is_empty() {
            backoff = Backoff::new(TSO_PAUSE_MAX);
            shared.bells.timestamps.notified().await;
            continue;
        }
        let reply = shared
            .coordinators
            .first(|mut client| async move { client.tso(TsoRequest { count: 1 }).await })
            .await;
        match reply {
            // A coordinator of an older generation than one heard before has lost its lease without knowing; a sealed one
            // has answered before its end.
            Ok(reply)
                if reply.timestamp != 0
                    && reply.cert_generation >= generation
                    && (sealed == 0 || reply.cert_generation > sealed) =>
            {
                generation = reply.cert_generation;
                sealed = sealed.max(reply.observed_seal_generation);
                shared.env.fact(Fact::Accepted {
                    client: 0,
                    duty: Duty::Timestamps,
                    generation,
                    sealed: reply.observed_seal_generation,
                    first: reply.timestamp,
                    count: 1,
                });
                for (region, want) in wanted {
                    region.one_pc().enable(want, reply.timestamp);
                    shared.env.probe("store.one_pc.enabled");
                }
            }
            Ok(_) => shared.env.clock.sleep(backoff.pause(rng.next_u64())).await,
            Err(error) => {
                tracing::debug!(%error, "no timestamp for new leaders yet");
                shared.env.clock.sleep(backoff.pause(rng.next_u64())).await;
            }
        }
    }
}

/// Publishes the store, and regions as it comes to lead them, for ever.
pub(crate) async fn publish(shared: &Shared) {
    let mut rng = shared.env.rng.stream("store-publish");
    let mut backoff = Backoff::new(PUBLISH_PAUSE_MAX);
    loop {
        let events = unpublished(shared);
        shared.publications.waiting.store(events.len() as u64, Ordering::Relaxed);
        if events.is_empty() {
            backoff = Backoff::new(PUBLISH_PAUSE_MAX);
            shared.bells.publish.notified().await;
            continue;
        }
        let mut behind = BTreeSet::new();
        let mut waiting = VecDeque::from(events);
        while !waiting.is_empty() {
            let together = take_together(&mut waiting, &behind);
            let outcomes = join_all(together.into_iter().map(|event| async {
                let subjects = event.subjects();
                (subjects, publish_one(shared, event).await)
            }));
            behind
                .extend(outcomes.await.into_iter().filter(|(_, ok)| !ok).flat_map(|(subjects, _)| subjects));
        }
        if !behind.is_empty() {
            let pause = shared.env.clock.sleep(backoff.pause(rng.next_u64()));
            select(pin!(shared.bells.publish.notified()), pause).await;
        }
    }
}

enum Event {
    Joined,
    Region(RegionDescriptor),
    /// Of [`crate::pending`], with its number.
    Pending(u64, Box<RootEvent>),
}

impl Event {
    /// The regions that it tells of; 0 stands for the store.
    fn subjects(&self) -> Vec<u64> {
        match self {
            Event::Joined => vec![0],
            Event::Region(region) => vec![region.region_id],
            Event::Pending(_, event) => pending::subjects(event),
        }
    }
}

/// Takes the next events that may travel at the same time. A region's later events wait for its earlier ones; those
/// whose earlier one is `behind` are left to the next look.
fn take_together(waiting: &mut VecDeque<Event>, behind: &BTreeSet<u64>) -> Vec<Event> {
    let mut taken = Vec::new();
    let mut touched = BTreeSet::new();
    for event in std::mem::take(waiting) {
        let subjects = event.subjects();
        if subjects.iter().any(|region| behind.contains(region)) {
            continue;
        }
        let is_free =
            taken.len() < PUBLISH_TOGETHER && !subjects.iter().any(|region| touched.contains(region));
        touched.extend(subjects);
        if is_free { taken.push(event) } else { waiting.push_back(event) }
    }
    taken
}

fn unpublished(shared: &Shared) -> Vec<Event> {
    let mut events = Vec::new();
    if !shared.publications.joined.load(Ordering::Relaxed) {
        events.push(Event::Joined);
    }
    let done = lock(&shared.publications.regions).clone();
    events.extend(
        shared.pending.all().into_iter().map(|(number, event)| Event::Pending(number, Box::new(event))),
    );
    for region in shared.door.regions.all() {
        let state = region.state();
        // Later states, and children, reach the meta-root with the change that made them.
        let is_first = state.descriptor.epoch_pair() == (1, 1) && !split::is_child(&state.descriptor);
        if is_first && state.role.is_leader && state.is_hosted() && !done.contains(&region.id) {
            events.push(Event::Region((*state.descriptor).clone()));
        }
    }
    events
}

/// Whether the event was accepted.
async fn publish_one(shared: &Shared, event: Event) -> bool {
    let request =
        PublishRootEventRequest { event: Some(root_event(shared, &event)), expected_cluster_epoch: 0 };
    let mut last = None;
    for at in shared.coordinators.by_preference() {
        let request = request.clone();
        let call =
            |mut client: crate::control::Client| async move { client.publish_root_event(request).await };
        match shared.coordinators.call(at, call).await {
            Ok(reply) if reply.accepted => {
                shared.coordinators.prefer(at);
                match event {
                    Event::Joined => shared.publications.joined.store(true, Ordering::Relaxed),
                    Event::Region(region) => {
                        shared.env.probe("store.region.published");
                        lock(&shared.publications.regions).insert(region.region_id);
                    }
                    Event::Pending(number, _) => {
                        shared.env.probe("store.pending.published");
                        if let Err(error) = shared.pending.done(&shared.db, number) {
                            tracing::warn!(%error, "an event that was published cannot be forgotten");
                            return false;
                        }
                    }
                }
                return true;
            }
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => tracing::info!(%error, "the meta-root has not accepted an event of this store yet"),
        None => tracing::info!("the meta-root has not accepted an event of this store yet"),
    }
    false
}

fn root_event(shared: &Shared, event: &Event) -> RootEvent {
    let (kind, payload) = match event {
        Event::Joined => {
            let address = shared.advertised();
            let membership = RootStoreMembership { store_id: shared.config.store_id, address };
            (RootEventKind::StoreJoined, Payload::StoreMembership(membership))
        }
        Event::Region(region) => {
            let descriptor = RootRegionDescriptor { descriptor: Some(region.clone()) };
            (RootEventKind::RegionBootstrap, Payload::RegionDescriptor(descriptor))
        }
        Event::Pending(_, event) => return (**event).clone(),
    };
    RootEvent { kind: kind.into(), payload: Some(payload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_region_wait_for_each_other_and_others_do_not() {
        let region = |region_id| Event::Region(RegionDescriptor { region_id, ..RegionDescriptor::default() });
        let ids = |events: &[Event]| events.iter().flat_map(Event::subjects).collect::<Vec<_>>();
        let mut waiting =
            VecDeque::from([Event::Joined, region(1), region(2), region(1), region(3), region(3)]);
        let none = BTreeSet::new();
        assert_eq!(ids(&take_together(&mut waiting, &none)), [0, 1, 2, 3]);
        let behind = BTreeSet::from([1]);
        assert_eq!(ids(&take_together(&mut waiting, &behind)), [3], "the earlier event of region 1 failed");
        assert!(waiting.is_empty());
        waiting.extend((1..=100).map(region));
        assert_eq!(take_together(&mut waiting, &none).len(), PUBLISH_TOGETHER);
        assert_eq!(take_together(&mut waiting, &none)[0].subjects(), [PUBLISH_TOGETHER as u64 + 1]);
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_jitter() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<_> = (0..5).map(|_| backoff.pause(512).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1000, 1000]);
        assert_eq!(Backoff::new(Duration::from_secs(1)).pause(0).as_millis(), 160);
    }
}
