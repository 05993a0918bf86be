use super::builder::TableBuilder;
use super::*;
use crate::Cf;
use crate::iter::Direction;
use crate::iter::source::TableSource;
use crate::key::{Entry, InternalKey, Span};
use crate::options::Options;
use nokv_env::MemDisk;
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
