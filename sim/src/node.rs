//! A node's five abstractions, made for one life of it.
//!
//! The disk ([`MemDisk`]), the wall clock's error and the counters outlive a life; monotonic time starts at
//! another arbitrary point in each, ticks at the node's own rate, and never jumps.

use crate::atoms::{Decider, Point};
use crate::exec::{Executor, Node, Place, SUPERVISOR, lock};
use crate::net::{Network, SimNet};
use crate::record::Told;
use crate::trace::{Kind, Trace, digest};
use crate::watch::Watch;
use nokv_env::{BoxFuture, Clock, Env, Fact, Hooks, Instant, MemDisk, OfCluster, RngSource, Tasks};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// Wall-clock time at the beginning of every world: 2026-01-01, in milliseconds since the epoch.
pub(crate) const EPOCH_MS: i64 = 1_767_225_600_000;

/// What a node keeps over its lives.
pub struct NodeParts {
    /// Which node.
    pub node: Node,
    /// Name used in plans and reports, such as `store2`.
    pub name: String,
    /// What a crash leaves something of.
    pub disk: Arc<MemDisk>,
    /// How much faster (or slower) than true time its monotonic clock runs, in parts per billion.
    pub rate_ppb: i64,
    /// Error of the wall clock, in milliseconds; faults change it.
    pub wall_error_ms: Arc<AtomicI64>,
    /// Shared by all lives: chance points.
    pub chances: Arc<Chances>,
}

/// The world as nodes see it, to make [`Env`]s from.
#[derive(Clone)]
pub struct Surroundings {
    /// Seed of the run.
    pub seed: u64,
    /// Who runs tasks.
    pub exec: Arc<dyn Executor>,
    /// The links.
    pub network: Arc<Network>,
    /// The trace.
    pub trace: Arc<Trace>,
    /// Who listens to facts and probes.
    pub watch: Arc<Watch>,
}

impl Surroundings {
    /// The environment of the node's current life.
    pub fn env(&self, parts: &NodeParts) -> Env {
        let place = self.exec.place(parts.node);
        let rng = RngSource::new(self.seed, u64::from(parts.node.0) << 32 | u64::from(place.life));
        Env {
            clock: Arc::new(NodeClock {
                exec: self.exec.clone(),
                rate_ppb: parts.rate_ppb,
                start_ns: rng.pure("clock-start", 0) % (1 << 50),
                wall_error_ms: parts.wall_error_ms.clone(),
            }),
            disk: parts.disk.mount(),
            net: Arc::new(OfCluster::new(Arc::new(SimNet::new(self.network.clone(), place)))),
            rng,
            tasks: Arc::new(NodeTasks {
                exec: self.exec.clone(),
                trace: self.trace.clone(),
                watch: self.watch.clone(),
                place,
                disk: parts.disk.clone(),
            }),
            hooks: Arc::new(NodeHooks {
                exec: self.exec.clone(),
                trace: self.trace.clone(),
                watch: self.watch.clone(),
                node: parts.node,
                chances: parts.chances.clone(),
            }),
        }
    }
}

struct NodeClock {
    exec: Arc<dyn Executor>,
    rate_ppb: i64,
    start_ns: u64,
    wall_error_ms: Arc<AtomicI64>,
}

const BILLION: u64 = 1_000_000_000;

impl NodeClock {
    fn local(&self, true_ns: u64) -> u64 {
        if self.rate_ppb == 0 {
            return self.start_ns + true_ns;
        }
        // Whole seconds and the rest apart: exact, and no number outgrows a word.
        let (seconds, nanos) = ((true_ns / BILLION) as i64, (true_ns % BILLION) as i64);
        let drift = seconds * self.rate_ppb + nanos * self.rate_ppb / BILLION as i64;
        self.start_ns + true_ns.saturating_add_signed(drift)
    }

    /// A true time at which [`NodeClock::local`] has reached `local_ns`, at most a few nanoseconds late.
    fn true_time(&self, local_ns: u64) -> u64 {
        let elapsed = local_ns.saturating_sub(self.start_ns);
        if self.rate_ppb == 0 {
            return elapsed;
        }
        let local_second = BILLION.saturating_add_signed(self.rate_ppb);
        let (seconds, nanos) = (elapsed / local_second, elapsed % local_second);
        seconds.saturating_mul(BILLION).saturating_add(nanos * BILLION / local_second + 2)
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Instant {
        Instant(self.local(self.exec.now_ns()))
    }

    fn unix_millis(&self) -> u64 {
        let millis = (self.exec.now_ns() / 1_000_000) as i64;
        (EPOCH_MS + millis + self.wall_error_ms.load(Ordering::Relaxed)) as u64
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.exec.sleep_until(self.true_time(deadline.0))
    }
}

struct NodeTasks {
    exec: Arc<dyn Executor>,
    trace: Arc<Trace>,
    watch: Arc<Watch>,
    place: Place,
    disk: Arc<MemDisk>,
}

impl Tasks for NodeTasks {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.exec.spawn_on(self.place, name, future);
    }

    fn spawn_dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.exec.spawn_on(self.place, name, future);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        if self.disk.crashed() {
            // The node died in a disk operation; the world will drop this task.
            self.watch.disk_crashed.notify_waiters();
            return Box::pin(std::future::pending());
        }
        let debt = self.disk.take_latency().as_nanos() as u64;
        let now = self.exec.now_ns();
        if debt == 0 {
            return Box::pin(Yield(false));
        }
        self.trace.event(now, self.place.node, Kind::Disk, debt, self.disk.ops());
        self.exec.sleep_until(now + debt)
    }
}

/// Goes to the back of the ready queue once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The chance points of one node. Each point is on or off for a whole run, so that rare branches come in
/// combinations instead of all a little; each is a decision point of its own, see [`crate::atoms`].
pub struct Chances {
    decider: Arc<Decider>,
    seed: u64,
    /// What the node is called in keys.
    name: String,
    /// Share of the points that are on, in percent.
    on_percent: u64,
    stopped: AtomicBool,
    points: Mutex<BTreeMap<&'static str, Point>>,
}

impl Chances {
    /// Chance points of the node called `name`; the same points are on at every node of the world of `seed`.
    pub fn new(decider: Arc<Decider>, seed: u64, name: impl Into<String>, on_percent: u64) -> Self {
        let stopped = AtomicBool::new(false);
        Self { decider, seed, name: name.into(), on_percent, stopped, points: Mutex::default() }
    }

    fn take(&self, name: &'static str, probability: f64) -> bool {
        if self.on_percent == 0 || self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        let mut points = lock(&self.points);
        let point =
            points.entry(name).or_insert_with(|| self.decider.point(format!("{}/chance/{name}", self.name)));
        let taken = point.decide(|draw| {
            let rare = f64::from((draw >> 32) as u32) < probability * f64::from(u32::MAX);
            (rare && self.is_on(name)).then_some(1)
        });
        taken.is_some()
    }

    fn is_on(&self, name: &'static str) -> bool {
        let world = RngSource::new(self.seed, u64::from(SUPERVISOR.0));
        world.pure("chance", digest(name.as_bytes())) % 100 < self.on_percent
    }

    /// Turns every point off, for the quiet phase after healing.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

struct NodeHooks {
    exec: Arc<dyn Executor>,
    trace: Arc<Trace>,
    watch: Arc<Watch>,
    node: Node,
    chances: Arc<Chances>,
}

impl NodeHooks {
    fn tell(&self, told: impl FnOnce() -> Told) {
        let (now, node) = (self.exec.now_ns(), self.node);
        self.trace.record(|recording| recording.told.push((now, node, told())));
    }
}

impl Hooks for NodeHooks {
    fn chance(&self, name: &'static str, probability: f64) -> bool {
        let taken = self.chances.take(name, probability);
        if taken {
            self.trace.event(self.exec.now_ns(), self.node, Kind::Chance, digest(name.as_bytes()), 0);
            self.trace.name(Kind::Chance, digest(name.as_bytes()), 0, || name.to_owned());
            self.watch.probe(name);
            self.tell(|| Told::Chance(name));
            self.watch.triggers.happened(self.node, name);
        }
        taken
    }

    fn probe(&self, name: &'static str) {
        if self.watch.probe(name) {
            self.trace.event(self.exec.now_ns(), self.node, Kind::Probe, digest(name.as_bytes()), 0);
            self.trace.name(Kind::Probe, digest(name.as_bytes()), 0, || name.to_owned());
            self.tell(|| Told::Probe(name));
        }
        self.watch.triggers.happened(self.node, name);
    }

    fn watching(&self) -> bool {
        true
    }

    fn fact(&self, fact: Fact) {
        let (now, event) = (self.exec.now_ns(), crate::triggers::event(&fact));
        let number = crate::watch::fact_digest(&fact);
        self.trace.event(now, self.node, Kind::Fact, number, 0);
        self.trace.name(Kind::Fact, number, 0, || format!("{fact:?}"));
        self.tell(|| Told::Fact(fact.clone()));
        self.watch.fact(now, self.exec.place(self.node), fact);
        self.watch.triggers.happened(self.node, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::own::{Order, OwnExecutor};
    use crate::trace::Keep;

    #[test]
    fn a_deadline_is_reached_when_its_sleep_ends_at_any_rate() {
        let exec = OwnExecutor::new(Order::Fifo, 1, 1000, Arc::new(Trace::new(Keep::Hash)));
        for rate_ppb in [0, 7, -7, 10_000_000, -9_999_999] {
            let clock =
                NodeClock { exec: exec.clone(), rate_ppb, start_ns: 12_345, wall_error_ms: Arc::default() };
            for elapsed in [0, 1, 999, 1_000_000_007, 60_000_000_000] {
                let deadline = clock.start_ns + elapsed;
                let wake = clock.true_time(deadline);
                assert!(clock.local(wake) >= deadline, "rate {rate_ppb} elapsed {elapsed}");
                assert!(clock.local(wake) <= deadline + 10, "rate {rate_ppb} elapsed {elapsed}");
            }
        }
    }
}
