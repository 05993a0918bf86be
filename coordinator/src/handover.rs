//! How the lease changes hands, seen from a coordinator: what a claim must say, and the evidence for people.
//!
//! A generation ends with a seal that says what it may have handed out of each duty (its frontiers), and the next one
//! begins with a grant that covers the seal and closes it; see `docs/design/009-a-hand-over-of-two-entries.md`. The
//! meta-root decides both, here is only what a coordinator reads out of it.

use crate::view::View;
use nokv_proto::meta::v1::{RootCoordinatorClosureStage as Stage, RootCursor, RootDutyFrontier, RootState};
use serde_json::{Value, json};

/// Duty bits and their names.
const DUTIES: [(u32, &str); 4] = [(1, "alloc_id"), (2, "tso"), (4, "get_region_by_key"), (8, "lease_start")];
/// Duty bit of routes; their frontier is the cluster epoch.
const DUTY_ROUTES: u32 = 4;

/// Where the newest generation of the lease is in its life, as the meta-root knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There was none yet.
    None,
    /// Somebody holds it, or held it and has not been silent for long enough.
    Active,
    /// Given back.
    Released,
    /// It has ended, and has no successor yet.
    Sealed,
}

impl Phase {
    /// Its name in JSON and in replies.
    pub fn name(self) -> &'static str {
        match self {
            Phase::None => "none",
            Phase::Active => "active",
            Phase::Released => "released",
            Phase::Sealed => "sealed",
        }
    }
}

/// The phase of the newest generation.
pub fn phase(state: &RootState) -> Phase {
    match &state.coordinator_lease {
        None => Phase::None,
        Some(lease) if sealed_generation(state) == lease.cert_generation => Phase::Sealed,
        Some(lease) if lease.ttl_millis == 0 => Phase::Released,
        Some(_) => Phase::Active,
    }
}

/// The newest generation that has ended; 0 if none has.
pub fn sealed_generation(state: &RootState) -> u64 {
    state.coordinator_seal.as_ref().map_or(0, |seal| seal.cert_generation)
}

/// The generation that somebody holds; 0 if nobody does.
pub fn active_generation(state: &RootState) -> u64 {
    let lease = state.coordinator_lease.as_ref().filter(|_| phase(state) == Phase::Active);
    lease.map_or(0, |lease| lease.cert_generation)
}

/// What a claim of the lease says of its predecessor.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The newest generation that is known.
    pub after: u64,
    /// The digest of its seal, if that has been seen.
    pub digest: String,
    /// What this coordinator vouches for: the regions it knows. Numbers go on above the fences in any case.
    pub frontiers: Vec<RootDutyFrontier>,
}

/// The claim that fits what is known; `None` before anything is.
pub fn claim(view: &View) -> Option<Claim> {
    view.token.as_ref()?;
    let seal = view.state.coordinator_seal.as_ref().filter(|_| phase(&view.state) == Phase::Sealed);
    let known = RootDutyFrontier { duty_mask: DUTY_ROUTES, frontier: view.state.cluster_epoch };
    Some(Claim {
        after: view.state.coordinator_lease.as_ref().map_or(0, |lease| lease.cert_generation),
        digest: seal.map(|seal| seal.digest.clone()).unwrap_or_default(),
        frontiers: vec![known],
    })
}

/// The members `handoff`, `seal`, `audit` and `closure_witness` of `/debug/vars`.
pub fn evidence(state: &RootState) -> Value {
    let lease = state.coordinator_lease.clone().unwrap_or_default();
    let seal = state.coordinator_seal.clone().unwrap_or_default();
    let closure = state.coordinator_closure.clone().unwrap_or_default();
    let is_sealed = seal.cert_generation != 0;
    let successor = is_sealed && lease.cert_generation > seal.cert_generation;
    let coverage: Vec<Coverage> = DUTIES
        .iter()
        .filter(|(duty, _)| is_sealed && seal.duty_mask & duty != 0)
        .map(|&(duty, name)| {
            let actual = if successor { frontier(&lease.handoff_frontiers, duty) } else { 0 };
            Coverage { duty, name, required: frontier(&seal.consumed_frontiers, duty), actual, successor }
        })
        .collect();
    let covered = |routes: bool| {
        successor && coverage.iter().all(|duty| (duty.duty == DUTY_ROUTES) != routes || duty.is_covered())
    };
    let lineage = successor && lease.predecessor_digest == seal.digest;
    let recorded = is_sealed && closure.seal_generation == seal.cert_generation;
    let stage = if recorded { stage_name(closure.stage()) } else { "unspecified" };
    // Whatever is sealed hands out nothing any more, so it is retired by its seal.
    let satisfied = lineage && covered(true) && covered(false) && recorded;
    let rows: Vec<Value> = coverage.iter().map(Coverage::json).collect();
    json!({
        "handoff": {
            "holder_id": lease.holder_id,
            "expires_unix_nano": lease.expires_unix_nano,
            "cert_generation": lease.cert_generation,
            "duty_mask": lease.duty_mask,
            "predecessor_digest": lease.predecessor_digest,
            "issued_cursor": cursor(lease.issued_cursor),
            "frontiers": named(&lease.handoff_frontiers),
        },
        "seal": {
            "holder_id": seal.holder_id,
            "cert_generation": seal.cert_generation,
            "duty_mask": seal.duty_mask,
            "consumed_frontiers": named(&seal.consumed_frontiers),
            "sealed_at_cursor": cursor(seal.sealed_at_cursor),
            "by_root": seal.by_root,
        },
        "audit": {
            "seal_generation": seal.cert_generation,
            "seal_digest": seal.digest,
            "successor_present": successor,
            "successor_frontier_coverage": rows,
            "successor_lineage_satisfied": lineage,
            "successor_monotone_covered": covered(false),
            "successor_descriptor_covered": covered(true),
            "sealed_generation_retired": is_sealed,
            "closure_satisfied": satisfied,
            "closure_stage": stage,
            "closure_defect": match (is_sealed, successor) {
                (false, _) => "",
                (true, false) => "successor_incomplete",
                (true, true) if !recorded => "missing_confirm",
                (true, true) if !lineage => "lineage_mismatch",
                (true, true) => "",
            },
            "closure_recorded": {
                "holder_id": closure.holder_id,
                "seal_generation": closure.seal_generation,
                "successor_generation": closure.successor_generation,
                "seal_digest": closure.seal_digest,
            },
        },
        "closure_witness": {
            "seal_generation": seal.cert_generation,
            "seal_digest": seal.digest,
            "successor_present": successor,
            "successor_frontier_coverage": rows,
            "successor_lineage_satisfied": lineage,
            "sealed_generation_retired": is_sealed,
            "closure_stage": stage,
            "closure_satisfied": satisfied,
        },
    })
}

/// How far the successor covers one duty of the seal.
struct Coverage {
    duty: u32,
    name: &'static str,
    required: u64,
    actual: u64,
    /// There is one.
    successor: bool,
}

impl Coverage {
    fn is_covered(&self) -> bool {
        self.successor && self.actual >= self.required
    }

    fn json(&self) -> Value {
        json!({
            "duty_mask": self.duty,
            "duty_name": self.name,
            "required_frontier": self.required,
            "actual_frontier": self.actual,
            "covered": self.is_covered(),
        })
    }
}

fn frontier(frontiers: &[RootDutyFrontier], duty: u32) -> u64 {
    frontiers.iter().find(|known| known.duty_mask == duty).map_or(0, |known| known.frontier)
}

fn named(frontiers: &[RootDutyFrontier]) -> Vec<Value> {
    let name = |duty: u32| DUTIES.iter().find(|known| known.0 == duty).map_or("unknown", |known| known.1);
    let row = |known: &RootDutyFrontier| json!({"duty_mask": known.duty_mask, "duty_name": name(known.duty_mask), "frontier": known.frontier});
    frontiers.iter().map(row).collect()
}

fn cursor(cursor: Option<RootCursor>) -> Value {
    let cursor = cursor.unwrap_or_default();
    json!({"term": cursor.term, "index": cursor.index})
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::PendingConfirm => "pending_confirm",
        Stage::Confirmed => "confirmed",
        Stage::Closed => "closed",
        Stage::Reattached => "reattached",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::{
        RootCheckpoint, RootCoordinatorClosure, RootCoordinatorLease, RootCoordinatorSeal, RootTailToken,
    };

    fn frontiers(values: [u64; 3]) -> Vec<RootDutyFrontier> {
        let duties = [1, 2, 4].into_iter().zip(values);
        duties.map(|(duty_mask, frontier)| RootDutyFrontier { duty_mask, frontier }).collect()
    }

    /// Generation 3 is sealed; `generation` is the newest.
    fn handed_over(generation: u64, digest: &str, inherited: [u64; 3]) -> RootState {
        RootState {
            cluster_epoch: 9,
            coordinator_lease: Some(RootCoordinatorLease {
                holder_id: "b".into(),
                cert_generation: generation,
                ttl_millis: 1000,
                predecessor_digest: digest.into(),
                handoff_frontiers: frontiers(inherited),
                ..Default::default()
            }),
            coordinator_seal: Some(RootCoordinatorSeal {
                holder_id: "a".into(),
                cert_generation: 3,
                duty_mask: 7,
                consumed_frontiers: frontiers([10, 20, 9]),
                digest: "d".into(),
                ..Default::default()
            }),
            coordinator_closure: (generation > 3).then(|| RootCoordinatorClosure {
                seal_generation: 3,
                successor_generation: generation,
                stage: Stage::Reattached as i32,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_claim_names_the_seal_it_has_seen_and_the_regions_it_knows() {
        let mut view = View::default();
        assert_eq!(claim(&view), None, "nothing is known yet");
        let mut know = |state: RootState, revision| {
            let token = RootTailToken { revision, ..Default::default() };
            view.install(RootCheckpoint { state: Some(state), ..Default::default() }, token);
            let claim = claim(&view).expect("something is known");
            (claim.after, claim.digest, claim.frontiers[0].duty_mask, claim.frontiers[0].frontier)
        };
        assert_eq!(know(handed_over(3, "c", [0; 3]), 1), (3, "d".into(), 4, 9));
        assert_eq!(know(handed_over(4, "d", [0; 3]), 2), (4, String::new(), 4, 9), "succeeded meanwhile");
    }

    #[test]
    fn phases_follow_seal_and_grant() {
        assert_eq!(
            (phase(&RootState::default()), active_generation(&RootState::default())),
            (Phase::None, 0)
        );
        let sealed = handed_over(3, "c", [0; 3]);
        assert_eq!(
            (phase(&sealed), active_generation(&sealed), sealed_generation(&sealed)),
            (Phase::Sealed, 0, 3)
        );
        let next = handed_over(4, "d", [0; 3]);
        assert_eq!((phase(&next), active_generation(&next), sealed_generation(&next)), (Phase::Active, 4, 3));
    }

    #[test]
    fn the_witness_tells_what_is_missing() {
        let audit = |state: &RootState, member: &str| evidence(state)["audit"][member].clone();
        let waiting = handed_over(3, "c", [99; 3]);
        assert_eq!(audit(&waiting, "closure_defect"), "successor_incomplete");
        assert_eq!(audit(&waiting, "successor_monotone_covered"), false);
        let closed = handed_over(4, "d", [10, 21, 9]);
        assert_eq!(audit(&closed, "closure_satisfied"), true);
        assert_eq!(evidence(&closed)["closure_witness"]["closure_stage"], "reattached");
        assert_eq!(evidence(&closed)["audit"]["successor_frontier_coverage"][1]["actual_frontier"], 21);
        let below = handed_over(4, "d", [10, 19, 9]);
        assert_eq!(audit(&below, "successor_monotone_covered"), false);
        assert_eq!(audit(&below, "successor_descriptor_covered"), true);
        assert_eq!(audit(&handed_over(4, "e", [10, 20, 9]), "closure_defect"), "lineage_mismatch");
        assert_eq!(audit(&handed_over(4, "d", [10, 20, 8]), "closure_satisfied"), false);
        assert_eq!(audit(&RootState::default(), "closure_defect"), "");
    }
}
