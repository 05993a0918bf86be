//! Every decoder of the crate, as a function of bytes that may be anything. None may panic, and what one accepts must come
//! back from its encoder. The targets in `engine/fuzz` call them, and so does the property at the foot of this file.
//!
//! A checksum would turn nearly all bytes away at the door, so where there is one, the bytes are also tried with a right one.

use crate::batch::WriteBatch;
use crate::db::{decode_batch, encode_batch};
use crate::edit::{Catalog, Edit};
use crate::key::{self, InternalKey};
use crate::log::frame::{self, Frame};
use crate::manifest;
use crate::options::{Compression, Options};
use crate::table::block::{Block, BlockCursor};
use crate::table::filter::{self, Filter};
use crate::table::format::{FOOTER_BYTES, Footer, TableMeta, open_section, seal_section};
use crate::value::Pointer;
use crate::vlog::record;
use bytes::Bytes;
use std::path::Path;

/// A decoder.
pub type Target = fn(&[u8]);

/// All of them by name, which is also that of the target in `engine/fuzz`.
pub const TARGETS: [(&str, Target); 15] = [
    ("batch", batch),
    ("block", block),
    ("current", current),
    ("edit", edit),
    ("filter", filter),
    ("footer", footer),
    ("frame", frame),
    ("internal_key", internal_key),
    ("options", options),
    ("pointer", pointer),
    ("properties", properties),
    ("section", section),
    ("segment", segment),
    ("value_record", value_record),
    ("value_header", value_header),
];

/// Number of the segments that the bytes are said to be of.
const ID: u64 = 7;
const MAGIC: frame::Magic = *b"NoKVtest";

/// A batch as a record of the log holds it.
pub fn batch(data: &[u8]) {
    if let Some(batch) = decode_batch(data) {
        let again: Option<WriteBatch> = decode_batch(&encode_batch(&batch));
        assert_eq!(again, Some(batch));
    }
}

/// A block of a table: walked from both ends, and searched for the key in its middle.
pub fn block(data: &[u8]) {
    let Ok(block) = Block::parse(Bytes::copy_from_slice(data)) else { return };
    let mut cursor = BlockCursor::new(block);
    let mut keys = Vec::new();
    let mut moved = cursor.first();
    while moved.is_ok() && cursor.is_valid() {
        drop(cursor.value());
        keys.push(cursor.key().to_vec());
        moved = cursor.advance();
    }
    assert!(keys.len() <= data.len(), "an entry takes at least a byte");
    let target = keys.get(keys.len() / 2).cloned().unwrap_or_default();
    if cursor.seek(&target).is_ok() && cursor.is_valid() {
        assert!(key::compare(cursor.key(), &target).is_ge(), "found what is before the target");
    }
    let mut steps = 0;
    moved = cursor.last();
    while moved.is_ok() && cursor.is_valid() {
        steps += 1;
        assert!(steps <= data.len(), "a walk without an end");
        moved = cursor.retreat();
    }
}

/// The content of `CURRENT`.
pub fn current(data: &[u8]) {
    if let Some(number) = manifest::parse_current(data) {
        assert_eq!(manifest::encode_current(number).as_bytes(), data);
    }
    let _ = manifest::current_checksums(data);
}

/// An edit of the manifest, and a catalog of nothing else.
pub fn edit(data: &[u8]) {
    let Some(edit) = Edit::decode(data) else { return };
    assert_eq!(Edit::decode(&edit.encode()).as_ref(), Some(&edit));
    let mut catalog = Catalog::default();
    if catalog.apply(edit).is_ok() {
        let mut again = Catalog::default();
        assert_eq!(again.apply(catalog.as_edit()), Ok(()));
        assert_eq!(again, catalog);
    }
}

/// The filter of a table.
pub fn filter(data: &[u8]) {
    let filter = Filter::parse(data.to_vec().into());
    for n in 0..64_u8 {
        filter.may_hold(filter::hash(&[n, n]));
    }
}

/// The footer of a table.
pub fn footer(data: &[u8]) {
    drop(Footer::decode(data));
    // Behind the handles and the version come eight bytes that always are the same, with the checksum before them.
    let mut sealed = data.to_vec();
    sealed.resize(FOOTER_BYTES - 12, 0);
    sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    sealed.extend_from_slice(b"NoKV-sst");
    if let Ok(footer) = Footer::decode(&sealed) {
        assert_eq!(footer.encode(), sealed);
    }
}

/// One frame of a log.
pub fn frame(data: &[u8]) {
    let offset = frame::HEADER_BYTES as u64;
    let at_its_place = [vec![0; frame::HEADER_BYTES], data.to_vec()].concat();
    let _ = frame::checksums(ID, offset, &at_its_place);
    let Some(frame) = frame::decode(ID, offset, &at_its_place) else { return };
    let mut again = Vec::new();
    frame::encode(&mut again, ID, offset, frame);
    assert_eq!(again, data[..again.len()]);
}

/// The key of a block's entry.
pub fn internal_key(data: &[u8]) {
    let Some(decoded) = InternalKey::decode(data) else { return };
    assert_eq!(decoded.encode(), data);
    let behind = decoded.clone().behind();
    assert_eq!(key::compare(data, &behind.encode()), decoded.cmp(&behind));
}

/// Options in a text.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(options) = Options::from_toml(text) {
        assert_eq!(Options::from_toml(&options.to_toml()).ok(), Some(options));
    }
}

/// Where a value is in the value log.
pub fn pointer(data: &[u8]) {
    if let Some(pointer) = Pointer::decode(data) {
        assert_eq!(Pointer::decode(&pointer.encode()), Some(pointer));
    }
}

/// The properties of a table.
pub fn properties(data: &[u8]) {
    for expires in [false, true] {
        let Some(meta) = TableMeta::decode_properties(data, 1, expires) else { continue };
        let mut again = Vec::new();
        meta.encode_properties(&mut again);
        assert_eq!(TableMeta::decode_properties(&again, 1, expires), Some(meta));
    }
}

/// A section of a table, as it is and with a right checksum.
pub fn section(data: &[u8]) {
    let sealed = [data, &crc32c::crc32c(data).to_le_bytes()].concat();
    for section in [data.to_vec(), sealed] {
        if let Ok(body) = open_section(section) {
            let again = seal_section(body.to_vec(), Compression::Lz4);
            assert_eq!(open_section(again), Ok(body));
        }
    }
}

/// A whole segment of a log, with its header or without.
pub fn segment(data: &[u8]) {
    drop(frame::check_header(MAGIC, ID, data));
    let _ = (frame::header_id(data), frame::header_checksums(data));
    for file in [data.to_vec(), [frame::encode_header(MAGIC, ID).as_slice(), data].concat()] {
        if frame::check_header(MAGIC, ID, &file).is_err() {
            continue;
        }
        let mut frames = Vec::new();
        let mut keep = |offset, frame: Frame<'_>| {
            frames.push((offset, frame.payload.to_vec()));
            Ok(())
        };
        let scanned = frame::scan(Path::new("segment"), ID, &file, &mut keep);
        let mut seen = Vec::new();
        let survey =
            frame::survey(ID, &file, &mut |offset, frame| seen.push((offset, frame.payload.to_vec())));
        match scanned {
            Ok(end) => {
                assert_eq!((end.sealed, end.torn_bytes), (survey.sealed, survey.torn_bytes));
                let zeros = &file[(end.offset + end.torn_bytes) as usize..];
                assert!(zeros.iter().all(|byte| *byte == 0), "what is neither a frame nor torn is space");
                assert_eq!((seen, survey.damages.len()), (frames, 0));
            }
            Err(_) => assert!(!survey.damages.is_empty(), "a survey is content with what a scan refuses"),
        }
    }
}

/// A record of the value log, as it is and with a right checksum.
pub fn value_record(data: &[u8]) {
    let place = (ID, record::HEADER_BYTES as u64);
    let _ = (record::len(data), record::checksums(place, data));
    let computed = record::checksums(place, data).map(|(_, computed)| computed.to_le_bytes());
    let sealed = computed.map(|crc| [crc.as_slice(), &data[crc.len()..]].concat());
    for bytes in [Some(data.to_vec()), sealed].into_iter().flatten() {
        if let Ok((key, value)) = record::open(place, bytes) {
            let mut again = Vec::new();
            record::append(&mut again, place, &key, &value, Compression::Lz4);
            assert_eq!(record::open(place, again), Ok((key, value)));
        }
    }
}

/// The header of a segment of the value log.
pub fn value_header(data: &[u8]) {
    let is_it = record::check_header(ID, data).is_ok();
    assert_eq!(is_it, data == record::header(ID));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;
    use crate::key::Entry;
    use crate::table::block::BlockBuilder;
    use crate::table::format::{Expiry, Handle};
    use crate::value::{NEVER, Value};
    use crate::vlog::SegmentMeta;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn entries() -> Vec<Entry> {
        let stored = |n: u64| Value::Stored(Pointer { segment: n, offset: n * 1000, len: 300 });
        let inline = |n: u64| Value::Inline(format!("value {n} ").repeat(n as usize % 7).into());
        let value = |n: u64| match n % 7 {
            0 => Value::Tombstone,
            1 => stored(n),
            2 => stored(n).until(n * 1000),
            3 => inline(n).until(n << 50),
            _ => inline(n),
        };
        let key = |n: u64| InternalKey::new(Cf((n / 20) as u8), format!("key{n:03}").into(), 100 - n);
        (0..40).map(|n| Entry { key: key(n), value: value(n) }).collect()
    }

    fn meta() -> TableMeta {
        let entries = entries();
        TableMeta {
            number: 3,
            bytes: 1,
            entries: 40,
            tombstones: 6,
            sequence_min: 61,
            sequence_max: 100,
            smallest: entries[0].key.clone(),
            largest: entries[39].key.clone(),
            expiry: Some(Expiry { entries: 12, first: 3, last: 9000, half: NEVER }),
            references: BTreeMap::from([(4, 1000), (9, 300)]),
        }
    }

    /// Bytes that the decoder of that name accepts, some of them with the checksum that the target adds itself.
    fn valid(name: &str) -> Vec<u8> {
        let mut batch = WriteBatch::new();
        for n in 0..5 {
            batch.put(Cf(n), vec![n; 3], vec![n; 40 * usize::from(n)]);
            batch.delete(Cf(n), vec![n]);
            batch.put_until(Cf(n), vec![n; 2], vec![n; 9], 1 << (8 * n));
        }
        let mut block = BlockBuilder::new();
        for entry in entries() {
            block.add(&entry.key.encode(), &entry.value);
        }
        let block = block.finish();
        let mut out = Vec::new();
        match name {
            "batch" => out = encode_batch(&batch),
            "block" => out = block,
            "current" => out = manifest::encode_current(7).into_bytes(),
            "edit" => {
                let segment = SegmentMeta { number: 4, bucket: 1, bytes: 2000, values: 9 };
                let edit = Edit {
                    added: vec![(0, meta()), (6, TableMeta { number: 8, ..meta() })],
                    removed: BTreeSet::from([1]),
                    segments_added: vec![segment],
                    segments_removed: BTreeSet::from([2]),
                    log_start: Some(5),
                    next_file: Some(9),
                    flushed_sequence: Some(100),
                };
                out = edit.encode();
            }
            "filter" => out = filter::build(&[1, 2, 3].map(|n| filter::hash(&[n])), 10),
            "footer" => {
                let handle = |offset| Handle { offset, len: 100 };
                let (top_index, filter, properties) = (handle(1), handle(2), handle(3));
                out = Footer { top_index, filter, properties, expires: true }.encode();
                out.truncate(FOOTER_BYTES - 12);
            }
            "frame" | "segment" => {
                for (payload, kind) in [(encode_batch(&batch), 1), (b"second".to_vec(), 2)] {
                    let offset = (frame::HEADER_BYTES + out.len()) as u64;
                    let durable = if kind == 2 { offset } else { 0 };
                    frame::encode(&mut out, ID, offset, Frame { kind, durable, payload: &payload });
                }
            }
            "internal_key" => out = entries()[7].key.encode(),
            "options" => out = Options::tiny().to_toml().into_bytes(),
            "pointer" => out = Pointer { segment: 300, offset: 1 << 40, len: 70_000 }.encode(),
            "properties" => meta().encode_properties(&mut out),
            "section" => {
                out = seal_section(block.repeat(4), Compression::Lz4);
                out.truncate(out.len() - 4);
            }
            "value_record" => {
                let place = (ID, record::HEADER_BYTES as u64);
                record::append(&mut out, place, b"\0key", &[7; 300], Compression::Lz4);
            }
            "value_header" => out = record::header(ID).to_vec(),
            other => panic!("{other} has no example"),
        }
        out
    }

    /// A change of bytes: where, in which way, by what.
    type Change = (prop::sample::Index, u8, u8);

    fn change(data: &mut Vec<u8>, (at, way, by): &Change) {
        let at = at.index(data.len() + 1);
        let end = data.len().min(at + usize::from(*by));
        match way % 5 {
            0 => data.insert(at, *by),
            1 => drop(data.drain(at..end)),
            2 => {
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy).for_each(drop);
            }
            3 => data.truncate(at),
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= *by;
                }
            }
        }
    }

    #[test]
    fn what_was_encoded_is_accepted() {
        for (name, target) in TARGETS {
            target(&valid(name));
        }
        assert!(decode_batch(&valid("batch")).is_some_and(|batch| batch.len() == 15));
        assert!(Edit::decode(&valid("edit")).is_some_and(|edit| edit.added.len() == 2));
        assert_eq!(manifest::parse_current(&valid("current")), Some(7));
        assert!(TableMeta::decode_properties(&valid("properties"), 1, true) == Some(meta()));
        assert!(Options::from_toml(&String::from_utf8(valid("options")).unwrap()).is_ok());
    }

    #[test]
    fn every_decoder_has_a_target_for_fuzzing() {
        let manifest = include_str!("../fuzz/Cargo.toml");
        let named: Vec<&str> =
            manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/")).collect();
        let expected: Vec<String> = TARGETS.iter().map(|(name, _)| format!("{name}.rs\"")).collect();
        assert_eq!(named, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_decoder_panics_over_any_bytes(data in vec(any::<u8>(), 0..300)) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }

        #[test]
        fn no_decoder_panics_over_changed_bytes(changes in vec(any::<Change>(), 1..6)) {
            for (name, target) in TARGETS {
                let mut data = valid(name);
                for by in &changes {
                    change(&mut data, by);
                }
                target(&data);
            }
        }
    }
}
