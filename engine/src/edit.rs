//! One step of the manifest: which tables and segments of the value log come and go, and from where the write-ahead log
//! still matters.
//!
//! ```text
//! edit  = field*
//! field = | 1 u8 | level u8 | bytes u64 | properties |      a table joins a level (properties: see table::format)
//!         | 2 u8 | number u64 |                             a table leaves
//!         | 3 u8 | segment u64 |                            older log segments are not needed any more
//!         | 4 u8 | number u64 |                             files of this number and above do not exist yet
//!         | 5 u8 | sequence u64 |                           all writes up to here are in tables
//!         | 6 u8 | segment u64 | bytes u64 |                the table that joined last points at so much of a segment
//!         | 7 u8 | bucket u8 | number u64 | bytes u64 | values u64 |     a segment of the value log joins
//!         | 8 u8 | number u64 |                             a segment of the value log leaves
//!         | 9 u8 | expiry |                                 of the table that joined last (see table::format)
//! ```
//! Numbers are little-endian. Tags are on disk: never renumber.

use crate::coding::Reader;
use crate::table::format::{Expiry, TableMeta};
use crate::vlog::{BUCKETS, SegmentMeta};
use std::collections::{BTreeMap, BTreeSet};

const TAG_ADDED: u8 = 1;
const TAG_REMOVED: u8 = 2;
const TAG_LOG_START: u8 = 3;
const TAG_NEXT_FILE: u8 = 4;
const TAG_FLUSHED: u8 = 5;
const TAG_REFERENCE: u8 = 6;
const TAG_SEGMENT_ADDED: u8 = 7;
const TAG_SEGMENT_REMOVED: u8 = 8;
const TAG_EXPIRY: u8 = 9;

/// A change of the live tables and segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) added: Vec<(usize, TableMeta)>,
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) segments_added: Vec<SegmentMeta>,
    pub(crate) segments_removed: BTreeSet<u64>,
    pub(crate) log_start: Option<u64>,
    pub(crate) next_file: Option<u64>,
    pub(crate) flushed_sequence: Option<u64>,
}

impl Edit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in &self.removed {
            put_number(&mut out, TAG_REMOVED, Some(*number));
        }
        for (level, meta) in &self.added {
            out.extend_from_slice(&[TAG_ADDED, *level as u8]);
            out.extend_from_slice(&meta.bytes.to_le_bytes());
            meta.encode_head(&mut out);
            if let Some(expiry) = meta.expiry {
                out.push(TAG_EXPIRY);
                expiry.encode_to(&mut out);
            }
            for (segment, bytes) in &meta.references {
                put_number(&mut out, TAG_REFERENCE, Some(*segment));
                out.extend_from_slice(&bytes.to_le_bytes());
            }
        }
        for number in &self.segments_removed {
            put_number(&mut out, TAG_SEGMENT_REMOVED, Some(*number));
        }
        for meta in &self.segments_added {
            out.extend_from_slice(&[TAG_SEGMENT_ADDED, meta.bucket]);
            for number in [meta.number, meta.bytes, meta.values] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        put_number(&mut out, TAG_LOG_START, self.log_start);
        put_number(&mut out, TAG_NEXT_FILE, self.next_file);
        put_number(&mut out, TAG_FLUSHED, self.flushed_sequence);
        out
    }

    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let mut edit = Self::default();
        let mut reader = Reader::new(data);
        while !reader.is_empty() {
            match reader.u8()? {
                TAG_ADDED => {
                    let (level, bytes) = (reader.u8()?, reader.u64()?);
                    edit.added.push((level as usize, TableMeta::decode_head(&mut reader, bytes)?));
                }
                TAG_REMOVED => drop(edit.removed.insert(reader.u64()?)),
                TAG_REFERENCE => {
                    let (_, meta) = edit.added.last_mut()?;
                    meta.references.insert(reader.u64()?, reader.u64()?);
                }
                TAG_EXPIRY => {
                    let (_, meta) = edit.added.last_mut()?;
                    meta.expiry = Some(Expiry::decode(&mut reader)?);
                }
                TAG_SEGMENT_ADDED => edit.segments_added.push(SegmentMeta {
                    bucket: reader.u8().filter(|bucket| *bucket < BUCKETS)?,
                    number: reader.u64()?,
                    bytes: reader.u64()?,
                    values: reader.u64()?,
                }),
                TAG_SEGMENT_REMOVED => drop(edit.segments_removed.insert(reader.u64()?)),
                TAG_LOG_START => edit.log_start = Some(reader.u64()?),
                TAG_NEXT_FILE => edit.next_file = Some(reader.u64()?),
                TAG_FLUSHED => edit.flushed_sequence = Some(reader.u64()?),
                _ => return None,
            }
        }
        Some(edit)
    }
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: Option<u64>) {
    if let Some(number) = number {
        out.push(tag);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The sum of edits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// By number: level and description.
    pub(crate) tables: BTreeMap<u64, (usize, TableMeta)>,
    /// Segments of the value log, by number.
    pub(crate) segments: BTreeMap<u64, SegmentMeta>,
    pub(crate) log_start: u64,
    pub(crate) next_file: u64,
    pub(crate) flushed_sequence: u64,
}

impl Catalog {
    /// Applies one edit; the error says why it does not fit.
    pub(crate) fn apply(&mut self, edit: Edit) -> Result<(), String> {
        for number in edit.removed {
            self.tables.remove(&number).ok_or_else(|| format!("table {number} leaves but was not there"))?;
        }
        for (level, meta) in edit.added {
            let number = meta.number;
            if self.tables.insert(number, (level, meta)).is_some() {
                return Err(format!("table {number} joins twice"));
            }
        }
        for number in edit.segments_removed {
            self.segments
                .remove(&number)
                .ok_or_else(|| format!("segment {number} leaves but was not there"))?;
        }
        for meta in edit.segments_added {
            if self.segments.insert(meta.number, meta).is_some() {
                return Err(format!("segment {} joins twice", meta.number));
            }
        }
        raise(&mut self.log_start, edit.log_start);
        raise(&mut self.next_file, edit.next_file);
        raise(&mut self.flushed_sequence, edit.flushed_sequence);
        Ok(())
    }

    /// Bytes of a segment of the value log that tables point at.
    pub(crate) fn referenced(&self, segment: u64) -> u64 {
        self.tables.values().filter_map(|(_, meta)| meta.references.get(&segment)).sum()
    }

    /// The one edit that makes this catalog out of nothing.
    pub(crate) fn as_edit(&self) -> Edit {
        Edit {
            added: self.tables.values().cloned().collect(),
            segments_added: self.segments.values().copied().collect(),
            removed: BTreeSet::new(),
            segments_removed: BTreeSet::new(),
            log_start: Some(self.log_start),
            next_file: Some(self.next_file),
            flushed_sequence: Some(self.flushed_sequence),
        }
    }
}

/// All three numbers only grow.
fn raise(number: &mut u64, to: Option<u64>) {
    *number = to.map_or(*number, |to| to.max(*number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;
    use crate::key::InternalKey;

    fn meta(number: u64) -> TableMeta {
        let key = |user: &'static str| InternalKey::new(Cf(0), user.into(), 1);
        TableMeta {
            number,
            bytes: 2,
            entries: 3,
            tombstones: 4,
            sequence_min: 5,
            sequence_max: 6,
            smallest: key("a"),
            largest: key("b"),
            expiry: None,
            references: BTreeMap::new(),
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let mut table = meta(9);
        table.references.insert(10, 11);
        table.expiry = Some(Expiry { entries: 20, first: 21, last: 22, half: 23 });
        let edit = Edit {
            added: vec![(1, table)],
            removed: BTreeSet::from([7]),
            segments_added: vec![SegmentMeta { number: 10, bucket: 1, bytes: 12, values: 13 }],
            segments_removed: BTreeSet::from([14]),
            log_start: Some(3),
            next_file: None,
            flushed_sequence: Some(8),
        };
        let eight = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let mut golden = [[2].as_slice(), &eight(7), &[1, 1], &eight(2), &eight(9), &eight(3)].concat();
        golden.extend([eight(4), eight(5), eight(6)].concat());
        for user in [b'a', b'b'] {
            golden.extend([10, 0, 0, 0, 0, user, 255, 255, 255, 255, 255, 255, 255, 254]);
        }
        golden.extend([[9].as_slice(), &eight(20), &eight(21), &eight(22), &eight(23)].concat());
        golden.extend([[6].as_slice(), &eight(10), &eight(11), &[8], &eight(14)].concat());
        golden.extend([[7, 1].as_slice(), &eight(10), &eight(12), &eight(13)].concat());
        golden.extend([[3].as_slice(), &eight(3), &[5], &eight(8)].concat());
        assert_eq!(edit.encode(), golden);
        assert_eq!(Edit::decode(&golden), Some(edit));
        assert_eq!(Edit::decode(&golden[..golden.len() - 1]), None);
    }

    #[test]
    fn a_catalog_is_the_sum_of_its_edits() {
        let mut catalog = Catalog::default();
        let added = vec![(0, meta(1)), (0, meta(2))];
        let segments_added = vec![SegmentMeta { number: 4, bucket: 0, bytes: 1, values: 1 }];
        catalog.apply(Edit { added, segments_added, next_file: Some(3), ..Edit::default() }).unwrap();
        assert!(catalog.clone().apply(Edit { segments_removed: [5].into(), ..Edit::default() }).is_err());
        let moved = Edit { added: vec![(1, meta(1))], removed: BTreeSet::from([1]), ..Edit::default() };
        catalog.apply(moved).unwrap();
        assert_eq!(catalog.tables[&1].0, 1);
        let mut copy = Catalog::default();
        copy.apply(catalog.as_edit()).unwrap();
        assert_eq!(copy, catalog);
        assert!(catalog.apply(Edit { removed: BTreeSet::from([5]), ..Edit::default() }).is_err());
        assert!(catalog.apply(Edit { added: vec![(3, meta(2))], ..Edit::default() }).is_err());
    }
}
