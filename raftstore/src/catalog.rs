//! What a store remembers of its regions: the engine's meta family.
//!
//! ```text
//! 'r' region id u64 BE   →  01 | nokv.meta.v1.RegionDescriptor
//! 'a' region id u64 BE   →  01 | index u64 BE | term u64 BE              applied: written with every entry's effect
//! 'm' region id u64 BE   →  01 | four lists, each: uvarint count, uvarint peer ids | auto_leave u8
//!                           voters, learners, voters outgoing, learners next
//! 'g' region id u64 BE   →  01 | fence u64 BE | safe point u64 BE        see [`crate::gc`]
//! 'p' number u64 BE      →  01 | nokv.meta.v1.RootEvent           the meta-root has yet to hear it; in this order
//! ```
//!
//! Without an `m` record every peer of the descriptor votes. [`read`] works on a database opened for reading only.

use crate::{Error, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use nokv_engine::{Cf, Db, WriteBatch};
use nokv_proto::meta::v1::{RegionDescriptor, RootEvent};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};
use serde::Serialize;
use std::collections::BTreeMap;

/// The family that the catalog lives in.
pub const CF_META: Cf = Cf(3);

const VERSION: u8 = 1;
const REGION: u8 = b'r';
const APPLIED: u8 = b'a';
const MEMBERS: u8 = b'm';
const PENDING: u8 = b'p';
const GC: u8 = b'g';

/// A place in a raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Position {
    /// Index of the entry.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
}

impl Position {
    fn encode(self) -> [u8; 17] {
        encode_pair(self.index, self.term)
    }

    fn decode(value: &[u8]) -> Option<Self> {
        decode_pair(value).map(|(index, term)| Self { index, term })
    }
}

/// How far a region is closed to old transactions, and rid of old versions. Part of its replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Gc {
    /// No transaction that began below this may begin to write here.
    pub fence: u64,
    /// Versions that no read at or above this can see may be gone. At most the fence.
    pub safe_point: u64,
}

impl Gc {
    pub(crate) fn encode(self) -> [u8; 17] {
        encode_pair(self.fence, self.safe_point)
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        decode_pair(value).map(|(fence, safe_point)| Self { fence, safe_point })
    }
}

/// Who votes in a region's raft group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Peers that vote.
    pub voters: Vec<u64>,
    /// Peers that only listen.
    pub learners: Vec<u64>,
    /// During a change of several peers: who votes in the configuration being left.
    pub voters_outgoing: Vec<u64>,
    /// During such a change: who will listen afterwards.
    pub learners_next: Vec<u64>,
    /// Whether such a change ends by itself.
    pub auto_leave: bool,
}

impl Members {
    /// Every peer of `region` votes.
    pub fn all_vote(region: &RegionDescriptor) -> Self {
        Self { voters: region.peers.iter().map(|peer| peer.peer_id).collect(), ..Self::default() }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        for list in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            encode_varint(list.len() as u64, &mut out);
            for id in list {
                encode_varint(*id, &mut out);
            }
        }
        out.put_u8(u8::from(self.auto_leave));
        out.freeze()
    }

    pub(crate) fn decode(mut data: Bytes) -> Option<Self> {
        if !data.has_remaining() || data.get_u8() != VERSION {
            return None;
        }
        let mut list = || {
            let count = decode_varint(&mut data).ok()?;
            (0..count).map(|_| decode_varint(&mut data).ok()).collect::<Option<Vec<u64>>>()
        };
        let (voters, learners, voters_outgoing, learners_next) = (list()?, list()?, list()?, list()?);
        let auto_leave = match data[..] {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Self { voters, learners, voters_outgoing, learners_next, auto_leave })
    }
}

/// One region as a store knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The region.
    pub region: RegionDescriptor,
    /// How far its log is applied.
    pub applied: Position,
    /// Who votes.
    pub members: Members,
}

fn key(kind: u8, region_id: u64) -> Bytes {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&region_id.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// 01 | first u64 BE | second u64 BE
fn encode_pair(first: u64, second: u64) -> [u8; 17] {
    let mut value = [VERSION; 17];
    value[1..9].copy_from_slice(&first.to_be_bytes());
    value[9..].copy_from_slice(&second.to_be_bytes());
    value
}

fn decode_pair(mut value: &[u8]) -> Option<(u64, u64)> {
    if value.len() != 17 || value.get_u8() != VERSION {
        return None;
    }
    Some((value.get_u64(), value.get_u64()))
}

/// 01 | message
fn encode_message(message: &impl Message) -> Bytes {
    let mut value = BytesMut::with_capacity(1 + message.encoded_len());
    value.put_u8(VERSION);
    message.encode_raw(&mut value);
    value.freeze()
}

fn decode_message<M: Message + Default>(value: &Bytes) -> Option<M> {
    if value.first() != Some(&VERSION) {
        return None;
    }
    M::decode(value.slice(1..)).ok()
}

/// All records of a kind by the number in their keys; one that `decode` cannot read is not `what` it should be.
fn read_kind<T>(
    db: &Db,
    kind: u8,
    what: &'static str,
    decode: impl Fn(&Bytes) -> Option<T>,
) -> Result<BTreeMap<u64, T>> {
    let mut all = BTreeMap::new();
    for item in db.snapshot().iter(CF_META, key(kind, 0)..=key(kind, u64::MAX)) {
        let (key, value) = item?;
        let bad = |what| Error::BadCatalog { key: key.to_vec(), what };
        let number = key.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
        let number = number.ok_or_else(|| bad("key of a wrong length"))?;
        all.insert(number, decode(&value).ok_or_else(|| bad(what))?);
    }
    Ok(all)
}

/// All records of a region that runs here, by key.
pub(crate) fn records(entry: &Entry, gc: Gc) -> [(Bytes, Bytes); 4] {
    let id = entry.region.region_id;
    [
        (key(APPLIED, id), Bytes::copy_from_slice(&entry.applied.encode())),
        (key(GC, id), Bytes::copy_from_slice(&gc.encode())),
        (key(MEMBERS, id), entry.members.encode()),
        (key(REGION, id), encode_message(&entry.region)),
    ]
}

/// Records a descriptor.
pub(crate) fn put_region(batch: &mut WriteBatch, region: &RegionDescriptor) {
    batch.put(CF_META, key(REGION, region.region_id), encode_message(region));
}

/// A region's peer left this store: what it was, and nothing of how far it was applied.
pub(crate) fn put_tombstone(batch: &mut WriteBatch, region: &RegionDescriptor) {
    for (key, value) in tombstone_records(region) {
        match value {
            Some(value) => batch.put(CF_META, key, value),
            None => batch.delete(CF_META, key),
        }
    }
}

/// The records of [`put_tombstone`]; `None`: deleted.
pub(crate) fn tombstone_records(region: &RegionDescriptor) -> [(Bytes, Option<Bytes>); 4] {
    let id = region.region_id;
    [
        (key(REGION, id), Some(encode_message(region))),
        (key(APPLIED, id), None),
        (key(MEMBERS, id), None),
        (key(GC, id), None),
    ]
}

/// Records how far a region is applied.
pub(crate) fn put_applied(batch: &mut WriteBatch, region_id: u64, applied: Position) {
    batch.put(CF_META, key(APPLIED, region_id), Bytes::copy_from_slice(&applied.encode()));
}

/// Records who votes in a region.
pub(crate) fn put_members(batch: &mut WriteBatch, region_id: u64, members: &Members) {
    batch.put(CF_META, key(MEMBERS, region_id), members.encode());
}

/// Records up to where a region is closed to old transactions and rid of old versions.
pub(crate) fn put_gc(batch: &mut WriteBatch, region_id: u64, gc: Gc) {
    batch.put(CF_META, key(GC, region_id), Bytes::copy_from_slice(&gc.encode()));
}

/// What [`put_gc`] recorded of all regions.
pub(crate) fn read_gcs(db: &Db) -> Result<BTreeMap<u64, Gc>> {
    read_kind(db, GC, "not a safe point", |value| Gc::decode(value))
}

/// Records an event that the meta-root has yet to hear.
pub(crate) fn put_pending(batch: &mut WriteBatch, number: u64, event: &RootEvent) {
    batch.put(CF_META, key(PENDING, number), encode_message(event));
}

/// Forgets such an event.
pub(crate) fn delete_pending(batch: &mut WriteBatch, number: u64) {
    batch.delete(CF_META, key(PENDING, number));
}

/// The events that the meta-root has yet to hear.
pub(crate) fn read_pending(db: &Db) -> Result<BTreeMap<u64, RootEvent>> {
    read_kind(db, PENDING, "not a root event", decode_message)
}

/// One region as it is in a snapshot of the engine, and how far it is closed to old transactions.
pub(crate) fn read_entry(snapshot: &nokv_engine::Snapshot, id: u64) -> Result<Option<(Entry, Gc)>> {
    let get = |kind| Ok::<_, Error>((key(kind, id), snapshot.get(CF_META, &key(kind, id))?));
    let bad = |key: Bytes, what| Error::BadCatalog { key: key.to_vec(), what };
    let (at, Some(region)) = get(REGION)? else { return Ok(None) };
    let region: RegionDescriptor = decode_message(&region).ok_or_else(|| bad(at, "not a region"))?;
    let applied = match get(APPLIED)? {
        (at, Some(value)) => Position::decode(&value).ok_or_else(|| bad(at, "not a position"))?,
        (_, None) => Position::default(),
    };
    let members = match get(MEMBERS)? {
        (at, Some(value)) => Members::decode(value).ok_or_else(|| bad(at, "not a membership"))?,
        (_, None) => Members::all_vote(&region),
    };
    let gc = match get(GC)? {
        (at, Some(value)) => Gc::decode(&value).ok_or_else(|| bad(at, "not a safe point"))?,
        (_, None) => Gc::default(),
    };
    Ok(Some((Entry { region, applied, members }, gc)))
}

/// The regions of a store, ordered by id.
pub fn read(db: &Db) -> Result<Vec<RegionDescriptor>> {
    Ok(read_entries(db)?.into_iter().map(|entry| entry.region).collect())
}

/// The whole catalog, ordered by region id.
pub fn read_entries(db: &Db) -> Result<Vec<Entry>> {
    let mut entries = BTreeMap::new();
    let mut applied = BTreeMap::new();
    let mut members = BTreeMap::new();
    for item in db.snapshot().iter(CF_META, ..) {
        let (key, value) = item?;
        let bad = |what| Error::BadCatalog { key: key.to_vec(), what };
        let Some((&kind, id)) = key.split_first() else { return Err(bad("empty key")) };
        let id = u64::from_be_bytes(id.try_into().map_err(|_| bad("key of a wrong length"))?);
        match kind {
            REGION => {
                let region: RegionDescriptor =
                    decode_message(&value).ok_or_else(|| bad("not a region descriptor"))?;
                if region.region_id != id {
                    return Err(bad("descriptor of another region"));
                }
                if region.problem().is_some() {
                    return Err(bad("descriptor that makes no sense"));
                }
                entries.insert(id, region);
            }
            APPLIED => _ = applied.insert(id, Position::decode(&value).ok_or_else(|| bad("not a position"))?),
            MEMBERS => _ = members.insert(id, Members::decode(value).ok_or_else(|| bad("not a membership"))?),
            PENDING => {} // see `read_pending`
            GC => {}      // see `read_gcs`
            _ => return Err(bad("key of an unknown kind")),
        }
    }
    let entry = |(id, region)| {
        let members = members.remove(&id).unwrap_or_else(|| Members::all_vote(&region));
        Entry { applied: applied.get(&id).copied().unwrap_or_default(), members, region }
    };
    Ok(entries.into_iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_golden() {
        assert_eq!(&key(REGION, 0x0102)[..], [b'r', 0, 0, 0, 0, 0, 0, 1, 2]);
        let applied = Position { index: 0x0304, term: 5 };
        let golden = [1, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(applied.encode(), golden);
        assert_eq!(Position::decode(&golden), Some(applied));
        let members =
            Members { voters: vec![1, 300], learners: vec![2], auto_leave: true, ..Members::default() };
        assert_eq!(&members.encode()[..], [1, 2, 1, 0xac, 2, 1, 2, 0, 0, 1]);
        assert_eq!(Members::decode(members.encode()), Some(members));
    }

    #[test]
    fn safe_points_are_golden() {
        let gc = Gc { fence: 0x0304, safe_point: 5 };
        let golden = [1, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(gc.encode(), golden);
        assert_eq!(Gc::decode(&golden), Some(gc));
        assert_eq!(Gc::decode(&golden[..16]), None);
    }

    #[test]
    fn damage_is_refused() {
        assert_eq!(Position::decode(&[1, 2, 3]), None);
        for bad in [&[][..], &[2], &[1, 1], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 2]] {
            assert_eq!(Members::decode(Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
