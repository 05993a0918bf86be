//! The bytes of one segment file: a header and frames.
//!
//! ```text
//! segment = header frame*
//! header  = | magic [8] | version u32 | id u64 | crc u32 |                     crc over what precedes it
//! frame   = | marker u32 | crc u32 | len u32 | kind u8 | durable u64 | payload [len] |
//!           crc over id u64, offset u64 (where the frame starts; both not stored), len, kind, durable, payload
//! ```
//! Numbers are little-endian, checksums CRC-32C. Because the checksum covers where a frame stands, bytes
//! that were copied, shifted or left over from elsewhere never look like a frame.
//!
//! `durable` is a claim: when this frame was made, everything below that offset had been synced. It settles
//! what a bad frame means. If a later frame claims that the bad place was durable, those bytes were damaged
//! afterwards. If none does, the place may never have reached the disk before a crash: a torn tail.
//!
//! Zeros may follow the last frame: space that was allocated ahead. They mean nothing; no frame is all zeros.

use crate::{Error, Result};
use std::path::Path;

/// Kind of the frame that ends a segment. On disk: never renumber.
pub(crate) const KIND_SEAL: u8 = 0xff;
/// Kind of a frame that only carries its claim. On disk: never renumber.
pub(crate) const KIND_CLAIM: u8 = 0xfe;
/// Kinds from here on belong to the log itself.
pub(crate) const KIND_RESERVED: u8 = 0xf0;
/// Largest payload of one frame.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: usize = 24;
/// Bytes of a frame without its payload.
pub(crate) const FRAME_BYTES: usize = 21;
const VERSION: u32 = 1;
const MARKER: [u8; 4] = [0xf7, 0x4e, 0x6f, 0x4b];

/// Which kind of file the frames are in: the first eight bytes.
pub(crate) type Magic = [u8; 8];

/// A frame that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    /// Everything below this offset was synced when the frame was made.
    pub(crate) durable: u64,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        (FRAME_BYTES + self.payload.len()) as u64
    }
}

/// The header of segment `id`.
pub(crate) fn encode_header(magic: Magic, id: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The number of the segment, as its header says.
pub(crate) fn header_id(data: &[u8]) -> Option<u64> {
    (data.len() >= HEADER_BYTES).then(|| read_u64(data, 12))
}

/// Why a header is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderFault {
    /// The file may never have had a whole header: its checksum fails, and nothing follows it. A header is synced before
    /// anything does.
    pub(crate) is_unborn: bool,
    pub(crate) what: String,
}

/// Checks the header of what should be segment `id`.
pub(crate) fn check_header(magic: Magic, id: u64, data: &[u8]) -> Result<(), HeaderFault> {
    let fault = |is_unborn, what: String| Err(HeaderFault { is_unborn, what });
    let Some(header) = data.get(..HEADER_BYTES) else {
        return fault(true, "the header is incomplete".to_owned());
    };
    if read_u32(header, 20) != crc32c::crc32c(&header[..20]) {
        return fault(data.len() == HEADER_BYTES, "the header fails its checksum".to_owned());
    }
    if header[..8] != magic {
        return fault(false, "this is another kind of file".to_owned());
    }
    match (read_u32(header, 8), read_u64(header, 12)) {
        (VERSION, found) if found == id => Ok(()),
        (VERSION, found) => fault(false, format!("the header belongs to number {found}")),
        (version, _) => fault(false, format!("format version {version} is not known to this release")),
    }
}

/// Appends a frame that will stand at `offset` of segment `id`.
pub(crate) fn encode(out: &mut Vec<u8>, id: u64, offset: u64, frame: Frame<'_>) {
    assert!(frame.payload.len() <= PAYLOAD_BYTES_MAX, "log record of {} bytes", frame.payload.len());
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(frame.payload.len() as u32).to_le_bytes());
    out.push(frame.kind);
    out.extend_from_slice(&frame.durable.to_le_bytes());
    out.extend_from_slice(frame.payload);
    let crc = checksum(id, offset, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The frame at `offset` of segment `id`, if there is a whole and sound one.
pub(crate) fn decode(id: u64, offset: u64, data: &[u8]) -> Option<Frame<'_>> {
    let rest = data.get(usize::try_from(offset).ok()?..)?;
    if rest.len() < FRAME_BYTES || rest[..4] != MARKER {
        return None;
    }
    let len = read_u32(rest, 8) as usize;
    let body = rest.get(8..FRAME_BYTES.checked_add(len)?)?;
    if read_u32(rest, 4) != checksum(id, offset, body) {
        return None;
    }
    Some(Frame {
        kind: rest[12],
        durable: read_u64(rest, 13),
        payload: &rest[FRAME_BYTES..FRAME_BYTES + len],
    })
}

/// How a scan over a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Everything below is sound.
    pub(crate) offset: u64,
    /// The highest claim among the sound frames: everything below was once synced with success.
    pub(crate) claimed: u64,
    /// The last frame is a seal.
    pub(crate) sealed: bool,
    /// Bytes from `offset` to the last one that is not zero.
    pub(crate) torn_bytes: u64,
    /// Whether the file goes on behind `offset`, if only with zeros.
    pub(crate) goes_on: bool,
}

/// Visits the frames in `data` (a whole segment file with a sound header) and judges what follows them.
///
/// A bad frame that a later frame claims to have been durable is damage, as is anything after a seal.
pub(crate) fn scan(
    file: &Path,
    id: u64,
    data: &[u8],
    visit: &mut dyn FnMut(u64, Frame<'_>) -> Result<()>,
) -> Result<End> {
    let mut offset = HEADER_BYTES as u64;
    let (mut sealed, mut claimed) = (false, 0);
    while !sealed && let Some(frame) = decode(id, offset, data) {
        match frame.kind {
            KIND_SEAL => sealed = true,
            KIND_CLAIM => {}
            _ => visit(offset, frame)?,
        }
        claimed = claimed.max(frame.durable);
        offset += frame.bytes();
    }
    let torn_bytes = torn_bytes(offset, data);
    if torn_bytes > 0 && sealed {
        return Err(Error::corrupt(file, offset, "bytes after the seal of the segment"));
    }
    if let Some((witness, claim)) = later_claim(id, offset, data) {
        let what =
            format!("the record fails its checksum, but was durable below {claim} (claimed at {witness})");
        return Err(Error::corrupt(file, offset, what));
    }
    let goes_on = data.len() as u64 > offset;
    Ok(End { offset, claimed, sealed, torn_bytes, goes_on })
}

/// Bytes from `offset` to the last one that is not zero.
fn torn_bytes(offset: u64, data: &[u8]) -> u64 {
    let behind = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)).unwrap_or_default();
    behind.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// A frame after `offset` that claims `offset` was durable, and its claim.
fn later_claim(id: u64, offset: u64, data: &[u8]) -> Option<(u64, u64)> {
    frames_from(id, offset, data)
        .find(|(_, frame)| frame.durable > offset)
        .map(|(at, frame)| (at, frame.durable))
}

/// All sound frames from `from` on, found by their marker.
fn frames_from(id: u64, from: u64, data: &[u8]) -> impl Iterator<Item = (u64, Frame<'_>)> {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(data.len());
    data[from..].windows(MARKER.len()).enumerate().filter(|(_, window)| *window == MARKER).filter_map(
        move |(index, _)| {
            let at = (from + index) as u64;
            decode(id, at, data).map(|frame| (at, frame))
        },
    )
}

/// Stored and computed checksum of what stands at `offset` of segment `id`, if it has the shape of a frame.
pub(crate) fn checksums(id: u64, offset: u64, data: &[u8]) -> Option<(u32, u32)> {
    let rest = data.get(usize::try_from(offset).ok()?..)?;
    if rest.len() < FRAME_BYTES || rest[..4] != MARKER {
        return None;
    }
    let body = rest.get(8..FRAME_BYTES.checked_add(read_u32(rest, 8) as usize)?)?;
    Some((read_u32(rest, 4), checksum(id, offset, body)))
}

/// Stored and computed checksum of a segment's header.
pub(crate) fn header_checksums(data: &[u8]) -> Option<(u32, u32)> {
    let header = data.get(..HEADER_BYTES)?;
    Some((read_u32(header, 20), crc32c::crc32c(&header[..20])))
}

/// A stretch of a segment that is not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    /// Where the next sound frame stands, or the file ends.
    pub(crate) end: u64,
    /// It is bytes behind the seal. Otherwise a later frame claims that it was durable.
    pub(crate) after_seal: bool,
}

/// What [`survey`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) damages: Vec<Damage>,
    pub(crate) sealed: bool,
    /// Bytes at the end that may never have been on the disk as a whole.
    pub(crate) torn_bytes: u64,
}

/// Like [`scan`], but goes on behind damage, with the next sound frame.
pub(crate) fn survey(id: u64, data: &[u8], visit: &mut dyn FnMut(u64, Frame<'_>)) -> Survey {
    let mut offset = HEADER_BYTES as u64;
    let mut survey = Survey { damages: Vec::new(), sealed: false, torn_bytes: 0 };
    loop {
        while !survey.sealed
            && let Some(frame) = decode(id, offset, data)
        {
            match frame.kind {
                KIND_SEAL => survey.sealed = true,
                KIND_CLAIM => {}
                _ => visit(offset, frame),
            }
            offset += frame.bytes();
        }
        let torn_bytes = torn_bytes(offset, data);
        if torn_bytes == 0 {
            return survey;
        }
        if survey.sealed {
            survey.damages.push(Damage { offset, end: offset + torn_bytes, after_seal: true });
            return survey;
        }
        let mut next = None;
        let was_durable = frames_from(id, offset, data).any(|(at, frame)| {
            next.get_or_insert(at);
            frame.durable > offset
        });
        let Some(end) = next.filter(|_| was_durable) else {
            survey.torn_bytes = torn_bytes;
            return survey;
        };
        survey.damages.push(Damage { offset, end, after_seal: false });
        offset = end;
    }
}

fn checksum(id: u64, offset: u64, body: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&id.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), body)
}

fn read_u32(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn read_u64(data: &[u8], at: usize) -> u64 {
    u64::from(read_u32(data, at)) | u64::from(read_u32(data, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = *b"NoKVtest";

    fn file(frames: &[(u8, u64, &[u8])]) -> (Vec<u8>, Vec<usize>) {
        let mut data = encode_header(MAGIC, 7).to_vec();
        let mut starts = Vec::new();
        for &(kind, durable, payload) in frames {
            let offset = data.len() as u64;
            starts.push(data.len());
            encode(&mut data, 7, offset, Frame { kind, durable, payload });
        }
        (data, starts)
    }

    fn records(data: &[u8]) -> Result<(Vec<Vec<u8>>, End)> {
        let mut found = Vec::new();
        let end = scan(Path::new("00007.wal"), 7, data, &mut |_, frame| {
            found.push(frame.payload.to_vec());
            Ok(())
        })?;
        Ok((found, end))
    }

    #[test]
    fn the_bytes_are_these() {
        let (data, _) = file(&[(1, 0, b"ab"), (KIND_SEAL, 47, b"")]);
        let golden = [
            b"NoKVtest".as_slice(),
            &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            &[0x0f, 0xfd, 0x29, 0x6e],
            &[0xf7, 0x4e, 0x6f, 0x4b],
            &[0xba, 0x23, 0xf5, 0xdf],
            &[2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'a', b'b'],
            &[0xf7, 0x4e, 0x6f, 0x4b],
            &[0x56, 0xcb, 0x25, 0x4a],
            &[0, 0, 0, 0, 0xff, 47, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(data, golden);
    }

    #[test]
    fn a_bad_record_at_the_tail_is_torn() {
        let (mut data, starts) = file(&[(1, 0, b"first"), (1, 0, b"second"), (1, 0, b"third")]);
        data[starts[1] + FRAME_BYTES] ^= 1;
        let (found, end) = records(&data).unwrap();
        assert_eq!(found, [b"first".to_vec()]);
        assert_eq!(
            end,
            End {
                offset: starts[1] as u64,
                claimed: 0,
                sealed: false,
                torn_bytes: (data.len() - starts[1]) as u64,
                goes_on: true
            }
        );
    }

    #[test]
    fn a_bad_record_that_was_durable_is_damage() {
        let (clean, starts) = file(&[(1, 0, b"first"), (1, 0, b"second")]);
        let (mut data, _) =
            file(&[(1, 0, b"first"), (1, 0, b"second"), (KIND_CLAIM, clean.len() as u64, b"")]);
        data[starts[1] + FRAME_BYTES] ^= 1;
        let error = records(&data).unwrap_err();
        assert!(matches!(error, Error::Corrupt { offset, .. } if offset == starts[1] as u64), "{error}");
    }

    #[test]
    fn zeros_behind_the_last_frame_mean_nothing() {
        for kind in [1, KIND_SEAL] {
            let (mut data, _) = file(&[(1, 0, b"first"), (kind, 0, b"")]);
            let offset = data.len() as u64;
            data.resize(data.len() + 100, 0);
            let (_, end) = records(&data).unwrap();
            assert_eq!((end.offset, end.torn_bytes, end.goes_on), (offset, 0, true));
            let found = survey(7, &data, &mut |_, _| {});
            assert_eq!((found.damages, found.torn_bytes), (Vec::new(), 0));
            // Among them may be what a crash left of frames.
            data[offset as usize + 50] = 1;
            let found = survey(7, &data, &mut |_, _| {});
            if kind == KIND_SEAL {
                assert!(records(&data).unwrap_err().is_corrupt());
                assert_eq!(found.damages, [Damage { offset, end: offset + 51, after_seal: true }]);
            } else {
                assert_eq!(records(&data).unwrap().1.torn_bytes, 51);
                assert_eq!((found.damages, found.torn_bytes), (Vec::new(), 51));
            }
        }
    }

    #[test]
    fn a_frame_elsewhere_is_no_frame() {
        let (data, starts) = file(&[(1, 0, b"first")]);
        assert!(decode(7, starts[0] as u64, &data).is_some());
        assert!(decode(8, starts[0] as u64, &data).is_none());
        let mut shifted = vec![0];
        shifted.extend_from_slice(&data);
        assert_eq!(frames_from(7, 0, &shifted).count(), 0);
    }
}
