//! After healing, all replicas of a region hold the same content at the same applied index, and every key is in one region.

use super::Violation;
use nokv_proto::key::{KeyRange, decode_key};
use nokv_proto::meta::v1::{RegionDescriptor, RegionReplicaState};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// One replica as found after healing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Which region.
    pub region: u64,
    /// Name of the node.
    pub node: String,
    /// Index of the last applied entry.
    pub applied: u64,
    /// The keys of the region.
    pub range: KeyRange,
    /// All rows of the region, as (family, key, value).
    pub rows: Vec<(u8, Vec<u8>, Vec<u8>)>,
    /// Why not all rows could be read.
    pub unreadable: Option<String>,
    /// Where the region's replicas belong as far as this one knows, and the configuration version that says so; `None`
    /// for the meta-roots.
    pub home: Option<(u64, Vec<String>)>,
    /// A key with old versions that the region's leader says are gone.
    pub garbage: Option<Vec<u8>>,
}

/// What is not as the latest membership of each region wants it: a store without its replica, or with one that is not
/// its own any more.
pub fn misplaced(replicas: &[Replica]) -> Option<String> {
    let mut latest: BTreeMap<u64, &(u64, Vec<String>)> = BTreeMap::new();
    for replica in replicas {
        let Some(home) = &replica.home else { continue };
        let known = latest.entry(replica.region).or_insert(home);
        if home.0 > known.0 {
            *known = home;
        }
    }
    // A store that shows no replica at all may be down.
    let up: BTreeSet<&str> = replicas.iter().map(|replica| replica.node.as_str()).collect();
    let held: BTreeSet<(u64, &str)> =
        replicas.iter().map(|replica| (replica.region, replica.node.as_str())).collect();
    for (region, (_, homes)) in &latest {
        let lacks = |home: &&String| up.contains(home.as_str()) && !held.contains(&(*region, home.as_str()));
        if let Some(home) = homes.iter().find(lacks) {
            return Some(format!("{home} has no replica of region {region}"));
        }
    }
    let stray = |replica: &&Replica| {
        latest.get(&replica.region).is_some_and(|(_, homes)| !homes.contains(&replica.node))
    };
    let stray = replicas.iter().find(stray)?;
    Some(format!("{} has a replica of region {}, and was removed from it", stray.node, stray.region))
}

/// Which region has not the wanted number of replicas, or one on a store that is gone or is to go, or is half way to another
/// membership or range.
pub fn unplaced(regions: &BTreeMap<u64, RegionDescriptor>, gone: &[u64], replicas: usize) -> Option<String> {
    regions.values().find_map(|region| {
        let (id, count) = (region.region_id, region.peers.len());
        if count != replicas {
            return Some(format!("region {id} has {count} replicas in place of {replicas}"));
        }
        if region.leaving_peer_id != 0 {
            return Some(format!("peer {} of region {id} is still leaving", region.leaving_peer_id));
        }
        if region.state() == RegionReplicaState::Merging {
            return Some(format!("region {id} is still being merged"));
        }
        let peer = region.peers.iter().find(|peer| gone.contains(&peer.store_id))?;
        Some(format!(
            "region {id} still has a replica on store{}, which is lost or to be emptied",
            peer.store_id
        ))
    })
}

/// A region that stores should have split by now, with `limit` bytes as the limit and `regions_max` regions on a store as the
/// bound: it is well above the limit, and some key has a fair share of it on either side.
pub fn outgrown(replicas: &[Replica], limit: u64, regions_max: usize) -> Option<String> {
    let hosted =
        |node: &str| replicas.iter().filter(|replica| replica.region != 0 && replica.node == node).count();
    if replicas.iter().any(|replica| hosted(&replica.node) >= regions_max) {
        return None;
    }
    // Stores need not measure again before an eighth of the limit was written.
    let (large, share) = (limit + limit / 8, limit / 8);
    replicas.iter().filter(|replica| replica.region != 0).find_map(|replica| {
        let mut bytes_of: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (_, key, value) in &replica.rows {
            let user = decode_key(key).map(|(user, _)| user).unwrap_or_default();
            *bytes_of.entry(user).or_default() += (key.len() + value.len()) as u64;
        }
        let bytes: u64 = bytes_of.values().sum();
        let mut before = 0;
        let divisible = bytes_of.values().any(|bytes_here| {
            let fair = before >= share && bytes - before >= share;
            before += bytes_here;
            fair
        });
        let (region, node) = (replica.region, &replica.node);
        (bytes >= large && divisible)
            .then(|| format!("region {region} has {bytes} bytes on {node}, and {limit} is the limit"))
    })
}

/// Judges the replicas of all regions.
pub fn check(replicas: &[Replica]) -> Result<(), Violation> {
    if let Some(misplaced) = misplaced(replicas) {
        return Err(Violation::new("liveness", format!("{misplaced}, long after healing")));
    }
    seamless(replicas)?;
    let mut first: BTreeMap<u64, &Replica> = BTreeMap::new();
    for replica in replicas {
        if let Some(error) = &replica.unreadable {
            let facts = format!("region {} on {}: {error}", replica.region, replica.node);
            return Err(Violation::new("replicas", facts));
        }
        if let Some(key) = &replica.garbage {
            let (region, node, key) = (replica.region, &replica.node, hex(key));
            let facts = format!(
                "region {region}: {node} leads it, says it is rid of garbage, and key {key} has some"
            );
            return Err(Violation::new("garbage", facts));
        }
        let other = *first.entry(replica.region).or_insert(replica);
        if other.applied != replica.applied {
            return Err(Violation::new(
                "liveness",
                format!(
                    "region {}: {} has applied up to {}, {} up to {}, long after healing",
                    replica.region, other.node, other.applied, replica.node, replica.applied
                ),
            ));
        }
        if other.rows != replica.rows {
            return Err(Violation::new("replicas", difference(other, replica)));
        }
    }
    Ok(())
}

/// No store has a key twice, and together the regions have every key once.
fn seamless(replicas: &[Replica]) -> Result<(), Violation> {
    let in_order = |node: Option<&str>| {
        let of_node = |replica: &&Replica| node.is_none_or(|node| replica.node == node);
        let mut all: Vec<&Replica> =
            replicas.iter().filter(|replica| replica.home.is_some()).filter(of_node).collect();
        all.sort_by(|a, b| (&a.range.start, a.region).cmp(&(&b.range.start, b.region)));
        all
    };
    let nodes: BTreeSet<&str> = replicas.iter().map(|replica| replica.node.as_str()).collect();
    for node in nodes {
        for pair in in_order(Some(node)).windows(2) {
            if pair[0].range.overlaps(&pair[1].range) {
                let (a, b) = (pair[0].region, pair[1].region);
                let facts = format!("{node} has replicas of regions {a} and {b}, which have keys in common");
                return Err(Violation::new("regions", facts));
            }
        }
    }
    let mut all = in_order(None);
    all.dedup_by_key(|replica| replica.region);
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
    let ends = first.range.start.is_empty() && last.range.end.is_empty();
    let gap = all.windows(2).find(|pair| pair[0].range.end != pair[1].range.start);
    if let Some(pair) = gap {
        let facts = format!("regions {} and {} do not touch", pair[0].region, pair[1].region);
        return Err(Violation::new("regions", facts));
    }
    if ends { Ok(()) } else { Err(Violation::new("regions", "the first or the last keys are in no region")) }
}

fn difference(a: &Replica, b: &Replica) -> String {
    let map = |replica: &Replica| -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        replica.rows.iter().map(|(family, key, value)| ((*family, key.clone()), value.clone())).collect()
    };
    let (left, right) = (map(a), map(b));
    let key = left.keys().chain(right.keys()).find(|key| left.get(*key) != right.get(*key));
    let show = |row: Option<&Vec<u8>>| row.map_or_else(|| "nothing".to_owned(), |row| hex(row));
    match key {
        Some(key) => format!(
            "region {} at index {}: family {} key {} is {} on {} and {} on {}",
            a.region,
            a.applied,
            key.0,
            hex(&key.1),
            show(left.get(key)),
            a.node,
            show(right.get(key)),
            b.node
        ),
        None => format!("region {}: {} and {} list the same rows differently", a.region, a.node, b.node),
    }
}

/// The first bytes in hex; enough to tell values apart.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: &str, applied: u64, value: u8) -> Replica {
        Replica {
            region: 1,
            node: node.to_owned(),
            applied,
            range: KeyRange { start: "".into(), end: "".into() },
            rows: vec![(0, vec![1], vec![value])],
            unreadable: None,
            home: Some((1, vec!["store1".to_owned(), "store2".to_owned()])),
            garbage: None,
        }
    }

    #[test]
    fn a_region_above_the_limit_is_to_be_split_if_it_can_be() {
        let rows = |keys: u8, bytes: usize| {
            let row = |key| (2, nokv_proto::key::encode_key(&[key]), vec![0; bytes]);
            Replica { rows: (1..=keys).map(row).collect(), ..replica("store1", 5, 0) }
        };
        let found = outgrown(&[rows(10, 97)], 800, 4).expect("outgrown");
        assert!(found.contains("region 1 has 1000 bytes on store1"), "{found}");
        assert_eq!(outgrown(&[rows(8, 97)], 800, 4), None, "not above the limit by much");
        assert_eq!(outgrown(&[rows(1, 9_000)], 800, 4), None, "one key");
        let many: Vec<_> = (1..=4).map(|region| Replica { region, ..rows(10, 97) }).collect();
        assert_eq!(outgrown(&many, 800, 4), None, "enough regions");
        assert!(outgrown(&many, 800, 5).is_some());
    }

    #[test]
    fn equal_replicas_pass_and_others_are_named() {
        assert_eq!(check(&[replica("store1", 5, 1), replica("store2", 5, 1)]), Ok(()));
        let behind = check(&[replica("store1", 5, 1), replica("store2", 4, 1)]).expect_err("behind");
        assert_eq!(behind.checker, "liveness");
        let diverged = check(&[replica("store1", 5, 1), replica("store2", 5, 2)]).expect_err("diverged");
        assert_eq!(diverged.checker, "replicas");
        assert!(diverged.facts.contains("store2"), "{}", diverged.facts);
        let other = Replica { region: 2, ..replica("store1", 5, 1) };
        let lacking = check(&[replica("store1", 5, 1), replica("store2", 5, 1), other]).expect_err("lacking");
        assert!(lacking.facts.contains("store2 has no replica of region 2"), "{}", lacking.facts);
        let moved = Replica { home: Some((2, vec!["store1".to_owned()])), ..replica("store1", 5, 1) };
        let stray = check(&[moved, replica("store2", 5, 1)]).expect_err("stray");
        assert!(stray.facts.contains("store2 has a replica of region 1, and was removed"), "{}", stray.facts);
        let littered = Replica { garbage: Some(vec![7]), ..replica("store2", 5, 1) };
        let garbage = check(&[replica("store1", 5, 1), littered]).expect_err("garbage");
        assert_eq!(garbage.checker, "garbage");
        let part = |region, start: &'static str, end: &'static str| Replica {
            region,
            range: KeyRange { start: start.into(), end: end.into() },
            home: Some((1, vec!["store1".to_owned()])),
            ..replica("store1", 5, 1)
        };
        assert_eq!(check(&[part(1, "", "m"), part(2, "m", "")]), Ok(()));
        let both = check(&[part(1, "", "p"), part(2, "m", "")]).expect_err("twice");
        assert!(both.facts.contains("keys in common"), "{}", both.facts);
        assert!(check(&[part(1, "", "k"), part(2, "m", "")]).is_err() && check(&[part(1, "", "m")]).is_err());
        let broken = Replica { unreadable: Some("bad checksum".to_owned()), ..replica("store2", 5, 1) };
        assert!(check(&[replica("store1", 5, 1), broken]).is_err());
    }
}
