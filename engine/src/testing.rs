//! A world for the engine's tests: a disk that crashes and an executor of a few lines.

use crate::{Cf, Db, Options, Result, WriteBatch};
use bytes::Bytes;
use futures_util::task::{ArcWake, waker};
use nokv_env::mem_disk::{CrashMode, MemDisk};
use nokv_env::net::{Channel, Net, ServerHandle};
use nokv_env::{BoxFuture, Clock, Disk, Env, Hooks, Instant, NoHooks, RngSource, Tasks};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tonic::service::Routes;

/// Content of one family.
pub(crate) type Map = BTreeMap<Bytes, Bytes>;

/// One node: a platter, the disk handle of its current life, and its tasks.
pub(crate) struct World {
    pub(crate) platter: Arc<MemDisk>,
    tasks: Arc<Executor>,
    /// Goes on over a crash.
    clock: Arc<JumpingClock>,
    pub(crate) disk: Arc<dyn Disk>,
    hooks: Arc<dyn Hooks>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let platter = MemDisk::new(seed);
        let disk = platter.mount();
        Self { platter, tasks: Arc::default(), clock: Arc::default(), disk, hooks: Arc::new(NoHooks) }
    }

    /// The time that has passed, slept away or set.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The wall clock, milliseconds since the Unix epoch.
    pub(crate) fn unix_millis(&self) -> u64 {
        self.clock.unix_millis()
    }

    /// How many have a long sleep.
    pub(crate) fn sleepers(&self) -> usize {
        self.clock.times().long_sleepers()
    }

    /// Sets the wall clock. Forward, time passes; back, it does not.
    pub(crate) fn set_clock(&self, unix_millis: u64) {
        self.clock.set(unix_millis);
    }

    /// The tables and segments on the disk are as many as the database has.
    pub(crate) fn expect_no_strays(&self, db: &Db) {
        let is_one = |path: &Path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            path.starts_with(World::dir()) && matches!(extension, Some("sst" | "vlog"))
        };
        let files = self.platter.files().iter().filter(|(path, _)| is_one(path)).count() as u64;
        let stats = db.stats();
        let tables: u64 = stats.levels.iter().map(|level| level.tables).sum();
        let segments: u64 = stats.buckets.iter().map(|bucket| bucket.segments).sum();
        assert_eq!(files, tables + segments);
    }

    pub(crate) fn dir() -> &'static Path {
        Path::new("/db")
    }

    pub(crate) fn env(&self) -> Env {
        Env {
            clock: self.clock.clone(),
            disk: self.disk.clone(),
            net: Arc::new(NoNet),
            rng: RngSource::new(1, 1),
            tasks: self.tasks.clone(),
            hooks: self.hooks.clone(),
        }
    }

    pub(crate) fn open(&self, options: &Options) -> Result<Db> {
        self.open_at(Self::dir(), options)
    }

    pub(crate) fn open_at(&self, dir: &Path, options: &Options) -> Result<Db> {
        let env = self.env();
        self.run(Db::open(&env, dir, options.clone()))
    }

    /// Runs `future` and all tasks until it is done; a deadlock is a panic.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        loop {
            if woken.take()
                && let Poll::Ready(output) =
                    future.as_mut().poll(&mut Context::from_waker(&waker(woken.clone())))
            {
                return output;
            }
            let progress = self.tasks.poll_woken() || woken.0.load(Ordering::SeqCst) || self.clock.jump();
            assert!(progress, "everybody waits for everybody");
        }
    }

    /// Runs all tasks until none has anything to do.
    pub(crate) fn settle(&self) {
        while self.turn() {}
    }

    /// Nobody writes for a while: what is not urgent is done then.
    pub(crate) fn pause(&self) {
        self.settle();
        self.set_clock(self.unix_millis() + 6_000);
        self.settle();
    }

    /// Gives every woken task a turn; where none is, the time comes to which somebody sleeps. Whether there
    /// was anything.
    fn turn(&self) -> bool {
        self.tasks.poll_woken() || self.clock.jump()
    }

    /// Gives every woken task one turn.
    pub(crate) fn step(&self) {
        self.tasks.poll_woken();
    }

    /// Gives all tasks some turns, for when somebody tries again and again.
    pub(crate) fn go_on_for_a_while(&self) {
        for _ in 0..50 {
            self.turn();
        }
    }

    /// The node goes down and comes up again, without its tasks.
    pub(crate) fn crash(&mut self, mode: CrashMode) {
        self.platter.crash(mode);
        drop(std::mem::take(&mut *self.tasks.slots()));
        self.disk = self.platter.mount();
    }
}

impl Drop for World {
    /// Tasks hold the world that holds them.
    fn drop(&mut self) {
        drop(std::mem::take(&mut *self.tasks.slots()));
    }
}

struct Woken(AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

struct Slot {
    woken: Arc<Woken>,
    /// `None` while it is polled, and when it is done.
    future: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Executor(Mutex<Vec<Slot>>);

impl Executor {
    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the future of the first woken task from `from` on.
    fn take_woken(&self, from: usize) -> Option<(usize, Arc<Woken>, BoxFuture<'static, ()>)> {
        let mut slots = self.slots();
        let ready = |slot: &Slot| slot.future.is_some() && slot.woken.0.load(Ordering::SeqCst);
        let index = (from..slots.len()).find(|index| ready(&slots[*index]))?;
        let future = slots[index].future.take()?;
        Some((index, slots[index].woken.clone(), future))
    }

    /// Polls every woken task once, in the order of their spawning; whether there was one.
    fn poll_woken(&self) -> bool {
        let mut next = 0;
        while let Some((index, woken, mut future)) = self.take_woken(next) {
            next = index + 1;
            woken.take();
            if future.as_mut().poll(&mut Context::from_waker(&waker(woken))).is_pending() {
                self.slots()[index].future = Some(future);
            }
        }
        next > 0
    }
}

impl Tasks for Executor {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        self.slots().push(Slot { woken: Arc::new(Woken(AtomicBool::new(true))), future: Some(future) });
    }

    fn spawn_dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.spawn(name, future);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        Box::pin(YieldOnce(false))
    }
}

struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Short sleeps are over when everybody sleeps, and then at once: the engine holds itself to a rate by them, or
/// waits for room. Who sleeps for longer waits for a time of day, and that comes only when a test sets the wall clock:
/// nothing ends by itself while a database comes to rest.
#[derive(Default)]
struct JumpingClock(Arc<Mutex<Times>>);

/// From here on a sleep is a long one.
const LONG_SLEEP: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Times {
    now: Instant,
    unix_millis: u64,
    sleepers: BTreeMap<Instant, Vec<Sleeper>>,
}

struct Sleeper {
    waker: Waker,
    is_long: bool,
    /// Gone when nobody waits for its end any more.
    sleep: Weak<()>,
}

impl Sleeper {
    fn sleeps(&self, is_long: bool) -> bool {
        self.is_long == is_long && self.sleep.strong_count() > 0
    }
}

impl Times {
    fn long_sleepers(&self) -> usize {
        self.sleepers.values().flatten().filter(|sleeper| sleeper.sleeps(true)).count()
    }

    /// Wakes whose time has come.
    fn wake(&mut self) {
        while let Some(first) = self.sleepers.first_entry().filter(|first| *first.key() <= self.now) {
            first.remove().into_iter().for_each(|sleeper| sleeper.waker.wake());
        }
    }
}

impl JumpingClock {
    fn times(&self) -> MutexGuard<'_, Times> {
        crate::lock(&self.0)
    }

    /// To the next moment at which somebody wakes up from a short sleep; whether there is one.
    fn jump(&self) -> bool {
        let mut times = self.times();
        let has_short =
            |(_, sleepers): &(&Instant, &Vec<Sleeper>)| sleepers.iter().any(|one| one.sleeps(false));
        let Some((next, _)) = times.sleepers.iter().find(has_short) else { return false };
        times.now = times.now.max(*next);
        times.wake();
        true
    }

    fn set(&self, unix_millis: u64) {
        let mut times = self.times();
        let passed = unix_millis.saturating_sub(times.unix_millis);
        times.unix_millis = unix_millis;
        times.now = Instant(times.now.0.saturating_add(passed.saturating_mul(1_000_000)));
        times.wake();
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Instant {
        self.times().now
    }

    fn unix_millis(&self) -> u64 {
        self.times().unix_millis
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let times = self.0.clone();
        let is_long = deadline.since(self.now()) >= LONG_SLEEP;
        let sleep = Arc::new(());
        Box::pin(poll_fn(move |context| {
            let mut times = crate::lock(&times);
            if times.now >= deadline {
                return Poll::Ready(());
            }
            let sleeper = Sleeper { waker: context.waker().clone(), is_long, sleep: Arc::downgrade(&sleep) };
            let sleepers = times.sleepers.entry(deadline).or_default();
            sleepers.retain(|other| !other.sleep.ptr_eq(&sleeper.sleep));
            sleepers.push(sleeper);
            Poll::Pending
        }))
    }
}

/// The engine never uses the network.
struct NoNet;

impl Net for NoNet {
    fn serve(&self, _addr: &str, _routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        unreachable!("the engine never uses the network")
    }

    fn connect(&self, _addr: &str) -> Channel {
        unreachable!("the engine never uses the network")
    }
}

/// A batch of one put in family 0.
pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(Cf(0), key, value);
    batch
}

/// A batch of one delete in family 0.
pub(crate) fn delete(key: impl Into<Bytes>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.delete(Cf(0), key);
    batch
}

/// Everything in family 0, read forward, checked against reading backward and key by key.
pub(crate) fn content(db: &Db) -> Result<Map> {
    let snapshot = db.snapshot();
    let forward = snapshot.iter(Cf(0), ..).collect::<Result<Vec<_>>>()?;
    let mut backward = snapshot.iter_rev(Cf(0), ..).collect::<Result<Vec<_>>>()?;
    backward.reverse();
    assert_eq!(forward, backward);
    for (key, value) in &forward {
        assert_eq!(snapshot.get(Cf(0), key)?.as_ref(), Some(value), "{key:?}");
    }
    Ok(forward.into_iter().collect())
}
