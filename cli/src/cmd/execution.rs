//! `nokv execution`: what a store did last, whether it is whole, and what became of changes to its regions.

use crate::args::client::Execution;
use crate::args::{Format, Global};
use crate::cmd::reach::{self, NoAnswer};
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_env::Env;
use nokv_env::clock::rfc3339;
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    ExecutionAdmissionClass as Class, ExecutionAdmissionReason as Reason, ExecutionAdmissionStatus,
    ExecutionPublishState as Publish, ExecutionRestartState, ExecutionRestartStatus, ExecutionStatusRequest,
    ExecutionStatusResponse, ExecutionTopologyOutcome as Outcome, ExecutionTopologyStatus,
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Prints the state of one store.
pub async fn run(env: &Env, args: &Execution, global: &Global) -> Result<u8> {
    let mut admin = RaftAdminClient::new(env.net.connect(&args.addr));
    let asked = reach::ask(env, args.timeout, admin.execution_status(ExecutionStatusRequest {})).await;
    let status = match asked {
        Ok(status) => status,
        Err(NoAnswer::OtherKind) => {
            let kind = reach::kind_of(env, &args.addr, args.timeout).await;
            let is = kind.map(|kind| format!(": it is {kind}")).unwrap_or_default();
            return Err(Failure::new(Code::WrongService, format!("{} is not a store{is}", args.addr)).next(
                "store admin ports look like :20160; coordinators listen on :2379, meta-roots on :2380",
            ));
        }
        Err(why) => {
            return Err(why.about_trust(&args.addr).unwrap_or_else(|| {
                Failure::new(Code::Unavailable, format!("{}: {why}", args.addr)).next("nokv status")
            }));
        }
    };
    check_filters(args, &status)?;
    let admission = status.last_admission.unwrap_or_default();
    let restart = status.restart.unwrap_or_default();
    let is_wanted = |row: &&ExecutionTopologyStatus| {
        (args.region == 0 || args.region == row.region_id)
            && (args.transition.is_empty() || args.transition == row.transition_id)
    };
    let topology: Vec<_> = status.topology.iter().filter(is_wanted).collect();
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            out.line(&format!("Addr                 {}", args.addr))?;
            lines_of_admission(&admission).iter().try_for_each(|line| out.line(line))?;
            lines_of_restart(&restart).iter().try_for_each(|line| out.line(line))?;
            out.line(&format!("Topology.Count       {}", topology.len()))?;
            topology.iter().try_for_each(|row| out.line(&line_of_topology(row)))?;
        }
        Format::Json | Format::Jsonl => {
            let document = document(&args.addr, &admission, &restart, &topology);
            if global.format() == Format::Json {
                out.json(&document)?;
            } else {
                out.line(&document.to_string())?;
            }
        }
    }
    out.flush()?;
    Ok(0)
}

/// A filter that can match nothing is a mistake, not an empty answer.
fn check_filters(args: &Execution, status: &ExecutionStatusResponse) -> Result {
    let (region, hosted) = (args.region, &status.hosted_region_ids);
    let is_known = hosted.contains(&region) || status.topology.iter().any(|row| row.region_id == region);
    if region != 0 && !is_known {
        let message = format!("region {region} is not on the store at {}", args.addr);
        let next = if hosted.is_empty() {
            "no region is hosted there".to_owned()
        } else {
            format!("regions there: {}", some_of(hosted.iter()))
        };
        return Err(Failure::new(Code::RegionNotFound, message).next(next).detail("hosted", hosted.clone()));
    }
    let transition = &args.transition;
    if !transition.is_empty() && !status.topology.iter().any(|row| row.transition_id == *transition) {
        let message = format!("the store at {} knows no transition '{transition}'", args.addr);
        let known: Vec<&str> = status.topology.iter().map(|row| row.transition_id.as_str()).collect();
        let next = if known.is_empty() {
            "it has changed nothing since its start".to_owned()
        } else {
            format!("its transitions: {}", some_of(known.iter()))
        };
        return Err(Failure::new(Code::TransitionNotFound, message).next(next).detail("known", known));
    }
    Ok(())
}

/// The first of a list that may be long.
fn some_of<T: std::fmt::Display>(all: impl ExactSizeIterator<Item = T>) -> String {
    const SHOWN: usize = 20;
    let more = if all.len() > SHOWN { format!(", and {} more", all.len() - SHOWN) } else { String::new() };
    let shown: Vec<String> = all.take(SHOWN).map(|one| one.to_string()).collect();
    format!("{}{more}", shown.join(", "))
}

fn document(
    addr: &str,
    admission: &ExecutionAdmissionStatus,
    restart: &ExecutionRestartStatus,
    topology: &[&ExecutionTopologyStatus],
) -> Value {
    let rows: Vec<_> = topology.iter().map(|row| topology_to_json(row)).collect();
    json!({
        "addr": addr,
        "last_admission": admission_to_json(admission),
        "restart": restart_to_json(restart),
        "topology": rows,
    })
}

/// The state of one store, as `execution -o json` prints it.
pub(super) async fn gather(
    env: &Env,
    addr: &str,
    patience: Duration,
) -> std::result::Result<Value, NoAnswer> {
    let mut admin = RaftAdminClient::new(env.net.connect(addr));
    let status = reach::ask(env, patience, admin.execution_status(ExecutionStatusRequest {})).await?;
    let topology: Vec<_> = status.topology.iter().collect();
    let (admission, restart) =
        (status.last_admission.unwrap_or_default(), status.restart.unwrap_or_default());
    Ok(document(addr, &admission, &restart, &topology))
}

fn lines_of_admission(admission: &ExecutionAdmissionStatus) -> Vec<String> {
    let mut lines = vec![
        format!("Admission.Observed   {}", admission.observed),
        format!("Admission.Class      {}", class(admission.class())),
        format!("Admission.Reason     {}", reason(admission.reason())),
        format!("Admission.Accepted   {}", admission.accepted),
    ];
    let ids =
        [("Region", admission.region_id), ("Peer", admission.peer_id), ("Request", admission.request_id)];
    lines
        .extend(ids.iter().filter(|(_, id)| *id != 0).map(|(name, id)| format!("Admission.{name:<10} {id}")));
    if admission.at_unix_nano != 0 {
        lines.push(format!("Admission.At         {}", rfc3339(admission.at_unix_nano)));
    }
    if !admission.detail.is_empty() {
        lines.push(format!("Admission.Detail     {}", admission.detail));
    }
    lines
}

fn lines_of_restart(restart: &ExecutionRestartStatus) -> Vec<String> {
    let mut lines = vec![
        format!("Restart.State        {}", state(restart.state())),
        format!("Restart.Regions      {}", restart.region_count),
        format!("Restart.RaftGroups   {}", restart.raft_group_count),
    ];
    if !restart.missing_raft_pointer.is_empty() {
        lines.push(format!("Restart.Missing      {:?}", restart.missing_raft_pointer));
    }
    lines.push(format!("Pending.RootEvents   {}", restart.pending_root_event_count));
    lines.push(format!("Blocked.RootEvents   {}", restart.blocked_root_event_count));
    lines.push(format!("Pending.Operations   {}", restart.pending_scheduler_operation_count));
    lines
}

fn line_of_topology(row: &ExecutionTopologyStatus) -> String {
    let mut line = format!(
        "  - transition={} region={} action={} outcome={} publish={}",
        row.transition_id,
        row.region_id,
        row.action,
        outcome(row.outcome()),
        publish(row.publish())
    );
    if row.updated_at_unix_nano != 0 {
        line += &format!(" updated={}", rfc3339(row.updated_at_unix_nano));
    }
    if row.root_event_number != 0 {
        line += &format!(" event={}", row.root_event_number);
    }
    if !row.last_error.is_empty() {
        line += &format!(" error={}", row.last_error);
    }
    line
}

fn admission_to_json(admission: &ExecutionAdmissionStatus) -> Value {
    let mut object = Map::new();
    object.insert("observed".into(), json!(admission.observed));
    object.insert("class".into(), json!(class(admission.class())));
    object.insert("reason".into(), json!(reason(admission.reason())));
    object.insert("accepted".into(), json!(admission.accepted));
    let ids = [
        ("region_id", admission.region_id),
        ("peer_id", admission.peer_id),
        ("request_id", admission.request_id),
    ];
    for (name, id) in ids.into_iter().filter(|(_, id)| *id != 0) {
        object.insert(name.into(), json!(id));
    }
    if !admission.detail.is_empty() {
        object.insert("detail".into(), json!(admission.detail));
    }
    if admission.at_unix_nano != 0 {
        object.insert("at".into(), json!(rfc3339(admission.at_unix_nano)));
    }
    Value::Object(object)
}

fn restart_to_json(restart: &ExecutionRestartStatus) -> Value {
    json!({
        "state": state(restart.state()),
        "region_count": restart.region_count,
        "raft_group_count": restart.raft_group_count,
        "missing_raft_pointer": restart.missing_raft_pointer,
        "pending_root_event_count": restart.pending_root_event_count,
        "blocked_root_event_count": restart.blocked_root_event_count,
        "pending_scheduler_operation_count": restart.pending_scheduler_operation_count,
    })
}

fn topology_to_json(row: &ExecutionTopologyStatus) -> Value {
    let mut object = Map::new();
    object.insert("transition_id".into(), json!(row.transition_id));
    object.insert("region_id".into(), json!(row.region_id));
    object.insert("action".into(), json!(row.action));
    object.insert("outcome".into(), json!(outcome(row.outcome())));
    object.insert("publish".into(), json!(publish(row.publish())));
    object.insert("last_error".into(), json!(row.last_error));
    if row.updated_at_unix_nano != 0 {
        object.insert("updated_at".into(), json!(rfc3339(row.updated_at_unix_nano)));
    }
    if row.root_event_number != 0 {
        object.insert("root_event_number".into(), json!(row.root_event_number));
    }
    Value::Object(object)
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Read => "read",
        Class::Write => "write",
        Class::Topology => "topology",
        Class::Unspecified => "unknown",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Accepted => "accepted",
        Reason::Invalid => "invalid",
        Reason::StoreNotMatch => "store-not-match",
        Reason::NotHosted => "not-hosted",
        Reason::EpochMismatch => "epoch-mismatch",
        Reason::KeyNotInRegion => "key-not-in-region",
        Reason::NotLeader => "not-leader",
        Reason::Canceled => "canceled",
        Reason::TimedOut => "timed-out",
        Reason::Unspecified => "unknown",
    }
}

fn state(state: ExecutionRestartState) -> &'static str {
    match state {
        ExecutionRestartState::Ready => "ready",
        ExecutionRestartState::Degraded => "degraded",
        ExecutionRestartState::Unspecified => "unknown",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Rejected => "rejected",
        Outcome::Queued => "queued",
        Outcome::Proposed => "proposed",
        Outcome::Applied => "applied",
        Outcome::Failed => "failed",
        Outcome::Unspecified => "unknown",
    }
}

fn publish(publish: Publish) -> &'static str {
    match publish {
        Publish::NotRequired => "not-required",
        Publish::PlannedPublished => "planned-published",
        Publish::TerminalPending => "terminal-pending",
        Publish::TerminalPublished => "terminal-published",
        Publish::TerminalFailed => "terminal-failed",
        Publish::TerminalBlocked => "terminal-blocked",
        Publish::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_must_match_something() {
        let row = ExecutionTopologyStatus {
            transition_id: "split:1:1:9".into(),
            region_id: 7,
            ..Default::default()
        };
        let status = ExecutionStatusResponse {
            topology: vec![row],
            hosted_region_ids: (1..=30).collect(),
            ..Default::default()
        };
        let check = |region, transition: &str| {
            let args = Execution {
                addr: "h:1".into(),
                region,
                transition: transition.into(),
                timeout: std::time::Duration::from_secs(1),
                security: Default::default(),
            };
            check_filters(&args, &status)
        };
        assert!(check(0, "").is_ok() && check(30, "").is_ok() && check(7, "split:1:1:9").is_ok());
        let missing = check(999, "").unwrap_err();
        assert_eq!(missing.code(), Code::RegionNotFound);
        assert!(missing.to_text().contains("1, 2, 3") && missing.to_text().contains("20, and 10 more"));
        let missing = check(0, "nosuch").unwrap_err();
        assert_eq!(missing.code(), Code::TransitionNotFound);
        assert!(missing.to_text().contains("split:1:1:9"));
    }

    #[test]
    fn a_change_of_a_region_is_one_line() {
        let row = ExecutionTopologyStatus {
            transition_id: "peer:1:add:2:201".into(),
            region_id: 1,
            action: "peer change".into(),
            outcome: Outcome::Applied.into(),
            publish: Publish::TerminalPublished.into(),
            ..ExecutionTopologyStatus::default()
        };
        let text = "  - transition=peer:1:add:2:201 region=1 action=peer change outcome=applied publish=terminal-published";
        assert_eq!(line_of_topology(&row), text);
    }
}
