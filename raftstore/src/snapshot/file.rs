//! An exported snapshot: one file, or the messages of a stream, whose bytes in order are the file.
//!
//! ```text
//! file   = header chunk* end
//! header = | "nokvsnap" | format u32 (1) | length u32 | SnapshotFileHeader | crc32c u32 |
//! chunk  = | length u32, not 0 | rows | crc32c u32 |                          rows as they travel, see `super::rows`
//! end    = | 0 u32 | chunks u64 | rows u64 | crc32c u32 of all rows | crc32c u32 |
//! ```
//!
//! Little-endian; the last crc32c of a part covers all of the part in front of it. What the rows add up to comes at the
//! end, so that an export reads its rows once and keeps none of them. A message holds one part.

use super::Ticket;
use super::rows::{self, Sum};
use crate::catalog::{Gc, Members, Position};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::{SnapshotFileHeader, SnapshotTotal};
use prost::Message;

const MAGIC: &[u8; 8] = b"nokvsnap";
const FORMAT: u32 = 1;
const CRC: usize = 4;
const END_BYTES: usize = 28;
/// Bytes from which [`header_bytes`] tells how long a header is.
pub const HEADER_PREFIX: usize = 16;
/// Bytes from which [`part_bytes`] tells how long any other part is.
pub const PART_PREFIX: usize = 4;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else than a snapshot, or of another version.
    #[error("{0}")]
    Foreign(String),
    /// It ends too early.
    #[error("the snapshot is cut off")]
    CutOff,
    /// A checksum differs, or bytes make no sense.
    #[error("{0}")]
    Damaged(&'static str),
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Who exported it.
    pub store_id: u64,
    /// The region at `at`.
    pub region: RegionDescriptor,
    /// Everything up to here is in it, and nothing more.
    pub at: Position,
    /// How far the region was closed to old transactions then.
    pub gc: Gc,
    /// Who voted then.
    pub members: Members,
}

impl Header {
    /// The part that holds it.
    pub fn encode(&self) -> Bytes {
        let Members { voters, learners, voters_outgoing, learners_next, auto_leave } = self.members.clone();
        let (store_id, region, at, gc) = (self.store_id, self.region.clone(), self.at, self.gc);
        let header = SnapshotFileHeader {
            ticket: Some(Ticket { id: 0, store_id, region, at, gc }.encode()),
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        };
        let mut part = BytesMut::with_capacity(HEADER_PREFIX + header.encoded_len() + CRC);
        part.put_slice(MAGIC);
        part.put_u32_le(FORMAT);
        part.put_u32_le(header.encoded_len() as u32);
        part.put_slice(&header.encode_to_vec());
        sealed(part)
    }

    /// The header in a part.
    pub fn decode(part: &Bytes) -> Result<Self, Damage> {
        let prefix = part.first_chunk().ok_or(Damage::CutOff)?;
        let body = body(part, header_bytes(prefix)?)?.slice(HEADER_PREFIX..);
        let garbled = Damage::Damaged("the header of the snapshot makes no sense");
        let header = SnapshotFileHeader::decode(body).map_err(|_| garbled.clone())?;
        let ticket = header.ticket.ok_or_else(|| garbled.clone())?;
        let members = Members {
            voters: header.voters,
            learners: header.learners,
            voters_outgoing: header.voters_outgoing,
            learners_next: header.learners_next,
            auto_leave: header.auto_leave,
        };
        let found = Self {
            store_id: ticket.store_id,
            region: ticket.region.ok_or_else(|| garbled.clone())?,
            at: Position { index: ticket.index, term: ticket.term },
            gc: Gc { fence: ticket.gc_fence, safe_point: ticket.gc_safe_point },
            members,
        };
        if found.makes_sense() { Ok(found) } else { Err(garbled) }
    }

    fn makes_sense(&self) -> bool {
        let Members { voters, learners, voters_outgoing, .. } = &self.members;
        let mut known = voters.iter().chain(learners).chain(voters_outgoing);
        self.region.problem().is_none()
            && self.at.index > 0
            && self.at.term > 0
            && !voters.is_empty()
            && known.all(|peer| self.region.peer(*peer).is_some())
    }
}

/// What follows the header.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Some rows.
    Chunk(Bytes),
    /// What all chunks add up to.
    End(SnapshotTotal),
}

impl Part {
    /// The part's bytes.
    pub fn encode(&self) -> Bytes {
        let mut part = BytesMut::new();
        match self {
            Part::Chunk(rows) => {
                part.reserve(PART_PREFIX + rows.len() + CRC);
                part.put_u32_le(rows.len() as u32);
                part.put_slice(rows);
            }
            Part::End(total) => {
                part.put_u32_le(0);
                part.put_u64_le(total.chunks);
                part.put_u64_le(total.rows);
                part.put_u32_le(total.crc32c);
            }
        }
        sealed(part)
    }

    /// The part that these bytes are.
    pub fn decode(part: &Bytes) -> Result<Self, Damage> {
        let prefix = part.first_chunk().ok_or(Damage::CutOff)?;
        let mut body = body(part, part_bytes(*prefix)?)?.slice(PART_PREFIX..);
        if *prefix != [0; PART_PREFIX] {
            return Ok(Part::Chunk(body));
        }
        let (chunks, rows, crc32c) = (body.get_u64_le(), body.get_u64_le(), body.get_u32_le());
        Ok(Part::End(SnapshotTotal { chunks, rows, crc32c }))
    }
}

/// How long the header is that begins like this.
pub fn header_bytes(prefix: &[u8; HEADER_PREFIX]) -> Result<usize, Damage> {
    let mut prefix = &prefix[..];
    let mut magic = [0; 8];
    prefix.copy_to_slice(&mut magic);
    if magic != *MAGIC {
        return Err(Damage::Foreign("this is no snapshot of a region".into()));
    }
    let format = prefix.get_u32_le();
    if format != FORMAT {
        return Err(Damage::Foreign(format!(
            "the snapshot has format {format}; this version reads format {FORMAT}"
        )));
    }
    bounded(HEADER_PREFIX + prefix.get_u32_le() as usize + CRC)
}

/// How long the part is that begins like this.
pub fn part_bytes(prefix: [u8; PART_PREFIX]) -> Result<usize, Damage> {
    match u32::from_le_bytes(prefix) as usize {
        0 => Ok(END_BYTES),
        length => bounded(PART_PREFIX + length + CRC),
    }
}

/// A length that was damaged must not cost memory.
fn bounded(length: usize) -> Result<usize, Damage> {
    if length > MESSAGE_BYTES_MAX {
        return Err(Damage::Damaged("a part of the snapshot is longer than any can be"));
    }
    Ok(length)
}

fn sealed(mut part: BytesMut) -> Bytes {
    let crc = crc32c::crc32c(&part);
    part.put_u32_le(crc);
    part.freeze()
}

/// A part of this length without its checksum, which is right.
fn body(part: &Bytes, length: usize) -> Result<Bytes, Damage> {
    if part.len() < length {
        return Err(Damage::CutOff);
    }
    if part.len() > length {
        return Err(Damage::Damaged("there is more behind a part of the snapshot than belongs to it"));
    }
    let body = part.slice(..length - CRC);
    let stored = part.slice(length - CRC..).get_u32_le();
    if crc32c::crc32c(&body) == stored {
        Ok(body)
    } else {
        Err(Damage::Damaged("a checksum of the snapshot does not match"))
    }
}

/// Takes the bytes of the first part off `file`: of its header, or of what follows that.
pub fn take_part(file: &mut Bytes, is_header: bool) -> Result<Bytes, Damage> {
    let length = if is_header {
        header_bytes(file.first_chunk().ok_or(Damage::CutOff)?)?
    } else {
        part_bytes(*file.first_chunk().ok_or(Damage::CutOff)?)?
    };
    if file.len() < length {
        return Err(Damage::CutOff);
    }
    Ok(file.split_to(length))
}

/// Adds parts up, for whoever checks a snapshot without installing it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check {
    chunks: u64,
    sum: Sum,
    is_whole: bool,
}

impl Check {
    /// Takes the next part behind the header in. True when it was the last one and nothing is missing.
    pub fn add(&mut self, part: &Part) -> Result<bool, Damage> {
        if self.is_whole {
            return Err(Damage::Damaged("there is more behind the end of the snapshot"));
        }
        match part {
            Part::Chunk(rows) => {
                let (mut left, mut count) = (rows.clone(), 0);
                while !left.is_empty() {
                    rows::pop(&mut left).map_err(Damage::Damaged)?;
                    count += 1;
                }
                self.sum = self.sum.and(rows, count);
                self.chunks += 1;
            }
            Part::End(total) => {
                if (total.chunks, total.rows, total.crc32c) != (self.chunks, self.sum.rows, self.sum.crc) {
                    return Err(Damage::Damaged("the chunks do not add up to the snapshot"));
                }
                self.is_whole = true;
            }
        }
        Ok(self.is_whole)
    }

    /// The rows that came.
    pub fn rows(&self) -> u64 {
        self.sum.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_engine::Cf;

    fn header() -> Header {
        Header {
            store_id: 2,
            region: crate::testing::region(&[1, 2]),
            at: Position { index: 7, term: 3 },
            gc: Gc { fence: 5, safe_point: 4 },
            members: Members { voters: vec![101], learners: vec![201], ..Members::default() },
        }
    }

    fn rows() -> Bytes {
        let mut rows = BytesMut::new();
        rows::push(&mut rows, Cf(0), b"k", b"value");
        rows.freeze()
    }

    #[test]
    fn parts_are_golden() {
        let chunk = Part::Chunk(rows()).encode();
        assert_eq!(&chunk[..13], b"\x09\0\0\0\x00\x01k\x05value");
        assert_eq!(chunk.len(), 17);
        let end = Part::End(SnapshotTotal { chunks: 1, rows: 2, crc32c: 3 }).encode();
        assert_eq!(&end[..24], b"\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0");
        assert_eq!(end.len(), END_BYTES);
        assert_eq!(&header().encode()[..12], b"nokvsnap\x01\0\0\0");
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
        for part in [Part::Chunk(rows()), Part::End(SnapshotTotal { chunks: 1, rows: 1, crc32c: 9 })] {
            assert_eq!(Part::decode(&part.encode()), Ok(part));
        }
    }

    #[test]
    fn no_bit_may_flip_and_no_byte_may_miss() {
        let header = header().encode();
        for at in 0..header.len() * 8 {
            let mut bent = header.to_vec();
            bent[at / 8] ^= 1 << (at % 8);
            assert!(Header::decode(&bent.into()).is_err(), "bit {at}");
        }
        assert!((0..header.len()).all(|length| Header::decode(&header.slice(..length)).is_err()));
        for part in [Part::Chunk(rows()), Part::End(SnapshotTotal { chunks: 1, rows: 1, crc32c: 9 })] {
            let part = part.encode();
            for at in 0..part.len() * 8 {
                let mut bent = part.to_vec();
                bent[at / 8] ^= 1 << (at % 8);
                assert!(Part::decode(&bent.into()).is_err(), "bit {at}");
            }
            assert!((0..part.len()).all(|length| Part::decode(&part.slice(..length)).is_err()));
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            Header::decode(&header.encode()).is_err()
        };
        assert!(refused(|header| header.at.index = 0));
        assert!(refused(|header| header.members.voters.clear()));
        assert!(refused(|header| header.members.learners.push(9)));
        assert!(refused(|header| header.region.region_id = 0));
    }

    #[test]
    fn chunks_must_add_up() {
        let sum = Sum::default().and(&rows(), 1);
        let end = |chunks| Part::End(SnapshotTotal { chunks, rows: sum.rows, crc32c: sum.crc });
        let mut check = Check::default();
        assert_eq!(check.add(&Part::Chunk(rows())), Ok(false));
        assert!(check.clone().add(&end(2)).is_err());
        assert_eq!(check.add(&end(1)), Ok(true));
        assert!(check.add(&end(1)).is_err(), "nothing follows the end");
        assert!(Check::default().add(&end(1)).is_err(), "a chunk is missing");
    }
}
