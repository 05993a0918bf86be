//! One thread, one simulated clock, tasks that belong to nodes.

use futures_util::task::{ArcWake, waker};
use nokv_env::mem_disk::MemDisk;
use nokv_env::{BoxFuture, Clock, Instant, Tasks};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub struct Executor(Mutex<State>);

#[derive(Default)]
struct State {
    now: u64,
    next: u64,
    /// In the order of their spawning.
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(u64, u64), Waker>,
}

struct Task {
    node: u64,
    woken: Arc<Woken>,
    /// `None` while it is polled.
    future: Option<BoxFuture<'static, ()>>,
}

struct Woken(AtomicBool);

impl Woken {
    fn new() -> Arc<Woken> {
        Arc::new(Woken(AtomicBool::new(true)))
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

impl Executor {
    pub fn new() -> Arc<Executor> {
        Arc::new(Executor(Mutex::default()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn now(&self) -> u64 {
        self.state().now
    }

    /// Runs until `future` is done. Node 0 is the test itself.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Woken::new();
        loop {
            if woken.take()
                && let Poll::Ready(output) =
                    future.as_mut().poll(&mut Context::from_waker(&waker(woken.clone())))
            {
                return output;
            }
            if !self.poll_woken() && !woken.0.load(Ordering::SeqCst) {
                self.advance();
            }
        }
    }

    /// Polls every woken task once; whether there was one.
    fn poll_woken(&self) -> bool {
        let ready: Vec<u64> = {
            let state = self.state();
            let woken = state.tasks.iter().filter(|(_, task)| task.woken.0.load(Ordering::SeqCst));
            woken.map(|(id, _)| *id).collect()
        };
        for id in &ready {
            let Some((mut future, woken)) = self.take(*id) else { continue };
            woken.take();
            let done = future.as_mut().poll(&mut Context::from_waker(&waker(woken))).is_ready();
            let mut state = self.state();
            if done {
                state.tasks.remove(id);
            } else if let Some(task) = state.tasks.get_mut(id) {
                task.future = Some(future);
                continue;
            }
            drop(state);
            drop(future);
        }
        !ready.is_empty()
    }

    fn take(&self, id: u64) -> Option<(BoxFuture<'static, ()>, Arc<Woken>)> {
        let mut state = self.state();
        let task = state.tasks.get_mut(&id)?;
        Some((task.future.take()?, task.woken.clone()))
    }

    /// Nobody can go on: the next timer fires.
    fn advance(&self) {
        let mut state = self.state();
        let ((at, _), waker) = state.timers.pop_first().expect("everybody waits for everybody");
        state.now = state.now.max(at);
        drop(state);
        waker.wake();
    }

    pub fn spawn_for(&self, node: u64, future: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state.tasks.insert(id, Task { node, woken: Woken::new(), future: Some(Box::pin(future)) });
    }

    /// Drops the tasks of a node.
    pub fn kill(&self, node: u64) {
        let mut state = self.state();
        let (dead, alive) =
            std::mem::take(&mut state.tasks).into_iter().partition(|(_, task)| task.node == node);
        state.tasks = alive;
        drop(state);
        let dead: BTreeMap<u64, Task> = dead;
        drop(dead);
    }

    pub fn sleep(self: &Arc<Self>, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(Instant(self.now()) + duration)
    }

    fn sleep_until(self: &Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        let exec = self.clone();
        Box::pin(poll_fn(move |context| {
            let mut state = exec.state();
            if state.now >= deadline.0 {
                return Poll::Ready(());
            }
            state.next += 1;
            let key = (deadline.0, state.next);
            state.timers.insert(key, context.waker().clone());
            Poll::Pending
        }))
    }

    pub fn clock(self: &Arc<Self>) -> Arc<dyn Clock> {
        Arc::new(SharedClock(self.clone()))
    }

    /// The tasks of a node with this disk.
    pub fn of(self: &Arc<Self>, node: u64, platter: Arc<MemDisk>) -> Arc<dyn Tasks> {
        Arc::new(NodeTasks { exec: self.clone(), node, platter })
    }
}

/// The clock that all nodes share.
struct SharedClock(Arc<Executor>);

impl Clock for SharedClock {
    fn now(&self) -> Instant {
        Instant(self.0.now())
    }

    fn unix_millis(&self) -> u64 {
        1_700_000_000_000 + self.0.now() / 1_000_000
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }
}

struct NodeTasks {
    exec: Arc<Executor>,
    node: u64,
    platter: Arc<MemDisk>,
}

impl Tasks for NodeTasks {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        self.exec.spawn_for(self.node, future);
    }

    fn spawn_dedicated(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        self.exec.spawn_for(self.node, future);
    }

    fn yield_now(&self) -> BoxFuture<'static, ()> {
        // At least something, so that a task that yields in a loop lets time pass.
        let latency = self.platter.take_latency().max(Duration::from_micros(1));
        self.exec.sleep_until(Instant(self.exec.now() + latency.as_nanos() as u64))
    }
}
