//! The turning points between which the evidence fell: who answered which request in whose name, and which keys a
//! split took from whom. They are read off packets and facts, whatever the checker.

use super::facts::Group;
use super::story::Line;
use super::tables::{Kind, Row, Tables, range};
use super::words::at;
use std::collections::{BTreeMap, BTreeSet};

/// Requests of one operation that are told, the last ones.
const REQUESTS_MAX: usize = 6;

/// Calls that set a lock, or end one.
const CHANGES: [&str; 6] = [
    "KvPrewrite",
    "KvCommit",
    "KvBatchRollback",
    "KvResolveLock",
    "KvCheckTxnStatus",
    "KvCheckSecondaryLocks",
];

/// A region as the first peer that knew it like this told it.
struct Shape {
    since_ns: u64,
    version: u64,
    start: Vec<u8>,
    end: Vec<u8>,
    row: usize,
}

impl Shape {
    fn holds(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && (self.end.is_empty() || key < self.end.as_slice())
    }
}

/// A request of an operation to a store.
pub(super) struct Request {
    pub(super) line: Line,
    /// What is remarkable about its answer, as a sentence.
    pub(super) remark: Option<String>,
}

/// Turning points in a run.
pub(super) struct Turns<'a> {
    tables: &'a Tables,
    /// By region, in order of versions.
    shapes: BTreeMap<u64, Vec<Shape>>,
}

impl<'a> Turns<'a> {
    pub(super) fn new(tables: &'a Tables) -> Self {
        let mut shapes: BTreeMap<u64, Vec<Shape>> = BTreeMap::new();
        for (row, mark) in tables.rows.iter().enumerate() {
            let Some(known) = mark.known.as_ref().filter(|known| known.name == "Region") else { continue };
            let (Some(id), Some(version)) = (known.number("id"), known.number("version")) else { continue };
            let known_shapes = shapes.entry(id).or_default();
            if known_shapes.last().is_none_or(|last| last.version < version) {
                let bytes = |field| known.bytes(field).unwrap_or_default();
                let (start, end) = (bytes("start"), bytes("end"));
                known_shapes.push(Shape { since_ns: mark.from_ns, version, start, end, row });
            }
        }
        Self { tables, shapes }
    }

    /// Regions that splits made, and what each holds at birth.
    pub(super) fn born(&self) -> Vec<(u64, String)> {
        let first = self.shapes.iter().filter_map(|(id, shapes)| Some((*id, shapes.first()?)));
        let born = first.filter(|(_, shape)| shape.version > 1);
        born.map(|(id, shape)| (id, range(&shape.start, &shape.end))).collect()
    }

    /// The region in which a workload key lies at a time, and since when.
    fn home(&self, key: &str, at_ns: u64) -> Option<(u64, u64)> {
        let bytes = self.tables.places.get(key)?;
        let newest = self.shapes.iter().filter_map(|(id, shapes)| {
            let shape = shapes.iter().rev().find(|shape| shape.since_ns <= at_ns)?;
            shape.holds(bytes).then_some((shape.version, *id, shape.since_ns))
        });
        newest.max().map(|(_, id, since_ns)| (id, since_ns))
    }

    /// Every region in which one of the keys ever lay.
    pub(super) fn homes(&self, keys: &BTreeSet<String>) -> BTreeSet<u64> {
        let places: Vec<_> = keys.iter().filter_map(|key| self.tables.places.get(key)).collect();
        let ever = |shapes: &[Shape]| shapes.iter().any(|shape| places.iter().any(|key| shape.holds(key)));
        self.shapes.iter().filter(|(_, shapes)| ever(shapes)).map(|(id, _)| *id).collect()
    }

    /// Splits that concern the keys, or the groups if there are no keys.
    pub(super) fn splits(
        &self,
        keys: &BTreeSet<String>,
        groups: &BTreeSet<Group>,
        until_ns: u64,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        for (child, shapes) in &self.shapes {
            let Some(born) = shapes.first().filter(|born| born.version > 1 && born.since_ns <= until_ns)
            else {
                continue;
            };
            let parent = self.shapes.iter().find(|(id, shapes)| {
                let before = shapes.iter().rev().find(|shape| shape.version < born.version);
                *id != child && before.is_some_and(|before| before.holds(&born.start))
            });
            let Some((parent, _)) = parent else { continue };
            let moved: Vec<&str> = keys
                .iter()
                .filter(|key| self.tables.places.get(*key).is_some_and(|place| born.holds(place)))
                .map(String::as_str)
                .collect();
            let concerned = [*parent, *child].into_iter().any(|id| groups.contains(&Group::Region(id)));
            if moved.is_empty() && !(keys.is_empty() && concerned) {
                continue;
            }
            let also = if moved.is_empty() { String::new() } else { format!(", also {}", moved.join(", ")) };
            let border = String::from_utf8_lossy(&born.start);
            let text = format!(
                "region {parent} is split at {border}: what lies behind belongs to region {child} from now on{also}."
            );
            lines.push(Line { at_ns: born.since_ns, text, row: Some(born.row), evidence: false });
        }
        lines
    }

    /// What an operation asked of stores about `keys`, who answered, and in whose name.
    pub(super) fn requests(&self, operation: &Row, keys: &BTreeSet<String>, until_ns: u64) -> Vec<Request> {
        let until_ns = operation.until_ns.min(until_ns);
        let mut requests: Vec<Request> = Vec::new();
        for (index, row) in self.tables.rows.iter().enumerate() {
            let asks = row.kind == Kind::Packet
                && row.node == operation.node
                && (operation.from_ns..=until_ns).contains(&row.from_ns)
                && row.text.starts_with("Kv")
                && !row.text.ends_with("answered");
            let about: Vec<&str> =
                row.keys.iter().filter(|key| keys.contains(*key)).map(String::as_str).collect();
            if !asks || (about.is_empty() && row.text != "KvScan") {
                continue;
            }
            let Some((text, remark)) = self.request(row, &about, keys) else { continue };
            if requests.last().is_none_or(|last| last.line.text != text) {
                let line = Line { at_ns: row.from_ns, text, row: Some(index), evidence: false };
                requests.push(Request { line, remark });
            }
        }
        requests.drain(..requests.len().saturating_sub(REQUESTS_MAX));
        requests
    }

    /// One request, and what is remarkable about its answer. A scan names no keys: it is told if a region in which one
    /// of `keys` ever lay answered it.
    fn request(
        &self,
        row: &Row,
        about: &[&str],
        keys: &BTreeSet<String>,
    ) -> Option<(String, Option<String>)> {
        let name = |node: Option<usize>| {
            node.and_then(|node| self.tables.nodes.get(node)).map_or("?", String::as_str)
        };
        let (from, to) = (name(row.node), name(row.other));
        let answered_ns = self.answered(row);
        let served = answered_ns.and_then(|until| self.served(row, until, &self.homes(keys)));
        if about.is_empty() && served.is_none() {
            return None;
        }
        let what = match about {
            [] => row.text.clone(),
            about => format!("{} of {}", row.text, about.join(", ")),
        };
        let answer = match (answered_ns, served) {
            (None, _) => return Some((format!("{from} asks {to}: {what}; no answer before the end."), None)),
            (Some(when), None) => format!("at {}", at(when)),
            (Some(when), Some(region)) => format!("from region {region} at {}", at(when)),
        };
        let concerned = || keys.iter().filter(|key| about.is_empty() || about.contains(&key.as_str()));
        let moved = concerned().find_map(|key| {
            let (home, since_ns) = self.home(key, row.until_ns)?;
            served.filter(|served| *served != home)?;
            Some(format!(", although {key} lies in region {home} since {}", at(since_ns)))
        });
        let locked = || concerned().find_map(|key| self.locked(row, key, answered_ns));
        let remark = moved.or_else(locked);
        let clause = remark.as_deref().unwrap_or_default();
        let text = format!("{from} asks {to}: {what}; answered {answer}{clause}.");
        let remark = remark.as_ref().map(|clause| format!("{to} answered it {answer}{clause}."));
        Some((text, remark))
    }

    fn answered(&self, row: &Row) -> Option<u64> {
        let answered = format!("{} answered", row.text);
        let answer = self.tables.rows.iter().find(|other| {
            let back = (other.node, other.other) == (row.other, row.node);
            other.kind == Kind::Packet && back && other.from_ns >= row.until_ns && other.text == answered
        });
        answer.filter(|_| row.state != 2).map(|answer| answer.from_ns)
    }

    /// The region that the receiver read from to answer, if it was one of `homes`.
    fn served(&self, row: &Row, until_ns: u64, homes: &BTreeSet<u64>) -> Option<u64> {
        let reads = self.tables.rows.iter().filter(|mark| {
            mark.kind == Kind::Mark
                && mark.node == row.other
                && (row.until_ns..=until_ns).contains(&mark.from_ns)
                && mark.known.as_ref().is_some_and(|known| known.name == "ReadServed")
        });
        let mut regions = reads.filter_map(|mark| match mark.group {
            Some(Group::Region(id)) => Some(id),
            _ => None,
        });
        regions.rfind(|id| homes.contains(id))
    }

    /// Whether a read met a lock on `key`: prewritten before it was asked, and if that was ever committed or resolved
    /// at that key, then after it was answered. Nothing is said of a lock whose end is not so clear.
    fn locked(&self, read: &Row, key: &str, answered_ns: Option<u64>) -> Option<String> {
        let reads = ["KvGet", "KvBatchGet", "KvScan"].contains(&read.text.as_str());
        let answered_ns = answered_ns.filter(|_| reads)?;
        let names = |row: &Row| row.keys.iter().any(|named| named == key);
        let changes = || {
            let rows = self.tables.rows.iter();
            rows.filter(|row| row.kind == Kind::Packet && CHANGES.contains(&row.text.as_str()) && names(row))
        };
        let prewrite =
            changes().rfind(|row| row.until_ns < read.until_ns).filter(|row| row.text == "KvPrewrite")?;
        let writer = self.tables.rows.iter().rfind(|row| {
            row.is_write_of_many()
                && row.node == prewrite.node
                && names(row)
                && (row.from_ns..=row.until_ns).contains(&prewrite.from_ns)
        })?;
        let locked = match changes().find(|row| row.from_ns > prewrite.from_ns) {
            Some(end) => {
                ["KvCommit", "KvResolveLock"].contains(&end.text.as_str()) && end.until_ns >= answered_ns
            }
            // Never ended at this key: a lock only if the writer commits in a second round at all.
            None => self.tables.rows.iter().any(|row| {
                row.kind == Kind::Packet
                    && row.text == "KvCommit"
                    && row.node == prewrite.node
                    && (prewrite.from_ns..=writer.until_ns).contains(&row.from_ns)
                    && row.keys.iter().any(|named| writer.keys.contains(named))
            }),
        };
        let session =
            writer.other.and_then(|session| self.tables.sessions.get(session)).filter(|_| locked)?;
        let who = super::story::session_name(session.number);
        Some(format!(", while {key} was locked by {who} (prewritten at {})", at(prewrite.from_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{CLIENT1, SECOND, STORE1, STORE2, asks, failed, peer, tell};
    use super::*;
    use crate::exec::Node;
    use crate::record::Recording;
    use crate::workload::Op;
    use crate::workload::keys::Name;
    use nokv_env::{Fact, Region};

    fn region(recording: &mut Recording, at_ms: u64, id: u64, version: u64, start: &[u8], end: &[u8]) {
        let region = Region { id, version, conf_version: 1, start: start.to_vec(), end: end.to_vec() };
        tell(recording, at_ms, STORE1, Fact::Region { peer: peer(id, id * 100 + 1), region });
    }

    fn reads(recording: &mut Recording, at_ms: u64, node: Node, group: u64) {
        let peer = peer(group, group * 100 + 2);
        tell(recording, at_ms, node, Fact::ReadServed { peer, read: 1, applied: 5, term: 1 });
    }

    fn requests(recording: &Recording, key: &str) -> Vec<String> {
        let (tables, ..) = failed(recording, "client.snapshot", "", 9);
        let operation = tables.rows.iter().rfind(|row| row.kind == Kind::Op).expect("an operation");
        let turns = Turns::new(&tables);
        let found = turns.requests(operation, &BTreeSet::from([key.to_owned()]), 9 * SECOND);
        found.into_iter().map(|request| request.line.text).collect()
    }

    #[test]
    fn a_read_from_a_region_that_lost_the_key_is_told_as_that() {
        let key = Name::Key(6).key();
        let mut recording = Recording::default();
        region(&mut recording, 100, 1, 1, b"", b"");
        region(&mut recording, 2_000, 1, 2, b"", &key);
        region(&mut recording, 2_000, 9, 2, &key, b"");
        recording.op_begins(3 * SECOND, CLIENT1, 1 << 32, &Op::Scan);
        asks(&mut recording, (3_010, 3_020), (CLIENT1, STORE2), "KvScan", &[]);
        reads(&mut recording, 3_015, STORE2, 1);
        recording.op_ends(4 * SECOND, 1 << 32, None);
        assert_eq!(
            requests(&recording, "k6"),
            [
                "client1 asks store2: KvScan; answered from region 1 at 3.019 s, although k6 lies in region 9 since 2.000 s."
            ]
        );

        let (tables, ..) = failed(&recording, "client.snapshot", "", 9);
        let (keys, turns) = (BTreeSet::from(["k6".to_owned()]), Turns::new(&tables));
        let splits = turns.splits(&keys, &BTreeSet::new(), 9 * SECOND);
        assert_eq!(splits.len(), 1);
        assert!(splits[0].text.starts_with("region 1 is split at "), "{}", splits[0].text);
        assert!(splits[0].text.ends_with("belongs to region 9 from now on, also k6."), "{}", splits[0].text);
        assert_eq!(turns.homes(&keys), BTreeSet::from([1, 9]));
        assert!(
            turns.splits(&keys, &BTreeSet::new(), SECOND).is_empty(),
            "what has not happened yet is not told"
        );
    }

    #[test]
    fn a_read_under_a_lock_is_told_as_that() {
        let (first, second) = (Name::Key(6), Name::Key(2));
        let told = |committed_ms: Option<u64>| {
            let mut recording = Recording::default();
            region(&mut recording, 100, 1, 1, b"", b"");
            let write = Op::Multi { puts: vec![2, 6], deletes: Vec::new(), bytes: 16, vanish_ms: 0 };
            recording.op_begins(SECOND, CLIENT1, 1 << 32, &write);
            asks(&mut recording, (1_100, 1_200), (CLIENT1, STORE2), "KvPrewrite", &[second, first]);
            asks(&mut recording, (1_250, 1_300), (CLIENT1, STORE2), "KvCommit", &[second]);
            if let Some(from_ms) = committed_ms {
                asks(&mut recording, (from_ms, from_ms + 50), (CLIENT1, STORE2), "KvCommit", &[first]);
            }
            recording.op_ends(5 * SECOND, 1 << 32, None);
            recording.op_begins(3 * SECOND, CLIENT1, 2 << 32, &Op::Get { key: 6 });
            asks(&mut recording, (3_010, 3_020), (CLIENT1, STORE2), "KvGet", &[first]);
            recording.op_ends(3 * SECOND + SECOND / 2, 2 << 32, None);
            requests(&recording, "k6")
        };
        let locked = "client1 asks store2: KvGet of k6; answered at 3.019 s, while k6 was locked by session 0 \
                      (prewritten at 1.100 s).";
        assert_eq!(told(Some(4_000)), [locked], "committed too late");
        assert_eq!(told(None), [locked], "committed at its primary only");
        assert_eq!(told(Some(2_000)), ["client1 asks store2: KvGet of k6; answered at 3.019 s."]);
    }
}
