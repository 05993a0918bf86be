//! Keeping a snapshot readable for longer than old versions live.
//!
//! The coordinator that holds the lease is asked to keep the safe point at or below the snapshot's timestamp, and asked
//! again and again while the hold exists. When it cannot be reached for a whole time to live, the hold is lost: reads may
//! still succeed, or be refused with [`ClientError::TooOld`]; they never show anything wrong.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use futures_util::future::select;
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Instant, TasksExt};
use nokv_proto::coordinator::v1::HoldSafePointRequest;
use nokv_proto::id::Timestamp;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keeps the versions of one timestamp from being removed. Ends when dropped.
pub struct Hold {
    state: Arc<State>,
}

struct State {
    shared: Arc<Shared>,
    version: Timestamp,
    holder: String,
    ttl: Duration,
    /// The last accepted request keeps the hold until here.
    until: Mutex<Instant>,
    /// A renewal was refused while it did.
    broken: AtomicBool,
    stop: Stop,
}

impl Hold {
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        version: Timestamp,
        ttl: Duration,
        attempt: &mut Attempt<'_>,
    ) -> Result<Hold> {
        let holder = format!("{}/{version}/{:016x}", shared.config.name, shared.dice());
        let (shared, until) = (shared.clone(), Mutex::new(Instant::default()));
        let state = Arc::new(State {
            shared,
            version,
            holder,
            ttl,
            until,
            broken: AtomicBool::new(false),
            stop: Stop::new(),
        });
        state.renew(attempt).await?;
        state.shared.env.tasks.go("client-hold", state.clone().keep());
        Ok(Hold { state })
    }

    /// Whether the versions are certain to be there at this moment.
    pub fn is_alive(&self) -> bool {
        self.state.shared.env.clock.now() < *self.state.until()
    }
}

impl Hold {
    /// Whether a coordinator took back what another one had promised: never, if all is well.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::SeqCst)
    }

    /// Lets go, and returns when a coordinator knows, or half a time to live later. A process that is about to end has no
    /// background in which a dropped hold could do that.
    pub async fn release(self) {
        let state = self.state.clone();
        drop(self);
        state.let_go().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.stop.stop();
    }
}

impl State {
    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, version: u64) -> HoldSafePointRequest {
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        HoldSafePointRequest { holder: self.holder.clone(), version, ttl_ms }
    }

    /// One request, repeated until a lease holder answers.
    async fn renew(&self, attempt: &mut Attempt<'_>) -> Result<()> {
        let shared = &self.shared;
        let (sent, reply) = shared.coordinators.hold(shared, self.request(self.version.0), attempt).await?;
        if !reply.accepted {
            shared.env.probe("client.hold_refused");
            let safe_point = Timestamp(reply.safe_point);
            return Err(ClientError::TooOld { version: self.version, safe_point });
        }
        // A tenth less: clocks differ in rate.
        let ttl = Duration::from_millis(reply.ttl_ms);
        *self.until() = sent + ttl.mul_f64(0.9);
        Ok(())
    }

    async fn keep(self: Arc<Self>) {
        let clock = &self.shared.env.clock;
        loop {
            select(pin!(self.stop.stopped()), clock.sleep(self.ttl / 4)).await;
            if self.stop.is_stopped() {
                break;
            }
            let mut attempt = Attempt::new(&self.shared, "holding a snapshot", self.ttl / 2);
            match self.renew(&mut attempt).await {
                Ok(()) => self.shared.env.probe("client.hold_renewed"),
                Err(ClientError::TooOld { .. }) => {
                    self.broken.fetch_or(clock.now() < *self.until(), Ordering::SeqCst);
                    return;
                }
                Err(error) => tracing::debug!(version = %self.version, %error, "a hold was not renewed"),
            }
        }
        self.let_go().await;
    }

    async fn let_go(&self) {
        let mut attempt = Attempt::new(&self.shared, "letting go of a snapshot", self.ttl / 2);
        // If this gets lost, the hold ends by itself.
        _ = self.shared.coordinators.hold(&self.shared, self.request(0), &mut attempt).await;
    }
}
