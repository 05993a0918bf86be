//! What a coordinator's reply must look like before it is believed.
//!
//! Ids and timestamps are granted under lease generations that only grow, and each reply says how far its
//! generation has handed out. A coordinator that lost its lease and has not noticed shows itself by an old
//! generation or a frontier that does not fit; its reply is thrown away and the next endpoint is asked.
//!
//! A generation begins only when all before it were sealed, and a seal is for good. So whatever was learned from a reply of
//! one kind (that generation 5 serves, or that 4 is sealed) counts for all: nothing of generation 4 is taken any more,
//! not even what it handed out before its end. Routes may be answered by coordinators that hold no lease; those that know of
//! no holder cite none, and must at least know the seals that this client knows.

use nokv_env::Duty;
use nokv_proto::coordinator::v1::{GetRegionByKeyResponse, RootToken, ServingClass, SyncHealth};

/// A reply to `AllocID` or `Tso`, reduced to what both have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    /// First id or timestamp handed out.
    pub(crate) first: u64,
    /// How many, consecutive.
    pub(crate) count: u64,
    /// Lease generation it was granted under.
    pub(crate) generation: u64,
    /// Last value the generation has handed out.
    pub(crate) frontier: u64,
    /// Highest generation the coordinator knows to be sealed.
    pub(crate) sealed: u64,
}

/// Marks a reply whose evidence was withheld.
const GENERATION_SUPPRESSED: u64 = u64::MAX;

/// What earlier replies have taught.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// The newest generation that is known to have ended.
    sealed: u64,
    ids: Taken,
    timestamps: Taken,
    /// The generation of the newest route.
    routes: u64,
}

/// What was taken of one duty.
#[derive(Debug, Default)]
struct Taken {
    generation: u64,
    last: u64,
}

impl Verifier {
    /// Accepts a grant for `count` values, or says what is wrong with it. Timestamps must be strictly above all
    /// earlier ones, because their requests follow each other.
    pub(crate) fn number(&mut self, duty: Duty, grant: &Grant, count: u64) -> Result<(), String> {
        if grant.count != count {
            return Err(format!("asked for {count}, got {}", grant.count));
        }
        if grant.first == 0 || grant.first.checked_add(count - 1) != Some(grant.frontier) {
            return Err(format!("{count} from {} do not end at {}", grant.first, grant.frontier));
        }
        let ordered = duty == Duty::Timestamps;
        let taken = if ordered { &mut self.timestamps } else { &mut self.ids };
        if grant.generation == GENERATION_SUPPRESSED || grant.generation < taken.generation {
            return Err(format!("lease generation {} after {}", grant.generation, taken.generation));
        }
        let sealed = self.sealed.max(grant.sealed);
        if sealed != 0 && grant.generation <= sealed {
            return Err(format!("lease generation {} is sealed", grant.generation));
        }
        if ordered && grant.first <= taken.last {
            return Err(format!("{} is not above {}, which was handed out before", grant.first, taken.last));
        }
        *taken = Taken { generation: grant.generation, last: taken.last.max(grant.frontier) };
        self.sealed = sealed.max(grant.generation.saturating_sub(1));
        Ok(())
    }

    /// Accepts a route, or says what is wrong with its evidence.
    pub(crate) fn route(&mut self, reply: &GetRegionByKeyResponse) -> Result<(), String> {
        let generation = reply.cert_generation;
        if generation == GENERATION_SUPPRESSED {
            return Err("its lease generation is withheld".to_owned());
        }
        let sealed = self.sealed.max(reply.observed_seal_generation);
        if generation != 0 && (generation <= sealed || generation < self.routes) {
            return Err(format!("lease generation {generation} after {}, {sealed} is sealed", self.routes));
        }
        if generation == 0 && reply.observed_seal_generation < self.sealed {
            return Err(format!("it has not heard that lease generation {} is sealed", self.sealed));
        }
        if !is_consistent(reply) {
            let class = reply.serving_class();
            return Err(format!("{class:?} does not fit its lag of {} and its health", reply.root_lag));
        }
        self.sealed = sealed.max(generation.saturating_sub(1));
        self.routes = self.routes.max(generation);
        Ok(())
    }
}

/// Whether a route's worth follows from the other members. Coordinators that do not speak of it are believed.
fn is_consistent(reply: &GetRegionByKeyResponse) -> bool {
    let revision = |token: &Option<RootToken>| token.map_or(0, |token| token.revision);
    let (served, current) = (revision(&reply.served_root_token), revision(&reply.current_root_token));
    if current.saturating_sub(served) != reply.root_lag {
        return false;
    }
    let unwell = matches!(reply.sync_health(), SyncHealth::RootUnavailable | SyncHealth::BootstrapRequired);
    let authoritative = reply.root_lag == 0 && reply.served_by_leader;
    match reply.serving_class() {
        ServingClass::Unspecified => true,
        ServingClass::Degraded => unwell,
        ServingClass::Authoritative => !unwell && authoritative,
        ServingClass::BoundedStale => !unwell && !authoritative,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(generation: u64, first: u64, count: u64) -> Grant {
        Grant { first, count, generation, frontier: first + count - 1, sealed: 0 }
    }

    fn take(verifier: &mut Verifier, grant: Grant, count: u64) -> bool {
        verifier.number(Duty::Timestamps, &grant, count).is_ok()
    }

    fn route(generation: u64, sealed: u64) -> GetRegionByKeyResponse {
        GetRegionByKeyResponse {
            cert_generation: generation,
            observed_seal_generation: sealed,
            ..Default::default()
        }
    }

    #[test]
    fn generations_and_values_only_grow() {
        let mut verifier = Verifier::default();
        assert!(take(&mut verifier, grant(3, 10, 2), 2));
        assert!(!take(&mut verifier, grant(2, 100, 1), 1), "an old lease holder");
        assert!(!take(&mut verifier, grant(3, 11, 1), 1), "handed out before");
        assert!(take(&mut verifier, grant(4, 12, 1), 1));
        assert!(verifier.number(Duty::Ids, &grant(4, 5, 1), 1).is_ok(), "ids have a life of their own");
    }

    #[test]
    fn the_parts_must_fit_each_other() {
        let mut verifier = Verifier::default();
        assert!(!take(&mut verifier, grant(1, 10, 3), 2));
        assert!(!take(&mut verifier, Grant { frontier: 12, ..grant(1, 10, 2) }, 2));
        assert!(!take(&mut verifier, grant(GENERATION_SUPPRESSED, 10, 1), 1));
        assert!(!take(&mut verifier, Grant { first: u64::MAX, count: 2, ..grant(1, 1, 1) }, 2));
    }

    #[test]
    fn a_sealed_generation_is_refused_for_good() {
        let mut verifier = Verifier::default();
        assert!(take(&mut verifier, Grant { sealed: 4, ..grant(5, 10, 1) }, 1));
        assert!(take(&mut verifier, grant(5, 11, 1), 1));
        assert!(!take(&mut verifier, Grant { sealed: 5, ..grant(5, 12, 1) }, 1));
    }

    /// Handed out before the seal, delivered after it.
    #[test]
    fn what_one_duty_learns_of_a_seal_counts_for_all() {
        let mut verifier = Verifier::default();
        assert!(take(&mut verifier, grant(4, 10, 1), 1));
        assert!(verifier.route(&route(4, 3)).is_ok());
        assert!(verifier.route(&route(0, 4)).is_ok(), "generation 4 is sealed, and nobody succeeds it yet");
        assert!(!take(&mut verifier, grant(4, 11, 1), 1), "late timestamps");
        assert!(verifier.number(Duty::Ids, &grant(4, 1, 1), 1).is_err(), "late ids");
        assert!(verifier.route(&route(4, 3)).is_err(), "a late route");
        assert!(take(&mut verifier, grant(5, 12, 1), 1));
    }

    #[test]
    fn a_route_knows_the_seals_that_the_client_knows() {
        let mut verifier = Verifier::default();
        assert!(verifier.route(&route(0, 0)).is_ok(), "nobody ever held the lease");
        assert!(verifier.route(&route(7, 6)).is_ok());
        assert!(verifier.route(&route(6, 5)).is_err(), "an older holder");
        assert!(verifier.route(&route(0, 5)).is_err(), "has missed the end of generation 6");
        assert!(verifier.route(&route(0, 6)).is_ok());
        assert!(verifier.route(&route(GENERATION_SUPPRESSED, 6)).is_err());
        assert!(verifier.route(&route(8, 8)).is_err(), "cites what it knows to be sealed");
    }

    #[test]
    fn the_worth_of_a_route_follows_from_its_other_members() {
        let worth = |class: ServingClass, leader, lag| {
            let token = |revision| Some(RootToken { revision, ..Default::default() });
            let reply = GetRegionByKeyResponse {
                serving_class: class.into(),
                served_by_leader: leader,
                served_root_token: token(5),
                current_root_token: token(5 + lag),
                root_lag: lag,
                sync_health: SyncHealth::Healthy.into(),
                ..route(1, 0)
            };
            Verifier::default().route(&reply).is_ok()
        };
        assert!(worth(ServingClass::Authoritative, true, 0) && worth(ServingClass::BoundedStale, false, 2));
        assert!(!worth(ServingClass::Authoritative, true, 2), "it lags");
        assert!(!worth(ServingClass::Authoritative, false, 0) && !worth(ServingClass::Degraded, true, 0));
        assert!(Verifier::default().route(&GetRegionByKeyResponse { root_lag: 3, ..route(1, 0) }).is_err());
    }
}
