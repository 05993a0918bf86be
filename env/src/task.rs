//! Spawning work. No component starts a thread or a runtime of its own.

use crate::BoxFuture;
use std::sync::Arc;

/// Where futures run.
pub trait Tasks: Send + Sync {
    /// Runs ordinary async work. `name` appears in traces and thread names.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Runs a loop that blocks on disk or CPU. Real: an OS thread with its own current-thread runtime.
    /// Simulated: a task like any other.
    fn spawn_dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>);
    /// Lets others run. Long synchronous jobs call it between bounded pieces, and after disk work: in the
    /// simulation this is where the latency that the disk accumulated is slept.
    fn yield_now(&self) -> BoxFuture<'static, ()>;
}

/// Conveniences over [`Tasks`].
pub trait TasksExt: Tasks {
    /// [`Tasks::spawn`] without the boxing at the call site.
    fn go(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, Box::pin(future));
    }

    /// [`Tasks::spawn_dedicated`] without the boxing at the call site.
    fn go_dedicated(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_dedicated(name, Box::pin(future));
    }
}

impl<T: Tasks + ?Sized> TasksExt for T {}

/// Tells every clone that it is time to stop. Tasks race their work against [`Stop::stopped`].
#[derive(Clone, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Default)]
struct StopState {
    set: std::sync::atomic::AtomicBool,
    notify: tokio::sync::Notify,
}

impl Stop {
    /// A flag that is not raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag; wakes every waiter, in the order in which they began to wait.
    pub fn stop(&self) {
        self.0.set.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether the flag is up.
    pub fn is_stopped(&self) -> bool {
        self.0.set.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Completes when the flag is up.
    pub async fn stopped(&self) {
        let notified = self.0.notify.notified();
        let mut notified = std::pin::pin!(notified);
        notified.as_mut().enable();
        if !self.is_stopped() {
            notified.await;
        }
    }
}
