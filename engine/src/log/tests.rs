use super::*;
use nokv_env::MemDisk;
use nokv_env::mem_disk::{CrashMode, DiskFaults};

const DIR: &str = "/log";

fn options() -> LogOptions {
    LogOptions { extension: "wal".to_owned(), segment_bytes: 100 }
}

fn platter(seed: u64) -> Arc<MemDisk> {
    let platter = MemDisk::new(seed);
    platter.mount().create_dir_all(Path::new(DIR)).unwrap();
    platter
}

fn open(disk: &Arc<dyn Disk>) -> Result<(Log, Vec<Vec<u8>>)> {
    let mut records = Vec::new();
    let log = Log::open(disk.clone(), Path::new(DIR), options(), &mut |_, kind, payload| {
        assert_eq!(kind, 1);
        records.push(payload.to_vec());
        Ok(())
    })?;
    Ok((log, records))
}

fn read(disk: &Arc<dyn Disk>) -> Result<Vec<Vec<u8>>> {
    let mut records = Vec::new();
    Log::open_read_only(disk.clone(), Path::new(DIR), options(), &mut |_, _, payload| {
        records.push(payload.to_vec());
        Ok(())
    })?;
    Ok(records)
}

fn record(n: usize) -> Vec<u8> {
    format!("record {n}").into_bytes()
}

fn records(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(record).collect()
}

/// Appends and syncs records; `synced` counts those that are durable.
fn write_records(log: &mut Log, range: std::ops::Range<usize>, synced: &mut usize) -> Result<()> {
    for n in range {
        log.append(1, &record(n));
        if n % 3 == 1 {
            log.write()?;
        }
        if n % 3 == 2 {
            log.sync()?;
            *synced = n + 1;
        }
        if log.is_full() {
            log.roll()?;
            *synced = n + 1;
        }
    }
    Ok(())
}

#[test]
fn records_survive_a_reopen_and_purged_segments_are_gone() {
    let disk = platter(1).mount();
    let (mut log, found) = open(&disk).unwrap();
    assert_eq!((found.len(), log.active_segment()), (0, 1));
    write_records(&mut log, 0..20, &mut 0).unwrap();
    log.sync().unwrap();
    let segments = log.segments();
    assert!(segments.len() > 3 && segments.windows(2).all(|pair| pair[0].id + 1 == pair[1].id));
    drop(log);
    let (mut log, found) = open(&disk).unwrap();
    assert_eq!(found, records(20));
    assert_eq!(log.segments().len(), segments.len());
    log.purge_below(3).unwrap();
    assert_eq!(log.segments()[0].id, 3);
    log.purge_below(99).unwrap();
    assert_eq!(log.segments().len(), 1, "the active segment stays");
}

#[test]
fn a_crash_leaves_a_prefix_with_all_that_was_synced() {
    for seed in 0..300 {
        let platter = platter(seed);
        let mode =
            [CrashMode::PowerLoss, CrashMode::PowerLossWorst, CrashMode::ProcessKill][seed as usize % 3];
        let (mut synced, mut attempted) = (0, 0);
        for _ in 0..4 {
            let disk = platter.mount();
            let (mut log, found) = open(&disk).unwrap();
            assert!(
                found.len() >= synced && found.len() <= attempted,
                "{} {synced} {attempted}",
                found.len()
            );
            assert_eq!(found, records(found.len()));
            synced = found.len();
            let crash_at_op = Some(platter.ops() + 1 + seed % 41);
            platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            attempted = synced + 30;
            let written = write_records(&mut log, found.len()..attempted, &mut synced);
            assert_eq!(written.is_err(), platter.crashed());
            platter.set_faults(DiskFaults::default());
            platter.crash(mode);
        }
    }
}

#[test]
fn every_operation_is_a_place_to_crash() {
    for seed in 0..3 {
        for crash_at in 1.. {
            let platter = platter(seed);
            let mut synced = 0;
            let crash_at_op = Some(platter.ops() + crash_at);
            platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
            let life = |synced: &mut usize| -> Result<()> {
                let disk = platter.mount();
                let (mut log, _) = open(&disk)?;
                write_records(&mut log, 0..8, synced)?;
                log.purge_below(log.active_segment())?;
                log.settle()
            };
            let purged = life(&mut synced).is_ok();
            let crashed = platter.crashed();
            platter.set_faults(DiskFaults::default());
            platter.crash(CrashMode::PowerLoss);
            let (mut log, found) = open(&platter.mount()).unwrap();
            if let Some(last) = found.last() {
                let last = records(8).iter().position(|record| record == last).unwrap();
                assert_eq!(found, records(last + 1)[last + 1 - found.len()..]);
                assert!(last + 1 >= synced);
            } else {
                assert!(synced < 8 || purged || log.active_segment() > 1);
            }
            log.append(1, b"alive");
            log.sync().unwrap();
            if !crashed {
                break;
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let platter = platter(1);
    let disk = platter.mount();
    let (mut log, _) = open(&disk).unwrap();
    write_records(&mut log, 0..8, &mut 0).unwrap();
    log.sync().unwrap();
    log.settle().unwrap();
    for (file, len) in platter.files() {
        for bit in 0..len * 8 {
            platter.flip_bit(&file, bit / 8, (bit % 8) as u8);
            match read(&disk) {
                Err(error) => assert!(error.is_corrupt(), "{error}"),
                Ok(found) => assert_eq!(found, records(8), "bit {bit} of {}", file.display()),
            }
            platter.flip_bit(&file, bit / 8, (bit % 8) as u8);
        }
    }
    assert_eq!(read(&disk).unwrap(), records(8));
}

#[test]
fn a_lost_segment_is_noticed() {
    for lost in ["/log/00002.wal", "/log/00003.wal"] {
        let disk = platter(1).mount();
        let (mut log, _) = open(&disk).unwrap();
        write_records(&mut log, 0..20, &mut 0).unwrap();
        disk.remove_file(Path::new(lost)).unwrap();
        let error = read(&disk).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file, .. } if file == Path::new(lost)), "{error}");
    }
}

#[test]
fn a_failed_sync_poisons_for_ever() {
    let platter = platter(1);
    let disk = platter.mount();
    let (mut log, _) = open(&disk).unwrap();
    log.append(1, &record(0));
    log.sync().unwrap();
    let sync_error_at = Some(platter.counters().syncs + 1);
    platter.set_faults(DiskFaults { sync_error_at, ..DiskFaults::default() });
    log.append(1, &record(1));
    assert!(matches!(log.sync(), Err(Error::Io { .. })));
    assert!(matches!(log.sync(), Err(Error::Poisoned(_))));
    assert!(matches!(log.write(), Err(Error::Poisoned(_))));
    assert!(matches!(log.roll(), Err(Error::Poisoned(_))));
    platter.crash(CrashMode::PowerLossWorst);
    // What a failed sync left on the platter is anybody's guess, but the first record was safe.
    let found = read(&platter.mount()).unwrap();
    assert!(found == records(1) || found == records(2));
}

#[test]
fn reading_changes_nothing() {
    let platter = platter(3);
    let disk = platter.mount();
    let (mut log, _) = open(&disk).unwrap();
    write_records(&mut log, 0..2, &mut 0).unwrap();
    log.write().unwrap();
    let files = platter.files();
    let (path, len) = files[0].clone();
    let file = disk.open(&path, OpenMode::Write).unwrap();
    file.truncate(len - 3).unwrap();
    let files = platter.files();
    assert_eq!(read(&disk).unwrap(), records(1));
    assert_eq!(platter.files(), files);
    let (log, found) = open(&disk).unwrap();
    assert_eq!((found, log.torn_bytes()), (records(1), 26));
}

/// The page cache may show a successor what a failed sync lost. It must not build on that.
#[test]
fn what_a_failed_sync_lost_is_written_again_by_the_next_process() {
    for seed in 0..50 {
        let platter = platter(seed);
        let (mut log, _) = open(&platter.mount()).unwrap();
        log.append(1, &record(0));
        log.sync().unwrap();
        log.append(1, &record(1));
        let sync_error_at = Some(platter.counters().syncs + 1);
        platter.set_faults(DiskFaults { sync_error_at, ..DiskFaults::default() });
        assert!(log.sync().is_err());
        platter.crash(CrashMode::ProcessKill);

        let (mut log, mut found) = open(&platter.mount()).unwrap();
        log.append(1, &record(2));
        log.sync().unwrap();
        log.append(1, &record(3));
        log.sync().unwrap();
        found.extend([record(2), record(3)]);
        platter.crash(CrashMode::PowerLossWorst);
        assert_eq!(open(&platter.mount()).unwrap().1, found, "seed {seed}");
    }
}

fn leave(platter: &MemDisk, free_space: Option<u64>) {
    platter.set_faults(DiskFaults { free_space, ..DiskFaults::default() });
}

/// One durable record, then two that the disk has no room for: the first of them fits.
fn refused() -> (Arc<MemDisk>, Log, Mark, Vec<u8>) {
    let platter = platter(1);
    let (mut log, _) = open(&platter.mount()).unwrap();
    log.append(1, &record(0));
    log.sync().unwrap();
    leave(&platter, Some(0));
    let (mark, large) = (log.mark(), vec![7; 10_000]);
    log.append(1, &record(1));
    log.append(1, &large);
    for _ in 0..2 {
        assert!(log.sync().unwrap_err().is_disk_full());
    }
    (platter, log, mark, large)
}

#[test]
fn what_a_full_disk_refused_is_written_once_there_is_room() {
    let (platter, mut log, _, large) = refused();
    leave(&platter, None);
    log.sync().unwrap();
    log.append(1, &record(2));
    log.sync().unwrap();
    platter.crash(CrashMode::PowerLossWorst);
    let (_, found) = open(&platter.mount()).unwrap();
    assert_eq!(found, [record(0), record(1), large, record(2)]);
}

#[test]
fn what_was_taken_back_does_not_return_after_a_crash() {
    for mode in [CrashMode::ProcessKill, CrashMode::PowerLossWorst] {
        let (platter, mut log, mark, _) = refused();
        log.abandon(mark).unwrap();
        assert_eq!(log.stats().records.total(), 1);
        platter.crash(mode);
        assert_eq!(read(&platter.mount()).unwrap(), [record(0)]);
        // As long as what was refused, so that whatever is behind it would fit on.
        let (platter, mut log, mark, _) = refused();
        log.abandon(mark).unwrap();
        log.append(1, &record(9));
        log.sync().unwrap();
        platter.crash(mode);
        assert_eq!(read(&platter.mount()).unwrap(), [record(0), record(9)]);
    }
}

#[test]
fn a_roll_that_found_the_disk_full_goes_on_where_it_was() {
    for crash in [false, true] {
        let platter = platter(1);
        let (mut log, _) = open(&platter.mount()).unwrap();
        log.append(1, &record(0));
        leave(&platter, Some(0));
        for _ in 0..2 {
            assert!(log.roll().unwrap_err().is_disk_full(), "the seal fits, the next segment does not");
        }
        // What an orderly end does: nothing may come behind the seal.
        log.sync().unwrap();
        log.settle().unwrap();
        leave(&platter, None);
        if crash {
            platter.crash(CrashMode::PowerLossWorst);
            log = open(&platter.mount()).unwrap().0;
        }
        log.end_roll().unwrap();
        assert_eq!(log.active_segment(), 2);
        log.append(1, &record(1));
        log.sync().unwrap();
        assert_eq!(read(&platter.mount()).unwrap(), records(2));
    }
}

fn open_large(disk: &Arc<dyn Disk>) -> (Log, Vec<Vec<u8>>) {
    let (mut records, options) = (Vec::new(), LogOptions { segment_bytes: 64 << 10, ..options() });
    let mut replay = |_, _, payload: &[u8]| {
        records.push(payload.to_vec());
        Ok(())
    };
    let log = Log::open(disk.clone(), Path::new(DIR), options, &mut replay).unwrap();
    (log, records)
}

fn lengths(platter: &MemDisk) -> Vec<u64> {
    platter.files().into_iter().map(|(_, len)| len).collect()
}

#[test]
fn small_syncs_find_their_place_allocated() {
    let platter = platter(1);
    let (mut log, _) = open_large(&platter.mount());
    for n in 0..20 {
        log.append(1, &record(n));
        log.sync().unwrap();
        assert_eq!(lengths(&platter), [16 << 10]);
    }
    // The zeros are no torn write, and go when somebody opens the log.
    platter.crash(CrashMode::PowerLossWorst);
    let (mut log, found) = open_large(&platter.mount());
    assert_eq!((found, log.torn_bytes()), (records(20), 0));
    let exact = log.segments()[0].bytes;
    assert_eq!(lengths(&platter), [exact]);
    // A large sync needs none: there are not many of them.
    log.append(1, &vec![7; 20_000]);
    log.sync().unwrap();
    let exact = log.segments()[0].bytes;
    assert_eq!(lengths(&platter), [exact]);
    log.append(1, &record(20));
    log.sync().unwrap();
    assert_eq!(lengths(&platter), [32 << 10]);
    log.append(1, &record(21));
    log.roll().unwrap();
    let sealed = log.segments()[0].bytes;
    assert_eq!(lengths(&platter)[0], sealed, "a sealed segment has none");
    log.append(1, &record(22));
    log.sync().unwrap();
    assert_eq!(lengths(&platter)[1], 16 << 10);
    log.close().unwrap();
    let exact = log.segments()[1].bytes;
    assert_eq!(lengths(&platter)[1], exact, "nor has a log that was closed");
    drop(log);
    platter.crash(CrashMode::PowerLossWorst);
    let (_, found) = open_large(&platter.mount());
    assert_eq!(found[..20], records(20));
    assert_eq!(found[21..], [record(20), record(21), record(22)]);
}

/// What stood behind a torn record must not come back when a record of the same length takes its place.
#[test]
fn what_a_crash_left_in_allocated_space_is_cut() {
    for seed in 0..100 {
        let platter = platter(seed);
        let (mut log, _) = open_large(&platter.mount());
        log.append(1, &record(0));
        log.sync().unwrap();
        for n in 1..=3 {
            log.append(1, &[n; 4000]);
        }
        log.write().unwrap();
        drop(log);
        platter.crash(CrashMode::PowerLoss);
        let (mut log, found) = open_large(&platter.mount());
        let kept = found.len();
        assert_eq!(found[0], record(0));
        log.append(1, &[9; 4000]);
        log.sync().unwrap();
        drop(log);
        platter.crash(CrashMode::PowerLossWorst);
        let (_, found) = open_large(&platter.mount());
        assert_eq!((found.len(), &found[kept]), (kept + 1, &vec![9; 4000]), "seed {seed}");
    }
}

#[test]
fn where_there_is_no_room_to_allocate_records_are_written_all_the_same() {
    let platter = platter(1);
    let (mut log, _) = open_large(&platter.mount());
    leave(&platter, Some(8 << 10));
    for n in 0..20 {
        log.append(1, &record(n));
        log.sync().unwrap();
    }
    platter.crash(CrashMode::PowerLossWorst);
    assert_eq!(open_large(&platter.mount()).1, records(20));
}
