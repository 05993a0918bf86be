//! Time: a monotonic clock for durations, a wall clock for hybrid timestamps, and sleeping.

use crate::BoxFuture;
use futures_util::future::{Either, select};
use std::ops::{Add, Sub};
use std::pin::pin;
use std::time::Duration;

/// A point on a node's monotonic clock, in nanoseconds since an arbitrary start. Only comparable on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Time that passed from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

/// The time of one node.
pub trait Clock: Send + Sync {
    /// Monotonic time. Never goes back; different nodes may tick at slightly different rates.
    fn now(&self) -> Instant;
    /// Wall clock, milliseconds since the Unix epoch. May jump both ways; never decide safety by it.
    fn unix_millis(&self) -> u64;
    /// Completes once [`Clock::now`] has reached `deadline`.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
}

/// The deadline passed before the future completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// Conveniences over [`Clock`].
pub trait ClockExt: Clock {
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }

    /// Runs `future` for at most `duration`; on [`Elapsed`] the future is dropped.
    fn timeout<F: Future + Send>(
        &self,
        duration: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send {
        self.timeout_at(self.now() + duration, future)
    }

    /// Runs `future` until `deadline` at the latest; on [`Elapsed`] the future is dropped.
    fn timeout_at<F: Future + Send>(
        &self,
        deadline: Instant,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send {
        let sleep = self.sleep_until(deadline);
        async move {
            match select(pin!(future), sleep).await {
                Either::Left((output, _)) => Ok(output),
                Either::Right(((), _)) => Err(Elapsed),
            }
        }
    }
}

impl<C: Clock + ?Sized> ClockExt for C {}
