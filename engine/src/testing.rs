//! A world for the engine's tests: a disk that crashes and an executor of a few lines.

use crate::{Cf, Db, Options, Result, WriteBatch};
use bytes::Bytes;
use futures_util::task::{ArcWake, waker};
use nokv_env::mem_disk::{CrashMode, MemDisk};
use nokv_env::net::{Channel, Net, ServerHandle};
use nokv_env::{BoxFuture, Clock, Disk, Env, Hooks, Instant, NoHooks, RngSource, Tasks};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tonic::service::Routes;

/// Content of one family.
pub(crate) type Map = BTreeMap<Bytes, Bytes>;

/// One node: a platter, the disk handle of its current life, and its tasks.
pub(crate) struct World {
    pub(crate) platter: Arc<MemDisk>,
    tasks: Arc<Executor>,
    pub(crate) disk: Arc<dyn Disk>,
    hooks: Arc<dyn Hooks>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let platter = MemDisk::new(seed);
        let disk = platter.mount();
        Self { platter, tasks: Arc::default(), disk, hooks: Arc::new(NoHooks) }
    }

    pub(crate) fn dir() -> &'static Path {
        Path::new("/db")
    }

    pub(crate) fn env(&self) -> Env {
        Env {
            clock: Arc::new(NoClock),
            disk: self.disk.clone(),
            net: Arc::new(NoNet),
            rng: RngSource::new(1, 1),
            tasks: self.tasks.clone(),
            hooks: self.hooks.clone(),
        }
    }

    pub(crate) fn open(&self, options: &Options) -> Result<Db> {
        let env = self.env();
        self.run(Db::open(&env, Self::dir(), options.clone()))
    }

    /// Runs `future` and all tasks until it is done; a deadlock is a panic.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        loop {
            if flag.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker(flag.clone())))
            {
                return output;
            }
            assert!(self.tasks.poll_woken() || flag.0.load(Ordering::SeqCst), "everybody waits for everybody");
        }
    }

    /// Runs all tasks until none has anything to do.
    pub(crate) fn settle(&self) {
        while self.tasks.poll_woken() {}
    }

    /// The node goes down and comes up again, without its tasks.
    pub(crate) fn crash(&mut self, mode: CrashMode) {
        self.platter.crash(mode);
        self.tasks.clear();
        self.disk = self.platter.mount();
    }
}

/// Runs tasks in the order in which they were spawned, those that were woken.
#[derive(Default)]
pub(crate) struct Executor {
    tasks: Mutex<Vec<(Arc<Flag>, Option<BoxFuture<'static, ()>>)>>,
}

struct Flag(AtomicBool);

impl ArcWake for Flag {
    fn wake_by_ref(flag: &Arc<Self>) {
        flag.0.store(true, Ordering::SeqCst);
    }
}

impl Executor {
    /// Polls every woken task once; whether there was one.
    fn poll_woken(&self) -> bool {
        let mut any = false;
        let mut index = 0;
        loop {
            let (flag, future) = {
                let mut tasks = self.tasks.lock().unwrap();
                let Some((flag, future)) = tasks.get_mut(index) else { return any };
                (flag.clone(), future.take())
            };
            let woken = flag.0.load(Ordering::SeqCst);
            if let Some(mut future) = future {
                let mut pending = true;
                if woken {
                    any = true;
                    flag.0.store(false, Ordering::SeqCst);
                    let context = &mut Context::from_waker(&waker(flag)).waker().clone();
                    pending = future.as_mut().poll(&mut Context::from_waker(context)).is_pending();
                }
                if pending {
                    self.tasks.lock().unwrap()[index].1 = Some(future);
                }
            }
            index += 1;
        }
    }

    fn clear(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        drop(tasks);
    }
}

impl Tasks for Executor {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        self.tasks.lock().unwrap().push((Arc::new(Flag(AtomicBool::new(true))), Some(future)));
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

/// The engine never asks for the time.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Instant {
        unreachable!("the engine never asks for the time")
    }

    fn unix_millis(&self) -> u64 {
        unreachable!("the engine never asks for the time")
    }

    fn sleep_until(&self, _deadline: Instant) -> BoxFuture<'static, ()> {
        unreachable!("the engine never sleeps")
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
