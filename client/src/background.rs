//! Work that outlives the call that started it: secondary commits, rollbacks, lock clean-up.
//!
//! Nobody's answer depends on it, readers can finish any of it, so failures are only traced. It is counted, so
//! that a process about to exit can give it a moment, and so that a flood of it slows the writer down instead.

use nokv_env::{Env, TasksExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// More jobs than this, and the next one is done in the foreground.
const JOBS_MAX: usize = 256;

/// The jobs of one client.
#[derive(Clone, Default)]
pub(crate) struct Background(Arc<State>);

#[derive(Default)]
struct State {
    running: AtomicUsize,
    idle: Notify,
}

/// Counts a job down even when its future is dropped half-way.
struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Background {
    /// Runs `job` beside the caller, or within the call when there are too many.
    pub(crate) async fn run(
        &self,
        env: &Env,
        name: &'static str,
        job: impl Future<Output = ()> + Send + 'static,
    ) {
        let before = self.0.running.fetch_add(1, Ordering::SeqCst);
        let running = Running(self.0.clone());
        let job = async move {
            let _running = running;
            job.await;
        };
        if before < JOBS_MAX {
            env.tasks.go(name, job);
        } else {
            job.await;
        }
    }

    /// Completes when no job is running.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.0.idle.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if self.0.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }
}
