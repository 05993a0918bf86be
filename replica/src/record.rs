//! The bytes of the raft log: one payload a record, inside the frames of [`nokv_engine::log`].
//!
//! ```text
//! kind 1  state       | group | peer | hard | base | installing |     first record of a group in each segment
//! kind 2  append      | group | hard | first index | count u32 | entry* |
//! kind 3  truncate    | group | base |                                entries up to base are not needed any more
//! kind 4  installing  | group | position |                            a snapshot is about to be installed
//! kind 5  installed   | group | position |                            it was; the log starts again behind it
//! kind 6  removed     | group |                                       the group left this node
//!
//! hard     = | term | vote | commit |
//! base, installing, position = | index | term |      installing is 0, 0 when there is none
//! entry    = | term | kind u8 | context length u32 | data length u32 | context | data |
//! ```
//! Numbers are little-endian u64 unless said otherwise. Entries of one record have consecutive indices; appending at an
//! index that is already there replaces it and what follows. Hard state and entries of one step of a group are one
//! record, so a crash keeps both or neither. Kinds are on disk: never renumber.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

pub(crate) const STATE: u8 = 1;
pub(crate) const APPEND: u8 = 2;
pub(crate) const TRUNCATE: u8 = 3;
pub(crate) const INSTALLING: u8 = 4;
pub(crate) const INSTALLED: u8 = 5;
pub(crate) const REMOVED: u8 = 6;

/// Term, vote and commit index of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hard {
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
}

/// A place in a group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    State { peer: u64, hard: Hard, base: Place, installing: Option<Place> },
    Append { hard: Hard, entries: Vec<Entry> },
    Truncate(Place),
    Installing(Place),
    Installed(Place),
    Removed,
}

/// Payload of a state record.
pub(crate) fn state(group: u64, peer: u64, hard: Hard, base: Place, installing: Option<Place>) -> Vec<u8> {
    let mut out = Vec::with_capacity(72);
    put(&mut out, group);
    put(&mut out, peer);
    put_hard(&mut out, hard);
    put_place(&mut out, base);
    put_place(&mut out, installing.unwrap_or_default());
    out
}

/// Payload of an append record.
pub(crate) fn append(group: u64, hard: Hard, entries: &[Entry]) -> Vec<u8> {
    let bytes: usize = entries.iter().map(|entry| ENTRY_HEAD + entry.context.len() + entry.data.len()).sum();
    let mut out = Vec::with_capacity(44 + bytes);
    put(&mut out, group);
    put_hard(&mut out, hard);
    put(&mut out, entries.first().map_or(0, |entry| entry.index));
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        put(&mut out, entry.term);
        out.push(kind_of(entry.entry_type));
        out.extend_from_slice(&(entry.context.len() as u32).to_le_bytes());
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
    }
    out
}

/// Payload of a truncate, installing or installed record.
pub(crate) fn place(group: u64, place: Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    put(&mut out, group);
    put_place(&mut out, place);
    out
}

/// Payload of a removed record.
pub(crate) fn removed(group: u64) -> Vec<u8> {
    group.to_le_bytes().to_vec()
}

/// Reads a payload: the group and what is said about it.
pub(crate) fn decode(kind: u8, payload: &[u8]) -> Result<(u64, Record), &'static str> {
    let mut input = Input(payload);
    let group = input.number()?;
    let record = match kind {
        STATE => Record::State {
            peer: input.number()?,
            hard: input.hard()?,
            base: input.place()?,
            installing: Some(input.place()?).filter(|place| *place != Place::default()),
        },
        APPEND => Record::Append { hard: input.hard()?, entries: input.entries()? },
        TRUNCATE => Record::Truncate(input.place()?),
        INSTALLING => Record::Installing(input.place()?),
        INSTALLED => Record::Installed(input.place()?),
        REMOVED => Record::Removed,
        _ => return Err("the raft log record is of a kind not known to this release"),
    };
    if input.0.is_empty() {
        Ok((group, record))
    } else {
        Err("the raft log record is longer than its content")
    }
}

/// Bytes of an entry besides context and data.
pub(crate) const ENTRY_HEAD: usize = 17;
const SHORT: &str = "the raft log record is shorter than its content";

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_hard(out: &mut Vec<u8>, hard: Hard) {
    put(out, hard.term);
    put(out, hard.vote);
    put(out, hard.commit);
}

fn put_place(out: &mut Vec<u8>, place: Place) {
    put(out, place.index);
    put(out, place.term);
}

fn kind_of(entry_type: EntryType) -> u8 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// What is left of a payload.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| SHORT)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn hard(&mut self) -> Result<Hard, &'static str> {
        Ok(Hard { term: self.number()?, vote: self.number()?, commit: self.number()? })
    }

    fn place(&mut self) -> Result<Place, &'static str> {
        Ok(Place { index: self.number()?, term: self.number()? })
    }

    fn entries(&mut self) -> Result<Vec<Entry>, &'static str> {
        let first = self.number()?;
        let count = self.length()?;
        (0..count as u64).map(|offset| self.entry(first.checked_add(offset).ok_or(SHORT)?)).collect()
    }

    fn entry(&mut self, index: u64) -> Result<Entry, &'static str> {
        let mut entry = Entry { index, term: self.number()?, ..Entry::default() };
        entry.entry_type = match self.array::<1>()? {
            [0] => EntryType::EntryNormal,
            [1] => EntryType::EntryConfChange,
            [2] => EntryType::EntryConfChangeV2,
            _ => return Err("the raft log holds an entry of a kind not known to this release"),
        };
        let (context, data) = (self.length()?, self.length()?);
        entry.context = Bytes::copy_from_slice(self.take(context)?);
        entry.data = Bytes::copy_from_slice(self.take(data)?);
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, data: &'static [u8]) -> Entry {
        Entry { index, term, data: Bytes::from_static(data), ..Entry::default() }
    }

    #[test]
    fn golden_append() {
        let hard = Hard { term: 3, vote: 2, commit: 8 };
        let mut change = entry(10, 3, b"cc");
        change.entry_type = EntryType::EntryConfChangeV2;
        change.context = Bytes::from_static(b"x");
        let entries = vec![entry(9, 3, b"ab"), change];
        let payload = append(7, hard, &entries);
        #[rustfmt::skip]
        let golden = [
            7, 0, 0, 0, 0, 0, 0, 0,                                         // group
            3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, // term, vote, commit
            9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,                             // first index, count
            3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b',  // entry 9
            3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 2, 0, 0, 0, b'x', b'c', b'c', // entry 10
        ];
        assert_eq!(payload, golden);
        assert_eq!(decode(APPEND, &payload), Ok((7, Record::Append { hard, entries })));
    }

    #[test]
    fn golden_state_and_places() {
        let base = Place { index: 5, term: 2 };
        let payload = state(1, 101, Hard { term: 2, vote: 101, commit: 6 }, base, None);
        #[rustfmt::skip]
        let golden = [
            1, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0,               // group, peer
            2, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, // term, vote, commit
            5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,                 // base
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,                 // installing: none
        ];
        assert_eq!(payload, golden);
        let state =
            Record::State { peer: 101, hard: Hard { term: 2, vote: 101, commit: 6 }, base, installing: None };
        assert_eq!(decode(STATE, &payload), Ok((1, state)));
        assert_eq!(place(1, base), golden[..8].iter().chain(&golden[40..56]).copied().collect::<Vec<u8>>());
        assert_eq!(decode(TRUNCATE, &place(1, base)), Ok((1, Record::Truncate(base))));
        assert_eq!(decode(INSTALLING, &place(1, base)), Ok((1, Record::Installing(base))));
        assert_eq!(decode(INSTALLED, &place(1, base)), Ok((1, Record::Installed(base))));
        assert_eq!(decode(REMOVED, &removed(1)), Ok((1, Record::Removed)));
    }

    #[test]
    fn damaged_records_are_refused() {
        let payload = append(7, Hard::default(), &[entry(1, 1, b"abc")]);
        for cut in 0..payload.len() {
            assert!(decode(APPEND, &payload[..cut]).is_err());
        }
        assert!(decode(APPEND, &[payload.as_slice(), &[0]].concat()).is_err());
        assert!(decode(99, &payload).is_err());
        let mut kind = payload;
        kind[52] = 9;
        assert!(decode(APPEND, &kind).is_err());
    }
}
