//! Everything that is stored of one key, for operators: its lock and its records, newest first.

use super::look;
use super::record::Kind;
use super::{CF_DEFAULT, Reader, Result, key};
use bytes::Bytes;
use nokv_proto::admin::v1::{MvccLock, MvccRecord, MvccValue};

/// Bytes of a value that are shown.
const SHOWN_BYTES: usize = 256;

/// What is stored of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The lock on it.
    pub lock: Option<MvccLock>,
    /// Its records, newest first.
    pub records: Vec<MvccRecord>,
    /// Whether there are more, older ones.
    pub more: bool,
}

/// Looks at `user_key`, and at its newest `limit` records.
pub fn inspect(reader: &impl Reader, user_key: &[u8], limit: usize) -> Result<Inspection> {
    let stored = key::stored(user_key);
    let lock = look::lock(reader, &stored)?.map(|lock| -> Result<MvccLock> {
        Ok(MvccLock {
            op: lock.kind.op().into(),
            start_ts: lock.start_ts,
            ttl_ms: lock.ttl_ms,
            min_commit_ts: lock.min_commit_ts,
            expires_at: lock.expires_at,
            async_commit: lock.async_with.is_some(),
            secondaries: lock.async_with.unwrap_or_default(),
            value: value(reader, &stored, lock.kind, lock.start_ts, lock.short_value)?,
            primary: lock.primary,
        })
    });
    let (mut records, mut more) = (Vec::new(), false);
    for entry in look::records(reader, &stored, u64::MAX, 0) {
        let (commit_ts, write) = entry?;
        if records.len() == limit {
            more = true;
            break;
        }
        records.push(MvccRecord {
            op: write.kind.op().into(),
            commit_ts,
            start_ts: write.start_ts,
            expires_at: write.expires_at,
            rollback_here: write.rollback_here,
            value: value(reader, &stored, write.kind, write.start_ts, write.short_value)?,
        });
    }
    Ok(Inspection { lock: lock.transpose()?, records, more })
}

/// The value of a put, wherever it lies. One that should be there and is not is told, not an error: whoever looks here looks
/// for damage.
fn value(
    reader: &impl Reader,
    stored: &[u8],
    kind: Kind,
    start_ts: u64,
    short: Option<Bytes>,
) -> Result<Option<MvccValue>> {
    if kind != Kind::Put {
        return Ok(None);
    }
    let is_long = short.is_none();
    let found = match short {
        Some(value) => Some(value),
        None => reader.get(CF_DEFAULT, &key::version(stored, start_ts))?,
    };
    let missing = found.is_none();
    let value = found.unwrap_or_default();
    let head = value.slice(..value.len().min(SHOWN_BYTES));
    Ok(Some(MvccValue { head, bytes: value.len() as u64, is_long, missing }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Map, prewrite_request, put};
    use super::super::{Writes, batch_rollback, commit, prewrite};
    use super::*;
    use nokv_proto::kv::v1::mutation::Op;
    use nokv_proto::kv::v1::{BatchRollbackRequest, CommitRequest};

    fn write(map: &mut Map, value: &str, start: u64, commit_at: Option<u64>) {
        let mut writes = Writes::new();
        let request = prewrite_request("k", &[put("k", value)], start);
        prewrite(map, &request.0, &mut writes).expect("prewritten");
        map.apply(std::mem::take(&mut writes));
        if let Some(commit_version) = commit_at {
            let request = CommitRequest { keys: vec!["k".into()], start_version: start, commit_version };
            commit(map, &request, &mut writes).expect("committed");
            map.apply(writes);
        }
    }

    #[test]
    fn versions_rollbacks_and_the_lock_are_shown_newest_first() {
        let mut map = Map::default();
        write(&mut map, "one", 10, Some(11));
        let long = "long".repeat(100);
        write(&mut map, &long, 20, Some(21));
        let mut writes = Writes::new();
        let request = BatchRollbackRequest { keys: vec!["k".into()], start_version: 30 };
        batch_rollback(&map, &request, &mut writes).expect("rolled back");
        map.apply(writes);
        write(&mut map, "four", 40, None);

        let seen = inspect(&map, b"k", 10).expect("an inspection");
        let lock = seen.lock.expect("a lock");
        assert_eq!((lock.op(), lock.start_ts, &lock.primary[..]), (Op::Put, 40, &b"k"[..]));
        assert_eq!(lock.value.expect("a value").head, "four");
        let rows: Vec<_> = seen.records.iter().map(|row| (row.op(), row.commit_ts, row.start_ts)).collect();
        assert_eq!(rows, [(Op::Rollback, 30, 30), (Op::Put, 21, 20), (Op::Put, 11, 10)]);
        let value = seen.records[1].value.clone().expect("a value");
        assert_eq!(
            (value.bytes, value.head.len(), value.is_long, value.missing),
            (400, SHOWN_BYTES, true, false)
        );
        assert!(!seen.more && seen.records[0].value.is_none());

        let newest = inspect(&map, b"k", 1).expect("an inspection");
        assert!(newest.more && newest.records.len() == 1);
        let nothing = inspect(&map, b"other", 10).expect("an inspection");
        assert_eq!(nothing, Inspection { lock: None, records: Vec::new(), more: false });
    }

    #[test]
    fn a_value_that_is_lost_is_told() {
        let mut map = Map::default();
        write(&mut map, &"long".repeat(100), 20, Some(21));
        map.0.retain(|(family, _), _| *family != CF_DEFAULT.0);
        let seen = inspect(&map, b"k", 10).expect("an inspection");
        assert!(seen.records[0].value.as_ref().is_some_and(|value| value.missing));
    }
}
