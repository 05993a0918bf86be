//! The picture as text and as JSON.

use super::Judgement;
use super::look::{Answer, Picture, StoreLook};
use crate::cmd::regions::{Listed, hottest};
use crate::output::{base64, quote, table};
use serde_json::{Value, json};

/// For people; `hot`: with so many of the regions that are asked most.
pub fn text(picture: &Picture, judgement: &Judgement, hot: Option<u32>) -> String {
    let mut text = format!("cluster: {}\n", judgement.health.name());
    for problem in &judgement.problems {
        text.push_str(&format!("  ! {problem}\n"));
    }
    let mut section = |title: &str, header: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", table(header, &rows)));
        }
    };
    section("meta-roots", &["name", "address", "state", "role", "term", "applied"], roots(picture));
    section("coordinators", &["name", "address", "state", "lease"], coordinators(picture));
    section("stores", &["name", "address", "state", "regions", "leaders", "free", "of"], stores(picture));
    section("regions", &["id", "start", "end", "leader", "stores", "lag", "quarantined"], regions(picture));
    if let Some(count) = hot {
        let rows: Vec<_> = hottest(&picture.regions, count).iter().map(Listed::short).collect();
        if rows.is_empty() {
            text.push_str("\nhot regions\n  (none: no requests in the last ten seconds)\n");
        } else {
            text.push_str(&format!("\nhot regions\n{}", table(&Listed::SHORT, &rows)));
        }
    }
    text
}

/// A size for people.
pub fn bytes(count: u64) -> String {
    let units = ["TiB", "GiB", "MiB", "KiB"].into_iter().zip([40, 30, 20, 10]);
    let mut fitting = units.filter(|(_, shift)| count >> shift > 0);
    fitting.next().map_or_else(|| format!("{count} B"), |(unit, shift)| format!("{} {unit}", count >> shift))
}

fn state(up: bool) -> String {
    if up { "up".into() } else { "DOWN".into() }
}

fn roots(picture: &Picture) -> Vec<Vec<String>> {
    let row = |(node, asked): &(u64, super::Asked<super::Root>)| {
        let mut row = vec![format!("meta-root-{node}"), asked.addr.clone(), state(asked.answer.is_ok())];
        if let Ok(root) = &asked.answer {
            let role = if root.is_leader { "leader" } else { "follower" };
            row.extend([role.to_owned(), root.term.to_string(), root.applied_index.to_string()]);
        }
        row
    };
    picture.roots.iter().map(row).collect()
}

fn coordinators(picture: &Picture) -> Vec<Vec<String>> {
    let row =
        |asked: &super::Asked<nokv_proto::coordinator::v1::CoordinatorStatusResponse>| match &asked.answer {
            Ok(status) => {
                let lease = match (status.holds_lease, status.lease_phase.as_str()) {
                    (true, _) => format!("holder, generation {}", status.lease_generation),
                    (false, "sealed") => format!("standby, generation {} is sealed", status.lease_generation),
                    (false, _) => "standby".to_owned(),
                };
                vec![status.coordinator_id.clone(), asked.addr.clone(), state(true), lease]
            }
            Err(_) => vec!["?".to_owned(), asked.addr.clone(), state(false)],
        };
    picture.coordinators.iter().map(row).collect()
}

fn stores(picture: &Picture) -> Vec<Vec<String>> {
    let row = |(store, probe): &(nokv_proto::coordinator::v1::StoreInfo, Answer<StoreLook>)| {
        vec![
            format!("store-{}", store.store_id),
            store.address.clone(),
            match (store.up && probe.is_ok(), store.read_only, store.decommissioning) {
                (true, true, _) => "read-only".to_owned(),
                (true, false, true) => "leaving".to_owned(),
                (up, ..) => state(up),
            },
            store.region_num.to_string(),
            store.leader_num.to_string(),
            bytes(store.available),
            bytes(store.capacity),
        ]
    };
    picture.stores.iter().map(row).collect()
}

fn regions(picture: &Picture) -> Vec<Vec<String>> {
    let row = |route: &nokv_proto::coordinator::v1::RegionRoute| {
        let region = route.descriptor.as_ref()?;
        let leader = picture.leader(route).map_or_else(|| "?".to_owned(), |store| format!("store-{store}"));
        let stores: Vec<String> = region.peers.iter().map(|peer| peer.store_id.to_string()).collect();
        let id = region.region_id.to_string();
        let lag = picture.lag(route).map(|lag| lag.to_string()).unwrap_or_default();
        let quarantined: Vec<String> = region.quarantined_peer_ids.iter().map(u64::to_string).collect();
        let (start, end) = (quote(&region.start_key), quote(&region.end_key));
        Some(vec![id, start, end, leader, stores.join(","), lag, quarantined.join(",")])
    };
    picture.regions.iter().filter_map(row).collect()
}

/// For programs. The `leading_*` members name processes, or are null.
pub fn json(picture: &Picture, judgement: &Judgement, hot: Option<u32>) -> Value {
    let named = |kind: &str, id: Option<u64>| id.map(|id| format!("{kind}-{id}"));
    let roots: Vec<Value> = picture
        .roots
        .iter()
        .map(|(node, asked)| {
            let root = asked.answer.as_ref().ok();
            json!({
                "node_id": node, "addr": asked.addr, "up": root.is_some(),
                "leader": root.is_some_and(|root| root.is_leader),
                "term": root.map(|root| root.term), "applied_index": root.map(|root| root.applied_index),
            })
        })
        .collect();
    let coordinators: Vec<Value> = picture
        .coordinators
        .iter()
        .map(|asked| {
            let status = asked.answer.as_ref().ok();
            json!({
                "coordinator_id": status.map(|status| &status.coordinator_id), "addr": asked.addr,
                "up": status.is_some(), "holds_lease": status.is_some_and(|status| status.holds_lease),
                "lease_generation": status.map(|status| status.lease_generation),
                "lease_phase": status.map(|status| &status.lease_phase),
                "sealed_generation": status.map(|status| status.sealed_generation),
                "root_available": status.is_some_and(|status| status.root_available),
            })
        })
        .collect();
    let stores: Vec<Value> = picture
        .stores
        .iter()
        .map(|(store, probe)| {
            json!({
                "store_id": store.store_id, "addr": store.address, "up": store.up && probe.is_ok(),
                "regions": store.region_num, "leaders": store.leader_num, "capacity": store.capacity,
                "available": store.available, "heartbeat_age_ms": store.heartbeat_age_ms,
                "read_only": store.read_only, "disk_reserve": store.disk_reserve,
                "decommissioning": store.decommissioning,
                "alarms": probe.as_ref().map(|look| look.alarms.clone()).unwrap_or_default(),
            })
        })
        .collect();
    let regions: Vec<Value> = picture
        .regions
        .iter()
        .filter_map(|route| {
            let region = route.descriptor.as_ref()?;
            let (version, conf_version) = region.epoch_pair();
            let stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
            Some(json!({
                "id": region.region_id, "start_key": base64(&region.start_key), "end_key": base64(&region.end_key),
                "epoch": {"version": version, "conf_version": conf_version},
                "leader_store_id": picture.leader(route), "stores": stores, "lag": picture.lag(route),
                "quarantined_peer_ids": region.quarantined_peer_ids,
            }))
        })
        .collect();
    let mut document = json!({
        "health": judgement.health.name(),
        "problems": judgement.problems,
        "leading_store": named("store", picture.leading_store()),
        "leading_coordinator": picture.lease_holder(),
        "leading_meta-root": named("meta-root", picture.leading_root()),
        "meta_roots": roots,
        "coordinators": coordinators,
        "stores": stores,
        "regions": regions,
    });
    if let Some(count) = hot {
        document["hot_regions"] = hottest(&picture.regions, count).iter().map(Listed::json).collect();
    }
    document
}
