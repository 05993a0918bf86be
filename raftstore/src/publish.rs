//! Telling the meta-root what it must know, until it knows it.
//!
//! That the store exists and where; the regions that it leads (the first leader of a seeded region is the first to tell);
//! and what regions decided in their logs, see [`crate::pending`]. The meta-root takes what it knows already as done, so
//! nothing is told too often. What it refuses is told again as well: most refusals end with something that another store
//! has yet to tell. One that does not end is shown by `nokv execution` with the reason, for people to decide.

use crate::pending;
use crate::region::lock;
use crate::split;
use crate::store::Shared;
use futures_util::future::{join_all, select};
use nokv_env::{ClockExt, Instant};
use nokv_proto::coordinator::v1::PublishRootEventRequest;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RegionDescriptor, RootEvent, RootEventKind, RootRegionDescriptor, RootStoreMembership,
};
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tonic::{Code, Status};

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PUBLISH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Events on their way to the meta-root at a time: it makes those that meet durable together.
const PUBLISH_TOGETHER: usize = 32;
/// An event that the meta-root has refused for this long is for people to look at. Longer than another store takes to
/// come back and tell what came before.
const BLOCKED_AFTER: Duration = Duration::from_secs(60);

/// Why an event was not accepted the last time.
#[derive(Debug, Clone)]
pub(crate) struct Setback {
    pub(crate) error: String,
    /// Since when the meta-root itself has refused it; `None`: it was not reached.
    refused_since: Option<Instant>,
}

impl Setback {
    /// Whether telling it again will hardly help.
    pub(crate) fn is_blocked(&self, now: Instant) -> bool {
        self.refused_since.is_some_and(|since| now.since(since) >= BLOCKED_AFTER)
    }

    fn after(before: Option<&Self>, now: Instant, error: &Status) -> Self {
        let refused = matches!(error.code(), Code::FailedPrecondition | Code::InvalidArgument);
        let since = before.and_then(|before| before.refused_since).unwrap_or(now);
        Self { error: error.message().to_owned(), refused_since: refused.then_some(since) }
    }
}

/// What the meta-root has yet to hear.
#[derive(Default)]
pub(crate) struct Publications {
    joined: AtomicBool,
    regions: Mutex<BTreeSet<u64>>,
    waiting: AtomicU64,
    /// By number of the pending event.
    setbacks: Mutex<BTreeMap<u64, Setback>>,
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

    /// What became of the last attempt to tell a pending event, if it failed.
    pub(crate) fn setback(&self, number: u64) -> Option<Setback> {
        lock(&self.setbacks).get(&number).cloned()
    }

    /// Nobody tells this event any more.
    pub(crate) fn forget(&self, number: u64) {
        lock(&self.setbacks).remove(&number);
    }

    fn failed(&self, number: u64, now: Instant, error: &Status) {
        let mut setbacks = lock(&self.setbacks);
        let setback = Setback::after(setbacks.get(&number), now, error);
        setbacks.insert(number, setback);
    }
}

/// A pause that doubles from one failure to the next.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(max: Duration) -> Self {
        Self { next: PAUSE_FIRST, max }
    }

    /// The next pause, a fifth more or less by `dice`.
    pub(crate) fn pause(&mut self, dice: u64) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.max);
        base.mul_f64(0.8 + 0.4 * (dice % 1024) as f64 / 1024.0)
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

impl Shared {
    /// Never tells a pending event again, which the meta-root refuses. Says what it told of.
    pub(crate) fn forget_root_event(&self, number: u64) -> Result<String, Status> {
        let Some((_, event)) = self.pending.all().into_iter().find(|(known, _)| *known == number) else {
            return Err(Status::not_found(format!("this store has no event {number} to tell")));
        };
        let refused = self.publications.setback(number).filter(|setback| setback.refused_since.is_some());
        let Some(setback) = refused else {
            let text = format!("the meta-root does not refuse event {number}; it is told in time");
            return Err(Status::failed_precondition(text));
        };
        self.pending.done(&self.db, number).map_err(|error| Status::internal(error.to_string()))?;
        self.publications.forget(number);
        let transition = pending::transition_id(&event);
        tracing::warn!(number, transition, error = setback.error, "an event is never told, on request");
        Ok(transition)
    }
}

enum Event {
    Joined,
    Region(Box<RegionDescriptor>),
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
            events.push(Event::Region(Box::new((*state.descriptor).clone())));
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
                        shared.publications.forget(number);
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
    let error = last.unwrap_or_else(|| Status::unavailable("no coordinator has accepted it"));
    tracing::info!(%error, "the meta-root has not accepted an event of this store yet");
    if let Event::Pending(number, _) = event {
        shared.publications.failed(number, shared.env.clock.now(), &error);
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
            let descriptor = RootRegionDescriptor { descriptor: Some((**region).clone()) };
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
        let region = |region_id| {
            Event::Region(Box::new(RegionDescriptor { region_id, ..RegionDescriptor::default() }))
        };
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

    #[test]
    fn an_event_is_blocked_when_the_meta_root_has_refused_it_for_long() {
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let refused = Status::failed_precondition("region 7 was removed and does not come back");
        let first = Setback::after(None, at(10), &refused);
        let again = Setback::after(Some(&first), at(69), &refused);
        assert!(!again.is_blocked(at(69)) && again.is_blocked(at(70)), "{again:?}");
        let lost = Setback::after(Some(&again), at(71), &Status::unavailable("no answer"));
        assert!(!lost.is_blocked(at(500)), "whoever cannot be reached has refused nothing");
        assert!(!Setback::after(Some(&lost), at(500), &refused).is_blocked(at(501)));
    }
}
