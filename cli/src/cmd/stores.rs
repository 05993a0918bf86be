//! `nokv store list`: the stores, as a coordinator knows them.

use crate::args::client::StoreList;
use crate::args::{Format, Global, Layout};
use crate::cmd::reach;
use crate::errors::Result;
use crate::output::Out;
use crate::rows::{self, Cell};
use nokv_env::Env;
use nokv_proto::coordinator::v1::{RegionRoute, RegionTraffic, StoreInfo};
use serde_json::{Value, json};

/// Those of `-o table` and `-o csv`, and of the text; the document has the same members.
const COLUMNS: [&str; 12] = [
    "store_id",
    "addr",
    "state",
    "regions",
    "leaders",
    "requests_per_second",
    "read_bytes_per_second",
    "write_bytes_per_second",
    "available",
    "capacity",
    "heartbeat_age_ms",
    "disk_reserve",
];

/// What the regions that a store leads serve is laid to its account.
fn served(regions: &[RegionRoute], store: u64) -> RegionTraffic {
    let led = regions.iter().filter(|route| route.leader.is_some_and(|leader| leader.store_id == store));
    led.filter_map(|route| route.traffic).fold(RegionTraffic::default(), |sum, more| RegionTraffic {
        requests: sum.requests + more.requests,
        read_keys: sum.read_keys + more.read_keys,
        read_bytes: sum.read_bytes + more.read_bytes,
        write_keys: sum.write_keys + more.write_keys,
        write_bytes: sum.write_bytes + more.write_bytes,
    })
}

fn state(store: &StoreInfo) -> &'static str {
    match (store.up, store.read_only, store.decommissioning) {
        (false, ..) => "down",
        (true, true, _) => "read-only",
        (true, false, true) => "leaving",
        (true, false, false) => "up",
    }
}

/// A store in the order of [`COLUMNS`].
fn values_of(store: &StoreInfo, served: RegionTraffic) -> [Value; 12] {
    let age = (store.heartbeat_age_ms != u64::MAX).then_some(store.heartbeat_age_ms);
    [
        json!(store.store_id),
        json!(store.address),
        json!(state(store)),
        json!(store.region_num),
        json!(store.leader_num),
        json!(served.requests),
        json!(served.read_bytes),
        json!(served.write_bytes),
        json!(store.available),
        json!(store.capacity),
        json!(age),
        json!(store.disk_reserve),
    ]
}

/// Lists the stores, by id.
pub async fn list(env: &Env, args: &StoreList, global: &Global) -> Result<u8> {
    let reach = reach::reach(env, &args.cluster)?;
    let stores = reach.client.list_stores().await.map_err(|error| reach.failure(&error))?;
    let regions = reach.client.list_regions().await.map_err(|error| reach.failure(&error))?;
    let values = stores.iter().map(|store| values_of(store, served(&regions, store.store_id)));
    let objects = values.clone().map(|row| {
        let members = COLUMNS.iter().map(|name| (*name).to_owned()).zip(row);
        Value::Object(members.collect())
    });
    let cell = |value: Value| match value {
        Value::Null => Cell::of(""),
        Value::String(text) => Cell::of(text),
        value => Cell::of(value),
    };
    let mut out = Out::new();
    match (global.layout(), global.format()) {
        (None, Format::Json) => out.json(&json!({ "stores": objects.collect::<Vec<_>>() }))?,
        (None, Format::Jsonl) => objects.map(|row| row.to_string()).try_for_each(|line| out.line(&line))?,
        // What is text anyway is best read as a table.
        (layout, _) => {
            drop(out);
            let cells = values.map(|row| row.into_iter().map(cell).collect());
            rows::print(layout.unwrap_or(Layout::Table), &COLUMNS, cells)?;
            return Ok(0);
        }
    }
    out.flush()?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::RegionPeer;

    #[test]
    fn a_store_answers_for_what_it_leads() {
        let route = |store_id, requests| RegionRoute {
            leader: Some(RegionPeer { store_id, peer_id: 1 }),
            traffic: Some(RegionTraffic { requests, write_bytes: 2 * requests, ..Default::default() }),
            ..Default::default()
        };
        let regions = [route(1, 5), route(2, 7), route(1, 10), RegionRoute { leader: None, ..route(1, 99) }];
        let of = |store| {
            let served = served(&regions, store);
            (served.requests, served.write_bytes)
        };
        assert_eq!((of(1), of(2), of(3)), ((15, 30), (7, 14), (0, 0)));
    }

    #[test]
    fn a_store_that_never_reported_has_no_age() {
        let silent = StoreInfo { store_id: 3, heartbeat_age_ms: u64::MAX, ..Default::default() };
        let values = values_of(&silent, RegionTraffic::default());
        assert_eq!((&values[2], &values[10]), (&json!("down"), &Value::Null));
        let full = StoreInfo { up: true, read_only: true, decommissioning: true, ..silent };
        assert_eq!(state(&full), "read-only");
    }
}
