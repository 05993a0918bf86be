//! What a well-formed file can still get wrong.

use super::decode::Problems;
use super::json::Pos;
use super::model::{Cluster, Region};
use std::collections::{BTreeMap, BTreeSet};

/// Notes every contradiction in the cluster.
pub fn cluster(cluster: &Cluster, problems: &mut Problems) {
    stores(cluster, problems);
    meta_roots(cluster, problems);
    regions(cluster, problems);
}

/// Reports values that appear twice; zero and empty were reported where they stand.
fn unique<K: Ord + std::fmt::Display>(
    what: &str,
    items: impl Iterator<Item = (Pos, Option<K>)>,
    problems: &mut Problems,
) {
    let mut seen = BTreeMap::new();
    for (pos, key) in items {
        let Some(key) = key else { continue };
        if let Some(first) = seen.get(&key) {
            problems.add(pos, format!("{what} {key} is used twice (first at {first})"));
        } else {
            seen.insert(key, pos);
        }
    }
}

fn some_id(id: u64) -> Option<u64> {
    (id != 0).then_some(id)
}

fn stores(cluster: &Cluster, problems: &mut Problems) {
    let stores = &cluster.stores;
    unique("store id", stores.iter().map(|s| (s.pos, some_id(s.store_id))), problems);
    unique("store address", stores.iter().map(|s| (s.pos, s.addr.clone())), problems);
    unique("listen address", stores.iter().map(|s| (s.pos, s.listen_addr.clone())), problems);
    let workdirs = stores.iter().map(|s| (s.pos, s.work_dir.as_ref().map(|dir| dir.display().to_string())));
    unique("store directory", workdirs, problems);
    for store in stores {
        if store.addr.is_none() && store.docker_addr.is_none() {
            problems.add(store.pos, format!("store {}: 'addr' is missing", store.store_id));
        }
    }
}

fn meta_roots(cluster: &Cluster, problems: &mut Problems) {
    let roots = &cluster.meta_roots;
    unique("meta-root id", roots.iter().map(|r| (r.pos, some_id(r.node_id))), problems);
    unique("meta-root address", roots.iter().map(|r| (r.pos, r.addr.clone())), problems);
    unique("transport address", roots.iter().map(|r| (r.pos, r.transport_addr.clone())), problems);
    let workdirs = roots.iter().map(|r| (r.pos, r.work_dir.as_ref().map(|dir| dir.display().to_string())));
    unique("meta-root directory", workdirs, problems);
}

fn regions(cluster: &Cluster, problems: &mut Problems) {
    unique("region id", cluster.regions.iter().map(|r| (r.pos, some_id(r.id))), problems);
    let peers = cluster.regions.iter().flat_map(|r| r.peers.iter().map(|peer| (r.pos, some_id(peer.1))));
    unique("peer id", peers, problems);
    let stores: BTreeSet<u64> = cluster.stores.iter().map(|store| store.store_id).collect();
    for region in &cluster.regions {
        members(region, &stores, problems);
    }
    coverage(&cluster.regions, problems);
}

fn members(region: &Region, stores: &BTreeSet<u64>, problems: &mut Problems) {
    let id = region.id;
    if region.peers.is_empty() {
        problems.add(region.pos, format!("region {id}: no peers"));
    }
    let mut seen = BTreeSet::new();
    for &(store, _) in region.peers.iter().filter(|peer| peer.0 != 0) {
        if !seen.insert(store) {
            problems.add(region.pos, format!("region {id}: two peers on store {store}"));
        }
        if !stores.contains(&store) {
            problems.add(region.pos, format!("region {id}: store {store} is not in 'stores'"));
        }
    }
    let leader = region.leader_store_id;
    if leader != 0 && !seen.contains(&leader) {
        let members: Vec<String> = seen.iter().map(u64::to_string).collect();
        problems.add(
            region.pos,
            format!(
                "region {id}: leader_store_id {leader} is not a member (members: {})",
                members.join(", ")
            ),
        );
    }
    if region.version == 0 || region.conf_version == 0 {
        problems.add(region.pos, format!("region {id}: epoch version and conf_version start at 1"));
    }
}

/// Regions in key order must touch without overlap, from the beginning to the end of all keys.
fn coverage(regions: &[Region], problems: &mut Problems) {
    let mut sorted: Vec<&Region> = regions.iter().collect();
    sorted.sort_by(|a, b| a.start_key.as_bytes().cmp(b.start_key.as_bytes()).then(a.id.cmp(&b.id)));
    sorted.retain(|region| {
        let empty = !region.end_key.is_empty() && region.start_key >= region.end_key;
        if empty {
            problems.add(
                region.pos,
                format!(
                    "region {}: start_key \"{}\" is not below end_key \"{}\"",
                    region.id, region.start_key, region.end_key
                ),
            );
        }
        !empty
    });
    if let Some(first) = sorted.first().filter(|first| !first.start_key.is_empty()) {
        problems.add(first.pos, format!("no region holds the keys below \"{}\"", first.start_key));
    }
    for pair in sorted.windows(2) {
        let (left, right) = (pair[0], pair[1]);
        if left.end_key.is_empty() || left.end_key.as_bytes() > right.start_key.as_bytes() {
            problems.add(right.pos, format!("region {} overlaps region {}", right.id, left.id));
        } else if left.end_key != right.start_key {
            problems.add(
                right.pos,
                format!("no region holds the keys from \"{}\" to \"{}\"", left.end_key, right.start_key),
            );
        }
    }
    if let Some(last) = sorted.last().filter(|last| !last.end_key.is_empty()) {
        problems.add(last.pos, format!("no region holds the keys from \"{}\" on", last.end_key));
    }
}
