//! When may a coordinator lease be taken from its holder? Judged by one node's own monotonic clock.
//!
//! The holder trusts its lease for nine tenths of its life, counted from the moment it *sent* the renewal. A
//! root node sees the renewal when it applies it, which is later. So if this node has not seen the lease
//! change for its whole life plus a twentieth, by its own clock, the holder stopped trusting it, as long as
//! clock rates differ by less than five percent each way. Wall clocks are never compared.
//!
//! That holds on every node at every time: a new leader, a restarted node (which counts from its start), a
//! node that lags behind. If one that lags proposes a take-over too early, a renewal that it has not applied
//! stands before the take-over in the log, and the state machine refuses it.

use nokv_env::Instant;
use nokv_proto::meta::v1::RootCoordinatorLease;
use std::time::Duration;

/// How much longer than its life a lease must have been silent.
const SILENCE: f64 = 1.05;

/// Since when the lease on record has not changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeaseWatch {
    /// Generation and renewals.
    seen: (u64, u64),
    since: Instant,
}

impl LeaseWatch {
    /// Notes the lease as this node has it at `now`.
    pub fn observe(&mut self, lease: Option<&RootCoordinatorLease>, now: Instant) {
        let seen = key(lease);
        if seen != self.seen {
            *self = Self { seen, since: now };
        }
    }

    /// Starts counting anew: what was seen before (in an earlier life of the process) was not timed.
    pub fn restart(lease: Option<&RootCoordinatorLease>, now: Instant) -> Self {
        Self { seen: key(lease), since: now }
    }

    /// Whether the holder of `lease` has been silent for so long that another may have it.
    pub fn has_run_out(&self, lease: &RootCoordinatorLease, now: Instant) -> bool {
        let life = Duration::from_millis(lease.ttl_millis).mul_f64(SILENCE);
        key(Some(lease)) == self.seen && now.since(self.since) >= life
    }
}

fn key(lease: Option<&RootCoordinatorLease>) -> (u64, u64) {
    lease.map_or((0, 0), |lease| (lease.cert_generation, lease.renewals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(generation: u64, renewals: u64) -> RootCoordinatorLease {
        RootCoordinatorLease { cert_generation: generation, renewals, ttl_millis: 1000, ..Default::default() }
    }

    const MILLIS: u64 = 1_000_000;

    #[test]
    fn a_renewal_starts_the_clock_anew() {
        let mut watch = LeaseWatch::default();
        watch.observe(Some(&lease(1, 0)), Instant(0));
        assert!(!watch.has_run_out(&lease(1, 0), Instant(1049 * MILLIS)));
        watch.observe(Some(&lease(1, 1)), Instant(900 * MILLIS));
        watch.observe(Some(&lease(1, 1)), Instant(1500 * MILLIS));
        assert!(!watch.has_run_out(&lease(1, 1), Instant(1900 * MILLIS)));
        assert!(watch.has_run_out(&lease(1, 1), Instant(1950 * MILLIS)));
    }

    #[test]
    fn a_lease_that_was_never_observed_has_not_run_out() {
        let watch = LeaseWatch::default();
        assert!(!watch.has_run_out(&lease(4, 2), Instant(u64::MAX)));
    }

    #[test]
    fn a_restarted_node_counts_from_its_start() {
        let watch = LeaseWatch::restart(Some(&lease(4, 2)), Instant(5000 * MILLIS));
        assert!(!watch.has_run_out(&lease(4, 2), Instant(6000 * MILLIS)));
        assert!(watch.has_run_out(&lease(4, 2), Instant(6050 * MILLIS)));
    }
}
