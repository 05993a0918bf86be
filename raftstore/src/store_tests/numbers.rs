//! What a running store says of itself, and what its directory says.

use super::Cluster;
use crate::stats::{StatsSnapshot, check_workdir, offline_regions};
use nokv_env::disk::{self, Disk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every file under `dir` with its content.
fn content(disk: &dyn Disk, dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in disk.list(dir).unwrap() {
        let path = dir.join(name);
        match disk.list(&path) {
            Ok(_) => found.extend(content(disk, &path)),
            Err(_) => drop(found.insert(path.clone(), disk::read_all(disk, &path).unwrap())),
        }
    }
    found
}

fn busy() -> (Cluster, u64) {
    let mut cluster = Cluster::new();
    for n in 0..60 {
        cluster.put(&format!("key{n:03}"), &"value".repeat(40));
    }
    cluster.wait(Duration::from_secs(3));
    let leader = cluster.leader();
    (cluster, leader)
}

#[test]
fn a_store_and_its_directory_agree_on_what_is_on_disk() {
    let (mut cluster, leader) = busy();
    let live = cluster.stores[&leader].stats_source()();
    assert!(live.flush.completed > 0 && live.write.batches_total > 60, "{live:?}");
    assert!(live.write.sync_count > 0 && live.write.avg_sync_batch > 0.0, "{:?}", live.write);
    assert!(live.transport.send_successes > 0 && live.transport.dials_total > 0, "{:?}", live.transport);
    assert_eq!((live.region.total, live.region.running, live.raft.group_count), (1, 1, 1));
    assert_eq!(live.extra["store"]["store_id"], leader);
    assert!(live.unavailable_offline.is_empty());

    cluster.stop(leader);
    let disk = cluster.platters[&leader].mount();
    let before = content(&*disk, Path::new("/s"));
    let offline = StatsSnapshot::offline(&disk, Path::new("/s"), true).unwrap();
    assert_eq!(offline, StatsSnapshot::offline(&disk, Path::new("/s"), true).unwrap());
    assert_eq!(offline.region, live.region);
    assert_eq!(
        (offline.raft.group_count, offline.raft.lag_warn_threshold),
        (1, live.raft.lag_warn_threshold)
    );
    let (now, then) = (&offline.wal, &live.wal);
    assert!(now.raft_log.active_segment >= then.raft_log.active_segment && now.raft_log.active_segment > 1);
    assert!(now.record_counts.raft_entries > 0 && now.segments_with_raft_records > 0, "{now:?}");
    assert!(offline.lsm.levels[0].tables + offline.lsm.levels[1].tables > 0);
    assert!((offline.flush.completed, offline.write.batches_total, offline.write.sync_count) == (0, 0, 0));
    assert!(offline.unavailable_offline.iter().any(|name| name == "flush"));
    let without = StatsSnapshot::offline(&disk, Path::new("/s"), false).unwrap();
    assert_eq!((without.region.total, &without.omitted[..]), (0, &["region".to_owned()][..]));
    assert_eq!(offline_regions(&disk, Path::new("/s")).unwrap().1.len(), 1);
    assert_eq!(content(&*disk, Path::new("/s")), before);
}

#[test]
fn the_numbers_of_both_are_equal_when_nothing_moves() {
    let (cluster, leader) = busy();
    // The raft log as it was a second ago, twice the same: nothing has moved since.
    let live = cluster.stores[&leader].stats_source()();
    let disk = cluster.platters[&leader].mount();
    let offline = StatsSnapshot::offline(&disk, Path::new("/s"), true).unwrap();
    assert_eq!(offline.lsm.levels, live.lsm.levels);
    assert_eq!(offline.raft, live.raft);
    let records = |stats: &StatsSnapshot| (stats.wal.record_counts.clone(), stats.wal.raft_log.segment_count);
    assert_eq!(records(&offline), records(&live));
    assert_eq!(offline.wal.removable_raft_segments, live.wal.removable_raft_segments);
    assert_eq!(offline.wal.segments_removed, live.wal.segments_removed);
}

#[test]
fn all_of_a_store_is_checked() {
    let (mut cluster, leader) = busy();
    cluster.stop(leader);
    let platter = &cluster.platters[&leader];
    let disk = platter.mount();
    let before = content(&*disk, Path::new("/s"));
    for deep in [false, true] {
        let checked = check_workdir(&disk, Path::new("/s"), deep).unwrap();
        assert_eq!(checked.findings, []);
        assert!(checked.tables > 0 && checked.records > 10);
    }
    assert_eq!(content(&*disk, Path::new("/s")), before);
    let raft: Vec<PathBuf> =
        before.keys().filter(|path| path.extension().is_some_and(|is| is == "raft")).cloned().collect();
    platter.flip_bit(&raft[0], 60, 1);
    platter.flip_bit(Path::new("/s/MODE.json"), 10, 1);
    let checked = check_workdir(&disk, Path::new("/s"), false).unwrap();
    let files: Vec<&Path> = checked.findings.iter().map(|finding| finding.file.as_path()).collect();
    assert_eq!(files, [Path::new("/s/MODE.json"), &raft[0]]);
    platter.flip_bit(&raft[0], 60, 1);
    platter.flip_bit(Path::new("/s/MODE.json"), 10, 1);
    // Each record that is left is sound, but what was applied came from somewhere.
    disk.remove_dir_all(Path::new("/s/raft")).unwrap();
    let checked = check_workdir(&disk, Path::new("/s"), false).unwrap();
    assert_eq!((checked.findings.len(), &*checked.findings[0].file), (1, Path::new("/s/raft")));
    assert!(checked.findings[0].what.contains("the raft log does not know it"), "{checked:?}");
}
