//! What is stored: lock and write records, version 1.
//!
//! ```text
//! lock   01 | kind u8 | flags u8 | uvarint start_ts | uvarint ttl_ms | uvarint min_commit_ts | uvarint expires_at
//!           | uvarint length, primary | [flags & 4: uvarint count, as many of uvarint length, secondary]
//!           | [flags & 1: short value, to the end]
//! write  01 | kind u8 | flags u8 | uvarint start_ts | uvarint expires_at | [flags & 1: short value, to the end]
//! ```
//!
//! kind: 0 put, 1 delete, 2 lock, 3 rollback. flags: 1 a short value follows, 2 (write only) the transaction that
//! started at this record's own timestamp is rolled back here, 4 (lock only) placed for an asynchronous commit at
//! `min_commit_ts`. `expires_at`: unix seconds, 0 = never.
//! A put without a short value has its value in the default family, which holds user bytes as they are.

use super::{CF_LOCK, CF_WRITE, Error, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use nokv_engine::Cf;
use nokv_proto::kv::v1::mutation::Op;
use prost::encoding::{decode_varint, encode_varint};

const VERSION: u8 = 1;
const FLAG_SHORT_VALUE: u8 = 1;
const FLAG_ROLLBACK_HERE: u8 = 2;
const FLAG_ASYNC: u8 = 4;

/// What a record does to its key. On disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Put = 0,
    Delete = 1,
    /// Conflicts like a write, changes nothing.
    Lock = 2,
    Rollback = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Put, Self::Delete, Self::Lock, Self::Rollback].get(usize::from(byte)).copied()
    }

    pub(super) fn op(self) -> Op {
        match self {
            Self::Put => Op::Put,
            Self::Delete => Op::Delete,
            Self::Lock => Op::Lock,
            Self::Rollback => Op::Rollback,
        }
    }
}

/// The intent of a transaction that is not decided at this key yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) kind: Kind,
    pub(super) start_ts: u64,
    /// Milliseconds after the physical part of `start_ts` at which others may roll the transaction back.
    pub(super) ttl_ms: u64,
    /// The transaction must not commit below this. Binding at the primary only, where alone it is pushed.
    pub(super) min_commit_ts: u64,
    /// The transaction is committed at `min_commit_ts` once all its keys have such locks. At the primary: the other
    /// keys; elsewhere empty.
    pub(super) async_with: Option<Vec<Bytes>>,
    pub(super) expires_at: u64,
    pub(super) primary: Bytes,
    /// The value of a put, unless it lies in the default family.
    pub(super) short_value: Option<Bytes>,
}

impl Lock {
    pub(super) fn encode(&self) -> Bytes {
        let short = self.short_value.as_deref();
        let mut out = BytesMut::with_capacity(48 + self.primary.len() + short.map_or(0, <[u8]>::len));
        let flags = if short.is_some() { FLAG_SHORT_VALUE } else { 0 }
            | if self.async_with.is_some() { FLAG_ASYNC } else { 0 };
        out.put_slice(&[VERSION, self.kind as u8, flags]);
        for number in
            [self.start_ts, self.ttl_ms, self.min_commit_ts, self.expires_at, self.primary.len() as u64]
        {
            encode_varint(number, &mut out);
        }
        out.put_slice(&self.primary);
        if let Some(secondaries) = &self.async_with {
            encode_varint(secondaries.len() as u64, &mut out);
            for key in secondaries {
                encode_varint(key.len() as u64, &mut out);
                out.put_slice(key);
            }
        }
        out.put_slice(short.unwrap_or_default());
        out.freeze()
    }

    /// `key` is only for the error.
    pub(super) fn decode(key: &[u8], data: Bytes) -> Result<Self> {
        let damaged = |what| Error::Damaged { cf: CF_LOCK, key: Bytes::copy_from_slice(key), what };
        let (kind, flags, mut rest) = header(CF_LOCK, key, data)?;
        let mut number = || decode_varint(&mut rest).map_err(|_| damaged("cut off"));
        let (start_ts, ttl_ms, min_commit_ts, expires_at) = (number()?, number()?, number()?, number()?);
        let primary = text(&mut rest).ok_or_else(|| damaged("cut off"))?;
        let mut async_with = None;
        if flags & FLAG_ASYNC != 0 {
            let count = decode_varint(&mut rest).map_err(|_| damaged("cut off"))?;
            let keys: Option<Vec<Bytes>> = (0..count).map(|_| text(&mut rest)).collect();
            async_with = Some(keys.ok_or_else(|| damaged("cut off"))?);
        }
        let short_value =
            short_value(flags & !FLAG_ASYNC, rest).ok_or_else(|| damaged("unknown flags or extra bytes"))?;
        Ok(Self { kind, start_ts, ttl_ms, min_commit_ts, async_with, expires_at, primary, short_value })
    }
}

/// What was decided about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) kind: Kind,
    pub(super) start_ts: u64,
    pub(super) expires_at: u64,
    /// The value of a put, unless it lies in the default family.
    pub(super) short_value: Option<Bytes>,
    /// The transaction that started at this record's timestamp (not `start_ts`) is rolled back here.
    pub(super) rollback_here: bool,
}

impl Write {
    /// The record of a rollback of the transaction that started at `start_ts`.
    pub(super) fn rollback(start_ts: u64) -> Self {
        Self { kind: Kind::Rollback, start_ts, expires_at: 0, short_value: None, rollback_here: false }
    }

    pub(super) fn encode(&self) -> Bytes {
        let short = self.short_value.as_deref();
        let mut out = BytesMut::with_capacity(24 + short.map_or(0, <[u8]>::len));
        let flags = if short.is_some() { FLAG_SHORT_VALUE } else { 0 }
            | if self.rollback_here { FLAG_ROLLBACK_HERE } else { 0 };
        out.put_slice(&[VERSION, self.kind as u8, flags]);
        encode_varint(self.start_ts, &mut out);
        encode_varint(self.expires_at, &mut out);
        out.put_slice(short.unwrap_or_default());
        out.freeze()
    }

    /// `key` is only for the error.
    pub(super) fn decode(key: &[u8], data: Bytes) -> Result<Self> {
        let damaged = |what| Error::Damaged { cf: CF_WRITE, key: Bytes::copy_from_slice(key), what };
        let (kind, flags, mut rest) = header(CF_WRITE, key, data)?;
        let mut number = || decode_varint(&mut rest).map_err(|_| damaged("cut off"));
        let (start_ts, expires_at) = (number()?, number()?);
        let short_value = short_value(flags & !FLAG_ROLLBACK_HERE, rest)
            .ok_or_else(|| damaged("unknown flags or extra bytes"))?;
        let rollback_here = flags & FLAG_ROLLBACK_HERE != 0;
        Ok(Self { kind, start_ts, expires_at, short_value, rollback_here })
    }
}

/// Reads version, kind and flags; gives what follows.
fn header(cf: Cf, key: &[u8], mut data: Bytes) -> Result<(Kind, u8, Bytes)> {
    let damaged = |what| Error::Damaged { cf, key: Bytes::copy_from_slice(key), what };
    let (version, kind, flags) = match data[..] {
        [version, kind, flags, ..] => (version, kind, flags),
        _ => return Err(damaged("cut off")),
    };
    if version != VERSION {
        return Err(damaged("record of an unknown version"));
    }
    let kind = Kind::from_byte(kind).ok_or_else(|| damaged("record of an unknown kind"))?;
    data.advance(3);
    Ok((kind, flags, data))
}

/// A length and as many bytes; `None` when they are not there.
fn text(rest: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::try_from(decode_varint(rest).ok()?).ok()?;
    (rest.len() >= bytes).then(|| rest.split_to(bytes))
}

/// The rest of a record by its flags; `None` when they do not fit it.
#[allow(clippy::option_option, reason = "outer: well formed; inner: there is a short value")]
fn short_value(flags: u8, rest: Bytes) -> Option<Option<Bytes>> {
    match flags {
        0 if rest.is_empty() => Some(None),
        FLAG_SHORT_VALUE => Some(Some(rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock {
            kind: Kind::Put,
            start_ts: 300,
            ttl_ms: 5,
            min_commit_ts: 301,
            expires_at: 0,
            primary: "pk".into(),
            async_with: None,
            short_value: Some("v".into()),
        }
    }

    #[test]
    fn records_are_golden() {
        assert_eq!(
            &lock().encode()[..],
            [1, 0, 1, 0xac, 0x02, 5, 0xad, 0x02, 0, 2, b'p', b'k', b'v'],
            "lock"
        );
        let async_with = Some(vec!["a".into(), "bc".into()]);
        assert_eq!(
            &Lock { async_with, ..lock() }.encode()[..],
            [1, 0, 5, 0xac, 0x02, 5, 0xad, 0x02, 0, 2, b'p', b'k', 2, 1, b'a', 2, b'b', b'c', b'v'],
            "lock of an asynchronous commit"
        );
        let write = Write {
            kind: Kind::Put,
            start_ts: 300,
            expires_at: 7,
            short_value: Some("v".into()),
            rollback_here: true,
        };
        assert_eq!(&write.encode()[..], [1, 0, 3, 0xac, 0x02, 7, b'v'], "write");
        assert_eq!(&Write::rollback(2).encode()[..], [1, 3, 0, 2, 0], "rollback");
    }

    #[test]
    fn records_survive_the_round_trip() {
        for short_value in [None, Some(Bytes::new()), Some("v".into())] {
            let lock = Lock { short_value: short_value.clone(), ..lock() };
            assert_eq!(Lock::decode(b"k", lock.encode()).unwrap(), lock);
            for secondaries in [vec![], vec![Bytes::new(), "x".into()]] {
                let lock = Lock { async_with: Some(secondaries), ..lock.clone() };
                assert_eq!(Lock::decode(b"k", lock.encode()).unwrap(), lock);
            }
            let write = Write { short_value, ..Write::rollback(9) };
            assert_eq!(Write::decode(b"k", write.encode()).unwrap(), write);
        }
    }

    #[test]
    fn damage_is_an_error_never_a_guess() {
        let good = lock().encode();
        let with_secondaries = Lock { async_with: Some(vec!["a".into()]), ..lock() }.encode();
        for good in [&good, &with_secondaries] {
            for cut in 0..good.len() - 1 {
                assert!(Lock::decode(b"k", good.slice(..cut)).is_err(), "cut at {cut}");
            }
        }
        for (at, byte) in [(0, 2), (1, 4), (2, 8)] {
            let mut bad = good.to_vec();
            bad[at] = byte;
            assert!(Lock::decode(b"k", bad.into()).is_err());
        }
        assert!(Write::decode(b"k", Bytes::from_static(&[1, 3, 0, 2, 0, 9])).is_err());
    }
}
