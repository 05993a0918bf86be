//! Who runs the tasks: one small trait, two executors.
//!
//! [`own`] is the default: a ready queue, a virtual clock and node lifecycle in a few hundred lines; it needs
//! no build flag, so the shipped binary can simulate. `mad` is madsim behind the same trait, compiled under
//! `--cfg madsim`: it also intercepts libc entropy and clocks, so it is the independent proof that nothing
//! leaks past `env`.
//!
//! Everything above (network, disks, nodes, faults) is written against [`Executor`] only.

#[cfg(madsim)]
pub mod mad;
pub mod own;
mod timers;

use nokv_env::BoxFuture;
use std::fmt;
use std::task::Waker;

/// A node of the world, by its index. [`SUPERVISOR`] is the world itself: it never fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u16);

/// The node on which the world's own tasks run: boot, faults, checks.
pub const SUPERVISOR: Node = Node(0);

impl Node {
    /// As an index into tables with one entry a node.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One life of a node, from its start to its death. Work spawned for a life that ended is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where.
    pub node: Node,
    /// Which of its lives, counted from 0.
    pub life: u32,
}

/// A task panicked: the product broke its own belief.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panic {
    /// Where it ran.
    pub node: Node,
    /// The task's name.
    pub task: &'static str,
    /// The panic message.
    pub message: String,
}

/// Why [`Executor::run`] returned before its main future completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Nothing is ready and no timer is set.
    #[error("deadlock: nothing is ready and no timer is set")]
    Deadlock,
    /// A task panicked.
    #[error("task {} on {} panicked: {}", .0.task, .0.node, .0.message)]
    Panic(Panic),
    /// More polls than allowed: something spins.
    #[error("more than {0} polls: something spins")]
    Spinning(u64),
}

/// A deterministic executor with a virtual clock and nodes that die.
pub trait Executor: Send + Sync {
    /// Simulated time since the world began, in nanoseconds.
    fn now_ns(&self) -> u64;
    /// Completes once the clock has reached `at_ns`.
    fn sleep_until(&self, at_ns: u64) -> BoxFuture<'static, ()>;
    /// Wakes `waker` once the clock has reached `at_ns`.
    fn wake_at(&self, at_ns: u64, waker: Waker);
    /// Runs `future` as a task of `place`, from now on.
    fn spawn_on(&self, place: Place, name: &'static str, future: BoxFuture<'static, ()>);
    /// Like [`Executor::spawn_on`], first polled at `at_ns`.
    fn spawn_at(&self, at_ns: u64, place: Place, name: &'static str, future: BoxFuture<'static, ()>);
    /// The current life of `node`.
    fn place(&self, node: Node) -> Place;
    /// Ends a life: the node's tasks are dropped where they stand, its next life begins.
    fn kill(&self, node: Node);
    /// Stops polling the node's tasks (SIGSTOP, a frozen virtual machine). Time goes on.
    fn pause(&self, node: Node);
    /// Undoes [`Executor::pause`].
    fn resume(&self, node: Node);
    /// Makes each poll of `node` occupy it for `ns` (0 = as fast as can be).
    fn slow_cpu(&self, node: Node, ns: u64);
    /// How many polls were made so far.
    fn polls(&self) -> u64;
    /// Runs `main` on the supervisor until it completes.
    fn run(&self, main: BoxFuture<'static, ()>) -> Result<(), Halt>;
    /// Drops every task. The executor holds tasks that hold the executor: without this a world is never freed.
    fn clear(&self);
}

/// Locks without caring about poison: a panic ends the run anyway.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
