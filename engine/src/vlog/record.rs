//! The bytes of a segment.
//!
//! ```text
//! segment = header, record*
//! header  = | magic [8] | number u64 | version u32 | crc u32 |                    crc over what stands before it
//! record  = | crc u32 | codec u8 | key length u32 | body length u32 | key | body |
//!           crc over number u64, offset u64 and the record behind the crc; codec 0: body is the value, 1: LZ4
//! ```
//! Numbers are little-endian, checksums CRC-32C. `key` is the family's byte and the user key.

use crate::batch::VALUE_BYTES_MAX;
use crate::coding::{Reader, is_lz4_size_sane};
use crate::options::Compression;
use bytes::Bytes;

const MAGIC: [u8; 8] = *b"NoKV-val";
const VERSION: u32 = 1;
/// Codecs. On disk: never renumber.
const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;
/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: usize = 24;
/// Bytes of a record besides key and body.
pub(crate) const OVERHEAD_BYTES: usize = 13;

pub(crate) fn header(number: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..20].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What is wrong with a header, if anything is.
pub(crate) fn check_header(number: u64, data: &[u8]) -> Result<(), &'static str> {
    if data == header(number) {
        return Ok(());
    }
    let sound = data.len() == HEADER_BYTES && data[..8] == MAGIC;
    let crc = |data: &[u8]| crc32c::crc32c(&data[..20]).to_le_bytes();
    if !sound || crc(data) != data[20..] {
        Err("this is not a segment of the value log, or its header is damaged")
    } else if data[8..16] != number.to_le_bytes() {
        Err("the header is another segment's")
    } else {
        Err("the segment's format version is not known to this release")
    }
}

/// Appends a record to `out`, the end of which is at `offset` of segment `number`. Returns its length.
pub(crate) fn append(
    out: &mut Vec<u8>,
    (number, offset): (u64, u64),
    key: &[u8],
    value: &[u8],
    compression: Compression,
) -> usize {
    let start = out.len();
    let packed = match compression {
        Compression::Lz4 => Some(lz4_flex::block::compress_prepend_size(value)),
        Compression::None => None,
    };
    let packed = packed.filter(|packed| packed.len() <= value.len() - value.len() / 8);
    let (codec, body) = packed.as_deref().map_or((CODEC_RAW, value), |packed| (CODEC_LZ4, packed));
    out.extend_from_slice(&[0; 4]);
    out.push(codec);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(body);
    let crc = checksum(number, offset, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.len() - start
}

/// Length of the record that begins with `head`, if that many bytes can be one.
pub(crate) fn len(head: &[u8]) -> Option<u64> {
    let mut reader = Reader::at(head, 5);
    Some(OVERHEAD_BYTES as u64 + u64::from(reader.u32()?) + u64::from(reader.u32()?))
}

/// Stored and computed checksum of a record.
pub(crate) fn checksums((number, offset): (u64, u64), record: &[u8]) -> Option<(u32, u32)> {
    let (stored, covered) = record.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*stored), checksum(number, offset, covered)))
}

/// Key and value of the record at `offset` of segment `number`; the error says what is wrong with it.
pub(crate) fn open(place: (u64, u64), record: Vec<u8>) -> Result<(Bytes, Bytes), &'static str> {
    let (stored, computed) = checksums(place, &record).ok_or("the record is too short")?;
    if stored != computed {
        return Err("the record fails its checksum");
    }
    let record = Bytes::from(record);
    if len(&record) != Some(record.len() as u64) {
        return Err("the record has another length than the pointer says");
    }
    let mut reader = Reader::at(&record, 4);
    let malformed = "the record does not decode";
    let codec = reader.u8().ok_or(malformed)?;
    let key_len = reader.u32().ok_or(malformed)? as usize;
    let key = record.slice(OVERHEAD_BYTES..OVERHEAD_BYTES + key_len);
    let body = record.slice(OVERHEAD_BYTES + key_len..);
    match codec {
        CODEC_RAW => Ok((key, body)),
        CODEC_LZ4 => {
            if !is_lz4_size_sane(&body, VALUE_BYTES_MAX) {
                return Err("the record claims an absurd size");
            }
            let value = lz4_flex::block::decompress_size_prepended(&body);
            value.map(|value| (key, value.into())).map_err(|_| "the record does not decompress")
        }
        _ => Err("the record's codec is not known to this release"),
    }
}

fn checksum(number: u64, offset: u64, covered: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&number.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_these() {
        let mut out = header(7).to_vec();
        assert_eq!(out[..20], *b"NoKV-val\x07\0\0\0\0\0\0\0\x01\0\0\0");
        assert_eq!(check_header(7, &out), Ok(()));
        let len = append(&mut out, (7, 24), b"\0k", b"value", Compression::None);
        assert_eq!(out[28..], *b"\0\x02\0\0\0\x05\0\0\0\0kvalue");
        let place = b"\x07\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\0";
        let crc = crc32c::crc32c(&[place.as_slice(), &out[28..]].concat());
        assert_eq!(out[24..28], crc.to_le_bytes());
        assert_eq!(len, out.len() - HEADER_BYTES);
        assert_eq!(super::len(&out[24..]), Some(len as u64));
        let opened = open((7, 24), out.split_off(24)).unwrap();
        assert_eq!(opened, (Bytes::from_static(b"\0k"), Bytes::from_static(b"value")));
    }

    #[test]
    fn what_is_not_this_record_is_refused() {
        for compression in [Compression::None, Compression::Lz4] {
            let mut good = Vec::new();
            append(&mut good, (7, 24), b"\0key", &[b'v'; 300], compression);
            assert_eq!(open((7, 24), good.clone()).unwrap().1, [b'v'; 300].as_slice());
            assert!(open((8, 24), good.clone()).is_err(), "another segment");
            assert!(open((7, 25), good.clone()).is_err(), "another place");
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                assert!(open((7, 24), bad).is_err(), "flipped at {at}");
                assert!(open((7, 24), good[..at].to_vec()).is_err(), "cut at {at}");
            }
        }
        for at in 0..HEADER_BYTES {
            let mut bad = header(7);
            bad[at] ^= 1;
            assert!(check_header(7, &bad).is_err());
            assert!(check_header(7, &header(7)[..at]).is_err());
        }
        assert_eq!(check_header(8, &header(7)), Err("the header is another segment's"));
    }
}
