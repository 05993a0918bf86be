use super::*;
use crate::disk::{is_crashed, read_all, write_atomically};
use std::collections::BTreeSet;

const LOG: &str = "/d/log";

/// A platter with an empty directory `/d` and nothing else.
fn platter(seed: u64) -> Arc<MemDisk> {
    let platter = MemDisk::new(seed);
    platter.mount().create_dir_all(Path::new("/d")).unwrap();
    platter
}

fn create(disk: &dyn Disk, path: &str) -> Arc<dyn File> {
    disk.open(Path::new(path), OpenMode::Create).unwrap()
}

/// A file whose name is durable, its content not.
fn named_file(platter: &Arc<MemDisk>, path: &str) -> Arc<dyn File> {
    let disk = platter.mount();
    let file = create(&*disk, path);
    disk.sync_dir(Path::new("/d")).unwrap();
    file
}

fn content(platter: &Arc<MemDisk>, path: &str) -> Option<Vec<u8>> {
    read_all(&*platter.mount(), Path::new(path)).ok()
}

/// The outcomes of one scenario over many seeds.
fn outcomes<T: Ord>(scenario: impl Fn(u64) -> T) -> BTreeSet<T> {
    (0..400).map(scenario).collect()
}

#[test]
fn reads_give_back_writes_across_pages_and_holes() {
    let platter = platter(1);
    let file = create(&*platter.mount(), LOG);
    let data: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
    file.write_at(&data, 5_000).unwrap();
    assert_eq!(file.len().unwrap(), 15_000);
    assert_eq!(file.read_exact_at(5_000, 0).unwrap(), vec![0; 5_000]);
    assert_eq!(file.read_exact_at(10_000, 5_000).unwrap(), data);
    assert_eq!(file.read_at(&mut [0; 10], 14_995).unwrap(), 5, "only what is there");
    assert_eq!(file.read_at(&mut [0; 10], 99_999).unwrap(), 0);
    file.truncate(6_000).unwrap();
    file.truncate(7_000).unwrap();
    assert_eq!(file.read_exact_at(1_000, 6_000).unwrap(), vec![0; 1_000], "a cut forgets");
}

#[test]
fn open_modes_mean_what_they_say() {
    let disk = platter(1).mount();
    let path = Path::new(LOG);
    let kind = |mode| disk.open(path, mode).map(|_| ()).map_err(|e| e.kind());
    assert_eq!(kind(OpenMode::Read), Err(io::ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::Write), Err(io::ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::CreateNew), Ok(()));
    assert_eq!(kind(OpenMode::CreateNew), Err(io::ErrorKind::AlreadyExists));
    assert_eq!(kind(OpenMode::Create), Ok(()));
    let reader = disk.open(path, OpenMode::Read).unwrap();
    assert_eq!(reader.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let elsewhere = disk.open(Path::new("/nowhere/log"), OpenMode::Create).map(|_| ());
    assert_eq!(elsewhere.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn worst_power_loss_keeps_exactly_what_was_synced() {
    let platter = platter(1);
    let file = named_file(&platter, LOG);
    file.write_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"SY", 0).unwrap();
    file.write_at(b" and not", 6).unwrap();
    assert_eq!(platter.read_durable(Path::new(LOG)).unwrap(), b"synced");
    platter.crash(CrashMode::PowerLossWorst);
    assert_eq!(content(&platter, LOG).unwrap(), b"synced");
}

#[test]
fn process_kill_keeps_the_page_cache_but_does_not_sync_it() {
    let platter = platter(1);
    let file = named_file(&platter, LOG);
    file.write_at(b"cached", 0).unwrap();
    create(&*platter.mount(), "/d/other");
    platter.crash(CrashMode::ProcessKill);
    assert_eq!(content(&platter, LOG).unwrap(), b"cached");
    assert_eq!(content(&platter, "/d/other").unwrap(), b"");
    platter.crash(CrashMode::PowerLossWorst);
    assert_eq!(content(&platter, LOG).unwrap(), b"");
    assert_eq!(content(&platter, "/d/other"), None);
}

#[test]
fn dead_handles_fail_with_crashed() {
    let platter = platter(1);
    let disk = platter.mount();
    let file = create(&*disk, LOG);
    let lock = disk.lock(Path::new("/d/LOCK"), "first").unwrap();
    platter.crash(CrashMode::PowerLoss);
    assert!(is_crashed(&file.write_at(b"x", 0).unwrap_err()));
    assert!(is_crashed(&file.sync_data().unwrap_err()));
    assert!(is_crashed(&disk.list(Path::new("/d")).unwrap_err()));
    let second = platter.mount().lock(Path::new("/d/LOCK"), "second").unwrap();
    drop(lock); // of the dead: must not release the new one
    let refused = platter.mount().lock(Path::new("/d/LOCK"), "third").map(|_| ()).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string()), (io::ErrorKind::WouldBlock, "second".to_owned()));
    drop(second);
    assert!(platter.mount().lock(Path::new("/d/LOCK"), "third").is_ok());
}

#[test]
fn any_subset_of_unsynced_pages_survives() {
    let survivors = outcomes(|seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        file.write_at(&[1; 3 * 4096], 0).unwrap();
        file.sync_data().unwrap();
        for page in 0..3 {
            file.write_at(&[2; 4096], page * 4096).unwrap();
        }
        platter.crash(CrashMode::PowerLoss);
        let bytes = content(&platter, LOG).unwrap();
        assert_eq!(bytes.len(), 3 * 4096);
        let whole: Vec<Option<u8>> = bytes
            .chunks(4096)
            .map(|page| {
                assert!(page.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
                page.iter().all(|byte| *byte == page[0]).then_some(page[0])
            })
            .collect();
        whole
    });
    for subset in 0..8 {
        let wanted: Vec<_> = (0..3).map(|page| Some(1 + (subset >> page & 1) as u8)).collect();
        assert!(survivors.contains(&wanted), "never saw {wanted:?}");
    }
    assert!(survivors.iter().flatten().any(Option::is_none), "no page was ever torn");
}

#[test]
fn synced_bytes_survive_whatever_is_appended_behind_them() {
    let lengths = outcomes(|seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        file.write_at(&[1; 5_000], 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[2; 300], 5_000).unwrap();
        file.write_at(&[2; 9_000], 5_300).unwrap();
        platter.crash(CrashMode::PowerLoss);
        let bytes = content(&platter, LOG).unwrap();
        assert!(bytes.len() >= 5_000 && bytes.len() <= 14_300, "{}", bytes.len());
        assert_eq!(bytes[..5_000], [1; 5_000]);
        assert!(bytes[5_000..].iter().all(|byte| *byte == 2 || *byte == 0));
        bytes.len()
    });
    assert!(lengths.contains(&5_000) && lengths.contains(&14_300) && lengths.contains(&8_192));
    assert!(lengths.len() > 20, "only {} lengths", lengths.len());
}

#[test]
fn an_unsynced_cut_happens_or_not_and_never_mixes() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        file.write_at(&[1; 10_000], 0).unwrap();
        file.sync_data().unwrap();
        file.truncate(100).unwrap();
        file.write_at(&[2; 400], 100).unwrap();
        assert_eq!(platter.read_durable(Path::new(LOG)).unwrap(), vec![1; 10_000]);
        platter.crash(CrashMode::PowerLoss);
        let bytes = content(&platter, LOG).unwrap();
        assert_eq!(bytes[..100], [1; 100]);
        match bytes.len() {
            10_000 => assert_eq!(bytes, vec![1; 10_000]),
            len => {
                assert!((100..=500).contains(&len), "{len}");
                assert!(bytes[100..].iter().all(|byte| *byte == 2 || *byte == 0));
            }
        }
        bytes.len()
    });
    assert!(results.contains(&10_000) && results.contains(&100) && results.contains(&500));
}

#[test]
fn names_need_a_directory_sync() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let disk = platter.mount();
        let file = create(&*disk, LOG);
        file.write_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        platter.crash(CrashMode::PowerLoss);
        content(&platter, LOG)
    });
    assert_eq!(results, BTreeSet::from([None, Some(b"x".to_vec())]));
}

#[test]
fn renames_removes_and_links_may_be_undone_each_on_its_own() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let disk = platter.mount();
        for name in ["/d/a", "/d/b", "/d/c"] {
            write_atomically(&*disk, Path::new(name), name.as_bytes()).unwrap();
        }
        disk.rename(Path::new("/d/a"), Path::new("/d/z")).unwrap();
        disk.remove_file(Path::new("/d/b")).unwrap();
        disk.hard_link(Path::new("/d/c"), Path::new("/d/y")).unwrap();
        platter.crash(CrashMode::PowerLoss);
        platter.mount().list(Path::new("/d")).unwrap().concat()
    });
    let all = ["abc", "bcz", "ac", "abcy", "cz", "bcyz", "acy", "cyz"].map(str::to_owned);
    assert_eq!(results, BTreeSet::from(all), "a rename is whole or not at all");
}

#[test]
fn operations_on_one_name_keep_their_order() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let disk = platter.mount();
        create(&*disk, "/d/a").write_at(b"1", 0).unwrap();
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        disk.rename(Path::new("/d/b"), Path::new("/d/c")).unwrap();
        platter.crash(CrashMode::PowerLoss);
        platter.mount().list(Path::new("/d")).unwrap().concat()
    });
    assert_eq!(results, BTreeSet::from(["", "a", "b", "c"].map(str::to_owned)));
}

#[test]
fn a_directory_sync_makes_its_names_durable_and_what_they_build_on() {
    let platter = platter(1);
    let disk = platter.mount();
    disk.create_dir_all(Path::new("/e")).unwrap();
    create(&*disk, "/d/a");
    create(&*disk, "/d/unrelated");
    disk.rename(Path::new("/d/a"), Path::new("/e/b")).unwrap();
    disk.sync_dir(Path::new("/e")).unwrap();
    platter.crash(CrashMode::PowerLossWorst);
    let disk = platter.mount();
    assert_eq!(disk.list(Path::new("/e")).unwrap(), ["b"]);
    assert!(disk.list(Path::new("/d")).unwrap().is_empty());
}

#[test]
fn atomic_writes_are_old_or_new_at_every_crash() {
    let mut crashes = 0;
    for (seed, op) in (0..60).flat_map(|seed| (1..=6).map(move |op| (seed, op))) {
        let platter = platter(seed);
        let path = Path::new("/d/file");
        write_atomically(&*platter.mount(), path, &[1; 5_000]).unwrap();
        platter.set_faults(DiskFaults { crash_at_op: Some(platter.ops() + op), ..DiskFaults::default() });
        let done = write_atomically(&*platter.mount(), path, &[2; 6_000]);
        assert_eq!(platter.crashed(), done.is_err());
        crashes += usize::from(platter.crashed());
        platter.crash(CrashMode::PowerLoss);
        let found = content(&platter, "/d/file").unwrap();
        let old = found == [1; 5_000] && done.is_err();
        assert!(old || found == [2; 6_000], "seed {seed} op {op}: {} bytes", found.len());
    }
    assert_eq!(crashes, 360, "every operation is a place to crash");
}

#[test]
fn a_crash_in_an_operation_may_leave_part_of_it() {
    let lengths = outcomes(|seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        platter.set_faults(DiskFaults { crash_at_op: Some(platter.ops() + 1), ..DiskFaults::default() });
        assert!(is_crashed(&file.write_at(&[1; 100], 0).unwrap_err()));
        assert!(platter.crashed() && is_crashed(&file.len().unwrap_err()));
        platter.crash(CrashMode::ProcessKill);
        assert!(!platter.crashed());
        content(&platter, LOG).unwrap().len()
    });
    assert!(lengths.len() > 50 && lengths.contains(&0) && lengths.contains(&100));
}

#[test]
fn a_lock_taken_by_a_dying_call_is_free_afterwards() {
    for seed in 0..8 {
        let platter = platter(seed);
        platter.set_faults(DiskFaults { crash_at_op: Some(platter.ops() + 1), ..DiskFaults::default() });
        assert!(platter.mount().lock(Path::new("/d/LOCK"), "me").is_err());
        platter.crash(CrashMode::ProcessKill);
        assert!(platter.mount().lock(Path::new("/d/LOCK"), "me").is_ok());
    }
}

#[test]
fn a_failed_sync_loses_pages_for_ever() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        file.write_at(&[1; 8_192], 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[2; 8_192], 0).unwrap();
        let next = platter.counters().syncs + 1;
        platter.set_faults(DiskFaults { sync_error_at: Some(next), ..DiskFaults::default() });
        file.sync_data().unwrap_err();
        assert_eq!(file.read_exact_at(8_192, 0).unwrap(), [2; 8_192], "the cache still shows it");
        file.sync_data().unwrap();
        platter.crash(CrashMode::PowerLossWorst);
        let bytes = content(&platter, LOG).unwrap();
        (bytes[0], bytes[4_096])
    });
    assert_eq!(results, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn io_errors_short_reads_and_lies() {
    let platter = platter(1);
    let file = named_file(&platter, LOG);
    file.write_at(b"12345678", 0).unwrap();
    let at_next = || Some(platter.ops() + 1);
    platter.set_faults(DiskFaults { io_error_at_op: at_next(), ..DiskFaults::default() });
    assert!(!is_crashed(&file.write_at(b"x", 0).unwrap_err()));
    platter.set_faults(DiskFaults { short_read_at_op: at_next(), ..DiskFaults::default() });
    assert_eq!(file.read_at(&mut [0; 8], 0).unwrap(), 4);
    assert_eq!(file.read_at(&mut [0; 8], 0).unwrap(), 8, "struck once");
    platter.set_faults(DiskFaults { lying_sync: true, ..DiskFaults::default() });
    file.sync_data().unwrap();
    platter.crash(CrashMode::PowerLossWorst);
    assert_eq!(content(&platter, LOG).unwrap(), b"");
}

#[test]
fn a_full_disk_takes_what_fits_and_recovers() {
    let platter = platter(1);
    let disk = platter.mount();
    let file = create(&*disk, LOG);
    platter.set_faults(DiskFaults { free_space: Some(2 * 4096), ..DiskFaults::default() });
    let refused = file.write_at(&[1; 10_000], 100).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 8_192);
    assert_eq!(disk.free_space(Path::new("/")).unwrap(), 0);
    file.write_at(&[2; 8_192], 0).unwrap();
    file.truncate(4_096).unwrap();
    assert_eq!(platter.faults().free_space, Some(4_096));
    disk.remove_file(Path::new(LOG)).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    drop(file);
    assert_eq!(platter.used_bytes(), 0);
}

#[test]
fn a_disk_may_be_full_from_an_operation_on() {
    let platter = platter(1);
    let disk = platter.mount();
    let file = create(&*disk, LOG);
    let full_from_op = Some(platter.ops() + 2);
    platter.set_faults(DiskFaults { full_from_op, ..DiskFaults::default() });
    file.write_at(&[1; 10], 0).unwrap();
    let mut lens = Vec::new();
    for _ in 0..2 {
        assert_eq!(file.write_at(&[2; 5_000], 10).unwrap_err().kind(), io::ErrorKind::StorageFull);
        lens.push(file.len().unwrap());
        file.truncate(10).unwrap();
    }
    lens.sort_unstable();
    assert_eq!(lens, [10, 4_096], "the last page of a file has room or not");
    file.write_at(&[3; 10], 0).unwrap();
    assert_eq!(disk.free_space(Path::new("/")).unwrap(), 0);
    assert_eq!(platter.faults().full_from_op, full_from_op, "it does not pass by itself");
    platter.set_faults(DiskFaults::default());
    file.write_at(&[2; 5_000], 10).unwrap();
}

#[test]
fn rot_changes_cache_and_platter() {
    let platter = platter(1);
    let file = named_file(&platter, LOG);
    file.write_at(&[0; 5_000], 0).unwrap();
    file.sync_data().unwrap();
    assert!(platter.flip_bit(Path::new(LOG), 4_500, 3));
    assert!(!platter.flip_bit(Path::new(LOG), 5_000, 3));
    assert_eq!(platter.damage(Path::new(LOG), 10..20), 10);
    assert_eq!(file.read_exact_at(1, 4_500).unwrap(), [8]);
    assert!(file.read_exact_at(10, 10).unwrap().iter().all(|byte| *byte != 0));
    let cached = file.read_exact_at(5_000, 0).unwrap();
    assert_eq!(platter.read_durable(Path::new(LOG)).unwrap(), cached);
}

#[test]
fn removed_trees_go_and_may_come_back() {
    let results = outcomes(|seed| {
        let platter = platter(seed);
        let disk = platter.mount();
        disk.create_dir_all(Path::new("/d/sub/deep")).unwrap();
        write_atomically(&*disk, Path::new("/d/sub/deep/file"), b"x").unwrap();
        disk.remove_dir_all(Path::new("/d/sub")).unwrap();
        assert!(!disk.exists(Path::new("/d/sub")).unwrap());
        if seed % 2 == 0 {
            disk.sync_dir(Path::new("/d")).unwrap();
        }
        platter.crash(CrashMode::PowerLoss);
        (seed % 2 == 0, content(&platter, "/d/sub/deep/file").is_some())
    });
    assert_eq!(results, BTreeSet::from([(true, false), (false, false), (false, true)]));
}

#[test]
fn latency_is_charged_and_taken() {
    let platter = platter(1);
    let file = create(&*platter.mount(), LOG);
    assert_eq!(platter.take_latency(), Duration::ZERO);
    let stall = Duration::from_secs(3);
    platter.set_latency(LatencyModel { sync_ns: 1_000_000, stall, ..LatencyModel::default() });
    file.sync_data().unwrap();
    let (least, most) = (stall + Duration::from_micros(500), stall + Duration::from_micros(1_500));
    assert!((least..most).contains(&platter.take_latency()));
    file.sync_data().unwrap();
    assert!(platter.take_latency() < stall, "a stall strikes once");
}

#[test]
fn equal_seeds_and_calls_give_equal_disks() {
    let run = |seed| {
        let platter = platter(seed);
        let file = named_file(&platter, LOG);
        for n in 0..50_u8 {
            file.write_at(&[n; 777], u64::from(n) * 777).unwrap();
            create(&*platter.mount(), &format!("/d/{n}"));
        }
        platter.crash(CrashMode::PowerLoss);
        let names = platter.mount().list(Path::new("/d")).unwrap();
        (names, content(&platter, LOG), platter.durable_files())
    };
    assert!(run(3) == run(3));
    assert!((0..20).any(|seed| run(seed) != run(seed + 1)));
}

/// The page cache against a plain vector, with syncs and worst-case crashes in between.
#[test]
fn behaves_like_a_vector_and_a_copy_of_it() {
    for seed in 0..60 {
        let mut draws = RngSource::new(seed, 9).stream("ops");
        let mut below = move |bound: u64| draws.next_u64() % bound;
        let platter = platter(seed);
        let mut file = named_file(&platter, LOG);
        let (mut cache, mut durable) = (Vec::<u8>::new(), Vec::<u8>::new());
        for _ in 0..200 {
            match below(12) {
                0 => {
                    file.sync_data().unwrap();
                    durable.clone_from(&cache);
                }
                1 => {
                    let len = below(20_000) as usize;
                    file.truncate(len as u64).unwrap();
                    cache.resize(len, 0);
                }
                2 if below(4) == 0 => {
                    platter.crash(CrashMode::PowerLossWorst);
                    file = platter.mount().open(Path::new(LOG), OpenMode::Write).unwrap();
                    cache.clone_from(&durable);
                }
                step => {
                    let at = if step < 7 { cache.len() as u64 } else { below(20_000) };
                    let data = vec![below(255) as u8 + 1; below(6_000) as usize];
                    file.write_at(&data, at).unwrap();
                    let end = at as usize + data.len();
                    if !data.is_empty() && cache.len() < end {
                        cache.resize(end, 0);
                    }
                    if !data.is_empty() {
                        cache[at as usize..end].copy_from_slice(&data);
                    }
                }
            }
            assert!(file.read_exact_at(cache.len(), 0).unwrap() == cache, "seed {seed}");
            assert_eq!(file.len().unwrap(), cache.len() as u64);
            assert!(platter.read_durable(Path::new(LOG)).unwrap() == durable, "seed {seed}");
        }
    }
}
