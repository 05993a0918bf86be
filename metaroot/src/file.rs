//! Small files with a guard around them: magic, version, length, checksum.
//!
//! ```text
//! | magic [8] | version u32 | payload length u64 | crc32c u32 | payload |     little-endian
//! ```
//! The checksum covers everything but itself. Such a file is always replaced as a whole, so any damage is
//! damage, never a torn tail, and nothing is guessed: reading fails and names file and offset.

use crate::Error;
use nokv_env::Disk;
use nokv_env::disk::{read_all, write_atomically};
use std::io;
use std::path::Path;

/// Which kind of file; the first eight bytes.
pub(crate) type Magic = [u8; 8];

const VERSION: u32 = 1;
const VERSION_AT: usize = 8;
const LENGTH_AT: usize = 12;
const CHECKSUM_AT: usize = 20;
const PAYLOAD_AT: usize = 24;

/// Replaces the file, durably.
pub(crate) fn write(disk: &dyn Disk, path: &Path, magic: Magic, payload: &[u8]) -> Result<(), Error> {
    write_atomically(disk, path, &encode(magic, payload)).map_err(|source| Error::io("write", path, source))
}

/// The payload; `None` if there is no such file.
pub(crate) fn read(disk: &dyn Disk, path: &Path, magic: Magic) -> Result<Option<Vec<u8>>, Error> {
    let bytes = match read_all(disk, path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io("read", path, source)),
    };
    match decode(magic, &bytes) {
        Ok(payload) => Ok(Some(payload.to_vec())),
        Err((offset, what)) => Err(Error::corrupt(path, offset, what)),
    }
}

/// Where the payload starts, for errors found inside it.
pub(crate) const fn payload_offset() -> u64 {
    PAYLOAD_AT as u64
}

fn encode(magic: Magic, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAYLOAD_AT + payload.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload, or offset and kind of the damage.
fn decode(magic: Magic, bytes: &[u8]) -> Result<&[u8], (usize, &'static str)> {
    let Some((header, payload)) = bytes.split_at_checked(PAYLOAD_AT) else {
        return Err((bytes.len(), "file ends inside its header"));
    };
    if header[..VERSION_AT] != magic {
        return Err((0, "not a file of this kind (magic differs)"));
    }
    let length = u64::from_le_bytes(array(&header[LENGTH_AT..CHECKSUM_AT]));
    let checksum = u32::from_le_bytes(array(&header[CHECKSUM_AT..]));
    if crc32c::crc32c_append(crc32c::crc32c(&header[..CHECKSUM_AT]), payload) != checksum {
        return Err((CHECKSUM_AT, "checksum does not match"));
    }
    if u32::from_le_bytes(array(&header[VERSION_AT..LENGTH_AT])) != VERSION {
        return Err((VERSION_AT, "written by another version of the software"));
    }
    if length != payload.len() as u64 {
        return Err((LENGTH_AT, "length does not match"));
    }
    Ok(payload)
}

/// The caller cuts exactly `N` bytes.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = *b"TESTFILE";

    #[test]
    fn the_format_is_golden() {
        let bytes = encode(MAGIC, b"hi");
        let mut expected = b"TESTFILE\x01\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        let checksum = crc32c::crc32c(&[&expected[..], b"hi"].concat());
        expected.extend_from_slice(&checksum.to_le_bytes());
        expected.extend_from_slice(b"hi");
        assert_eq!(bytes, expected);
        assert_eq!(decode(MAGIC, &bytes), Ok(&b"hi"[..]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(MAGIC, b"payload");
        for at in 0..bytes.len() {
            assert!(decode(MAGIC, &bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(MAGIC, &damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert_eq!(decode(*b"OTHERONE", &bytes).map_err(|(at, _)| at), Err(0));
    }
}
