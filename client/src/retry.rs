//! Failure → what to do about it. Pure: no clock, no network, no dice beyond the numbers passed in.
//!
//! A request to a region can fail in three ways: the store answered with a region error (it knows better than
//! our route cache), the call failed (the store may be gone, and may have executed the request), or the time for
//! one call ran out. [`decide`] maps each to a change of the route and a wait; [`backoff`] turns the number of
//! failures into a time. The deadline is not known here; the caller stops when it passes.

use crate::error::ClientError;
use nokv_env::net::TlsFailure;
use nokv_proto::error::v1::RegionError;
use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer};
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::{Code, Status};

/// How one attempt failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// The store refused before doing anything.
    Region(Box<RegionError>),
    /// The call failed on the way, or the store failed.
    Status(Status),
    /// No answer in the time allowed for one call.
    Silence(Duration),
    /// The address of the peer's store is not known.
    NoAddress(u64),
}

impl Failure {
    /// The two ends that do not trust or understand each other, if that is it.
    pub(crate) fn tls(&self) -> Option<&TlsFailure> {
        match self {
            Self::Status(status) => TlsFailure::of(status),
            _ => None,
        }
    }

    /// Whether a store has had the request, even if only to refuse it.
    pub(crate) fn was_delivered(&self) -> bool {
        match self {
            Self::NoAddress(_) => false,
            Self::Status(status) => !connection_refused(status),
            Self::Region(_) | Self::Silence(_) => true,
        }
    }

    /// Whether the request may have taken effect, or may still do so.
    pub(crate) fn maybe_executed(&self) -> bool {
        match self {
            Self::Region(_) | Self::NoAddress(_) => false,
            Self::Silence(_) => true,
            Self::Status(status) => {
                !matches!(
                    status.code(),
                    Code::InvalidArgument
                        | Code::Unimplemented
                        | Code::ResourceExhausted
                        | Code::Unauthenticated
                        | Code::PermissionDenied
                ) && !connection_refused(status)
            }
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Region(error) => f.write_str(&describe(error)),
            Self::Status(status) => write!(f, "{}", describe_status(status)),
            Self::Silence(time) => write!(f, "no answer within {time:?}"),
            Self::NoAddress(store) => write!(f, "the address of store {store} is not known"),
        }
    }
}

/// What to change in the route cache before the next attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// Nothing.
    Keep,
    /// This peer leads.
    Leader(RegionPeer),
    /// Try the next peer of the region.
    NextPeer,
    /// Try the next peer, and do not believe hints that point at this store for so long.
    Suspect(Duration),
    /// The store told the regions that now cover the range.
    Replace(Vec<RegionDescriptor>),
    /// Forget the route and ask a coordinator.
    Refresh,
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// We have learned something: try at once, unless that already happened a few times in a row.
    Learned,
    /// Nothing is known to be better now: wait.
    Backoff,
}

/// What to do about a failure.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// Try again.
    Retry(Change, Wait),
    /// Trying again cannot help.
    GiveUp(ClientError),
}

/// How a store begins the refusal of new data when its disk is nearly full.
const DISK_FULL: &str = "disk_full:";
/// A store that does not answer costs a whole timeout at every try: stay away until others had time to elect.
const SUSPECT_SILENT: Duration = Duration::from_secs(2);
/// A broken connection is told at once, and may be whole again at the next try.
const SUSPECT_FAILED: Duration = Duration::from_millis(200);

/// How long a store is not asked for what others can answer as well; `slow`: the failure took its time.
pub(crate) fn suspicion(failure: &Failure, slow: bool) -> Option<Duration> {
    match failure {
        Failure::Silence(_) => Some(SUSPECT_SILENT),
        Failure::Status(_) if slow => Some(SUSPECT_SILENT),
        Failure::Status(_) => Some(SUSPECT_FAILED),
        Failure::Region(_) | Failure::NoAddress(_) => None,
    }
}

/// What to do about a failed request that went to a store at `addr`.
pub(crate) fn decide(failure: &Failure, addr: &str) -> Decision {
    use Decision::{GiveUp, Retry};
    match failure {
        Failure::Region(error) => decide_region(error),
        Failure::Silence(_) => Retry(Change::Suspect(SUSPECT_SILENT), Wait::Learned),
        Failure::NoAddress(_) => Retry(Change::Refresh, Wait::Backoff),
        Failure::Status(status) => match status.code() {
            Code::InvalidArgument => GiveUp(ClientError::InvalidArgument(status.message().to_owned())),
            Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
                GiveUp(ClientError::Refused { addr: addr.to_owned(), reason: describe_status(status) })
            }
            // Not before somebody makes room.
            Code::ResourceExhausted if status.message().starts_with(DISK_FULL) => {
                GiveUp(ClientError::DiskFull(status.message()[DISK_FULL.len()..].trim().to_owned()))
            }
            // Busy: the queue is full. The leader is where it was.
            Code::ResourceExhausted => Retry(Change::Keep, Wait::Backoff),
            _ => Retry(Change::Suspect(SUSPECT_FAILED), Wait::Backoff),
        },
    }
}

fn decide_region(error: &RegionError) -> Decision {
    use Decision::{GiveUp, Retry};
    if let Some(not_leader) = &error.not_leader {
        return match &not_leader.leader {
            Some(leader) if leader.store_id != 0 => Retry(Change::Leader(*leader), Wait::Learned),
            _ => Retry(Change::NextPeer, Wait::Backoff),
        };
    }
    if let Some(epoch) = &error.epoch_not_match {
        return if epoch.regions.is_empty() {
            Retry(Change::Refresh, Wait::Backoff)
        } else {
            Retry(Change::Replace(epoch.regions.clone()), Wait::Learned)
        };
    }
    if let Some(too_large) = &error.entry_too_large {
        return GiveUp(ClientError::InvalidArgument(format!(
            "region {} refuses the request: one raft entry would be too large",
            too_large.region_id
        )));
    }
    if error.stale_command.is_some() {
        return Retry(Change::Keep, Wait::Backoff);
    }
    if error.region_not_found.is_some() {
        return Retry(Change::NextPeer, Wait::Backoff);
    }
    // Another store at that address, a key outside the range, or an error newer than this client.
    Retry(Change::Refresh, Wait::Backoff)
}

/// Attempts in a row that may go without a wait.
const LEARNED_MAX: u32 = 2;
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The pause before the next attempt: exponential, between half and all of it by `dice`.
pub(crate) fn backoff(failures: u32, learned_in_a_row: u32, wait: Wait, dice: u64) -> Duration {
    if wait == Wait::Learned && learned_in_a_row <= LEARNED_MAX {
        return Duration::ZERO;
    }
    let full = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF_MAX);
    let half = full / 2;
    let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(dice % span)
}

/// A region error in words.
fn describe(error: &RegionError) -> String {
    if let Some(e) = &error.not_leader {
        return match &e.leader {
            Some(leader) => {
                format!("region {}: not the leader, store {} is said to be", e.region_id, leader.store_id)
            }
            None => format!("region {} has no known leader", e.region_id),
        };
    }
    if error.epoch_not_match.is_some() {
        return "the region has changed (stale epoch)".into();
    }
    if let Some(e) = &error.store_not_match {
        return format!(
            "store {} answered where store {} was expected",
            e.actual_store_id, e.request_store_id
        );
    }
    if let Some(e) = &error.region_not_found {
        return format!("region {} is not hosted there", e.region_id);
    }
    if let Some(e) = &error.key_not_in_region {
        return format!("the key is not in region {}", e.region_id);
    }
    if let Some(e) = &error.entry_too_large {
        return format!("entry too large for region {}", e.region_id);
    }
    if error.stale_command.is_some() {
        return "the proposal was dropped by a leader change".into();
    }
    "unknown region error".into()
}

/// A status in words, with the root cause when that says more.
pub(crate) fn describe_status(status: &Status) -> String {
    let text = match status.code() {
        Code::Unavailable | Code::Unknown => status.message().to_owned(),
        code => format!("{}: {}", code.description(), status.message()),
    };
    let mut root = status.source();
    while let Some(deeper) = root.and_then(Error::source) {
        root = Some(deeper);
    }
    match root.map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Whether no connection came about, so that nothing can have been executed.
fn connection_refused(status: &Status) -> bool {
    if TlsFailure::of(status).is_some() {
        return true;
    }
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::net::TlsProblem;
    use nokv_proto::error::v1::{EpochNotMatch, NotLeader, StaleCommand};

    fn change(failure: &Failure) -> (Change, Wait) {
        match decide(failure, "a:1") {
            Decision::Retry(change, wait) => (change, wait),
            Decision::GiveUp(error) => panic!("gave up: {error}"),
        }
    }

    #[test]
    fn a_request_that_met_a_distrusted_server_was_not_executed() {
        let what = "its certificate expired".to_owned();
        let failure = TlsFailure { problem: TlsProblem::CertificateExpired, addr: "a:1".into(), what };
        let mut status = Status::unavailable(failure.to_string());
        status.set_source(std::sync::Arc::new(failure.clone()));
        let failed = Failure::Status(status);
        assert_eq!(failed.tls(), Some(&failure));
        assert!(!failed.was_delivered() && !failed.maybe_executed());
        let relayed = Failure::Status(Status::unavailable(failure.to_string()));
        assert_eq!(relayed.tls(), None, "what a server says of others is no failure of ours");
        assert!(relayed.maybe_executed());
    }

    #[test]
    fn a_leader_hint_is_followed_at_once() {
        let leader = RegionPeer { store_id: 2, peer_id: 201 };
        let error = RegionError {
            not_leader: Some(NotLeader { region_id: 1, leader: Some(leader) }),
            ..Default::default()
        };
        assert_eq!(change(&Failure::Region(Box::new(error))), (Change::Leader(leader), Wait::Learned));
        assert_eq!(backoff(1, 1, Wait::Learned, 7), Duration::ZERO);
    }

    #[test]
    fn hints_that_lead_in_circles_are_slowed_down() {
        assert!(backoff(4, 3, Wait::Learned, 7) > Duration::ZERO);
    }

    #[test]
    fn without_a_leader_the_next_peer_is_tried_after_a_pause() {
        let error =
            RegionError { not_leader: Some(NotLeader { region_id: 1, leader: None }), ..Default::default() };
        assert_eq!(change(&Failure::Region(Box::new(error))), (Change::NextPeer, Wait::Backoff));
    }

    #[test]
    fn a_new_epoch_replaces_the_route() {
        let regions = vec![RegionDescriptor { region_id: 9, ..Default::default() }];
        let error = RegionError {
            epoch_not_match: Some(EpochNotMatch { regions: regions.clone(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(change(&Failure::Region(Box::new(error))), (Change::Replace(regions), Wait::Learned));
    }

    #[test]
    fn only_calls_that_reached_nobody_are_known_not_to_have_happened() {
        assert!(Failure::Silence(Duration::from_secs(1)).maybe_executed());
        assert!(Failure::Status(Status::unavailable("broken pipe")).maybe_executed());
        assert!(!Failure::Status(Status::invalid_argument("empty key")).maybe_executed());
        let dropped = RegionError { stale_command: Some(StaleCommand {}), ..Default::default() };
        assert!(!Failure::Region(Box::new(dropped)).maybe_executed());
        let refused = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(!Failure::Status(refused).maybe_executed());
    }

    #[test]
    fn backoff_grows_jitters_and_stays_bounded() {
        for failures in 1..40 {
            let full = backoff(failures, 0, Wait::Backoff, u64::MAX);
            assert!(full >= BACKOFF_FIRST / 2 && full <= BACKOFF_MAX, "{failures}: {full:?}");
        }
        assert!(backoff(5, 0, Wait::Backoff, 0) > backoff(1, 0, Wait::Backoff, 0));
        assert_ne!(backoff(5, 0, Wait::Backoff, 1), backoff(5, 0, Wait::Backoff, 12345));
    }
}
