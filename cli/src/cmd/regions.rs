//! `nokv regions`: the catalog of a store directory, or what the coordinators know.

use crate::args::client::Regions;
use crate::args::{Format, Global};
use crate::cmd::reach;
use crate::cmd::workdir::Workdir;
use crate::errors::Result;
use crate::output::{Out, base64};
use nokv_env::Env;
use nokv_proto::meta::v1::{RegionDescriptor, RegionReplicaState};
use nokv_raftstore::mode::Mode;
use nokv_raftstore::stats;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Lists regions, sorted by id.
pub async fn run(env: &Env, args: &Regions, global: &Global) -> Result<u8> {
    let mut rows = match &args.workdir {
        Some(dir) => offline(env, dir).await?,
        None => live(env, args).await?,
    };
    rows.sort_by_key(|(region, _)| region.region_id);
    let mut out = Out::new();
    match global.format() {
        Format::Plain if rows.is_empty() => out.line("Regions: (none)")?,
        Format::Plain => {
            out.line("Regions:")?;
            for (region, leader) in &rows {
                let leader = leader.map(|store| format!(" leader=store-{store}")).unwrap_or_default();
                out.line(&format!("{}{leader}", line(region)))?;
            }
        }
        Format::Json => {
            let regions: Vec<Value> = rows.iter().map(|(region, leader)| to_json(region, *leader)).collect();
            out.json(&json!({ "regions": regions }))?;
        }
        Format::Jsonl => {
            rows.iter().try_for_each(|(region, leader)| out.line(&to_json(region, *leader).to_string()))?;
        }
    }
    out.flush()?;
    Ok(0)
}

/// A region, and the store that leads it when that is known.
pub type Row = (RegionDescriptor, Option<u64>);

/// Reads a store's catalog; changes nothing, also while the store runs.
async fn offline(env: &Env, dir: &Path) -> Result<Vec<Row>> {
    let workdir = Workdir::find(env, dir)?;
    let (mode, regions) = workdir.read(env, || stats::offline_regions(&env.disk, &workdir.dir)).await?;
    if mode == Mode::Standalone {
        eprintln!("note: mode standalone: no region catalog; see nokv migrate plan");
    }
    Ok(regions.into_iter().map(|region| (region, None)).collect())
}

async fn live(env: &Env, args: &Regions) -> Result<Vec<Row>> {
    let reach = reach::reach(env, &args.cluster)?;
    let routes = reach.client.list_regions().await.map_err(|error| reach.failure(&error))?;
    let row = |route: nokv_proto::coordinator::v1::RegionRoute| {
        let leader = route.leader.map(|peer| peer.store_id).filter(|store| *store != 0);
        Some((route.descriptor?, leader))
    };
    Ok(routes.into_iter().filter_map(row).collect())
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
}
