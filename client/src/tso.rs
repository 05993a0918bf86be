//! Timestamps in batches: however many callers wait, one request is on its way.
//!
//! A caller that arrives while a request is out waits for the next one, never shares the one already sent, so its
//! timestamp is above every timestamp handed out before it asked.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use nokv_env::{ClockExt, Instant, TasksExt};
use nokv_proto::id::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Callers waiting for timestamps.
#[derive(Default)]
pub(crate) struct TsoBatcher(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// Whether a task is serving the queue.
    served: bool,
}

struct Waiter {
    count: u64,
    deadline: Instant,
    reply: oneshot::Sender<Result<u64>>,
}

impl TsoBatcher {
    /// The first of `count` consecutive timestamps, all above any that were handed out before the call.
    pub(crate) async fn get(
        &self,
        shared: &Arc<Shared>,
        count: u64,
        attempt: &mut Attempt<'_>,
    ) -> Result<Timestamp> {
        let (reply, answer) = oneshot::channel();
        let start = {
            let mut queue = self.queue();
            queue.waiting.push(Waiter { count: count.max(1), deadline: attempt.deadline(), reply });
            !std::mem::replace(&mut queue.served, true)
        };
        if start {
            shared.env.tasks.go("client-tso", serve(shared.clone()));
        }
        match shared.env.clock.timeout_at(attempt.deadline(), answer).await {
            Ok(Ok(first)) => first.map(Timestamp),
            Ok(Err(_)) => Err(ClientError::Protocol("the timestamp task has gone".into())),
            Err(_) => {
                attempt.note(shared.coordinators.problem());
                Err(attempt.timeout())
            }
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody waiting now; when nobody is, the serving task ends.
    fn take(&self) -> Vec<Waiter> {
        let mut queue = self.queue();
        queue.served = !queue.waiting.is_empty();
        std::mem::take(&mut queue.waiting)
    }
}

async fn serve(shared: Arc<Shared>) {
    loop {
        let waiting = shared.tso.take();
        if waiting.is_empty() {
            return;
        }
        let count = waiting.iter().map(|waiter| waiter.count).sum();
        let deadline = waiting.iter().map(|waiter| waiter.deadline).max().unwrap_or_default();
        let allowed = deadline.since(shared.env.clock.now());
        let mut attempt = Attempt::new(&shared, "asking for a timestamp", allowed);
        match shared.coordinators.tso(&shared, count, &mut attempt).await {
            Ok(mut first) => {
                for waiter in waiting {
                    let _ = waiter.reply.send(Ok(first));
                    first += waiter.count;
                }
            }
            Err(error) => {
                for waiter in waiting {
                    let _ = waiter.reply.send(Err(error.clone()));
                }
            }
        }
    }
}
