//! `nokv operators` and `nokv store`: what the scheduler does, and whom it should do without.

use crate::args::client::{Decommission, Operators, Store};
use crate::args::values::show_duration;
use crate::args::{Format, Global};
use crate::cmd::reach::{self, Reach};
use crate::cmd::stores;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use crate::rows::{self, Cell};
use nokv_env::{ClockExt, Env};
use nokv_proto::coordinator::v1::{ListOperatorsResponse, OperatorRecord, OperatorState, StoreInfo};
use serde_json::{Value, json};
use std::time::Duration;

/// Between two looks at a store that is being emptied.
const PAUSE: Duration = Duration::from_secs(1);

/// Lists operators, newest first, and what the scheduler cannot do just now.
pub async fn run(env: &Env, args: &Operators, global: &Global) -> Result<u8> {
    let reach = reach::reach(env, &args.cluster)?;
    let listed = reach.client.list_operators(args.region.unwrap_or(0)).await;
    let listed = listed.map_err(|error| reach.failure(&error))?;
    if let Some(layout) = global.layout() {
        rows::print(layout, &COLUMNS, listed.operators.iter().map(cells))?;
        // Words, not rows: beside the table, where a pipe does not take them for one.
        listed.waiting.iter().for_each(|waiting| eprintln!("waiting: {waiting}"));
        return Ok(0);
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            if listed.operators.is_empty() {
                out.line("Operators: (none since this coordinator got the lease)")?;
            }
            for record in &listed.operators {
                out.line(&line(record))?;
                out.line(&format!("    why: {}", record.reason))?;
            }
            for waiting in &listed.waiting {
                out.line(&format!("waiting: {waiting}"))?;
            }
        }
        Format::Json => {
            let operators: Vec<Value> = listed.operators.iter().map(to_json).collect();
            out.json(&json!({ "operators": operators, "waiting": listed.waiting }))?;
        }
        Format::Jsonl => objects(&listed).try_for_each(|row| out.line(&row.to_string()))?,
    }
    out.flush()?;
    Ok(0)
}

fn state(record: &OperatorRecord) -> &'static str {
    match record.state() {
        OperatorState::Running => "running",
        OperatorState::Done => "done",
        OperatorState::Cancelled => "cancelled",
        OperatorState::Unspecified => "unknown",
    }
}

fn line(record: &OperatorRecord) -> String {
    let store = |label: &str, id: u64| if id == 0 { String::new() } else { format!(" {label} store-{id}") };
    let time = match record.state() {
        OperatorState::Running => format!("for {}", seconds(record.age_ms)),
        _ => format!(
            "{} ago, took {}",
            seconds(record.age_ms - record.took_ms.min(record.age_ms)),
            seconds(record.took_ms)
        ),
    };
    let progress =
        if record.progress == state(record) { String::new() } else { format!(": {}", record.progress) };
    format!(
        "{} {} region {}{}{}: {} {time}{progress}",
        record.operator_id,
        record.kind,
        record.region_id,
        store("from", record.from_store_id),
        store("to", record.to_store_id),
        state(record),
    )
}

/// Those of `-o table` and `-o csv`.
const COLUMNS: [&str; 10] = [
    "operator_id",
    "kind",
    "region_id",
    "from_store_id",
    "to_store_id",
    "state",
    "age_ms",
    "took_ms",
    "progress",
    "reason",
];

fn cells(record: &OperatorRecord) -> Vec<Cell> {
    let store = |id: u64| Cell::maybe((id != 0).then_some(id));
    vec![
        Cell::of(record.operator_id),
        Cell::of(&record.kind),
        Cell::of(record.region_id),
        store(record.from_store_id),
        store(record.to_store_id),
        Cell::of(state(record)),
        Cell::of(record.age_ms),
        Cell::of(record.took_ms),
        Cell::of(&record.progress),
        Cell::of(&record.reason),
    ]
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1_000, millis % 1_000 / 100)
}

pub(super) fn to_json(record: &OperatorRecord) -> Value {
    json!({
        "operator_id": record.operator_id,
        "kind": record.kind,
        "region_id": record.region_id,
        "from_store_id": record.from_store_id,
        "to_store_id": record.to_store_id,
        "state": state(record),
        "reason": record.reason,
        "progress": record.progress,
        "age_ms": record.age_ms,
        "took_ms": record.took_ms,
    })
}

/// One object an operator, then one for each thing that waits.
fn objects(listed: &ListOperatorsResponse) -> impl Iterator<Item = Value> {
    let waiting = listed.waiting.iter().map(|what| json!({ "waiting": what }));
    listed.operators.iter().map(to_json).chain(waiting)
}

/// Carries out a verb of `nokv store`.
pub async fn store(env: &Env, command: &Store, global: &Global) -> Result<u8> {
    match command {
        Store::List(args) => stores::list(env, args, global).await,
        Store::Decommission(args) => decommission(env, args, global).await,
    }
}

async fn decommission(env: &Env, args: &Decommission, global: &Global) -> Result<u8> {
    let reach = reach::reach(env, &args.cluster)?;
    let known = find(&reach, args.store).await?;
    if known.is_none() {
        return Err(Failure::new(Code::Refused, format!("no coordinator knows a store {}", args.store))
            .next("nokv status"));
    }
    reach.client.decommission(args.store, !args.cancel).await.map_err(|error| {
        let refused = matches!(error, nokv_client::ClientError::InvalidArgument(_));
        if refused { Failure::new(Code::Refused, error).next("nokv status") } else { reach.failure(&error) }
    })?;
    let give_up = args.wait.map(|wait| env.clock.now() + wait);
    let first = known.map_or(0, |store| store.peer_num);
    let mut last = u64::MAX;
    loop {
        let seen = find(&reach, args.store).await?.unwrap_or_default();
        // The coordinator that answers may hear of the order a moment later.
        let told = seen.decommissioning != args.cancel;
        let done = told && (args.cancel || seen.peer_num == 0);
        if seen.peer_num != last && !done && !args.cancel {
            let gone = first.saturating_sub(seen.peer_num);
            eprintln!("store-{}: {} replicas left, {gone} of {first} gone", args.store, seen.peer_num);
            last = seen.peer_num;
        }
        let Some(give_up) = give_up else { return show(args, &seen, done, global) };
        if done {
            return show(args, &seen, done, global);
        }
        if env.clock.now() >= give_up {
            let after = show_duration(args.wait.unwrap_or_default());
            let text = format!("store {} still has {} replicas after {after}", args.store, seen.peer_num);
            return Err(Failure::new(Code::PartlyDone, text)
                .why("the scheduler goes on; it may wait for space, or for a store to come back")
                .next("nokv operators"));
        }
        env.clock.sleep(PAUSE).await;
    }
}

async fn find(reach: &Reach, store: u64) -> Result<Option<StoreInfo>> {
    let stores = reach.client.list_stores().await.map_err(|error| reach.failure(&error))?;
    Ok(stores.into_iter().find(|info| info.store_id == store))
}

fn show(args: &Decommission, seen: &StoreInfo, done: bool, global: &Global) -> Result<u8> {
    let mut out = Out::new();
    let text = match (args.cancel, done) {
        (true, _) => format!("store-{} stays; it may get replicas again", args.store),
        (false, true) => format!("store-{} holds no replica any more and may be stopped", args.store),
        (false, false) => format!("store-{} is being emptied: {} replicas left", args.store, seen.peer_num),
    };
    match global.format() {
        Format::Plain => out.line(&text)?,
        _ => out.json(&json!({
            "store_id": args.store,
            "decommissioning": !args.cancel,
            "replicas_left": seen.peer_num,
            "leaders_left": seen.leader_num,
            "empty": seen.peer_num == 0,
        }))?,
    }
    out.flush()?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_behind_the_operators() {
        let record = OperatorRecord { operator_id: 7, ..OperatorRecord::default() };
        let listed = ListOperatorsResponse { operators: vec![record], waiting: vec!["region 5".into()] };
        let rows: Vec<Value> = objects(&listed).collect();
        assert_eq!(
            (&rows[0]["operator_id"], &rows[1..]),
            (&json!(7), &[json!({ "waiting": "region 5" })][..])
        );
    }

    #[test]
    fn an_operator_is_one_line_that_says_what_where_and_how_far() {
        let mut record = OperatorRecord {
            operator_id: 7,
            kind: "move-peer".into(),
            region_id: 3,
            from_store_id: 2,
            to_store_id: 4,
            state: OperatorState::Running.into(),
            progress: "peer 100004 on store 4 catches up".into(),
            age_ms: 2_340,
            ..OperatorRecord::default()
        };
        let text = "7 move-peer region 3 from store-2 to store-4: running for 2.3 s: peer 100004 on store 4 catches up";
        assert_eq!(line(&record), text);
        record.set_state(OperatorState::Done);
        (record.progress, record.took_ms) = ("done".into(), 340);
        assert_eq!(line(&record), "7 move-peer region 3 from store-2 to store-4: done 2.0 s ago, took 0.3 s");
    }
}
