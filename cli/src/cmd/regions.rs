//! `nokv regions`: the catalog of a store directory, or what the coordinators know.

use crate::args::client::{RegionOrder, Regions};
use crate::args::{Format, Global};
use crate::cmd::reach;
use crate::cmd::status::bytes;
use crate::cmd::workdir::Workdir;
use crate::errors::{Failure, Result};
use crate::output::{Out, base64, quote};
use crate::rows::{self, Cell};
use nokv_env::Env;
use nokv_proto::coordinator::v1::{RegionRoute, RegionTraffic};
use nokv_proto::meta::v1::{RegionDescriptor, RegionReplicaState};
use nokv_raftstore::mode::Mode;
use nokv_raftstore::stats;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Lists regions in the order that was asked for.
pub async fn run(env: &Env, args: &Regions, global: &Global) -> Result<u8> {
    let mut rows = match &args.workdir {
        Some(dir) => offline(env, dir, args.sort).await?,
        None => live(env, args).await?,
    };
    sort(&mut rows, args.sort);
    if let Some(layout) = global.layout() {
        rows::print(layout, &COLUMNS, rows.iter().map(Listed::cells))?;
        return Ok(0);
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain if rows.is_empty() => out.line("Regions: (none)")?,
        Format::Plain => {
            out.line("Regions:")?;
            let by_measure = !matches!(args.sort, RegionOrder::Id | RegionOrder::Start);
            rows.iter().try_for_each(|row| out.line(&row.text(by_measure)))?;
        }
        Format::Json => {
            let regions: Vec<Value> = rows.iter().map(Listed::json).collect();
            out.json(&json!({ "regions": regions }))?;
        }
        Format::Jsonl => rows.iter().try_for_each(|row| out.line(&row.json().to_string()))?,
    }
    out.flush()?;
    Ok(0)
}

/// A region, and the store that leads it when that is known.
pub type Row = (RegionDescriptor, Option<u64>);

/// A region, and what is known of it besides.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    region: RegionDescriptor,
    leader: Option<u64>,
    /// Of a live cluster.
    load: Option<Load>,
}

/// What a region takes and serves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    bytes: u64,
    traffic: RegionTraffic,
}

/// Those of `-o table` and `-o csv`.
pub const COLUMNS: [&str; 14] = [
    "id",
    "state",
    "version",
    "conf_version",
    "start_key",
    "end_key",
    "leader_store_id",
    "store_ids",
    "size_bytes",
    "requests_per_second",
    "read_keys_per_second",
    "read_bytes_per_second",
    "write_keys_per_second",
    "write_bytes_per_second",
];

impl Listed {
    /// As a coordinator knows it.
    pub fn live(route: &RegionRoute) -> Option<Self> {
        let leader = route.leader.map(|peer| peer.store_id).filter(|store| *store != 0);
        let load = Load { bytes: route.bytes, traffic: route.traffic.unwrap_or_default() };
        Some(Self { region: route.descriptor.clone()?, leader, load: Some(load) })
    }

    fn text(&self, with_load: bool) -> String {
        let leader = self.leader.map(|store| format!(" leader=store-{store}")).unwrap_or_default();
        let load =
            self.load.filter(|_| with_load).map(|load| format!(" {}", load.text())).unwrap_or_default();
        format!("{}{leader}{load}", line(&self.region))
    }

    /// A row of a table for people; the columns are [`Listed::SHORT`].
    pub fn short(&self) -> Vec<String> {
        let Load { bytes: size, traffic } = self.load.unwrap_or_default();
        vec![
            self.region.region_id.to_string(),
            quote(&self.region.start_key),
            quote(&self.region.end_key),
            self.leader.map_or_else(|| "?".to_owned(), |store| format!("store-{store}")),
            bytes(size),
            traffic.requests.to_string(),
            traffic.read_keys.to_string(),
            bytes(traffic.read_bytes),
            traffic.write_keys.to_string(),
            bytes(traffic.write_bytes),
        ]
    }

    /// The columns of [`Listed::short`].
    pub const SHORT: [&str; 10] = [
        "id",
        "start",
        "end",
        "leader",
        "size",
        "requests/s",
        "read keys/s",
        "read/s",
        "written keys/s",
        "written/s",
    ];

    /// A row of [`COLUMNS`].
    pub fn cells(&self) -> Vec<Cell> {
        let region = &self.region;
        let (version, conf_version) = region.epoch_pair();
        let stores: Vec<String> = region.peers.iter().map(|peer| peer.store_id.to_string()).collect();
        let measured = |of: fn(&Load) -> u64| Cell::maybe(self.load.as_ref().map(of));
        vec![
            Cell::of(region.region_id),
            Cell::of(state_name(region)),
            Cell::of(version),
            Cell::of(conf_version),
            Cell::Bound(region.start_key.to_vec()),
            Cell::Bound(region.end_key.to_vec()),
            Cell::maybe(self.leader),
            Cell::of(stores.join(" ")),
            measured(|load| load.bytes),
            measured(|load| load.traffic.requests),
            measured(|load| load.traffic.read_keys),
            measured(|load| load.traffic.read_bytes),
            measured(|load| load.traffic.write_keys),
            measured(|load| load.traffic.write_bytes),
        ]
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut region = to_json(&self.region, self.leader);
        if let (Some(load), Value::Object(object)) = (self.load, &mut region) {
            let traffic = load.traffic;
            for (name, value) in [
                ("size_bytes", load.bytes),
                ("requests_per_second", traffic.requests),
                ("read_keys_per_second", traffic.read_keys),
                ("read_bytes_per_second", traffic.read_bytes),
                ("write_keys_per_second", traffic.write_keys),
                ("write_bytes_per_second", traffic.write_bytes),
            ] {
                object.insert(name.into(), json!(value));
            }
        }
        region
    }
}

impl Load {
    fn text(self) -> String {
        let traffic = self.traffic;
        format!(
            "size={} requests={}/s read={}/s,{}B/s written={}/s,{}B/s",
            self.bytes,
            traffic.requests,
            traffic.read_keys,
            traffic.read_bytes,
            traffic.write_keys,
            traffic.write_bytes
        )
    }
}

/// Puts what is measured first where most of it is; ties, and what is not measured, by id.
pub fn sort(rows: &mut [Listed], order: RegionOrder) {
    rows.sort_by_key(|row| row.region.region_id);
    let load = |row: &Listed| row.load.unwrap_or_default();
    let measure: fn(&Load) -> u64 = match order {
        RegionOrder::Id => return,
        RegionOrder::Start => return rows.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key)),
        RegionOrder::Size => |load| load.bytes,
        RegionOrder::Requests => |load| load.traffic.requests,
        RegionOrder::Read => |load| load.traffic.read_keys,
        RegionOrder::Write => |load| load.traffic.write_keys,
        RegionOrder::ReadBytes => |load| load.traffic.read_bytes,
        RegionOrder::WriteBytes => |load| load.traffic.write_bytes,
    };
    rows.sort_by_key(|row| std::cmp::Reverse(measure(&load(row))));
}

/// Those that are asked most, at most `count`; none that nobody asks.
pub fn hottest(routes: &[RegionRoute], count: u32) -> Vec<Listed> {
    let mut rows: Vec<Listed> = routes.iter().filter_map(Listed::live).collect();
    rows.retain(|row| row.load.is_some_and(|load| load.traffic.requests > 0));
    sort(&mut rows, RegionOrder::Requests);
    rows.truncate(count as usize);
    rows
}

/// Reads a store's catalog; changes nothing, also while the store runs.
async fn offline(env: &Env, dir: &Path, order: RegionOrder) -> Result<Vec<Listed>> {
    if !matches!(order, RegionOrder::Id | RegionOrder::Start) {
        return Err(Failure::usage("a directory knows neither sizes nor rates of regions")
            .next("leave --workdir out to ask the cluster, or sort by id or start"));
    }
    let workdir = Workdir::find(env, dir)?;
    let (mode, regions) = workdir.read(env, || stats::offline_regions(&env.disk, &workdir.dir)).await?;
    if mode == Mode::Standalone {
        eprintln!("note: mode standalone: no region catalog; see nokv migrate plan");
    }
    Ok(regions.into_iter().map(|region| Listed { region, ..Listed::default() }).collect())
}

async fn live(env: &Env, args: &Regions) -> Result<Vec<Listed>> {
    let reach = reach::reach(env, &args.cluster)?;
    let routes = reach.client.list_regions().await.map_err(|error| reach.failure(&error))?;
    Ok(routes.iter().filter_map(Listed::live).collect())
}

/// One region as text.
pub fn line(region: &RegionDescriptor) -> String {
    let (version, conf) = region.epoch_pair();
    let peers: Vec<String> = region
        .peers
        .iter()
        .map(|peer| format!("{{store:{} peer:{}}}", peer.store_id, peer.peer_id))
        .collect();
    let leaving = match region.leaving_peer_id {
        0 => String::new(),
        peer => format!(" leaving={peer}"),
    };
    let quarantined = match &region.quarantined_peer_ids[..] {
        [] => String::new(),
        peers => format!(" quarantined={peers:?}"),
    };
    format!(
        "  - id={} state={} epoch={{ver:{version} conf:{conf}}} range=[\"{}\",\"{}\") peers=[{}]{leaving}{quarantined}",
        region.region_id,
        state_name(region),
        region.start_key.escape_ascii(),
        region.end_key.escape_ascii(),
        peers.join(" ")
    )
}

/// The number of the reference's JSON: 0 new, 1 running, 2 removing, 3 tombstone.
fn state_number(region: &RegionDescriptor) -> i32 {
    (region.state - 1).max(0)
}

fn state_name(region: &RegionDescriptor) -> String {
    match region.state() {
        RegionReplicaState::New => "new".into(),
        RegionReplicaState::Running => "running".into(),
        RegionReplicaState::Removing => "removing".into(),
        RegionReplicaState::Tombstone => "tombstone".into(),
        RegionReplicaState::Merging => "merging".into(),
        RegionReplicaState::Unspecified => format!("unknown({})", region.state),
    }
}

pub fn to_json(region: &RegionDescriptor, leader: Option<u64>) -> Value {
    let (version, conf_version) = region.epoch_pair();
    let mut object = Map::new();
    object.insert("id".into(), json!(region.region_id));
    for (name, key) in [("start_key", &region.start_key), ("end_key", &region.end_key)] {
        if !key.is_empty() {
            object.insert(name.into(), json!(base64(key)));
        }
    }
    object.insert("epoch".into(), json!({"version": version, "conf_version": conf_version}));
    if !region.peers.is_empty() {
        let peers: Vec<Value> = region
            .peers
            .iter()
            .map(|peer| json!({"store_id": peer.store_id, "peer_id": peer.peer_id}))
            .collect();
        object.insert("peers".into(), json!(peers));
    }
    object.insert("state".into(), json!(state_number(region)));
    if region.leaving_peer_id != 0 {
        object.insert("leaving_peer_id".into(), json!(region.leaving_peer_id));
    }
    if !region.quarantined_peer_ids.is_empty() {
        object.insert("quarantined_peer_ids".into(), json!(region.quarantined_peer_ids));
    }
    if let Some(leader) = leader {
        object.insert("leader_store_id".into(), json!(leader));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::{RegionEpoch, RegionPeer};

    #[test]
    fn regions_look_like_the_reference_prints_them() {
        let region = RegionDescriptor {
            region_id: 1,
            start_key: "a".into(),
            end_key: "m".into(),
            epoch: Some(RegionEpoch { version: 1, conf_version: 3 }),
            peers: vec![RegionPeer { store_id: 1, peer_id: 101 }],
            state: RegionReplicaState::Running.into(),
            ..Default::default()
        };
        assert_eq!(
            line(&region),
            "  - id=1 state=running epoch={ver:1 conf:3} range=[\"a\",\"m\") peers=[{store:1 peer:101}]"
        );
        assert_eq!(
            to_json(&region, None),
            json!({"id": 1, "start_key": "YQ==", "end_key": "bQ==", "epoch": {"version": 1, "conf_version": 3},
                   "peers": [{"store_id": 1, "peer_id": 101}], "state": 1})
        );
    }

    fn route(region_id: u64, start: &str, traffic: RegionTraffic) -> RegionRoute {
        let region = RegionDescriptor { region_id, start_key: start.to_owned().into(), ..Default::default() };
        let leader = Some(RegionPeer { store_id: 2, peer_id: 9 });
        RegionRoute { descriptor: Some(region), leader, traffic: Some(traffic), bytes: 10 - region_id }
    }

    fn routes() -> Vec<RegionRoute> {
        let traffic = |requests, write_keys, write_bytes| RegionTraffic {
            requests,
            write_keys,
            write_bytes,
            ..Default::default()
        };
        vec![
            route(3, "c", traffic(5, 1, 900)),
            route(1, "d", traffic(0, 0, 0)),
            route(2, "b", traffic(5, 7, 70)),
            route(4, "a", traffic(90, 0, 0)),
        ]
    }

    #[test]
    fn what_is_measured_comes_largest_first() {
        let by = |order| {
            let mut rows: Vec<Listed> = routes().iter().filter_map(Listed::live).collect();
            sort(&mut rows, order);
            rows.iter().map(|row| row.region.region_id).collect::<Vec<_>>()
        };
        assert_eq!(by(RegionOrder::Id), [1, 2, 3, 4]);
        assert_eq!(by(RegionOrder::Start), [4, 2, 3, 1]);
        assert_eq!(by(RegionOrder::Size), [1, 2, 3, 4]);
        assert_eq!(by(RegionOrder::Requests), [4, 2, 3, 1]);
        assert_eq!(by(RegionOrder::Write), [2, 3, 1, 4]);
        assert_eq!(by(RegionOrder::WriteBytes), [3, 2, 1, 4]);
        assert_eq!(by(RegionOrder::Read), [1, 2, 3, 4]);
    }

    #[test]
    fn hot_regions_are_those_that_are_asked() {
        let hot =
            |count| hottest(&routes(), count).iter().map(|row| row.region.region_id).collect::<Vec<_>>();
        assert_eq!(hot(10), [4, 2, 3], "nobody asks region 1");
        assert_eq!(hot(2), [4, 2]);
    }

    #[test]
    fn a_row_is_as_wide_as_its_header_and_says_the_same_as_the_document() {
        let row = Listed::live(&routes()[2]).unwrap();
        assert_eq!((row.cells().len(), row.short().len()), (COLUMNS.len(), Listed::SHORT.len()));
        let document = row.json();
        for (name, cell) in COLUMNS.iter().zip(row.cells()) {
            if let (true, Cell::Word(text)) = (name.ends_with("_per_second") || *name == "size_bytes", cell) {
                assert_eq!(document[name].to_string(), text, "{name}");
            }
        }
        assert_eq!(document["write_keys_per_second"], 7);
        assert!(
            row.text(true).ends_with(" leader=store-2 size=8 requests=5/s read=0/s,0B/s written=7/s,70B/s")
        );
        assert!(row.text(false).ends_with(" leader=store-2"));
        let of_a_directory = Listed { load: None, ..row };
        assert_eq!(of_a_directory.json().get("size_bytes"), None);
        assert_eq!(of_a_directory.cells()[9], Cell::Word(String::new()));
    }
}
