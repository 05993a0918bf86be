//! A judge of every single client operation, at the moment it returns, in logarithmic time.
//!
//! Values name the operation that wrote them, so a read says *whose* write it saw; transactions tell the timestamp they
//! read at, and writes the timestamp they committed at. Timestamps come from one oracle, so for every key there is
//! one true order of versions, and what a reader must have seen is not a matter of search:
//!
//! ```text
//! commits of k    c5:a        c9:b             c14:(deleted)
//! snapshots            7 → a       11 → b              20 → nothing
//! ```
//!
//! A write whose outcome is unknown has an interval instead of a commit timestamp; reads that saw it narrow the
//! interval, and an empty one is a violation. The rules:
//! - *phantom*: a value was read that nobody ever tried to write there;
//! - *refused*: a value was read whose write was refused;
//! - *stale*: a read that began after a newer version was known missed it (lost writes, monotonic reads, own writes);
//! - *snapshot*: a snapshot showed something else than the newest version at or below its timestamp;
//! - *lost update*: two transactions overlapped and both wrote the key;
//! - *time*: a timestamp came twice, or was not above one that had been handed out before it was asked for.
//!
//! Left to the judges of complete histories: whatever needs a search ([`super::linear`], [`super::si`]).

use super::{Violation, seconds};
use crate::workload::keys::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An operation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Which session asked.
    pub session: u32,
    /// When.
    pub invoked_ns: u64,
    /// The highest timestamp that any client held by then.
    floor: u64,
}

/// What was known of a key when a read of its newest version began.
#[derive(Debug, Clone)]
pub struct Before {
    commit: u64,
    /// Writes that were seen, and whose commit timestamps are not known.
    seen: Vec<u64>,
}

/// A write, by the number that its value carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u64);

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (session, step, part) = (self.0 >> 36, self.0 >> 4 & 0xffff_ffff, self.0 & 0xf);
        match (session, part) {
            (0, _) => write!(f, "the first value"),
            (session, 0) => write!(f, "{}/{step}", session - 1),
            (session, part) => write!(f, "{}/{step}+{part}", session - 1),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Refused,
    Committed,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    id: WriteId,
    deletes: bool,
    invoked_ns: u64,
    returned_ns: u64,
    fate: Fate,
    /// Timestamp of the snapshot it was based on; 0 if that is not known.
    start: u64,
    /// The commit timestamp lies in `low..=high`.
    low: u64,
    high: u64,
}

impl Write {
    /// Narrows the interval; false if nothing would be left.
    fn narrow(&mut self, low: u64, high: u64) -> bool {
        let (low, high) = (self.low.max(low), self.high.min(high));
        if low <= high {
            (self.low, self.high) = (low, high);
        }
        low <= high
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.deletes { "delete" } else { "write" };
        write!(f, "{what} {} ({} to {}, ", self.id, seconds(self.invoked_ns), seconds(self.returned_ns))?;
        match self.fate {
            Fate::Committed => write!(f, "committed at timestamp {})", self.low),
            Fate::Refused => write!(f, "refused)"),
            Fate::Open if self.high == u64::MAX => write!(f, "outcome not known)"),
            Fate::Open => write!(f, "committed somewhere in {}..={})", self.low, self.high),
        }
    }
}

/// Who saw something.
#[derive(Debug, Clone, Copy)]
struct Reader {
    session: u32,
    invoked_ns: u64,
    returned_ns: u64,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}, {} to {}", self.session, seconds(self.invoked_ns), seconds(self.returned_ns))
    }
}

/// A rule and the facts that break it.
type Broken = (&'static str, String);

const PHANTOM: &str = "client.phantom";
const REFUSED: &str = "client.refused";
const STALE: &str = "client.stale";
const SNAPSHOT: &str = "client.snapshot";
const LOST_UPDATE: &str = "client.lost_update";
const TIME: &str = "client.time";

/// Everything known of one key.
#[derive(Debug)]
struct Versions {
    writes: BTreeMap<WriteId, Write>,
    /// Writes with known commit timestamps; the state at birth is at 0, so never empty.
    commits: BTreeMap<u64, WriteId>,
    /// Open writes that somebody saw.
    seen: BTreeSet<WriteId>,
    /// Open deletes.
    deletes: BTreeSet<WriteId>,
    /// Snapshot reads by timestamp.
    reads: BTreeMap<u64, (Option<WriteId>, Reader)>,
}

impl Versions {
    /// Accounts have a first value, everything else begins absent.
    fn new(name: Name) -> Self {
        let id = WriteId(0);
        let deletes = !matches!(name, Name::Account(_));
        let (invoked_ns, returned_ns, low, high) = (0, 0, 0, 0);
        let birth =
            Write { id, deletes, invoked_ns, returned_ns, fate: Fate::Committed, start: 0, low, high };
        Self {
            writes: BTreeMap::from([(id, birth)]),
            commits: BTreeMap::from([(0, id)]),
            seen: BTreeSet::new(),
            deletes: BTreeSet::new(),
            reads: BTreeMap::new(),
        }
    }

    fn write(&self, id: WriteId) -> &Write {
        &self.writes[&id]
    }

    /// The newest version that is known to be committed at or below `at`.
    fn newest(&self, at: u64) -> Write {
        let id = self.commits.range(..=at).next_back().map_or(WriteId(0), |(_, id)| *id);
        *self.write(id)
    }

    fn begin(&mut self, id: WriteId, deletes: bool, ticket: &Ticket, start: u64) {
        let write = Write {
            id,
            deletes,
            invoked_ns: ticket.invoked_ns,
            returned_ns: u64::MAX,
            fate: Fate::Open,
            start,
            low: ticket.floor.max(start) + 1,
            high: u64::MAX,
        };
        self.writes.insert(id, write);
        if deletes {
            self.deletes.insert(id);
        }
    }

    /// The write that a value names; it must exist and not have been refused.
    fn author(&self, id: WriteId, reader: Reader) -> Result<Write, Broken> {
        match self.writes.get(&id) {
            None => Err((PHANTOM, format!("{id} was read ({reader}), but nobody wrote that here"))),
            Some(write) if write.fate == Fate::Refused => {
                Err((REFUSED, format!("{write} was read ({reader})")))
            }
            Some(write) => Ok(*write),
        }
    }

    /// Narrows an open write that was seen.
    fn saw(&mut self, id: WriteId, low: u64, high: u64) -> Option<Write> {
        self.seen.insert(id);
        let write = self.writes.get_mut(&id)?;
        let before = *write;
        (!write.narrow(low, high)).then_some(before)
    }

    /// Whether a delete, known or open, may have committed in `after..=until`.
    fn may_be_deleted(&self, after: u64, until: u64) -> bool {
        self.commits.range(after..=until).any(|(_, id)| self.write(*id).deletes)
            || self.deletes.iter().any(|id| self.write(*id).low <= until && self.write(*id).high >= after)
    }

    /// A read at a timestamp.
    fn snapshot_read(&mut self, at: u64, seen: Option<WriteId>, reader: Reader) -> Result<(), Broken> {
        if let Some((other, who)) = self.reads.get(&at)
            && *other != seen
        {
            let (other, seen) = (show(*other), show(seen));
            let facts =
                format!("two reads at timestamp {at} differ: {other} ({who}), then {seen} ({reader})");
            return Err((SNAPSHOT, facts));
        }
        let newest = self.newest(at);
        let wrong = |what: String| (SNAPSHOT, format!("the snapshot at timestamp {at} ({reader}) {what}"));
        match seen {
            None if newest.deletes => {}
            None if self.may_be_deleted(newest.low, at) => {}
            None => return Err(wrong(format!("shows nothing, although there was {newest}"))),
            Some(id) => {
                let author = self.author(id, reader)?;
                if author.fate == Fate::Committed {
                    if author.low > at {
                        return Err(wrong(format!("shows a later version: {author}")));
                    }
                    if author.id != newest.id {
                        return Err(wrong(format!("shows {author}, but the newest was {newest}")));
                    }
                } else if let Some(author) = self.saw(id, newest.low + 1, at) {
                    return Err(wrong(format!("shows {author}, which does not fit: there was {newest}")));
                }
            }
        }
        // Versions that others have seen, and that lie between what was seen and the snapshot.
        let shown = seen.map(|id| *self.write(id));
        for id in &self.seen {
            let other = self.write(*id);
            let missed = other.high <= at
                && match shown {
                    Some(shown) => shown.id != other.id && shown.high < other.low,
                    None => !other.deletes && !self.may_be_deleted(other.low, at),
                };
            if missed {
                return Err(wrong(format!("shows {}, but {other} lies between", show(seen))));
            }
        }
        self.reads.insert(at, (seen, reader));
        Ok(())
    }

    fn before(&self) -> Before {
        let commit = self.commits.last_key_value().map_or(0, |(at, _)| *at);
        Before { commit, seen: self.seen.iter().map(|id| id.0).collect() }
    }

    /// A read of the newest version.
    fn newest_read(&mut self, before: &Before, seen: Option<WriteId>, reader: Reader) -> Result<(), Broken> {
        let known = *self.write(self.commits[&before.commit]);
        let stale =
            |saw: String, missed: &Write| (STALE, format!("{saw} was read ({reader}) after {missed}"));
        match seen {
            None if !self.may_be_deleted(before.commit, u64::MAX) => {
                return Err(stale("nothing".to_owned(), &known));
            }
            None => {}
            Some(id) => {
                let author = self.author(id, reader)?;
                if author.fate == Fate::Committed {
                    if author.low < before.commit {
                        return Err(stale(author.to_string(), &known));
                    }
                } else if let Some(author) = self.saw(id, before.commit + 1, u64::MAX) {
                    return Err(stale(author.to_string(), &known));
                }
            }
        }
        for id in before.seen.iter().map(|id| WriteId(*id)).filter(|id| Some(*id) != seen) {
            let other = *self.write(id);
            let fits = match seen.map(|id| *self.write(id)) {
                None => self.may_be_deleted(other.low, u64::MAX),
                // Whoever was seen before was overwritten by what is seen now.
                Some(shown) if shown.fate == Fate::Committed && other.fate == Fate::Open => {
                    self.writes.get_mut(&id).is_some_and(|write| write.narrow(0, shown.low - 1))
                }
                Some(shown) => shown.high >= other.low,
            };
            if !fits {
                return Err(stale(show(seen), &other));
            }
        }
        Ok(())
    }

    /// A read that must show everything acknowledged by `known_ns`, and may miss what came later.
    fn stale_read(&self, known_ns: u64, seen: Option<WriteId>, reader: Reader) -> Result<(), Broken> {
        let known =
            self.commits.values().rev().map(|id| self.write(*id)).find(|write| write.returned_ns <= known_ns);
        let Some(known) = known else { return Ok(()) };
        let saw = match seen {
            None if known.deletes || self.may_be_deleted(known.low, u64::MAX) => return Ok(()),
            None => "nothing".to_owned(),
            Some(id) => {
                let author = self.author(id, reader)?;
                if author.high >= known.low {
                    return Ok(());
                }
                author.to_string()
            }
        };
        let facts =
            format!("{saw} was read ({reader}), although {known} was acknowledged longer ago than allowed");
        Err((STALE, facts))
    }

    fn refuse(&mut self, id: WriteId, returned_ns: u64) -> Result<(), Broken> {
        let seen = self.seen.remove(&id);
        self.deletes.remove(&id);
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        write.returned_ns = returned_ns;
        write.fate = Fate::Refused;
        if seen { Err((REFUSED, format!("{write} had been read before"))) } else { Ok(()) }
    }

    fn commit(&mut self, id: WriteId, at: u64, returned_ns: u64) -> Result<(), Broken> {
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        write.returned_ns = returned_ns;
        if !(write.low..=write.high).contains(&at) {
            let (rule, facts) = (SNAPSHOT, format!("{write} says it committed at timestamp {at}"));
            return Err((rule, facts));
        }
        (write.fate, write.low, write.high) = (Fate::Committed, at, at);
        let write = *write;
        self.seen.remove(&id);
        self.deletes.remove(&id);
        if let Some(other) = self.commits.insert(at, id) {
            return Err((TIME, format!("{write} and {} share a timestamp", self.write(other))));
        }
        let next = self.commits.range(at + 1..).next().map(|(_, id)| *self.write(*id));
        self.no_lost_update(&write, next.as_ref())?;
        self.fits_reads(&write, next.map_or(u64::MAX, |next| next.low))
    }

    /// A transaction that wrote the key saw everything that was committed there before.
    fn no_lost_update(&self, write: &Write, next: Option<&Write>) -> Result<(), Broken> {
        let previous = self.newest(write.low - 1);
        let pairs = [(Some(&previous), Some(write)), (Some(write), next)];
        for (first, second) in pairs.into_iter().filter_map(|(first, second)| first.zip(second)) {
            if second.start != 0 && first.low > second.start {
                let facts = format!("{second}, based on the snapshot at {}, overwrote {first}", second.start);
                return Err((LOST_UPDATE, facts));
            }
        }
        Ok(())
    }

    /// Snapshots from `write` to the next version must have shown it.
    fn fits_reads(&mut self, write: &Write, next: u64) -> Result<(), Broken> {
        for (at, (seen, reader)) in self.reads.range(write.low..next) {
            let fits = match seen {
                Some(id) if *id == write.id => true,
                None if write.deletes => true,
                None => self.may_be_deleted(write.low, *at),
                Some(id) => self
                    .writes
                    .get_mut(id)
                    .is_some_and(|other| other.fate == Fate::Open && other.narrow(write.low + 1, *at)),
            };
            if !fits {
                let shown = show(*seen);
                let facts = format!(
                    "the snapshot at timestamp {at} ({reader}) showed {shown}, but there was {write}"
                );
                return Err((SNAPSHOT, facts));
            }
        }
        Ok(())
    }
}

fn show(seen: Option<WriteId>) -> String {
    seen.map_or_else(|| "nothing".to_owned(), |id| id.to_string())
}

/// The judge. It is told of every operation when it begins and when it returns.
#[derive(Debug, Default)]
pub struct Oracle {
    keys: BTreeMap<Name, Versions>,
    /// Timestamps that clients got, as first → last of a range.
    stamps: BTreeMap<u64, u64>,
    highest: u64,
}

impl Oracle {
    /// An operation begins.
    pub fn invoke(&self, session: u32, now_ns: u64) -> Ticket {
        Ticket { session, invoked_ns: now_ns, floor: self.highest }
    }

    /// What is known of `key` when a read of its newest version begins.
    pub fn before(&mut self, key: Name) -> Before {
        self.versions(key).before()
    }

    /// A write is about to be sent. `start`: the timestamp of the snapshot it is based on, 0 if unknown.
    pub fn write(&mut self, ticket: &Ticket, key: Name, id: WriteId, deletes: bool, start: u64) {
        self.versions(key).begin(id, deletes, ticket, start);
    }

    /// A write is committed.
    pub fn committed(&mut self, key: Name, id: WriteId, at: u64, now_ns: u64) -> Result<(), Violation> {
        let judged = self.versions(key).commit(id, at, now_ns);
        named(key, judged)
    }

    /// A write is refused: it never happened.
    pub fn refused(&mut self, key: Name, id: WriteId, now_ns: u64) -> Result<(), Violation> {
        let judged = self.versions(key).refuse(id, now_ns);
        named(key, judged)
    }

    /// A read at timestamp `at` returned.
    pub fn snapshot_read(
        &mut self,
        ticket: &Ticket,
        key: Name,
        at: u64,
        seen: Option<WriteId>,
        now_ns: u64,
    ) -> Result<(), Violation> {
        let judged = self.versions(key).snapshot_read(at, seen, reader(ticket, now_ns));
        named(key, judged)
    }

    /// A read of the newest version returned.
    pub fn newest_read(
        &mut self,
        ticket: &Ticket,
        key: Name,
        before: &Before,
        seen: Option<WriteId>,
        now_ns: u64,
    ) -> Result<(), Violation> {
        let judged = self.versions(key).newest_read(before, seen, reader(ticket, now_ns));
        named(key, judged)
    }

    /// A read returned that may be `bound_ns` old when it begins.
    pub fn stale_read(
        &mut self,
        ticket: &Ticket,
        key: Name,
        bound_ns: u64,
        seen: Option<u64>,
        now_ns: u64,
    ) -> Result<(), Violation> {
        let known_ns = ticket.invoked_ns.saturating_sub(bound_ns);
        let judged = self.versions(key).stale_read(known_ns, seen.map(WriteId), reader(ticket, now_ns));
        named(key, judged)
    }

    /// A client holds `count` timestamps from `first` on, asked for after `ticket`.
    pub fn stamps(&mut self, ticket: &Ticket, first: u64, count: u64) -> Result<(), Violation> {
        let last = first + count.max(1) - 1;
        if first <= ticket.floor {
            let facts = format!(
                "timestamp {first} was asked for after {} ({}), when {} was known already",
                seconds(ticket.invoked_ns),
                format_args!("session {}", ticket.session),
                ticket.floor
            );
            return Err(Violation::new(TIME, facts));
        }
        if let Some((other, end)) = self.stamps.range(..=last).next_back()
            && *end >= first
        {
            let facts = format!("timestamps {first}..={last} were handed out, and {other}..={end} before");
            return Err(Violation::new(TIME, facts));
        }
        self.stamps.insert(first, last);
        self.highest = self.highest.max(last);
        Ok(())
    }

    fn versions(&mut self, key: Name) -> &mut Versions {
        self.keys.entry(key).or_insert_with(|| Versions::new(key))
    }
}

fn reader(ticket: &Ticket, now_ns: u64) -> Reader {
    Reader { session: ticket.session, invoked_ns: ticket.invoked_ns, returned_ns: now_ns }
}

fn named(key: Name, judged: Result<(), Broken>) -> Result<(), Violation> {
    judged.map_err(|(rule, facts)| Violation::new(rule, format!("{key:?}: {facts}")))
}

#[cfg(test)]
mod tests;
