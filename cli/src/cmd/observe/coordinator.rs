//! A coordinator's metrics and checks.

use super::exposition::Exposition;
use super::{Check, HANGS_AFTER, Watch, label, lag_seconds, seconds, shown};
use nokv_coordinator::Observation;
use std::time::Duration;

/// Meta-roots that are silent for longer are more than in an election.
const ROOT_PATIENCE: Duration = Duration::from_secs(5);
/// Entries that the view may be behind.
const LAG_MAX: u64 = 1000;

pub fn watch(look: impl Fn() -> Observation + Send + Sync + 'static) -> Watch {
    Watch::new(look, metrics, live, ready)
}

/// The loop that follows the meta-roots hears of them or misses them, again and again. One that does neither hangs.
fn live(coordinator: &Observation) -> Vec<Check> {
    let root = &coordinator.root;
    let ago = root.heard_ago.filter(|ago| root.missing_for.is_none() && *ago > HANGS_AFTER);
    let problem = ago.map(|ago| format!("the loop hangs, it heard of the meta-roots {} ago", shown(ago)));
    vec![Check::new("root-loop", problem)]
}

fn ready(coordinator: &Observation) -> Vec<Check> {
    let root = &coordinator.root;
    let error = root.error.as_deref().unwrap_or("no answer yet");
    let reached = match (root.heard_ago, root.missing_for) {
        (None, None) => Some(error.to_owned()),
        (_, Some(missing)) if root.heard_ago.is_none() || missing > ROOT_PATIENCE => {
            Some(format!("unreachable for {}: {error}", shown(missing)))
        }
        _ => None,
    };
    let view = match root.heard_ago {
        None => Some("nothing is known of the cluster yet".to_owned()),
        Some(_) if root.lag > LAG_MAX => Some(format!("{} entries behind the newest heard of", root.lag)),
        Some(_) => None,
    };
    let lease = &coordinator.lease;
    let somebody = lease.phase == "active"
        && !lease.holder.is_empty()
        && lease.holder != coordinator.coordinator_id
        && !lease.is_overdue
        && root.missing_for.is_none();
    let lease = (lease.held_for.is_none() && !somebody)
        .then(|| format!("held neither here nor elsewhere ({}): {}", lease.phase, lease.reason));
    vec![Check::new("root", reached), Check::new("view", view), Check::new("lease", lease)]
}

pub fn metrics(page: &mut Exposition, coordinator: &Observation) {
    let lease = &coordinator.lease;
    page.gauge(
        "nokv_coordinator_lease_held",
        "1: this coordinator holds the lease, so it hands out ids and timestamps and schedules.",
        lease.held_for.is_some(),
    );
    page.gauge(
        "nokv_coordinator_lease_remaining_seconds",
        "For how long it may go on under the lease without a renewal.",
        seconds(lease.held_for),
    );
    page.gauge(
        "nokv_coordinator_lease_generation",
        "The newest generation of the lease that is known here.",
        lease.generation,
    );
    let root = &coordinator.root;
    page.gauge(
        "nokv_coordinator_root_up",
        "1: the meta-roots answered the last time.",
        root.missing_for.is_none() && root.heard_ago.is_some(),
    );
    page.gauge(
        "nokv_coordinator_root_heard_age_seconds",
        "Time since a meta-root last answered.",
        seconds(root.heard_ago),
    );
    page.gauge(
        "nokv_coordinator_root_lag_entries",
        "Log entries that the view is behind the newest heard of.",
        root.lag,
    );
    page.gauge("nokv_coordinator_regions", "Regions known.", coordinator.regions);
    page.gauge(
        "nokv_coordinator_regions_without_leader",
        "Regions whose leader is not known, or on a store that is down.",
        coordinator.regions_without_leader,
    );
    let stores = coordinator.stores;
    page.gauges(
        "nokv_coordinator_stores",
        "Stores by state: up, or down for want of heartbeats.",
        [(label("state", "up"), stores.up), (label("state", "down"), stores.down)],
    );
    page.gauge(
        "nokv_coordinator_stores_read_only",
        "Stores that take no new data because their disk is nearly full.",
        stores.read_only,
    );
    page.gauge(
        "nokv_coordinator_stores_decommissioning",
        "Stores that are to be emptied.",
        stores.decommissioning,
    );
    page.gauge(
        "nokv_coordinator_pending_peer_changes",
        "Changes of membership under way.",
        coordinator.peer_changes,
    );
    page.gauge(
        "nokv_coordinator_pending_range_changes",
        "Splits and merges under way.",
        coordinator.range_changes,
    );
    page.counter("nokv_coordinator_ids_allocated_total", "Ids handed out.", coordinator.ids_given);
    page.counter(
        "nokv_coordinator_timestamps_allocated_total",
        "Timestamps handed out.",
        coordinator.timestamps_given,
    );
    page.gauge(
        "nokv_coordinator_safe_point_lag_seconds",
        "Age of the safe point.",
        lag_seconds(coordinator.safe_point, coordinator.unix_millis),
    );
    page.gauge("nokv_coordinator_safe_point_holds", "Who holds the safe point back.", coordinator.holds);
    let operators = || coordinator.operators.iter().map(|one| (label("kind", one.kind), one));
    page.gauges(
        "nokv_coordinator_operators_running",
        "Operators of the scheduler under way.",
        operators().map(|(labels, one)| (labels, one.running)),
    );
    page.counters(
        "nokv_coordinator_operators_begun_total",
        "Operators begun.",
        operators().map(|(labels, one)| (labels, one.begun)),
    );
    page.counters(
        "nokv_coordinator_operators_done_total",
        "Operators done.",
        operators().map(|(labels, one)| (labels, one.done)),
    );
    page.counters(
        "nokv_coordinator_operators_cancelled_total",
        "Operators given up.",
        operators().map(|(labels, one)| (labels, one.cancelled)),
    );
    page.gauge(
        "nokv_coordinator_scheduler_waiting",
        "What the scheduler should do and cannot.",
        coordinator.waiting,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(coordinator: &Observation) -> Vec<&'static str> {
        let checks = ready(coordinator);
        checks.iter().filter(|check| check.problem.is_some()).map(|check| check.name).collect()
    }

    #[test]
    fn a_standby_is_ready_while_somebody_else_holds_the_lease() {
        let mut one = Observation::default();
        assert_eq!(failed(&one), ["root", "view", "lease"]);
        one.coordinator_id = "c1".into();
        one.root.heard_ago = Some(Duration::ZERO);
        (one.lease.phase, one.lease.holder) = ("active", "c2".into());
        assert_eq!(failed(&one), [""; 0]);
        one.lease.is_overdue = true;
        assert_eq!(failed(&one), ["lease"], "a meta-root without a leader still tells of it");
        one.lease.is_overdue = false;
        one.lease.phase = "sealed";
        assert_eq!(failed(&one), ["lease"]);
        (one.lease.phase, one.lease.holder) = ("active", "c1".into());
        assert_eq!(failed(&one), ["lease"], "it is said to hold it, and does not trust that");
        one.lease.held_for = Some(Duration::from_secs(1));
        assert_eq!(failed(&one), [""; 0]);
        one.root.lag = LAG_MAX + 1;
        assert_eq!(failed(&one), ["view"]);
    }

    #[test]
    fn an_election_of_the_roots_is_waited_for() {
        let mut one = Observation::default();
        one.lease.held_for = Some(Duration::from_secs(1));
        (one.root.heard_ago, one.root.missing_for) =
            (Some(Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert_eq!(failed(&one), [""; 0]);
        one.root.missing_for = Some(Duration::from_secs(6));
        assert_eq!(failed(&one), ["root"]);
        assert_eq!(live(&one)[0].problem, None, "it asks in vain, but it asks");
        (one.root.heard_ago, one.root.missing_for) = (Some(Duration::from_secs(60)), None);
        assert!(live(&one)[0].problem.is_some());
    }
}
