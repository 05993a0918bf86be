//! A region's whole state in one piece, as it travels to a replica that is too far behind.
//!
//! ```text
//! "NKVSNAP1" | index u64 BE | term u64 BE | uvarint length, RegionDescriptor
//!   | [03 | uvarint length, "gc" | uvarint length, what the catalog has of it]      unless it is all zero
//!   | records: family u8 (0, 1, 2) | uvarint length, key | uvarint length, value      ascending by (family, key)
//!   | FF | count u64 BE | crc32c u32 BE of everything before it
//! ```
//!
//! Made from one engine snapshot that includes the effect of exactly the entries up to (index, term).

use crate::catalog::{self, CF_META, Gc, Position};
use crate::mvcc;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use nokv_engine as engine;
use nokv_engine::Cf;
use nokv_proto::meta::v1::RegionDescriptor;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

const MAGIC: &[u8; 8] = b"NKVSNAP1";
const END: u8 = 0xff;
const GC_KEY: &[u8] = b"gc";
const CRC_BYTES: usize = 4;

/// The families of a region's data.
pub(crate) const FAMILIES: [Cf; 3] = [mvcc::CF_DEFAULT, mvcc::CF_LOCK, mvcc::CF_WRITE];

/// An image taken apart. Keys and values share the image's memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Image {
    pub(crate) applied: Position,
    pub(crate) region: RegionDescriptor,
    pub(crate) gc: Gc,
    pub(crate) records: Vec<(Cf, Bytes, Bytes)>,
}

/// Collects a region's data from an engine snapshot.
pub(crate) fn export(
    snapshot: &engine::Snapshot,
    region: &RegionDescriptor,
    applied: Position,
) -> engine::Result<Bytes> {
    let mut image = Writer::new(region, applied);
    let gc = catalog::read_gc(snapshot, region.region_id)?;
    if gc != Gc::default() {
        image.record(CF_META, GC_KEY, &gc.encode());
    }
    for cf in FAMILIES {
        for entry in snapshot.iter(cf, mvcc::stored_bounds(&region.range())) {
            let (key, value) = entry?;
            image.record(cf, &key, &value);
        }
    }
    Ok(image.finish())
}

struct Writer {
    out: BytesMut,
    count: u64,
}

impl Writer {
    fn new(region: &RegionDescriptor, applied: Position) -> Self {
        let mut out = BytesMut::with_capacity(64 << 10);
        out.put_slice(MAGIC);
        out.put_u64(applied.index);
        out.put_u64(applied.term);
        encode_varint(region.encoded_len() as u64, &mut out);
        region.encode_raw(&mut out);
        Self { out, count: 0 }
    }

    fn record(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.out.put_u8(cf.0);
        for part in [key, value] {
            encode_varint(part.len() as u64, &mut self.out);
            self.out.put_slice(part);
        }
        self.count += 1;
    }

    fn finish(mut self) -> Bytes {
        self.out.put_u8(END);
        self.out.put_u64(self.count);
        let crc = crc32c::crc32c(&self.out);
        self.out.put_u32(crc);
        self.out.freeze()
    }
}

/// Takes an image apart after checking that it is whole. The error says what is wrong.
pub(crate) fn parse(image: &Bytes) -> Result<Image, &'static str> {
    let body_bytes = image.len().checked_sub(CRC_BYTES).ok_or("image is cut off")?;
    let crc = u32::from_be_bytes(image[body_bytes..].try_into().map_err(|_| "image is cut off")?);
    let mut rest = image.slice(..body_bytes);
    if !rest.starts_with(MAGIC) {
        return Err("not a region image of a known version");
    }
    if crc32c::crc32c(&rest) != crc {
        return Err("image does not match its checksum");
    }
    rest.advance(MAGIC.len());
    if rest.len() < 16 {
        return Err("image is cut off");
    }
    let applied = Position { index: rest.get_u64(), term: rest.get_u64() };
    let region = RegionDescriptor::decode(piece(&mut rest)?).map_err(|_| "image of an unreadable region")?;
    let (mut records, mut gc) = (Vec::new(), None);
    loop {
        if !rest.has_remaining() {
            return Err("image without an end");
        }
        match rest.get_u8() {
            END => break,
            family if Cf(family) == CF_META && gc.is_none() && records.is_empty() => {
                let (key, value) = (piece(&mut rest)?, piece(&mut rest)?);
                gc = Some(Gc::decode(&value).filter(|_| key == GC_KEY).ok_or("unreadable safe point")?);
            }
            family if FAMILIES.contains(&Cf(family)) => {
                records.push((Cf(family), piece(&mut rest)?, piece(&mut rest)?));
            }
            _ => return Err("record of an unknown family"),
        }
    }
    if rest.len() != 8 || rest.get_u64() != (records.len() + usize::from(gc.is_some())) as u64 {
        return Err("image with records missing");
    }
    Ok(Image { applied, region, gc: gc.unwrap_or_default(), records })
}

fn piece(rest: &mut Bytes) -> Result<Bytes, &'static str> {
    let length = decode_varint(rest).map_err(|_| "image is cut off")?;
    match usize::try_from(length) {
        Ok(length) if length <= rest.len() => Ok(rest.split_to(length)),
        _ => Err("image is cut off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Bytes {
        let region = RegionDescriptor { region_id: 1, ..Default::default() };
        let mut writer = Writer::new(&region, Position { index: 7, term: 2 });
        writer.record(Cf(0), b"k", b"value");
        writer.record(Cf(2), b"k", b"");
        writer.finish()
    }

    #[test]
    fn the_image_is_golden() {
        let mut golden = b"NKVSNAP1".to_vec();
        golden.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0x08, 1]);
        golden.extend(b"\x00\x01k\x05value\x02\x01k\x00\xff\x00\x00\x00\x00\x00\x00\x00\x02");
        golden.extend(crc32c::crc32c(&golden).to_be_bytes());
        assert_eq!(image(), golden);
        let parsed = parse(&image()).unwrap();
        assert_eq!(parsed.applied, Position { index: 7, term: 2 });
        assert_eq!(parsed.records.len(), 2);
        assert_eq!(parsed.records[0], (Cf(0), "k".into(), "value".into()));
    }

    #[test]
    fn any_damage_is_noticed() {
        let image = image();
        for at in 0..image.len() {
            assert!(parse(&image.slice(..at)).is_err());
            let mut bad = image.to_vec();
            bad[at] ^= 0x40;
            assert!(parse(&bad.into()).is_err(), "byte {at}");
        }
    }
}
