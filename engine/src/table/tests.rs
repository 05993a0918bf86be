use super::builder::TableBuilder;
use super::*;
use crate::Cf;
use crate::iter::Direction;
use crate::iter::source::TableSource;
use crate::key::{Entry, InternalKey, Span};
use crate::options::Options;
use crate::stats::Readahead;
use nokv_env::mem_disk::DiskFaults;
use nokv_env::{MemDisk, NoHooks};
use std::ops::Bound;

fn cache() -> Arc<BlockCache> {
    Arc::new(BlockCache::new(64 << 10, 512, Arc::default()))
}

fn context(platter: &Arc<MemDisk>) -> TableContext {
    let disk = platter.mount();
    disk.create_dir_all(Path::new("/db")).unwrap();
    TableContext {
        disk,
        dir: "/db".into(),
        cache: cache(),
        graveyard: Arc::default(),
        reads: Arc::default(),
        readahead_bytes: 4 << 10,
        hooks: Arc::new(NoHooks),
        pinned: Arc::new(Pinned::new(1 << 10)),
        unreadable: Arc::default(),
    }
}

fn entry(n: u64) -> Entry {
    let key = InternalKey::new(Cf(1), format!("key{:05}", n * 2).into(), 100 + n % 7);
    let value = (n % 10 != 3).then(|| Bytes::from(format!("value {n} ").repeat(1 + n as usize % 5)));
    Entry { key, value: Value::of(value) }
}

fn build(context: &TableContext, entries: u64) -> TableMeta {
    let mut builder = TableBuilder::create(&*context.disk, &context.dir, 7, &Options::tiny()).unwrap();
    for n in 0..entries {
        builder.add(&entry(n)).unwrap();
    }
    builder.finish().unwrap()
}

fn all(table: &Arc<Table>, span: Span, direction: Direction) -> Result<Vec<Entry>> {
    TableSource::new(table.clone(), span, direction, true).collect()
}

#[test]
fn what_was_built_is_read_back() {
    for count in [1, 2, 17, 3000] {
        let platter = MemDisk::new(1);
        let context = context(&platter);
        let meta = build(&context, count);
        assert_eq!((meta.entries, meta.bytes), (count, platter.files()[0].1));
        let table = Arc::new(Table::open(&context, meta).unwrap());
        let expected: Vec<Entry> = (0..count).map(entry).collect();
        assert_eq!(all(&table, Span::all(), Direction::Forward).unwrap(), expected);
        let mut reverse = all(&table, Span::all(), Direction::Reverse).unwrap();
        reverse.reverse();
        assert_eq!(reverse, expected);
        for n in (0..count).step_by(13) {
            let Entry { key, value } = entry(n);
            let get = |user: &[u8], sequence| table.get(&Sought::new(Cf(1), user, sequence)).unwrap();
            let hit = get(&key.user, 200).unwrap();
            assert_eq!((hit.sequence, hit.value), (key.sequence, value));
            assert!(get(&key.user, 99).is_none());
            assert!(get(format!("key{:05}", n * 2 + 1).as_bytes(), 200).is_none());
        }
    }
}

#[test]
fn ranges_are_walked_both_ways() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 300);
    let table = Arc::new(Table::open(&context, meta).unwrap());
    let at = |n: u64| Bytes::from(format!("key{n:05}"));
    for (low, high) in [(0, 600), (1, 3), (2, 2), (99, 305), (500, 10_000)] {
        for bounds in [
            (Bound::Included(at(low)), Bound::Excluded(at(high))),
            (Bound::Excluded(at(low)), Bound::Included(at(high))),
        ] {
            let span = Span::of(Cf(1), &bounds);
            let inside = |entry: &Entry| entry.key >= span.low && entry.key < span.high.clone().unwrap();
            let expected: Vec<Entry> = (0..300).map(entry).filter(inside).collect();
            assert_eq!(all(&table, span.clone(), Direction::Forward).unwrap(), expected);
            let mut reverse = all(&table, span.clone(), Direction::Reverse).unwrap();
            reverse.reverse();
            assert_eq!(reverse, expected);
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 60);
    let (path, len) = platter.files()[0].clone();
    let expected: Vec<Entry> = (0..60).map(entry).collect();
    for bit in 0..len * 8 {
        platter.flip_bit(&path, bit / 8, (bit % 8) as u8);
        let fresh = TableContext { cache: cache(), ..context.clone() };
        let read = Table::open(&fresh, meta.clone()).and_then(|table| {
            let table = Arc::new(table);
            let found = all(&table, Span::all(), Direction::Forward)?;
            table.may_hold(&Sought::new(Cf(1), b"key00000", 200)).map(|may| (found, may))
        });
        match read {
            Err(error) => assert!(error.is_corrupt(), "{error}"),
            Ok(found) => assert_eq!(found, (expected.clone(), true), "bit {bit}"),
        }
        platter.flip_bit(&path, bit / 8, (bit % 8) as u8);
    }
}

#[test]
fn a_replaced_table_is_buried_after_its_last_reader() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 10);
    let table = Arc::new(Table::open(&context, meta).unwrap());
    let reader = table.clone();
    table.mark_obsolete();
    drop(table);
    assert!(context.graveyard.drain().is_empty());
    drop(reader);
    assert_eq!(context.graveyard.drain(), [files::table(&context.dir, 7)]);
}

/// A table whose walks read ahead so many bytes, with an empty cache.
fn cold(context: &TableContext, meta: &TableMeta, readahead_bytes: usize) -> Arc<Table> {
    let reads = Arc::<ReadCounters>::default();
    let cache = Arc::new(BlockCache::new(1 << 20, 512, reads.clone()));
    let context = TableContext { cache, reads, readahead_bytes, ..context.clone() };
    Arc::new(Table::open(&context, meta.clone()).unwrap())
}

/// Where its data blocks are.
fn data_blocks(table: &Table) -> Vec<Handle> {
    let mut handles = Vec::new();
    for stretch in &table.stretches {
        let mut index = BlockCursor::new(table.block(stretch.handle, Part::Index, true).unwrap());
        index.first().unwrap();
        while index.is_valid() {
            handles.push(handle_at(&index).unwrap());
            index.advance().unwrap();
        }
    }
    handles
}

#[test]
fn a_cold_walk_reads_many_blocks_at_once() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 3000);
    for direction in [Direction::Forward, Direction::Reverse] {
        let walk = |readahead_bytes: usize| {
            let table = cold(&context, &meta, readahead_bytes);
            let before = platter.counters();
            let found = all(&table, Span::all(), direction).unwrap();
            let after = platter.counters();
            let index_reads = table.stretches.len() as u64;
            let saved = table.context.reads.readahead();
            (found, after.ops - before.ops - index_reads, after.bytes_read - before.bytes_read, saved)
        };
        let (expected, one_by_one, bytes, none) = walk(0);
        assert_eq!(none, Readahead::default());
        let (found, together, bytes_together, saved) = walk(16 << 10);
        assert_eq!(found, expected);
        assert_eq!(bytes_together, bytes, "nothing is read twice, or in vain");
        assert_eq!(one_by_one - together, saved.completed, "{saved:?}");
        assert_eq!((saved.launched, saved.aborted), (saved.completed, 0), "{saved:?}");
        assert!(together * 5 < one_by_one, "{direction:?}: {together} reads instead of {one_by_one}");
    }
}

#[test]
fn a_walk_fetches_nothing_beyond_its_range() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 600);
    let at = |n: u64| Bytes::from(format!("key{:05}", 2 * n));
    for direction in [Direction::Forward, Direction::Reverse] {
        for (low, high) in [(0, 600), (100, 500), (100, 101), (250, 290), (0, 20), (580, 600)] {
            let span = Span::of(Cf(1), &(at(low)..at(high)));
            let read = |readahead_bytes: usize| {
                let table = cold(&context, &meta, readahead_bytes);
                let before = platter.counters().bytes_read;
                let found = all(&table, span.clone(), direction).unwrap();
                assert_eq!(found.len() as u64, high - low);
                platter.counters().bytes_read - before
            };
            assert_eq!(read(64 << 10), read(0), "{direction:?} {low} {high}");
        }
    }
}

/// Who stops early has fetched at most as much in vain as it read, and the cache holds nothing that nobody came to.
#[test]
fn what_nobody_comes_to_is_counted_and_not_kept() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 3000);
    for entries in [1, 30, 200, 1000] {
        let table = cold(&context, &meta, 64 << 10);
        let mut walk = TableSource::new(table.clone(), Span::all(), Direction::Forward, true);
        for _ in 0..entries {
            walk.next().unwrap().unwrap();
        }
        drop(walk);
        let saved = table.context.reads.readahead();
        let is_cached = |handle: &&Handle| table.cached(**handle, Part::Data).is_some();
        let blocks = data_blocks(&table);
        let kept = blocks.iter().take_while(is_cached).count() as u64;
        assert_eq!(blocks.iter().filter(is_cached).count() as u64, kept);
        assert!((entries / 20..=entries).contains(&kept), "{kept} blocks for {entries} entries");
        assert_eq!(saved.launched, saved.completed + saved.aborted, "{saved:?}");
        assert!(saved.aborted <= kept && saved.completed < kept, "{saved:?}");
        // What is in the cache is not fetched again.
        let ops = platter.ops();
        let again = TableSource::new(table.clone(), Span::all(), Direction::Forward, true);
        assert_eq!(again.take(entries as usize).flatten().count() as u64, entries);
        assert_eq!(platter.ops(), ops);
    }
}

#[test]
fn damage_in_a_block_fetched_ahead_is_told_with_its_place() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 600);
    let (path, _) = platter.files()[0].clone();
    let blocks = data_blocks(&cold(&context, &meta, 0));
    assert!(blocks.len() > 20);
    for direction in [Direction::Forward, Direction::Reverse] {
        for handle in &blocks {
            platter.flip_bit(&path, handle.offset + u64::from(handle.len) / 2, 3);
            let walk = |readahead_bytes: usize| {
                let table = cold(&context, &meta, readahead_bytes);
                let (found, errors): (Vec<_>, Vec<_>) =
                    TableSource::new(table, Span::all(), direction, true).partition(Result::is_ok);
                let [Err(Error::Corrupt { file, offset, .. })] = &errors[..] else { panic!("{errors:?}") };
                (found.len(), file.clone(), *offset)
            };
            let told = walk(64 << 10);
            assert_eq!(told, walk(0), "what comes before the damage is given out");
            assert_eq!((&told.1, told.2), (&path, handle.offset));
            platter.flip_bit(&path, handle.offset + u64::from(handle.len) / 2, 3);
        }
    }
}

#[test]
fn a_read_ahead_that_fails_or_is_short_costs_nothing_but_itself() {
    let platter = MemDisk::new(1);
    let context = context(&platter);
    let meta = build(&context, 2000);
    let expected: Vec<Entry> = (0..2000).map(entry).collect();
    let mut failed = 0;
    let mut op = 0;
    loop {
        let table = cold(&context, &meta, 2 << 10);
        // All index blocks are at hand, so that reads of data alone are struck.
        data_blocks(&table);
        op += 1;
        let at = Some(platter.ops() + op);
        let faults = if op % 2 == 0 {
            DiskFaults { io_error_at_op: at, ..DiskFaults::default() }
        } else {
            DiskFaults { short_read_at_op: at, ..DiskFaults::default() }
        };
        platter.set_faults(faults);
        let found = all(&table, Span::all(), Direction::Forward);
        let struck = platter.faults() == DiskFaults::default();
        platter.set_faults(DiskFaults::default());
        if !struck {
            break;
        }
        let saved = table.context.reads.readahead();
        match found {
            Ok(found) => assert_eq!(found, expected),
            // The first block is read alone, and one with an index block behind it.
            Err(error) => assert!(matches!(error, Error::Io { .. }) && saved.aborted == 0, "{error}"),
        }
        assert_eq!(saved.launched, saved.completed + saved.aborted);
        failed += u64::from(saved.aborted > 0);
    }
    assert!(failed > 5, "{failed} of {op}");
}
