//! `nokv transitions`: changes of regions that are under way.

use crate::args::client::Transitions;
use crate::args::{Format, Global};
use crate::cmd::reach;
use crate::errors::Result;
use crate::output::Out;
use crate::rows::{self, Cell};
use nokv_env::Env;
use nokv_proto::coordinator::v1::{TransitionEntry, TransitionKind, TransitionReason, TransitionStatus};
use serde_json::{Value, json};

/// Lists them by region.
pub async fn run(env: &Env, args: &Transitions, global: &Global) -> Result<u8> {
    let reach = reach::reach(env, &args.cluster)?;
    let mut entries = reach.client.list_transitions().await.map_err(|error| reach.failure(&error))?;
    entries.retain(|entry| args.region.is_none_or(|region| entry.key == region));
    if let Some(layout) = global.layout() {
        rows::print(layout, &COLUMNS, entries.iter().map(cells))?;
        return Ok(0);
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            if entries.is_empty() {
                out.line("Transitions: (none)")?;
            }
            entries.iter().try_for_each(|entry| out.line(&line(entry)))?;
        }
        Format::Json => {
            let entries: Vec<Value> = entries.iter().map(to_json).collect();
            out.json(&json!({ "transitions": entries }))?;
        }
        Format::Jsonl => entries.iter().try_for_each(|entry| out.line(&to_json(entry).to_string()))?,
    }
    out.flush()?;
    Ok(0)
}

fn line(entry: &TransitionEntry) -> String {
    let planned = if is_planned(entry) { " planned" } else { "" };
    format!("{} region={} {} {}{planned}", entry.transition_id, entry.key, kind(entry), status(entry))
}

/// Those of `-o table` and `-o csv`, the members of the document.
const COLUMNS: [&str; 5] = ["transition_id", "region_id", "kind", "status", "planned"];

fn cells(entry: &TransitionEntry) -> Vec<Cell> {
    let (id, kind, status) = (&entry.transition_id, kind(entry), status(entry));
    vec![Cell::of(id), Cell::of(entry.key), Cell::of(kind), Cell::of(status), Cell::of(is_planned(entry))]
}

/// Whether somebody published a plan, which our stores do not.
fn is_planned(entry: &TransitionEntry) -> bool {
    entry.reason() == TransitionReason::MatchingPending
}

fn kind(entry: &TransitionEntry) -> &'static str {
    match entry.kind() {
        TransitionKind::PeerChange => "peer-change",
        TransitionKind::RangeChange => "range-change",
        TransitionKind::Unspecified => "unknown",
    }
}

fn status(entry: &TransitionEntry) -> &'static str {
    match entry.status() {
        TransitionStatus::Open => "open",
        TransitionStatus::Pending => "pending",
        TransitionStatus::Completed => "completed",
        TransitionStatus::Conflict => "conflict",
        TransitionStatus::Superseded => "superseded",
        TransitionStatus::Cancelled => "cancelled",
        TransitionStatus::Aborted => "aborted",
        TransitionStatus::Unspecified => "unknown",
    }
}

pub(super) fn to_json(entry: &TransitionEntry) -> Value {
    json!({
        "transition_id": entry.transition_id,
        "region_id": entry.key,
        "kind": kind(entry),
        "status": status(entry),
        "planned": is_planned(entry),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_one_line() {
        let entry = TransitionEntry {
            key: 7,
            kind: TransitionKind::PeerChange.into(),
            status: TransitionStatus::Pending.into(),
            transition_id: "peer:7:add:4:401".to_owned(),
            ..TransitionEntry::default()
        };
        assert_eq!(line(&entry), "peer:7:add:4:401 region=7 peer-change pending");
        let planned = TransitionEntry { reason: TransitionReason::MatchingPending.into(), ..entry };
        assert_eq!(line(&planned), "peer:7:add:4:401 region=7 peer-change pending planned");
    }
}
