//! One machine: a disk that crashes, and tasks that die with it. No network, and a wall clock that stands still until it is set.

use futures_util::task::{ArcWake, waker};
use nokv_env::mem_disk::{CrashMode, MemDisk};
use nokv_env::net::{Channel, Net, ServerHandle};
use nokv_env::{BoxFuture, Clock, Disk, Env, Instant, NoHooks, RngSource, Tasks};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tonic::service::Routes;

/// A machine for components that need disk and tasks only.
pub struct Node {
    /// Outlives crashes; sets faults and reads what is durable.
    pub platter: Arc<MemDisk>,
    tasks: Arc<Executor>,
    disk: Arc<dyn Disk>,
    /// Goes on over a crash.
    clock: Arc<StillClock>,
}

impl Node {
    /// A machine with an empty disk whose dice come from `seed`.
    pub fn new(seed: u64) -> Self {
        let platter = MemDisk::new(seed);
        let disk = platter.mount();
        Self { platter, tasks: Arc::default(), disk, clock: Arc::default() }
    }

    /// The wall clock, milliseconds since the Unix epoch; 0 at the beginning.
    pub fn unix_millis(&self) -> u64 {
        self.clock.unix_millis.load(Ordering::SeqCst)
    }

    /// Sets the wall clock. Forward, time passes, and who sleeps that long wakes up; back, it does not.
    pub fn set_clock(&self, unix_millis: u64) {
        self.clock.move_to(unix_millis);
    }

    /// The disk of the current life.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// The world of the current life.
    pub fn env(&self) -> Env {
        Env {
            clock: Arc::new(Timepiece(self.clock.clone())),
            disk: self.disk.clone(),
            net: Arc::new(Absent),
            rng: RngSource::new(1, 1),
            tasks: self.tasks.clone(),
            hooks: Arc::new(NoHooks),
        }
    }

    /// Runs `future`, and tasks as they are woken, until it is done. Panics when everybody waits for everybody.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        loop {
            if woken.take()
                && let Poll::Ready(output) =
                    future.as_mut().poll(&mut Context::from_waker(&waker(woken.clone())))
            {
                return output;
            }
            let progress = self.tasks.poll_woken() || woken.0.load(Ordering::SeqCst);
            assert!(progress, "everybody waits for everybody");
        }
    }

    /// Runs tasks until none has anything to do.
    pub fn settle(&self) {
        while self.tasks.poll_woken() {}
    }

    /// The machine goes down and comes up again, without its tasks.
    pub fn crash(&mut self, mode: CrashMode) {
        self.platter.crash(mode);
        drop(std::mem::take(&mut *self.tasks.slots()));
        self.disk = self.platter.mount();
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

/// Time passes in short sleeps, with which the engine keeps to a rate or waits for room: they take no longer than a turn. Who
/// sleeps for a second or longer waits for a time of day, which stands still until it is set.
#[derive(Default)]
struct StillClock {
    /// Nanoseconds.
    monotonic: AtomicU64,
    unix_millis: AtomicU64,
    sleepers: Mutex<Vec<(Instant, Waker)>>,
}

impl StillClock {
    fn move_to(&self, unix_millis: u64) {
        let before = self.unix_millis.swap(unix_millis, Ordering::SeqCst);
        let passed = unix_millis.saturating_sub(before).saturating_mul(1_000_000);
        self.monotonic.fetch_add(passed, Ordering::SeqCst);
        self.wake();
    }

    fn sleepers(&self) -> MutexGuard<'_, Vec<(Instant, Waker)>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whose time has come.
    fn wake(&self) {
        let now = self.monotonic.load(Ordering::SeqCst);
        let due: Vec<_> = self.sleepers().extract_if(.., |(deadline, _)| deadline.0 <= now).collect();
        for (_, waker) in due {
            waker.wake();
        }
    }
}

/// Who sleeps, and until when.
struct Sleep(Arc<StillClock>, Instant);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Sleep(clock, deadline) = &*self;
        if clock.monotonic.load(Ordering::SeqCst) >= deadline.0 {
            return Poll::Ready(());
        }
        clock.sleepers().push((*deadline, context.waker().clone()));
        Poll::Pending
    }
}

/// The handle of it that an `Env` has.
struct Timepiece(Arc<StillClock>);

impl Clock for Timepiece {
    fn now(&self) -> Instant {
        Instant(self.0.monotonic.load(Ordering::SeqCst))
    }

    fn unix_millis(&self) -> u64 {
        self.0.unix_millis.load(Ordering::SeqCst)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        if deadline.since(self.now()) >= Duration::from_secs(1) {
            return Box::pin(Sleep(clock, deadline));
        }
        Box::pin(async move {
            YieldOnce(false).await;
            clock.monotonic.fetch_max(deadline.0, Ordering::SeqCst);
            clock.wake();
        })
    }
}

/// What this machine does not have.
struct Absent;

impl Net for Absent {
    fn serve(&self, _addr: &str, _routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect(&self, addr: &str) -> Channel {
        unreachable!("nobody here calls {addr}")
    }
}
