//! The bytes of a table file around its blocks.
//!
//! ```text
//! table      = section* footer
//! section    = | body | codec u8 | crc u32 |                  crc over body and codec
//! sections   : data block*, interleaved with index blocks; then filter (maybe), top index, properties
//! handle     = | offset u64 | length u32 |                    of a section, trailer included
//! footer     = | top index handle | filter handle | properties handle | version u32 | crc u32 | magic [8] |
//! properties = | number u64 | entries u64 | tombstones u64 | sequence min u64 | sequence max u64 |
//!              | length u32 | smallest key | length u32 | largest key | expiry (version 2) | reference* |
//! expiry     = | entries u64 | first u64 | last u64 | half u64 |      of entries that have an end, see [`Expiry`]
//! reference  = | segment u64 | bytes u64 |                    of the value log: what the table's pointers take
//! ```
//! Numbers are little-endian, checksums CRC-32C. An index entry's key is the last key below it, its value a
//! handle. The top index points at index blocks, an index block at data blocks. A filter handle of length 0: none.
//! Version 2 is that of tables that have entries with an expiry, and no others: releases that know none refuse them.

use crate::coding::{Reader, is_lz4_size_sane, put_bytes};
use crate::key::InternalKey;
use crate::options::Compression;
use crate::value::NEVER;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Codec of a section. On disk: never renumber.
const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;
/// Bytes behind a section's body.
pub(crate) const TRAILER_BYTES: usize = 5;
/// Bytes of the footer.
pub(crate) const FOOTER_BYTES: usize = 3 * HANDLE_BYTES + 16;
const HANDLE_BYTES: usize = 12;
const MAGIC: [u8; 8] = *b"NoKV-sst";
const VERSION: u32 = 1;
const VERSION_WITH_EXPIRY: u32 = 2;
/// A decompressed section larger than this is nonsense.
const SECTION_BYTES_MAX: usize = 1 << 30;

/// Where a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Handle {
    pub(crate) offset: u64,
    /// With its trailer.
    pub(crate) len: u32,
}

impl Handle {
    pub(crate) fn encode(self) -> [u8; HANDLE_BYTES] {
        let mut out = [0; HANDLE_BYTES];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        Some(Self { offset: reader.u64()?, len: reader.u32()? })
    }
}

/// Turns a body into a section.
pub(crate) fn seal_section(body: Vec<u8>, compression: Compression) -> Vec<u8> {
    let (mut section, codec) = match compression {
        Compression::Lz4 => {
            let compressed = lz4_flex::block::compress_prepend_size(&body);
            if compressed.len() <= body.len() - body.len() / 8 {
                (compressed, CODEC_LZ4)
            } else {
                (body, CODEC_RAW)
            }
        }
        Compression::None => (body, CODEC_RAW),
    };
    section.push(codec);
    let crc = crc32c::crc32c(&section);
    section.extend_from_slice(&crc.to_le_bytes());
    section
}

/// A section whose checksum holds.
enum Checked<'a> {
    Raw(&'a [u8]),
    Decompressed(Bytes),
}

/// The body of a section; the error says what is wrong with it.
pub(crate) fn open_section(mut section: Vec<u8>) -> Result<Bytes, &'static str> {
    match check_section(&section)? {
        Checked::Raw(body) => {
            section.truncate(body.len());
            Ok(section.into())
        }
        Checked::Decompressed(body) => Ok(body),
    }
}

/// The same for a section that is part of something larger, whose memory the body does not keep.
pub(crate) fn open_copy(section: &[u8]) -> Result<Bytes, &'static str> {
    match check_section(section)? {
        Checked::Raw(body) => Ok(Bytes::copy_from_slice(body)),
        Checked::Decompressed(body) => Ok(body),
    }
}

fn check_section(section: &[u8]) -> Result<Checked<'_>, &'static str> {
    let (checked, crc) = section.split_last_chunk::<4>().ok_or("the section is too short")?;
    if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
        return Err("the section fails its checksum");
    }
    let (codec, body) = checked.split_last().ok_or("the section is too short")?;
    match *codec {
        CODEC_RAW => Ok(Checked::Raw(body)),
        CODEC_LZ4 => {
            if !is_lz4_size_sane(body, SECTION_BYTES_MAX) {
                return Err("the compressed section claims an absurd size");
            }
            let body = lz4_flex::block::decompress_size_prepended(body);
            body.map(|body| Checked::Decompressed(body.into())).map_err(|_| "the section does not decompress")
        }
        _ => Err("the section's codec is not known to this release"),
    }
}

/// Where the parts of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) top_index: Handle,
    pub(crate) filter: Handle,
    pub(crate) properties: Handle,
    /// Whether there are entries with an expiry, and properties of them.
    pub(crate) expires: bool,
}

impl Footer {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        for handle in [self.top_index, self.filter, self.properties] {
            out.extend_from_slice(&handle.encode());
        }
        let version = if self.expires { VERSION_WITH_EXPIRY } else { VERSION };
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, String> {
        let (checked, magic) = data.split_last_chunk::<8>().ok_or("the footer is too short")?;
        if *magic != MAGIC {
            return Err("this is not a table, or its end is missing".to_owned());
        }
        let (checked, crc) = checked.split_last_chunk::<4>().ok_or("the footer is too short")?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
            return Err("the footer fails its checksum".to_owned());
        }
        let version = Reader::at(checked, 3 * HANDLE_BYTES).u32();
        let expires = match version {
            Some(VERSION) => false,
            Some(VERSION_WITH_EXPIRY) => true,
            _ => return Err(format!("format version {version:?} is not known to this release")),
        };
        let handle = |n: usize| Handle::decode(&checked[n * HANDLE_BYTES..]).ok_or("the footer is too short");
        Ok(Self { top_index: handle(0)?, filter: handle(1)?, properties: handle(2)?, expires })
    }
}

/// What is known about the entries of a table that have an end. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// How many they are; at least 1.
    pub(crate) entries: u64,
    /// When the first of them ends.
    pub(crate) first: u64,
    /// When the last of them ends.
    pub(crate) last: u64,
    /// When half of the table's bytes, those of values in the value log included, are of entries that have ended;
    /// [`NEVER`] if it does not come to that.
    pub(crate) half: u64,
}

impl Expiry {
    /// Of a table with these entries that have an end, each with its bytes, of `bytes` in all.
    pub(crate) fn of(mut ends: Vec<(u64, u64)>, bytes: u64) -> Option<Self> {
        ends.sort_unstable();
        let ((first, _), (last, _)) = (*ends.first()?, *ends.last()?);
        let mut ended = 0;
        let is_half = |(_, bytes_of_one): &&(u64, u64)| {
            ended += bytes_of_one;
            ended * 2 >= bytes
        };
        let half = ends.iter().find(is_half).map_or(NEVER, |(until, _)| *until);
        Some(Self { entries: ends.len() as u64, first, last, half })
    }

    pub(crate) fn encode_to(self, out: &mut Vec<u8>) {
        for number in [self.entries, self.first, self.last, self.half] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (entries, first, last, half) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let is_sane = entries > 0 && first <= last && last != NEVER && first <= half;
        is_sane.then_some(Self { entries, first, last, half })
    }
}

/// What is known about a table without reading it. Stored in the table and in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMeta {
    /// Names the file.
    pub(crate) number: u64,
    /// Length of the file. Not in the properties: the file knows it.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) tombstones: u64,
    pub(crate) sequence_min: u64,
    pub(crate) sequence_max: u64,
    pub(crate) smallest: InternalKey,
    pub(crate) largest: InternalKey,
    /// Of entries that have an end, if there are any.
    pub(crate) expiry: Option<Expiry>,
    /// Bytes of the value log that the table's pointers take, by segment.
    pub(crate) references: BTreeMap<u64, u64>,
}

impl TableMeta {
    /// The properties without expiry and references.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        for number in [self.number, self.entries, self.tombstones, self.sequence_min, self.sequence_max] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_bytes(out, &self.smallest.encode());
        put_bytes(out, &self.largest.encode());
    }

    pub(crate) fn encode_properties(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        if let Some(expiry) = self.expiry {
            expiry.encode_to(out);
        }
        for (segment, bytes) in &self.references {
            out.extend_from_slice(&segment.to_le_bytes());
            out.extend_from_slice(&bytes.to_le_bytes());
        }
    }

    /// Reads all the properties of a table of `bytes` bytes whose footer says whether entries of it have an end.
    pub(crate) fn decode_properties(data: &[u8], bytes: u64, expires: bool) -> Option<Self> {
        let mut reader = Reader::new(data);
        let mut meta = Self::decode_head(&mut reader, bytes)?;
        if expires {
            meta.expiry = Some(Expiry::decode(&mut reader)?);
        }
        while !reader.is_empty() {
            meta.references.insert(reader.u64()?, reader.u64()?);
        }
        Some(meta)
    }

    /// Bytes of the table and of the values it points at.
    pub(crate) fn bytes_with_values(&self) -> u64 {
        self.bytes + self.references.values().sum::<u64>()
    }

    /// Whether at least half of it is of entries that have ended at `now`, milliseconds since the Unix epoch.
    pub(crate) fn is_half_expired(&self, now: u64) -> bool {
        self.expiry.is_some_and(|expiry| expiry.half <= now)
    }

    /// Whether all its entries have ended.
    pub(crate) fn is_wholly_expired(&self, now: u64) -> bool {
        self.expiry.is_some_and(|expiry| expiry.entries == self.entries && expiry.last <= now)
    }

    /// Reads the properties but for expiry and references.
    pub(crate) fn decode_head(reader: &mut Reader<'_>, bytes: u64) -> Option<Self> {
        Some(Self {
            bytes,
            number: reader.u64()?,
            entries: reader.u64()?,
            tombstones: reader.u64()?,
            sequence_min: reader.u64()?,
            sequence_max: reader.u64()?,
            smallest: InternalKey::decode(reader.bytes()?)?,
            largest: InternalKey::decode(reader.bytes()?)?,
            expiry: None,
            references: BTreeMap::new(),
        })
    }

    /// Whether the user key ranges of both tables touch.
    pub(crate) fn overlaps(&self, other: &TableMeta) -> bool {
        let disjoint = |a: &TableMeta, b: &TableMeta| {
            (a.largest.cf, &a.largest.user) < (b.smallest.cf, &b.smallest.user)
        };
        !disjoint(self, other) && !disjoint(other, self)
    }

    /// Whether the table's range begins at or before this user key.
    pub(crate) fn begins_by(&self, cf: u8, user: &[u8]) -> bool {
        (self.smallest.cf, &self.smallest.user[..]) <= (cf, user)
    }

    /// Whether the table's range holds this user key.
    pub(crate) fn covers(&self, cf: u8, user: &[u8]) -> bool {
        self.begins_by(cf, user) && (cf, user) <= (self.largest.cf, &self.largest.user[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cf;

    #[test]
    fn the_bytes_are_these() {
        let raw = seal_section(b"body".to_vec(), Compression::None);
        assert_eq!(raw, [b"body".as_slice(), &[0], &crc32c::crc32c(b"body\0").to_le_bytes()].concat());

        let handle = |offset| Handle { offset, len: 9 };
        let mut footer =
            Footer { top_index: handle(1), filter: handle(2), properties: handle(3), expires: false };
        let mut golden = Vec::new();
        for n in 1..=3 {
            golden.extend_from_slice(&[n, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        }
        golden.extend_from_slice(&[1, 0, 0, 0]);
        golden.extend_from_slice(&crc32c::crc32c(&golden).to_le_bytes());
        golden.extend_from_slice(b"NoKV-sst");
        assert_eq!(footer.encode(), golden);
        assert_eq!(Footer::decode(&golden), Ok(footer));

        golden.truncate(36);
        golden.extend_from_slice(&[2, 0, 0, 0]);
        golden.extend_from_slice(&crc32c::crc32c(&golden).to_le_bytes());
        golden.extend_from_slice(b"NoKV-sst");
        footer.expires = true;
        assert_eq!(footer.encode(), golden);
        assert_eq!(Footer::decode(&golden), Ok(footer));
    }

    #[test]
    fn a_table_knows_when_half_of_it_has_ended() {
        let of = |ends: &[(u64, u64)], bytes| Expiry::of(ends.to_vec(), bytes);
        assert_eq!(of(&[], 100), None);
        let ends = [(30, 10), (10, 20), (20, 30), (40, 5)];
        assert_eq!(of(&ends, 65), Some(Expiry { entries: 4, first: 10, last: 40, half: 20 }));
        assert_eq!(of(&ends, 101).map(|expiry| expiry.half), Some(30));
        assert_eq!(of(&ends, 130).map(|expiry| expiry.half), Some(40));
        assert_eq!(of(&ends, 131).map(|expiry| expiry.half), Some(NEVER));
        let expiry = Expiry { entries: 1, first: 2, last: 3, half: 0x0104 };
        let mut bytes = Vec::new();
        expiry.encode_to(&mut bytes);
        let eight = |n: u8, m: u8| [n, m, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, [eight(1, 0), eight(2, 0), eight(3, 0), eight(4, 1)].concat());
        assert_eq!(Expiry::decode(&mut Reader::new(&bytes)), Some(expiry));
        assert_eq!(Expiry::decode(&mut Reader::new(&bytes[..31])), None);
        bytes[0] = 0;
        assert_eq!(Expiry::decode(&mut Reader::new(&bytes)), None, "no entries");
    }

    #[test]
    fn properties_come_back() {
        let key = |user: &'static str, sequence| InternalKey::new(Cf(2), user.into(), sequence);
        let meta = TableMeta {
            number: 4,
            bytes: 77,
            entries: 5,
            tombstones: 1,
            sequence_min: 3,
            sequence_max: 9,
            smallest: key("a", 9),
            largest: key("z", 3),
            expiry: None,
            references: BTreeMap::from([(6, 100), (8, 1)]),
        };
        let expiry = Some(Expiry { entries: 2, first: 10, last: 30, half: NEVER });
        for meta in [meta.clone(), TableMeta { expiry, ..meta }] {
            let (mut out, expires) = (Vec::new(), meta.expiry.is_some());
            meta.encode_properties(&mut out);
            assert_eq!(TableMeta::decode_properties(&out, 77, expires), Some(meta.clone()));
            assert_eq!(TableMeta::decode_properties(&out[..out.len() - 1], 77, expires), None);
            assert_eq!(meta.bytes_with_values(), 178);
        }
    }

    #[test]
    fn sections_come_back_and_rot_is_noticed() {
        for compression in [Compression::None, Compression::Lz4] {
            let body = b"the same again, the same again, the same again, the same again".to_vec();
            let section = seal_section(body.clone(), compression);
            assert_eq!(section.len() < body.len(), compression == Compression::Lz4);
            assert_eq!(open_copy(&section), Ok(body.clone().into()));
            assert_eq!(open_section(section.clone()), Ok(body.into()));
            for at in 0..section.len() {
                let mut bad = section.clone();
                bad[at] ^= 4;
                assert!(open_section(bad).is_err());
            }
        }
    }
}
