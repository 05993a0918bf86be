//! Range reads: a page of keys, up or down, with the locks among them.
//!
//! Two iterators walk side by side: records, and locks. A key that has only a lock (its first insert is in flight)
//! is met like any other. The page ends at its limit, at a size, after a bounded amount of looking, or at the first
//! lock that blocks; `resume_key` is then the first key not looked at.

use super::look::{self, decode_record};
use super::read::View;
use super::record::{Kind, Lock, Write};
use super::{Bounds, CF_LOCK, CF_WRITE, Entries, Error, Reader, Result, key};
use bytes::Bytes;
use nokv_proto::key::KeyRange;
use nokv_proto::kv::v1::{Kv, ScanRequest, ScanResponse};
use nokv_proto::limits::{SCAN_LIMIT_MAX, SCAN_PAGE_BYTES};
use std::iter::Peekable;
use std::ops::Bound;

/// Records looked at before a page ends, however few keys it has: dead versions must not stall the store.
const LOOKS_MAX: usize = 100_000;
/// Versions of one key passed one by one before the iterator is set anew.
const STEPS_MAX: usize = 16;

/// Reads a page of the keys of `request` that lie in `region`.
pub fn scan(
    reader: &impl Reader,
    request: &ScanRequest,
    region: &KeyRange,
    wall_ms: u64,
) -> Result<ScanResponse> {
    let view = View::new(request.version, &request.bypass_locks, wall_ms);
    let bounds = bounds(request, region);
    let mut response = ScanResponse::default();
    if is_empty(&bounds) {
        return Ok(response);
    }
    let limit = request.limit.clamp(1, SCAN_LIMIT_MAX) as usize;
    let mut walk = Walk::new(reader, bounds, request.reverse);
    let mut page_bytes = 0;
    while let Some(stored) = walk.next_key()? {
        let user_key = user_key(&stored)?;
        if response.kvs.len() >= limit || page_bytes >= SCAN_PAGE_BYTES || walk.looks >= LOOKS_MAX {
            response.more = true;
            response.resume_key = user_key;
            break;
        }
        if let Some(lock) = walk.take_lock(&stored)?
            && view.blocked_by(&lock, &user_key)
        {
            response.error = Some(look::locked(&user_key, &lock));
            response.more = true;
            response.resume_key = user_key;
            break;
        }
        let found = walk.take_version(&stored, view.ts)?;
        let Some((commit_ts, write)) = found.filter(|(_, write)| !view.hides(write.expires_at)) else {
            continue;
        };
        let value = if request.keys_only { Bytes::new() } else { look::value_of(reader, &stored, &write)? };
        page_bytes += user_key.len() + value.len();
        let (version, expires_at) = (commit_ts, write.expires_at);
        response.kvs.push(Kv { key: user_key, value, version, expires_at, ..Default::default() });
    }
    Ok(response)
}

fn user_key(stored: &Bytes) -> Result<Bytes> {
    key::user(stored).ok_or_else(|| Error::Damaged {
        cf: CF_WRITE,
        key: stored.clone(),
        what: "key that is not in the stored form",
    })
}

/// The stored keys to look at: the request's range within the region's.
fn bounds(request: &ScanRequest, region: &KeyRange) -> Bounds {
    let at = |key: &Bytes| key::stored(key);
    let past = |key: &Bytes| key::after_versions(&key::stored(key));
    let (start, end) = (&request.start_key, &request.end_key);
    let mut lower = Bound::Included(at(&region.start));
    let mut upper = if region.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(at(&region.end)) };
    if request.reverse {
        if !start.is_empty() {
            let key = if request.include_start { past(start) } else { at(start) };
            upper = lower_of(upper, key);
        }
        if *end > region.start {
            lower = Bound::Included(at(end));
        }
    } else {
        if *start >= region.start && !start.is_empty() {
            lower = Bound::Included(if request.include_start { at(start) } else { past(start) });
        }
        if !end.is_empty() {
            upper = lower_of(upper, at(end));
        }
    }
    (lower, upper)
}

/// The tighter of an upper bound and the exclusive bound `key`.
fn lower_of(upper: Bound<Bytes>, key: Bytes) -> Bound<Bytes> {
    match upper {
        Bound::Excluded(known) => Bound::Excluded(known.min(key)),
        Bound::Included(_) | Bound::Unbounded => Bound::Excluded(key),
    }
}

fn is_empty(bounds: &Bounds) -> bool {
    matches!(bounds, (Bound::Included(lower), Bound::Excluded(upper)) if lower >= upper)
}

/// Records and locks of a range, key by key.
struct Walk<'a, R> {
    reader: &'a R,
    bounds: Bounds,
    reverse: bool,
    records: Peekable<Entries<'a>>,
    locks: Peekable<Entries<'a>>,
    /// Records and locks passed so far.
    looks: usize,
}

impl<'a, R: Reader> Walk<'a, R> {
    fn new(reader: &'a R, bounds: Bounds, reverse: bool) -> Self {
        let open = |cf| {
            let bounds = bounds.clone();
            if reverse { reader.iter_rev(cf, bounds) } else { reader.iter(cf, bounds) }.peekable()
        };
        let (records, locks) = (open(CF_WRITE), open(CF_LOCK));
        Self { reader, bounds, reverse, records, locks, looks: 0 }
    }

    /// The next stored key that has a record or a lock.
    fn next_key(&mut self) -> Result<Option<Bytes>> {
        let record = match peek(&mut self.records)? {
            Some(key) => {
                let (stored, _) = key::split_version(&key).ok_or_else(|| Error::Damaged {
                    cf: CF_WRITE,
                    key: key.clone(),
                    what: "key without a timestamp",
                })?;
                Some(key.slice(..stored.len()))
            }
            None => None,
        };
        let lock = peek(&mut self.locks)?;
        Ok(match (record, lock) {
            (Some(a), Some(b)) if self.reverse => Some(a.max(b)),
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// The lock on `stored`, if it has one.
    fn take_lock(&mut self, stored: &Bytes) -> Result<Option<Lock>> {
        if peek(&mut self.locks)?.as_ref() != Some(stored) {
            return Ok(None);
        }
        self.looks += 1;
        match self.locks.next().transpose()? {
            Some((key, data)) => Ok(Some(Lock::decode(&key, data)?)),
            None => Ok(None),
        }
    }

    /// The put of `stored` that is visible at `ts`, if any. Leaves the iterator at the next key.
    fn take_version(&mut self, stored: &Bytes, ts: u64) -> Result<Option<(u64, Write)>> {
        let newest = if self.reverse {
            self.take_version_down(stored, ts)?
        } else {
            let newest = self.take_version_up(stored, ts)?;
            self.leave(stored)?;
            newest
        };
        Ok(newest.filter(|(_, write)| write.kind == Kind::Put))
    }

    /// Walking up, the newest record comes first.
    fn take_version_up(&mut self, stored: &Bytes, ts: u64) -> Result<Option<(u64, Write)>> {
        let mut too_new = 0;
        while let Some((commit_ts, write)) = self.take_record(stored)? {
            if commit_ts > ts {
                too_new += 1;
                if too_new == STEPS_MAX {
                    self.restart(key::version(stored, ts));
                }
            } else if matches!(write.kind, Kind::Put | Kind::Delete) {
                return Ok(Some((commit_ts, write)));
            }
        }
        Ok(None)
    }

    /// Walking down, the newest record comes last.
    fn take_version_down(&mut self, stored: &Bytes, ts: u64) -> Result<Option<(u64, Write)>> {
        let mut newest = None;
        while let Some((commit_ts, write)) = self.take_record(stored)? {
            if commit_ts <= ts && matches!(write.kind, Kind::Put | Kind::Delete) {
                newest = Some((commit_ts, write));
            }
        }
        Ok(newest)
    }

    /// The next record, if it is one of `stored`.
    fn take_record(&mut self, stored: &Bytes) -> Result<Option<(u64, Write)>> {
        if !self.at_record_of(stored)? {
            return Ok(None);
        }
        self.looks += 1;
        let Some((key, data)) = self.records.next().transpose()? else { return Ok(None) };
        let (_, commit_ts, write) = decode_record(&key, data)?;
        Ok(Some((commit_ts, write)))
    }

    fn at_record_of(&mut self, stored: &Bytes) -> Result<bool> {
        let key = peek(&mut self.records)?;
        Ok(key.is_some_and(|key| key::split_version(&key).is_some_and(|(prefix, _)| prefix == stored)))
    }

    /// Walking up: passes what is left of `stored`.
    fn leave(&mut self, stored: &Bytes) -> Result<()> {
        let mut steps = 0;
        while self.at_record_of(stored)? {
            if steps == STEPS_MAX {
                self.restart(key::after_versions(stored));
                return Ok(());
            }
            self.records.next().transpose()?;
            self.looks += 1;
            steps += 1;
        }
        Ok(())
    }

    /// Walking up: goes on with the records from `from`.
    fn restart(&mut self, from: Bytes) {
        let bounds = (Bound::Included(from), self.bounds.1.clone());
        if !is_empty(&bounds) {
            self.records = self.reader.iter(CF_WRITE, bounds).peekable();
        }
    }
}

/// The key of the next entry.
fn peek(entries: &mut Peekable<Entries<'_>>) -> Result<Option<Bytes>> {
    match entries.peek() {
        Some(Ok((key, _))) => Ok(Some(key.clone())),
        None => Ok(None),
        // Take the error out; the iteration ends with it.
        Some(Err(_)) => match entries.next() {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::mvcc::testing::*;

    fn abc() -> Db {
        let mut db = Db::new();
        for (i, key) in ["a", "b", "c"].iter().enumerate() {
            db.commit_put(key, &i.to_string(), 5, 8);
        }
        db
    }

    #[test]
    fn pages_go_up_and_down() {
        let db = abc();
        assert_eq!(db.keys(scan_from("").limit(9)), ["a", "b", "c"]);
        assert_eq!(db.keys(scan_from("b").limit(9)), ["b", "c"]);
        assert_eq!(db.keys(scan_from("b").exclusive().limit(9)), ["c"]);
        assert_eq!(db.keys(scan_from("").end("b").limit(9)), ["a"]);
        assert_eq!(db.keys(scan_from("").down().limit(9)), ["c", "b", "a"]);
        assert_eq!(db.keys(scan_from("b").down().limit(9)), ["b", "a"]);
        assert_eq!(db.keys(scan_from("b").down().exclusive().limit(9)), ["a"]);
        assert_eq!(db.keys(scan_from("").down().end("b").limit(9)), ["c", "b"]);
        assert_eq!(db.keys(scan_from("c").end("a").limit(9)), Vec::<String>::new());
    }

    #[test]
    fn a_full_page_names_where_to_go_on() {
        let db = abc();
        let page = db.scan(scan_from("").limit(2));
        assert_eq!((page.more, &page.resume_key[..]), (true, &b"c"[..]));
        let page = db.scan(scan_from("").limit(3));
        assert_eq!((page.more, &page.resume_key[..]), (false, &b""[..]));
        let page = db.scan(scan_from("").down().limit(1));
        assert_eq!((page.more, &page.resume_key[..]), (true, &b"b"[..]));
        assert_eq!(db.scan(scan_from("")).kvs.len(), 1, "limit 0 is 1");
    }

    #[test]
    fn a_page_ends_at_its_size() {
        let mut db = Db::new();
        let long = "x".repeat(1 << 20);
        for key in ["a", "b", "c", "d", "e", "f"] {
            db.commit_put(key, &long, 5, 8);
        }
        let page = db.scan(scan_from("").limit(99));
        assert_eq!((page.kvs.len(), page.more, &page.resume_key[..]), (4, true, &b"e"[..]));
        assert_eq!(db.scan(scan_from("").limit(99).keys_only()).kvs.len(), 6);
    }

    #[test]
    fn a_key_that_has_only_a_lock_is_seen() {
        let mut db = abc();
        db.prewrite("p", &[put("aa", "new")], 10).ok();
        let page = db.scan(scan_from("").limit(9).at(20));
        assert_eq!(page.kvs.len(), 1);
        assert_eq!(&page.error.unwrap().locked.unwrap().key[..], b"aa");
        assert_eq!((page.more, &page.resume_key[..]), (true, &b"aa"[..]));
        assert_eq!(db.keys(scan_from("").limit(9).at(9)), ["a", "b", "c"]);
        assert_eq!(db.keys(scan_from("").limit(9).at(20).bypass(10)), ["a", "b", "c"]);
        assert!(db.scan(scan_from("").down().limit(9).at(20)).error.is_some());
    }

    #[test]
    fn many_versions_do_not_hide_the_one_in_sight() {
        let mut db = abc();
        for ts in 1..60 {
            db.commit_put("b", &ts.to_string(), ts * 10, ts * 10 + 1);
        }
        for at in [9, 31, 300, 1000] {
            let expected = if at < 11 { "1".to_owned() } else { ((at - 1) / 10).min(59).to_string() };
            for request in [scan_from("a").limit(9).at(at), scan_from("c").down().limit(9).at(at)] {
                let page = db.scan(request);
                let b = page.kvs.iter().find(|kv| kv.key == "b").unwrap();
                assert_eq!((page.kvs.len(), &b.value[..]), (3, expected.as_bytes()), "at {at}");
            }
        }
    }

    #[test]
    fn deleted_and_rolled_back_keys_are_skipped() {
        let mut db = abc();
        db.prewrite("b", &[delete("b")], 10).ok();
        db.commit(&["b"], 10, 11).ok();
        db.rollback(&["a", "zz"], 12).ok();
        assert_eq!(db.keys(scan_from("").limit(9)), ["a", "c"]);
        assert_eq!(db.keys(scan_from("").down().limit(9)), ["c", "a"]);
    }

    #[test]
    fn the_region_bounds_the_scan() {
        let mut db = abc();
        db.region = nokv_proto::key::KeyRange::new("b", "c");
        assert_eq!(db.keys(scan_from("").limit(9)), ["b"]);
        assert_eq!(db.keys(scan_from("").down().limit(9)), ["b"]);
        assert_eq!(db.keys(scan_from("c").down().limit(9)), ["b"]);
    }
}
