//! The rows of a region as they travel.
//!
//! ```text
//! rows = row*                                          strictly ascending by (family, key)
//! row  = | family u8 (0, 1, 2) | uvarint length, key | uvarint length, value |
//! ```

use crate::mvcc;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use nokv_engine::Cf;
use prost::encoding::{decode_varint, encode_varint};

/// The families of a region's data.
pub(crate) const FAMILIES: [Cf; 3] = [mvcc::CF_DEFAULT, mvcc::CF_LOCK, mvcc::CF_WRITE];
/// What a row weighs besides key and value, at most.
const ROW_BYTES: usize = 21;

/// Adds a row.
pub(crate) fn push(out: &mut BytesMut, cf: Cf, key: &[u8], value: &[u8]) {
    out.reserve(ROW_BYTES + key.len() + value.len());
    out.put_u8(cf.0);
    for part in [key, value] {
        encode_varint(part.len() as u64, out);
        out.put_slice(part);
    }
}

/// A row of `rows`, which must not be empty, and takes it off. The error says what is wrong with it.
pub(crate) fn pop(rows: &mut Bytes) -> Result<(Cf, Bytes, Bytes), &'static str> {
    let cf = Cf(rows.try_get_u8().map_err(|_| "no row")?);
    if !FAMILIES.contains(&cf) {
        return Err("a row of an unknown family");
    }
    Ok((cf, piece(rows)?, piece(rows)?))
}

fn piece(rows: &mut Bytes) -> Result<Bytes, &'static str> {
    let length = decode_varint(rows).map_err(|_| "a row is cut off")?;
    match usize::try_from(length) {
        Ok(length) if length <= rows.len() => Ok(rows.split_to(length)),
        _ => Err("a row is cut off"),
    }
}

/// What a stream of rows adds up to, however it is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    /// Number of rows.
    pub(crate) rows: u64,
    /// Of all their bytes.
    pub(crate) crc: u32,
}

impl Sum {
    /// Both in one number, for whoever watches.
    pub(crate) fn digest(self) -> u64 {
        self.rows << 32 | u64::from(self.crc)
    }

    /// With one more chunk.
    pub(crate) fn and(self, chunk: &[u8], rows: u64) -> Self {
        Self { rows: self.rows + rows, crc: crc32c::crc32c_append(self.crc, chunk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_rows() -> Bytes {
        let mut out = BytesMut::new();
        push(&mut out, Cf(0), b"k", b"value");
        push(&mut out, Cf(2), b"k", b"");
        out.freeze()
    }

    #[test]
    fn rows_are_golden() {
        let mut rows = two_rows();
        assert_eq!(&rows[..], b"\x00\x01k\x05value\x02\x01k\x00");
        assert_eq!(pop(&mut rows), Ok((Cf(0), "k".into(), "value".into())));
        assert_eq!(pop(&mut rows), Ok((Cf(2), "k".into(), "".into())));
        assert!(rows.is_empty() && pop(&mut rows).is_err());
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        let first = two_rows().slice(..8);
        for length in 0..first.len() {
            assert!(pop(&mut first.slice(..length)).is_err(), "{length}");
        }
        assert!(pop(&mut Bytes::from_static(b"\x03\x01k\x00")).is_err());
    }

    #[test]
    fn a_sum_does_not_depend_on_the_cuts() {
        let rows = two_rows();
        let whole = Sum::default().and(&rows, 2);
        let pieces = Sum::default().and(&rows[..8], 1).and(&rows[8..], 1);
        assert_eq!(whole, pieces);
        assert_ne!(whole, Sum::default().and(&rows[8..], 1).and(&rows[..8], 1));
    }
}
