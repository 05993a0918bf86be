//! madsim behind [`Executor`]: a second opinion on every scenario.
//!
//! madsim intercepts libc's entropy and clocks and forbids threads while it runs, so a product that reads
//! them becomes reproducible here and not on our own executor: the difference shows the leak. Its scheduling
//! differs from ours, so seeds mean other runs. Its network and file system are not used.
//!
//! Two of its habits need care: sleeps have a floor of a millisecond (undone by resetting the deadline), and
//! polling a sleep again adds another timer (so a sleep is polled only when its time has come or its waker
//! changed).

use super::{Executor, Halt, Node, Panic, Place, SUPERVISOR, lock};
use crate::trace::{Kind, Trace};
use madsim::runtime::{Handle, Runtime};
use madsim::task::NodeId;
use madsim::time::{Instant, Sleep, TimeHandle};
use nokv_env::BoxFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// See the module.
pub struct MadExecutor {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    time: TimeHandle,
    start: Instant,
    nodes: Vec<NodeId>,
    lives: Mutex<Vec<u32>>,
    spawned: AtomicU64,
    polls: Arc<AtomicU64>,
    polls_max: u64,
    trace: Arc<Trace>,
}

impl MadExecutor {
    /// An executor for `nodes` nodes (the supervisor included).
    pub fn new(seed: u64, nodes: u16, polls_max: u64, trace: Arc<Trace>) -> Arc<Self> {
        let runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        let handle = runtime.handle().clone();
        let ids = (0..nodes)
            .map(|node| {
                handle.create_node().name(format!("n{node}")).init(std::future::pending::<()>).build().id()
            })
            .collect();
        let time = runtime.block_on(async { TimeHandle::current() });
        Arc::new(Self {
            start: time.now_instant() - time.elapsed(),
            time,
            handle,
            runtime: Mutex::new(Some(runtime)),
            nodes: ids,
            lives: Mutex::new(vec![0; usize::from(nodes)]),
            spawned: AtomicU64::new(0),
            polls: Arc::default(),
            polls_max,
            trace,
        })
    }

    fn sleep(&self, at_ns: u64) -> ExactSleep {
        // A century is never: madsim's clock cannot hold more.
        let at_ns = at_ns.min(3_000_000_000_000_000_000);
        let deadline = self.start + Duration::from_nanos(at_ns);
        let mut sleep = Box::pin(self.time.sleep_until(deadline));
        sleep.as_mut().reset(deadline);
        ExactSleep { time: self.time.clone(), at_ns, sleep, waker: None }
    }
}

/// A sleep without madsim's floor of a millisecond.
struct ExactSleep {
    time: TimeHandle,
    at_ns: u64,
    sleep: Pin<Box<Sleep>>,
    waker: Option<Waker>,
}

impl Future for ExactSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if elapsed_ns(&self.time) >= self.at_ns {
            return Poll::Ready(());
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
            return self.sleep.as_mut().poll(context);
        }
        Poll::Pending
    }
}

/// Counts and traces the polls of a task.
struct Traced {
    future: BoxFuture<'static, ()>,
    number: u64,
    node: Node,
    time: TimeHandle,
    polls: Arc<AtomicU64>,
    trace: Arc<Trace>,
}

impl Future for Traced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.trace.event(elapsed_ns(&self.time), self.node, Kind::Poll, self.number, 0);
        self.future.as_mut().poll(context)
    }
}

fn elapsed_ns(time: &TimeHandle) -> u64 {
    time.elapsed().as_nanos() as u64
}

impl Executor for MadExecutor {
    fn now_ns(&self) -> u64 {
        elapsed_ns(&self.time)
    }

    fn sleep_until(&self, at_ns: u64) -> BoxFuture<'static, ()> {
        Box::pin(self.sleep(at_ns))
    }

    fn wake_at(&self, at_ns: u64, waker: Waker) {
        if at_ns <= self.now_ns() {
            waker.wake();
            return;
        }
        let sleep = self.sleep(at_ns);
        let wake = Box::pin(async move {
            sleep.await;
            waker.wake();
        });
        self.spawn_on(self.place(SUPERVISOR), "wake-at", wake);
    }

    fn spawn_on(&self, place: Place, _name: &'static str, future: BoxFuture<'static, ()>) {
        if self.place(place.node) != place {
            return;
        }
        let Some(node) = self.handle.get_node(self.nodes[place.node.index()]) else { return };
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        node.spawn(Traced {
            future,
            number,
            node: place.node,
            time: self.time.clone(),
            polls: self.polls.clone(),
            trace: self.trace.clone(),
        });
    }

    fn spawn_at(&self, at_ns: u64, place: Place, name: &'static str, future: BoxFuture<'static, ()>) {
        let sleep = self.sleep(at_ns);
        let later = Box::pin(async move {
            sleep.await;
            future.await;
        });
        self.spawn_on(place, name, later);
    }

    fn place(&self, node: Node) -> Place {
        Place { node, life: lock(&self.lives)[node.index()] }
    }

    fn kill(&self, node: Node) {
        lock(&self.lives)[node.index()] += 1;
        // Restarting ends the old life and opens the next in one step.
        self.handle.restart(self.nodes[node.index()]);
    }

    fn pause(&self, node: Node) {
        self.handle.pause(self.nodes[node.index()]);
    }

    fn resume(&self, node: Node) {
        self.handle.resume(self.nodes[node.index()]);
    }

    /// Not modelled here.
    fn slow_cpu(&self, _node: Node, _ns: u64) {}

    fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    fn run(&self, main: BoxFuture<'static, ()>) -> Result<(), Halt> {
        let Some(runtime) = lock(&self.runtime).take() else { return Err(Halt::Deadlock) };
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(main)));
        let polls = self.polls();
        *lock(&self.runtime) = Some(runtime);
        match outcome {
            Ok(()) if polls > self.polls_max => Err(Halt::Spinning(self.polls_max)),
            Ok(()) => Ok(()),
            Err(payload) => Err(Halt::Panic(Panic {
                node: SUPERVISOR,
                task: "unknown",
                message: super::own::panic_message(payload.as_ref()),
            })),
        }
    }

    fn clear(&self) {
        let runtime = lock(&self.runtime).take();
        drop(runtime);
    }
}
