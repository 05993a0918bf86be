//! Our own executor: one thread, any order of the ready tasks, a clock that jumps to the next timer.
//!
//! - Which ready task runs next is first in, first out, or drawn from a stream of its own, see [`Order`]; so a
//!   plan with one fault less schedules the rest with the same draws.
//! - Every poll advances the clock by [`POLL_NS`]: no two polls happen at one instant, and a loop that spins
//!   still makes time pass.
//! - No lock is held while foreign code runs: polls, wakers and drops of futures happen outside.

use super::timers::{Due, TimerId, Timers};
use super::{Executor, Halt, Node, Panic, Place, SUPERVISOR, lock};
use crate::trace::{Kind, Trace};
use nokv_env::{BoxFuture, RngSource};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};

/// What one poll costs, in simulated nanoseconds.
const POLL_NS: u64 = 100;

/// A task in the slab; the generation tells it from later tenants of its slot.
type TaskRef = (u32, u32);

/// In which order ready tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// First in, first out.
    Fifo,
    /// Any, drawn from the stream of this number.
    Random(u64),
}

#[derive(Default)]
struct Ready(Mutex<VecDeque<TaskRef>>);

struct TaskWaker {
    task: TaskRef,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Not one atomic step, which would cost more: a world has one thread, and a task queued twice is polled twice.
        if !self.queued.load(Ordering::Relaxed) {
            self.queued.store(true, Ordering::Relaxed);
            lock(&self.ready.0).push_back(self.task);
        }
    }
}

struct Task {
    generation: u32,
    node: Node,
    name: &'static str,
    /// The slot has a tenant.
    taken: bool,
    /// `None` while it is being polled, and in a free slot.
    body: Option<Body>,
}

/// What runs.
struct Body {
    future: BoxFuture<'static, ()>,
    task_waker: Arc<TaskWaker>,
    /// The same waker, as futures see it.
    waker: Waker,
}

#[derive(Default)]
struct NodeState {
    life: u32,
    paused: bool,
    /// Set by [`Executor::slow_cpu`].
    poll_ns: u64,
    busy_until: u64,
    unpark_set: bool,
    /// Ready tasks that wait for the node to be resumed or to finish its slow poll.
    parked: VecDeque<TaskRef>,
}

struct State {
    timers: Timers,
    tasks: Vec<Task>,
    free: Vec<u32>,
    nodes: Vec<NodeState>,
    /// Draws the order; `None` for first in, first out.
    schedule: Option<ChaCha8Rng>,
}

/// See the module.
pub struct OwnExecutor {
    me: Weak<OwnExecutor>,
    now: AtomicU64,
    /// No timer is due before.
    next_due: AtomicU64,
    polls: AtomicU64,
    polls_max: u64,
    ready: Arc<Ready>,
    state: Mutex<State>,
    trace: Arc<Trace>,
}

impl OwnExecutor {
    /// An executor for `nodes` nodes (the supervisor included).
    pub fn new(order: Order, nodes: u16, polls_max: u64, trace: Arc<Trace>) -> Arc<Self> {
        let schedule = match order {
            Order::Fifo => None,
            Order::Random(number) => Some(RngSource::new(number, 0).stream("schedule")),
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            now: AtomicU64::new(0),
            next_due: AtomicU64::new(u64::MAX),
            polls: AtomicU64::new(0),
            polls_max,
            ready: Arc::default(),
            state: Mutex::new(State {
                timers: Timers::default(),
                tasks: Vec::new(),
                free: Vec::new(),
                nodes: (0..nodes).map(|_| NodeState::default()).collect(),
                schedule,
            }),
            trace,
        })
    }

    /// Puts a task into the slab, not yet queued. `None` if its life has ended.
    fn admit(
        &self,
        state: &mut State,
        place: Place,
        name: &'static str,
        future: BoxFuture<'static, ()>,
    ) -> Result<Arc<TaskWaker>, BoxFuture<'static, ()>> {
        if state.nodes[place.node.index()].life != place.life {
            return Err(future);
        }
        let slot = state.free.pop().unwrap_or_else(|| {
            state.tasks.push(Task { generation: 0, node: SUPERVISOR, name: "", taken: false, body: None });
            (state.tasks.len() - 1) as u32
        });
        let task = &mut state.tasks[slot as usize];
        self.trace.name(Kind::Poll, slot.into(), task.generation.into(), || name.to_owned());
        let waker = Arc::new(TaskWaker {
            task: (slot, task.generation),
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        task.node = place.node;
        task.name = name;
        task.taken = true;
        task.body = Some(Body { future, task_waker: waker.clone(), waker: Waker::from(waker.clone()) });
        Ok(waker)
    }

    /// Sets a timer.
    fn set_timer(&self, state: &mut State, at_ns: u64, waker: Waker) -> TimerId {
        self.expect_timer(at_ns);
        state.timers.insert(at_ns, waker)
    }

    /// A timer is set for `at_ns`.
    fn expect_timer(&self, at_ns: u64) {
        if at_ns < self.next_due.load(Ordering::Relaxed) {
            self.next_due.store(at_ns, Ordering::Relaxed);
        }
    }

    /// Fires every timer that is due. Wakers run outside the lock.
    fn fire_due(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if now < self.next_due.load(Ordering::Relaxed) {
            return;
        }
        loop {
            let due = {
                let mut state = lock(&self.state);
                let due = state.timers.pop_due(now);
                if due.is_none() {
                    self.next_due.store(state.timers.next().unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                due
            };
            match due {
                Some(Due::Wake(waker)) => waker.wake(),
                Some(Due::Unpark(node)) => {
                    let mut state = lock(&self.state);
                    let node = &mut state.nodes[node.index()];
                    node.unpark_set = false;
                    if !node.paused {
                        lock(&self.ready.0).append(&mut node.parked);
                    }
                }
                None => return,
            }
        }
    }

    /// Takes a ready task.
    fn pick(&self, state: &mut State) -> Option<TaskRef> {
        let mut ready = lock(&self.ready.0);
        match &mut state.schedule {
            Some(schedule) if ready.len() > 1 => {
                let index = (u64::from(schedule.next_u32()) * ready.len() as u64) >> 32;
                ready.swap_remove_back(index as usize)
            }
            _ => ready.pop_front(),
        }
    }

    /// Polls one ready task.
    fn step(&self) -> Step {
        let now = self.now.load(Ordering::Relaxed);
        let (task_ref, mut body, node, name) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let Some((slot, generation)) = self.pick(state) else { return Step::Idle };
            let task = &mut state.tasks[slot as usize];
            if task.generation != generation {
                return Step::Done;
            }
            let node = &mut state.nodes[task.node.index()];
            if node.paused || node.busy_until > now {
                node.parked.push_back((slot, generation));
                if !node.paused && !node.unpark_set {
                    node.unpark_set = true;
                    self.expect_timer(node.busy_until);
                    state.timers.insert_unpark(node.busy_until, task.node);
                }
                return Step::Done;
            }
            if node.poll_ns > 0 {
                node.busy_until = now + node.poll_ns;
            }
            let Some(body) = task.body.take() else { return Step::Done };
            ((slot, generation), body, task.node, task.name)
        };
        self.now.store(now + POLL_NS, Ordering::Relaxed);
        self.polls.store(self.polls() + 1, Ordering::Relaxed);
        self.trace.event(now, node, Kind::Poll, u64::from(task_ref.0), u64::from(task_ref.1));
        body.task_waker.queued.store(false, Ordering::Relaxed);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            body.future.as_mut().poll(&mut Context::from_waker(&body.waker))
        }));
        let (task, done) = match polled {
            Ok(Poll::Pending) => return self.put_back(task_ref, body),
            Ok(Poll::Ready(())) => (task_ref, Step::Done),
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                (task_ref, Step::Panicked(Panic { node, task: name, message }))
            }
        };
        self.retire(task);
        drop(body);
        done
    }

    /// After a poll that left the task pending.
    fn put_back(&self, (slot, generation): TaskRef, body: Body) -> Step {
        let orphan = {
            let mut state = lock(&self.state);
            // A cleared executor has no slots left.
            match state.tasks.get_mut(slot as usize) {
                Some(task) if task.generation == generation => {
                    task.body = Some(body);
                    None
                }
                _ => Some(body),
            }
        };
        drop(orphan);
        Step::Done
    }

    /// The task has ended.
    fn retire(&self, (slot, generation): TaskRef) {
        let mut state = lock(&self.state);
        if state.tasks.get(slot as usize).is_some_and(|task| task.generation == generation) {
            free_slot(&mut state, slot);
        }
    }
}

/// What became of one step.
enum Step {
    /// Nothing is ready.
    Idle,
    /// One ready task less.
    Done,
    Panicked(Panic),
}

/// Empties a slot for its next tenant; what it held is dropped by the caller, outside the lock.
fn free_slot(state: &mut State, slot: u32) -> Option<Body> {
    let task = &mut state.tasks[slot as usize];
    task.generation = task.generation.wrapping_add(1);
    task.taken = false;
    state.free.push(slot);
    task.body.take()
}

pub(super) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "(no message)".to_owned())
}

impl Executor for OwnExecutor {
    fn now_ns(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn sleep_until(&self, at_ns: u64) -> BoxFuture<'static, ()> {
        match self.me.upgrade() {
            Some(executor) => Box::pin(Sleep { executor, at_ns, timer: None }),
            None => Box::pin(std::future::pending()),
        }
    }

    fn wake_at(&self, at_ns: u64, waker: Waker) {
        self.set_timer(&mut lock(&self.state), at_ns, waker);
    }

    fn spawn_on(&self, place: Place, name: &'static str, future: BoxFuture<'static, ()>) {
        let admitted = self.admit(&mut lock(&self.state), place, name, future);
        if let Ok(waker) = admitted {
            waker.wake_by_ref();
        }
    }

    fn spawn_at(&self, at_ns: u64, place: Place, name: &'static str, future: BoxFuture<'static, ()>) {
        let refused = {
            let mut state = lock(&self.state);
            match self.admit(&mut state, place, name, future) {
                Ok(waker) => {
                    self.set_timer(&mut state, at_ns, Waker::from(waker));
                    None
                }
                Err(future) => Some(future),
            }
        };
        drop(refused);
    }

    fn place(&self, node: Node) -> Place {
        Place { node, life: lock(&self.state).nodes[node.index()].life }
    }

    fn kill(&self, node: Node) {
        let dead = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let old = std::mem::take(&mut state.nodes[node.index()]);
            state.nodes[node.index()].life = old.life + 1;
            let mut dead = Vec::new();
            for slot in 0..state.tasks.len() {
                let task = &state.tasks[slot];
                if task.node == node && task.taken {
                    dead.push(free_slot(state, slot as u32));
                }
            }
            dead
        };
        drop(dead);
    }

    fn pause(&self, node: Node) {
        lock(&self.state).nodes[node.index()].paused = true;
    }

    fn resume(&self, node: Node) {
        let mut state = lock(&self.state);
        let node = &mut state.nodes[node.index()];
        node.paused = false;
        lock(&self.ready.0).append(&mut node.parked);
    }

    fn slow_cpu(&self, node: Node, ns: u64) {
        lock(&self.state).nodes[node.index()].poll_ns = ns;
    }

    fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    fn run(&self, main: BoxFuture<'static, ()>) -> Result<(), Halt> {
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        let main = Box::pin(async move {
            main.await;
            finished.store(true, Ordering::Relaxed);
        });
        self.spawn_on(self.place(SUPERVISOR), "main", main);
        while !done.load(Ordering::Relaxed) {
            self.fire_due();
            match self.step() {
                Step::Done => {}
                Step::Idle => {
                    let Some(next) = lock(&self.state).timers.next() else { return Err(Halt::Deadlock) };
                    self.now.fetch_max(next, Ordering::Relaxed);
                }
                Step::Panicked(panic) => return Err(Halt::Panic(panic)),
            }
            if self.polls() > self.polls_max {
                return Err(Halt::Spinning(self.polls_max));
            }
        }
        Ok(())
    }

    fn clear(&self) {
        loop {
            let (tasks, timers) = {
                let mut state = lock(&self.state);
                for node in &mut state.nodes {
                    node.life += 1;
                }
                (std::mem::take(&mut state.tasks), state.timers.clear())
            };
            lock(&self.ready.0).clear();
            if tasks.is_empty() {
                return;
            }
            lock(&self.state).free.clear();
            drop((tasks, timers));
        }
    }
}

struct Sleep {
    executor: Arc<OwnExecutor>,
    at_ns: u64,
    timer: Option<TimerId>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.executor.now_ns() >= self.at_ns {
            return Poll::Ready(());
        }
        let timer = {
            let mut state = lock(&self.executor.state);
            match self.timer {
                Some(id) if state.timers.rewake(id, context.waker()) => id,
                _ => self.executor.set_timer(&mut state, self.at_ns, context.waker().clone()),
            }
        };
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer {
            // A cleared executor has no slots left.
            let mut state = lock(&self.executor.state);
            let waker = state.timers.cancel(id);
            drop(state);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Keep;

    const MILLI: u64 = 1_000_000;
    const NODE: Node = Node(1);

    fn executor(seed: u64) -> Arc<OwnExecutor> {
        OwnExecutor::new(Order::Random(seed), 3, 100_000, Arc::new(Trace::new(Keep::Hash)))
    }

    /// Counts up every millisecond.
    fn ticker(exec: &Arc<OwnExecutor>, node: Node) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let (ticks, clock) = (count.clone(), exec.clone());
        let tick = async move {
            loop {
                clock.sleep_until(clock.now_ns() + MILLI).await;
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        };
        exec.spawn_on(exec.place(node), "ticker", Box::pin(tick));
        count
    }

    fn main_of(
        exec: &Arc<OwnExecutor>,
        script: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Halt> {
        let result = exec.run(Box::pin(script));
        exec.clear();
        result
    }

    #[test]
    fn a_killed_node_runs_no_further_and_its_next_life_does() {
        let exec = executor(1);
        let (count, world) = (ticker(&exec, NODE), exec.clone());
        let script = async move {
            world.sleep_until(10 * MILLI + MILLI / 2).await;
            assert_eq!(count.load(Ordering::Relaxed), 10);
            let old = world.place(NODE);
            world.kill(NODE);
            world.sleep_until(20 * MILLI).await;
            assert_eq!(count.load(Ordering::Relaxed), 10);
            world.spawn_on(old, "late", Box::pin(async { panic!("a task of a dead life ran") }));
            let again = ticker(&world, NODE);
            world.sleep_until(30 * MILLI).await;
            assert!(again.load(Ordering::Relaxed) >= 9);
        };
        assert_eq!(main_of(&exec, script), Ok(()));
    }

    #[test]
    fn a_paused_node_stands_still_and_goes_on() {
        let exec = executor(2);
        let (count, world) = (ticker(&exec, NODE), exec.clone());
        let script = async move {
            world.sleep_until(10 * MILLI).await;
            world.pause(NODE);
            world.sleep_until(50 * MILLI).await;
            assert!(count.load(Ordering::Relaxed) <= 10);
            world.resume(NODE);
            world.sleep_until(60 * MILLI).await;
            assert!((15..=21).contains(&count.load(Ordering::Relaxed)));
        };
        assert_eq!(main_of(&exec, script), Ok(()));
    }

    #[test]
    fn a_slow_node_gets_less_done_and_others_do_not_notice() {
        let exec = executor(3);
        let (slow, fast, world) = (ticker(&exec, NODE), ticker(&exec, Node(2)), exec.clone());
        let script = async move {
            world.slow_cpu(NODE, 5 * MILLI);
            world.sleep_until(100 * MILLI).await;
            assert!(slow.load(Ordering::Relaxed) <= 25, "{slow:?}");
            assert!(fast.load(Ordering::Relaxed) >= 98, "{fast:?}");
        };
        assert_eq!(main_of(&exec, script), Ok(()));
    }

    #[test]
    fn deadlocks_panics_and_spinning_end_the_run() {
        assert_eq!(main_of(&executor(4), std::future::pending()), Err(Halt::Deadlock));

        let exec = executor(5);
        exec.spawn_on(exec.place(NODE), "bad", Box::pin(async { panic!("belief {} broken", 7) }));
        let world = exec.clone();
        let halted = main_of(&exec, async move { world.sleep_until(MILLI).await });
        let Err(Halt::Panic(panic)) = halted else { panic!("{halted:?}") };
        assert_eq!((panic.node, panic.task, panic.message.as_str()), (NODE, "bad", "belief 7 broken"));

        let exec = executor(6);
        let spin = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(main_of(&exec, spin), Err(Halt::Spinning(100_000)));
    }

    #[test]
    fn the_order_of_ready_tasks_depends_on_the_seed_only() {
        let order = |seed| {
            let exec = executor(seed);
            let order: Arc<Mutex<Vec<u32>>> = Arc::default();
            for number in 0..20 {
                let order = order.clone();
                let push = async move { lock(&order).push(number) };
                exec.spawn_on(exec.place(NODE), "push", Box::pin(push));
            }
            let world = exec.clone();
            main_of(&exec, async move { world.sleep_until(MILLI).await }).expect("no trouble");
            std::mem::take(&mut *lock(&order))
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert_eq!(order(1).len(), 20);
    }
}
