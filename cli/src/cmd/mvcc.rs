//! `nokv mvcc`: what replicas hold of a key, versions, locks and rollback records included.

use crate::args::client::{Mvcc, MvccGet};
use crate::args::values::show_duration;
use crate::args::{Format, Global};
use crate::cmd::region::Leaders;
use crate::cmd::{kv, regions};
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, put_bytes, quote, table};
use nokv_env::clock::rfc3339;
use nokv_env::{ClockExt, Env};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{MvccGetRequest, MvccGetResponse, MvccLock, MvccRecord, MvccValue};
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::mutation::Op;
use serde_json::{Map, Value, json};
use tonic::{Code as Grpc, Status};

/// Bytes of a value in a table.
const SHOWN_BYTES: usize = 40;

/// Carries out the verb.
pub async fn run(env: &Env, command: &Mvcc, global: &Global) -> Result<u8> {
    match command {
        Mvcc::Get(args) => get(env, args, global).await,
    }
}

async fn get(env: &Env, args: &MvccGet, global: &Global) -> Result<u8> {
    let key = kv::key(&args.key, args.hex)?;
    let seen = look(env, args, &key).await?;
    let mut out = Out::new();
    match global.format() {
        Format::Plain => lines(&key, &seen, args.hex).iter().try_for_each(|line| out.line(line))?,
        Format::Json => out.json(&to_json(&key, &seen))?,
        Format::Jsonl => out.line(&to_json(&key, &seen).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

/// Asks the leader of the region that holds the key, or the replica on a store, until there is an answer.
async fn look(env: &Env, args: &MvccGet, key: &bytes::Bytes) -> Result<MvccGetResponse> {
    let leaders = Leaders::new(env, &args.cluster)?;
    let what = format!("look at {}", quote(key));
    loop {
        let found = leaders.find(|region| region.contains(key)).await?;
        let Some((route, region)) = found.and_then(|route| Some((route.clone(), route.descriptor?))) else {
            leaders.again(&what, &Status::unavailable("no region with that key is known yet")).await?;
            continue;
        };
        let asked = match args.store {
            None => leaders.leader(&route).await?,
            Some(store) if region.peer_on_store(store).is_none() => {
                let text = format!("region {} has no peer on store {store}", region.region_id);
                return Err(Failure::new(Code::Refused, text).next("nokv regions"));
            }
            Some(store) => leaders.store(store).await?,
        };
        let Some((store, address)) = asked else {
            let text = match args.store {
                None => format!("region {} has no known leader", region.region_id),
                Some(store) => format!("nobody knows the address of store {store}"),
            };
            leaders.again(&what, &Status::unavailable(text)).await?;
            continue;
        };
        let request = MvccGetRequest {
            region_id: region.region_id,
            key: key.clone(),
            any_replica: args.store.is_some(),
            limit: args.limit,
        };
        let mut admin = RaftAdminClient::new(env.net.connect(&address));
        match env.clock.timeout(args.cluster.timeout, admin.mvcc_get(request)).await {
            Ok(Ok(seen)) => return Ok(seen.into_inner()),
            Ok(Err(status)) if status.code() == Grpc::DataLoss => {
                return Err(Failure::new(Code::Corrupt, format!("store {store}: {}", status.message()))
                    .next("look at another replica with --store"));
            }
            Ok(Err(status)) => leaders.again(&what, &status).await?,
            Err(_) => {
                let text = format!(
                    "{what}: store {store} did not answer within {}",
                    show_duration(args.cluster.timeout)
                );
                return Err(Failure::new(Code::Unavailable, text).next("nokv status"));
            }
        }
    }
}

fn lines(key: &[u8], seen: &MvccGetResponse, hex: bool) -> Vec<String> {
    let role = if seen.leader { "its leader" } else { "not its leader" };
    let mut lines = vec![
        format!("key        {}", quote(key)),
        format!("region     {}", regions::line(&seen.region.clone().unwrap_or_default()).trim_start()),
        format!("replica    store-{} ({role}), applied up to {}", seen.store_id, seen.applied_index),
    ];
    if seen.safe_point != 0 {
        lines.push(format!("safe point {}", moment(seen.safe_point)));
    }
    match &seen.lock {
        Some(lock) => lines.extend(lines_of_lock(lock, hex)),
        None => lines.push("lock       none".into()),
    }
    if seen.records.is_empty() {
        lines.push("records    none".into());
        return lines;
    }
    lines.push(format!(
        "records    {}{}, newest first",
        seen.records.len(),
        if seen.more { " and more" } else { "" }
    ));
    let rows: Vec<Vec<String>> = seen.records.iter().map(|record| row(record, hex)).collect();
    lines.extend(table(&["COMMIT_TS", "AT", "KIND", "START_TS", "VALUE"], &rows).lines().map(str::to_owned));
    lines
}

fn lines_of_lock(lock: &MvccLock, hex: bool) -> Vec<String> {
    let mut lines = vec![
        format!("lock       {} by the transaction of {}", kind(lock.op()), moment(lock.start_ts)),
        format!("           primary {}, life {} ms", quote(&lock.primary), lock.ttl_ms),
    ];
    if lock.async_commit {
        let at = lock.min_commit_ts;
        lines.push(format!(
            "           commits at {at} as soon as all its keys are locked, or later in two phases"
        ));
    } else if lock.min_commit_ts != 0 {
        lines.push(format!("           commits at {} or later", lock.min_commit_ts));
    }
    if !lock.secondaries.is_empty() {
        let keys: Vec<String> = lock.secondaries.iter().map(|key| quote(key)).collect();
        lines.push(format!("           beside the primary {}", keys.join(", ")));
    }
    if let Some(value) = &lock.value {
        lines.push(format!("           value {}{}", shown(value, hex), expiry(lock.expires_at)));
    }
    lines
}

fn row(record: &MvccRecord, hex: bool) -> Vec<String> {
    let mut value = record.value.as_ref().map(|value| shown(value, hex)).unwrap_or_default();
    value += &expiry(record.expires_at);
    if record.rollback_here {
        value += &format!(" (and the transaction that began at {} is rolled back)", record.commit_ts);
    }
    vec![
        record.commit_ts.to_string(),
        time(record.commit_ts),
        kind(record.op()).into(),
        record.start_ts.to_string(),
        value.trim_start().to_owned(),
    ]
}

/// A value for people: its beginning, and how long it is if that is not all.
fn shown(value: &MvccValue, hex: bool) -> String {
    if value.missing {
        return "MISSING: the record says it is stored apart, and it is not there".into();
    }
    let head = &value.head[..value.head.len().min(SHOWN_BYTES)];
    let text = if hex { crate::args::values::show_hex(head) } else { quote(head) };
    if (head.len() as u64) < value.bytes { format!("{text}… ({} bytes)", value.bytes) } else { text }
}

fn expiry(expires_at: u64) -> String {
    let nanos = i64::try_from(expires_at).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if expires_at == 0 { String::new() } else { format!(" (expires at {})", rfc3339(nanos)) }
}

fn moment(ts: u64) -> String {
    format!("{ts} ({})", time(ts))
}

/// The wall clock of a timestamp.
fn time(ts: u64) -> String {
    let nanos = i64::try_from(Timestamp(ts).physical_ms()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    rfc3339(nanos)
}

fn kind(op: Op) -> &'static str {
    match op {
        Op::Put => "put",
        Op::Delete => "delete",
        Op::Lock => "lock",
        Op::Rollback => "rollback",
    }
}

fn to_json(key: &[u8], seen: &MvccGetResponse) -> Value {
    let mut document = Map::new();
    put_bytes(&mut document, "key", key);
    let region = seen.region.clone().unwrap_or_default();
    document.insert("region_id".into(), json!(region.region_id));
    document.insert("store_id".into(), json!(seen.store_id));
    document.insert("peer_id".into(), json!(seen.peer_id));
    document.insert("leader".into(), json!(seen.leader));
    document.insert("applied_index".into(), json!(seen.applied_index));
    document.insert("safe_point".into(), json!(seen.safe_point));
    document.insert("lock".into(), seen.lock.as_ref().map_or(Value::Null, lock_to_json));
    document.insert("records".into(), seen.records.iter().map(record_to_json).collect());
    document.insert("more".into(), json!(seen.more));
    Value::Object(document)
}

fn lock_to_json(lock: &MvccLock) -> Value {
    let mut object = Map::new();
    object.insert("kind".into(), json!(kind(lock.op())));
    object.insert("start_ts".into(), json!(lock.start_ts));
    put_bytes(&mut object, "primary", &lock.primary);
    object.insert("ttl_ms".into(), json!(lock.ttl_ms));
    object.insert("min_commit_ts".into(), json!(lock.min_commit_ts));
    object.insert("async_commit".into(), json!(lock.async_commit));
    if lock.async_commit {
        let keys = lock.secondaries.iter().map(|key| {
            let mut object = Map::new();
            put_bytes(&mut object, "key", key);
            Value::Object(object)
        });
        object.insert("secondaries".into(), keys.collect());
    }
    object.insert("expires_at".into(), json!(lock.expires_at));
    put_value(&mut object, lock.value.as_ref());
    Value::Object(object)
}

fn record_to_json(record: &MvccRecord) -> Value {
    let mut object = Map::new();
    object.insert("kind".into(), json!(kind(record.op())));
    object.insert("commit_ts".into(), json!(record.commit_ts));
    object.insert("start_ts".into(), json!(record.start_ts));
    object.insert("expires_at".into(), json!(record.expires_at));
    object.insert("rollback_here".into(), json!(record.rollback_here));
    put_value(&mut object, record.value.as_ref());
    Value::Object(object)
}

/// The beginning of a value and its length; nothing for what has none.
fn put_value(object: &mut Map<String, Value>, value: Option<&MvccValue>) {
    let Some(value) = value else { return };
    object.insert("value_missing".into(), json!(value.missing));
    if !value.missing {
        object.insert("value_bytes".into(), json!(value.bytes));
        let name = if (value.head.len() as u64) < value.bytes { "value_head" } else { "value" };
        put_bytes(object, name, &value.head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> MvccGetResponse {
        let value = MvccValue { head: "v".into(), bytes: 1, is_long: false, missing: false };
        let ts = |ms: u64| Timestamp::compose(ms, 0).0;
        let put = MvccRecord {
            op: Op::Put.into(),
            commit_ts: ts(1_776_844_801_000),
            start_ts: ts(1_776_844_800_000),
            value: Some(value.clone()),
            ..MvccRecord::default()
        };
        let lost = MvccRecord { value: Some(MvccValue { missing: true, ..value.clone() }), ..put.clone() };
        let rollback = MvccRecord { op: Op::Rollback.into(), value: None, ..put.clone() };
        let lock = MvccLock {
            op: Op::Put.into(),
            start_ts: ts(1_776_844_802_000),
            ttl_ms: 3000,
            primary: "p".into(),
            min_commit_ts: 7,
            async_commit: true,
            secondaries: vec!["q".into()],
            value: Some(MvccValue { head: vec![b'x'; 256].into(), bytes: 5000, ..value }),
            ..MvccLock::default()
        };
        MvccGetResponse {
            store_id: 2,
            leader: true,
            lock: Some(lock),
            records: vec![rollback, put, lost],
            ..Default::default()
        }
    }

    #[test]
    fn locks_and_records_are_shown_for_eyes() {
        let text = lines(b"k", &seen(), false).join("\n");
        for part in [
            "replica    store-2 (its leader)",
            "lock       put by the transaction of",
            "(2026-04-22T08:00:02Z)",
            "primary \"p\", life 3000 ms",
            "commits at 7 as soon as all its keys are locked",
            "beside the primary \"q\"",
            "x\"… (5000 bytes)",
            "records    3, newest first",
            "rollback",
            "MISSING",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let empty = lines(b"k", &MvccGetResponse::default(), false).join("\n");
        assert!(empty.contains("lock       none") && empty.contains("records    none"), "{empty}");
    }

    #[test]
    fn json_has_the_same() {
        let document = to_json(b"k", &seen());
        assert_eq!(document["lock"]["primary"], "p");
        assert_eq!(document["lock"]["value_bytes"], 5000);
        assert_eq!(document["lock"]["secondaries"][0]["key"], "q");
        assert_eq!(document["records"][1]["value"], "v");
        assert_eq!(document["records"][2]["value_missing"], true);
        assert!(document["records"][0].get("value_missing").is_none());
    }
}
