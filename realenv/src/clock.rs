//! Time from the operating system; sleeping on tokio's timer.

use nokv_env::{BoxFuture, Clock, Instant};
use std::time::{Duration, SystemTime};

/// The system's clocks. [`Instant`] counts from when this value was made.
pub struct RealClock {
    origin: std::time::Instant,
}

impl RealClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        RealClock { origin: std::time::Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unix_millis(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    /// The timer belongs to the runtime that polls the future.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        match self.origin.checked_add(Duration::from_nanos(deadline.0)) {
            Some(at) => Box::pin(async move { tokio::time::sleep_until(at.into()).await }),
            None => Box::pin(std::future::pending()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::ClockExt;

    #[tokio::test]
    async fn sleeps_at_least_as_long_as_asked() {
        let clock = RealClock::new();
        let before = clock.now();
        clock.sleep(Duration::from_millis(2)).await;
        assert!(clock.now() - before >= Duration::from_millis(2));
        assert!(clock.timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
        assert!(clock.unix_millis() > 1_700_000_000_000);
    }
}
