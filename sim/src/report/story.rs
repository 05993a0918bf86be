//! What happened around the violation, in words and in order.
//!
//! Checkers say what is wrong in a sentence: keys, sessions with their times, raft groups, terms, numbers. [`Clues`]
//! reads those names back, finds the rows that they mean (the *evidence*), and [`Story`] tells them in order of time,
//! with the faults, elections and deaths that they fell between. A checker needs to know nothing of this, as long as
//! it names things the way all of them do.

use super::facts::Group;
use super::headline;
use super::tables::{Kind, Outcome, Row, Tables, value};
use super::turns::Turns;
use super::words::{at, millis, regions, stamps};
use crate::check::oracle::WriteId;
use crate::record::{NEVER, State};
use crate::run::{Failure, Verdict};
use std::collections::{BTreeMap, BTreeSet};

const SECOND: u64 = 1_000_000_000;
/// How far before the evidence the story looks for causes.
const BEFORE_NS: u64 = 3 * SECOND;
/// Longest span that the page opens with.
const OPENING_NS: u64 = 12 * SECOND;
/// How the reason ends with which a node gives up when the simulated disk under it has crashed.
const DISK_DIED: &str = "the simulated node has crashed";
/// Parts of an answer up to which all of it is told.
const ANSWERS_MAX: usize = 8;
/// Sentences of each sort that are told.
const EVIDENCE_MAX: usize = 16;
const CONTEXT_MAX: usize = 10;

/// One sentence.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) at_ns: u64,
    pub(super) text: String,
    /// The row that it tells.
    pub(super) row: Option<usize>,
    /// Part of the violation, not of its surroundings.
    pub(super) evidence: bool,
}

/// The story of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    /// What is wrong, in one sentence; empty if nothing is.
    pub(super) headline: String,
    pub(super) lines: Vec<Line>,
    /// Rows that make up the violation.
    pub(super) evidence: Vec<usize>,
    /// Workload keys and raft groups that it is about.
    pub(super) keys: Vec<String>,
    pub(super) groups: Vec<Group>,
    /// What the page opens with.
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

impl Story {
    pub(super) fn of(tables: &Tables, verdict: &Verdict) -> Self {
        match &verdict.failure {
            None => passed(tables),
            Some(failure) => Teller::new(tables, failure).tell(),
        }
    }
}

/// A run without violation: what struck, and what came of it.
fn passed(tables: &Tables) -> Story {
    let mut lines: Vec<Line> = tables
        .notes
        .iter()
        .map(|(at_ns, note)| Line { at_ns: *at_ns, text: format!("{note}."), row: None, evidence: false })
        .collect();
    let faults: Vec<usize> = indexes(tables, |row| row.kind == Kind::Fault);
    let step = faults.len().div_ceil(CONTEXT_MAX).max(1);
    lines.extend(faults.iter().step_by(step).map(|index| sentence(tables, *index, false)));
    lines.sort_by_key(|line| line.at_ns);
    Story { lines, until_ns: tables.end_ns, ..Story::default() }
}

fn indexes(tables: &Tables, which: impl Fn(&Row) -> bool) -> Vec<usize> {
    tables.rows.iter().enumerate().filter(|(_, row)| which(row)).map(|(index, _)| index).collect()
}

/// A row as a line of the story.
fn sentence(tables: &Tables, index: usize, evidence: bool) -> Line {
    Line { at_ns: tables.rows[index].from_ns, text: words_of(tables, index), row: Some(index), evidence }
}

/// A row in words.
pub(super) fn words_of(tables: &Tables, index: usize) -> String {
    let row = &tables.rows[index];
    let name = |node: Option<usize>| {
        node.and_then(|node| tables.nodes.get(node)).map_or("the world", String::as_str)
    };
    let lasted = row.until_ns.saturating_sub(row.from_ns) / 1_000_000;
    let text = match row.kind {
        Kind::Fault if row.detail == "disk_crash" => match tables.dies_between(row) {
            Some(when) => format!("{}, which comes at {}.", row.text, at(when)),
            None => format!("{}.", row.text),
        },
        Kind::Fault if row.until_ns == NEVER => format!("{}, until the end of the run.", row.text),
        Kind::Fault if lasted == 0 => format!("{}.", row.text),
        Kind::Fault => format!("{}; this lasts {}.", row.text, millis(lasted)),
        Kind::Life => match row.detail.as_str() {
            "" => format!("{}: {}.", name(row.node), row.text),
            // Not a bug of the node: its disk is the one that crashed.
            why if why.ends_with(DISK_DIED) => {
                format!("{} stops in the middle of a write to disk.", name(row.node))
            }
            why => format!("{}: {} ({}).", name(row.node), row.text, regions(why)),
        },
        Kind::Lead => {
            let group = row.group.map_or_else(String::new, |group| group.to_string());
            format!("{} becomes leader of {group} in {}.", name(row.node), row.text)
        }
        Kind::Lease => format!("{} gets the lease, {}.", name(row.node), row.text),
        Kind::Op => operation(tables, row, &BTreeSet::new()),
        Kind::Mark if row.state == 4 && row.text.starts_with("chance ") => {
            format!("{} takes the rare branch {}.", name(row.node), &row.text["chance ".len()..])
        }
        Kind::Mark => format!("{} {}.", name(row.node), row.text),
        Kind::Packet => format!("{} sends {} to {}.", name(row.node), row.text, name(row.other)),
    };
    stamps(&text)
}

/// An operation; of a long answer only what it says of `keys`.
fn operation(tables: &Tables, row: &Row, keys: &BTreeSet<String>) -> String {
    let session = row.other.and_then(|session| tables.sessions.get(session));
    let who = session.map_or_else(String::new, |session| session_name(session.number));
    let when = if row.until_ns == NEVER { "never".to_owned() } else { format!("at {}", at(row.until_ns)) };
    let outcome = |state: Outcome| row.state == state as u8;
    let end = if outcome(Outcome::Unknown) {
        let why = if row.detail.is_empty() { String::new() } else { format!(" ({})", row.detail) };
        format!("; the outcome stays unknown{why}")
    } else if outcome(Outcome::Refused) {
        format!("; refused {when} ({})", row.detail)
    } else if outcome(Outcome::Open) {
        "; it was under way when the run ended".to_owned()
    } else if row.detail.is_empty() {
        format!("; acknowledged {when}")
    } else {
        format!("; answered {when}: {}", answer(&row.detail, keys))
    };
    format!("{who}: {}{end}.", row.text)
}

fn answer(detail: &str, keys: &BTreeSet<String>) -> String {
    let parts: Vec<&str> = detail.split(", ").collect();
    let about = |part: &&&str| part.split_once(" is ").is_some_and(|(key, _)| keys.contains(key));
    let told: Vec<&str> = parts.iter().filter(about).copied().collect();
    if parts.len() <= ANSWERS_MAX || told.is_empty() {
        return detail.to_owned();
    }
    format!("{}, and {} more answers", told.join(", "), parts.len() - told.len())
}

/// What people call a session. The last reads have a number beyond all others.
pub(super) fn session_name(number: u32) -> String {
    if number > u32::from(u16::MAX) { "the checker's reads".to_owned() } else { format!("session {number}") }
}

/// Words before numbers that are no index of a log.
const NAMES: [&str; 10] =
    ["group", "region", "peer", "peers", "term", "session", "key", "account", "list", "generation"];

/// The names in the facts of a violation.
#[derive(Debug, Default)]
struct Clues {
    keys: BTreeSet<String>,
    groups: BTreeSet<Group>,
    /// Sessions, and when the operation in question was invoked.
    spans: Vec<(u64, Option<u64>)>,
    /// Numbers of writes.
    writes: BTreeSet<u64>,
    peers: BTreeSet<u64>,
    terms: BTreeSet<u64>,
    indexes: BTreeSet<u64>,
    generations: BTreeSet<u64>,
    /// Large numbers: timestamps and ids.
    numbers: BTreeSet<u64>,
    nodes: BTreeSet<usize>,
}

impl Clues {
    fn read(facts: &str, tables: &Tables) -> Self {
        // Raft checkers end with a list of who every peer is.
        let facts = facts.split(" (peers: ").next().unwrap_or_default();
        let words = split(facts);
        let mut clues = Self::default();
        for (index, word) in words.iter().enumerate() {
            let next = words.get(index + 1).and_then(|word| word.parse::<u64>().ok());
            let after = |skip: usize| words.get(index + skip).and_then(|word| word.parse::<u64>().ok());
            match (word.to_lowercase().as_str(), next) {
                ("key", Some(number)) => _ = clues.keys.insert(format!("k{number}")),
                ("account", Some(number)) => _ = clues.keys.insert(format!("a{number}")),
                ("list", Some(number)) => _ = clues.keys.insert(format!("l{number}")),
                ("skew", Some(number)) => _ = clues.keys.insert(format!("s{number}")),
                ("fork", Some(number)) => _ = clues.keys.insert(format!("f{number}")),
                ("session", Some(number)) => {
                    clues.spans.push((number, words[index + 2..].iter().take(2).find_map(|word| time(word))));
                }
                ("group", Some(number)) if index > 0 && words[index - 1] == "root" => {
                    _ = (number, clues.groups.insert(Group::Roots));
                }
                ("group" | "region", Some(number)) => _ = clues.groups.insert(Group::Region(number)),
                ("peer" | "for", Some(number)) => _ = clues.peers.insert(number),
                ("peers", Some(number)) => clues.peers.extend([Some(number), after(3)].into_iter().flatten()),
                ("and", Some(number)) => _ = clues.peers.insert(number),
                ("term", Some(number)) => _ = clues.terms.insert(number),
                (name, Some(number)) if number > 0 && !NAMES.contains(&name) => {
                    _ = clues.indexes.insert(number);
                }
                ("generation", Some(number)) => _ = clues.generations.insert(number),
                _ => {}
            }
            clues.word(word, tables);
        }
        clues.bytes(facts);
        clues
    }

    fn word(&mut self, word: &str, tables: &Tables) {
        if let Some(node) = tables.nodes.iter().position(|name| name == word) {
            self.nodes.insert(node);
        }
        // A region, as stores name it in their errors.
        if let Some(Ok(id)) = word.strip_prefix('g').map(str::parse) {
            self.groups.insert(Group::Region(id));
        }
        if let Some((session, step)) = word.split_once('/')
            && let (Ok(session), Ok(step)) =
                (session.parse::<u64>(), step.split('+').next().unwrap_or_default().parse::<u64>())
        {
            self.writes.insert((session + 1) << 32 | step);
        }
        if let Some(Ok(id)) = word.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
            self.writes.extend((id >> 36 > 0).then_some(id >> 4));
        }
        for part in word.split("..") {
            self.numbers
                .extend(part.trim_start_matches('=').parse::<u64>().ok().filter(|number| *number > 99));
        }
    }

    /// Workload keys in rows that are printed as bytes.
    fn bytes(&mut self, facts: &str) {
        for list in facts.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
            let bytes: Option<Vec<u8>> =
                list.split(", ").map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            let names = crate::record::keys_in(&bytes.unwrap_or_default());
            self.keys.extend(names.into_iter().map(super::tables::key_name));
        }
    }
}

/// The words of a text: what belongs to a name, a number, a time or a range stays together.
fn split(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || ['.', '/', '_', '+', '='].contains(&c)))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty())
        .collect()
}

/// A time as checkers print it, `12.345678s`, in nanoseconds.
fn time(word: &str) -> Option<u64> {
    let seconds: f64 = word.strip_suffix('s')?.parse().ok()?;
    Some((seconds * 1e9).round() as u64)
}

struct Teller<'a> {
    tables: &'a Tables,
    clues: Clues,
    failure: &'a Failure,
    checker: &'a str,
    facts: &'a str,
    at_ns: u64,
}

impl<'a> Teller<'a> {
    fn new(tables: &'a Tables, failure: &'a Failure) -> Self {
        let clues = Clues::read(&failure.facts, tables);
        let (checker, facts) = (&failure.checker, &failure.facts);
        Self { tables, clues, failure, checker, facts, at_ns: failure.at_ns }
    }

    fn tell(self) -> Story {
        let mut evidence = self.evidence();
        let mut missed = None;
        if let Some(read) = self.stale_read(&evidence) {
            missed = Some(read.1);
            evidence.insert(read.0);
        }
        let mut keys = self.clues.keys.clone();
        for index in &evidence {
            let row = &self.tables.rows[*index];
            if row.kind == Kind::Op && row.keys.len() <= 2 {
                keys.extend(row.keys.iter().cloned());
            }
        }
        let turns = Turns::new(self.tables);
        let mut groups = self.clues.groups.clone();
        if !keys.is_empty() && keys.len() <= 4 {
            let at_birth = keys.iter().filter_map(|key| self.tables.regions.get(key)).copied();
            groups.extend(at_birth.chain(turns.homes(&keys)).map(Group::Region));
        }
        groups.extend(evidence.iter().filter_map(|index| self.tables.rows[*index].group));

        let first = evidence.iter().map(|index| self.tables.rows[*index].from_ns).min().unwrap_or(self.at_ns);
        let since = first.max(self.at_ns.saturating_sub(OPENING_NS)).saturating_sub(BEFORE_NS);
        let mut lines = self.evidence_lines(&evidence, missed.as_ref());
        let context =
            self.context(since, &groups, &evidence).into_iter().filter(|index| !evidence.contains(index));
        lines.extend(context.map(|index| sentence(self.tables, index, false)));
        let (requests, remark) = self.requests(&turns, &evidence, &keys);
        evidence.extend(requests.iter().filter(|line| line.evidence).filter_map(|line| line.row));
        lines.extend(requests);
        lines.extend(turns.splits(&keys, &groups, self.at_ns));
        lines.sort_by_key(|line| (line.at_ns, !line.evidence));
        lines.push(Line {
            at_ns: self.at_ns,
            text: super::words::rule(self.checker).replace(':', "."),
            row: None,
            evidence: true,
        });
        let opening = self.opening(&lines);
        let margin = (self.at_ns.saturating_sub(opening) / 12).max(SECOND / 1_000);
        Story {
            headline: [Some(headline::headline(self.tables, self.failure)), remark]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" "),
            lines,
            evidence: evidence.into_iter().collect(),
            keys: keys.into_iter().collect(),
            groups: groups.into_iter().collect(),
            from_ns: opening.saturating_sub(margin),
            until_ns: self.at_ns + margin,
        }
    }

    /// The evidence in sentences. What another sentence says already is only marked in the lanes.
    fn evidence_lines(&self, evidence: &BTreeSet<usize>, missed: Option<&(usize, String)>) -> Vec<Line> {
        let told: BTreeSet<usize> =
            evidence.iter().copied().filter(|index| !self.is_echo(*index, evidence)).collect();
        let lines = newest(&told, EVIDENCE_MAX).into_iter().map(|index| {
            let mut line = sentence(self.tables, index, true);
            let row = &self.tables.rows[index];
            if row.kind == Kind::Op {
                line.text = stamps(&operation(self.tables, row, &self.clues.keys));
            }
            if let Some((_, words)) = missed.filter(|(read, _)| *read == index) {
                line.text.push(' ');
                line.text.push_str(words);
            }
            line
        });
        lines.collect()
    }

    /// Whoever learns of a lease that another line grants, and whoever takes numbers that another line hands out.
    fn is_echo(&self, index: usize, evidence: &BTreeSet<usize>) -> bool {
        let rows = &self.tables.rows;
        let Some(known) = rows[index].known.as_ref() else { return false };
        let others = || evidence.iter().map(|index| &rows[*index]);
        match known.name.as_str() {
            "Lease" => {
                others().any(|row| row.kind == Kind::Lease && known.number("generation") == Some(row.number))
            }
            "Accepted" => others().filter_map(|row| row.known.as_ref()).any(|other| {
                other.name == "Granted"
                    && other.text("duty") == known.text("duty")
                    && other.range() == known.range()
            }),
            _ => false,
        }
    }

    /// Where the page opens: with the evidence, and with what is told of the time shortly before it.
    fn opening(&self, lines: &[Line]) -> u64 {
        let since = |earliest: u64, which: &dyn Fn(&Line) -> bool| {
            let near = lines.iter().filter(|line| line.at_ns >= earliest && which(line));
            near.map(|line| line.at_ns).min().unwrap_or(self.at_ns)
        };
        let first = since(self.at_ns.saturating_sub(OPENING_NS), &|line| line.evidence);
        let length = (self.at_ns - first.min(self.at_ns)).max(SECOND / 10);
        since(self.at_ns.saturating_sub(length * 3 / 2), &|_| true).min(first)
    }

    /// What the newest operations of the evidence asked of stores, and what is remarkable about the last of them.
    fn requests(
        &self,
        turns: &Turns<'_>,
        evidence: &BTreeSet<usize>,
        keys: &BTreeSet<String>,
    ) -> (Vec<Line>, Option<String>) {
        let rows = &self.tables.rows;
        let operations = evidence.iter().rev().map(|index| &rows[*index]).filter(|row| row.kind == Kind::Op);
        let (mut lines, mut remark) = (Vec::<Line>::new(), None);
        for (nth, operation) in operations.take(3).enumerate() {
            for request in turns.requests(operation, keys, self.at_ns) {
                let mut line = request.line;
                if nth == 0 && request.remark.is_some() {
                    remark = request.remark;
                    line.evidence = true;
                }
                // Two sessions of one client may have asked at the same time.
                if lines.iter().all(|other| (other.at_ns, &other.text) != (line.at_ns, &line.text)) {
                    lines.push(line);
                }
            }
        }
        (lines, remark)
    }

    /// The rows that the facts name.
    fn evidence(&self) -> BTreeSet<usize> {
        let mut found: BTreeSet<usize> = self
            .tables
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.from_ns <= self.at_ns && self.names(row))
            .map(|(index, _)| index)
            .collect();
        // What follows from numbers alone is thinned to the newest of each node.
        let marks: BTreeSet<usize> =
            found.iter().copied().filter(|index| self.tables.rows[*index].kind == Kind::Mark).collect();
        for index in &marks {
            found.remove(index);
        }
        found.extend(newest(&self.last_of_each(&marks), EVIDENCE_MAX / 2));
        found.extend(self.last_words());
        found.extend(self.fences());
        found.extend(self.last_writers(&found));
        found
    }

    /// When numbers were handed out wrongly: the fences that the newest generation found.
    fn fences(&self) -> Option<usize> {
        let newest = self.clues.generations.last().filter(|_| self.facts.contains("handed out"))?;
        self.tables.rows.iter().position(|row| {
            let known = row.known.as_ref().filter(|known| known.name == "Authority");
            known.is_some_and(|known| known.number("generation") == Some(*newest))
        })
    }

    /// Of marks that say the same of the same node, the last one.
    fn last_of_each(&self, marks: &BTreeSet<usize>) -> BTreeSet<usize> {
        let said = |index: &usize| (self.tables.rows[*index].node, self.tables.rows[*index].text.as_str());
        let last: BTreeMap<_, usize> = marks.iter().map(|index| (said(index), *index)).collect();
        last.into_values().collect()
    }

    /// Whoever wrote last what a snapshot of all accounts showed.
    fn last_writers(&self, evidence: &BTreeSet<usize>) -> Vec<usize> {
        let rows = &self.tables.rows;
        let snapshots =
            evidence.iter().map(|index| &rows[*index]).filter(|row| row.text == "read all accounts");
        let writes: BTreeSet<u64> =
            snapshots.flat_map(|row| Clues::read(&row.detail, self.tables).writes).collect();
        indexes(self.tables, |row| row.kind == Kind::Op && row.number != 0 && writes.contains(&row.number))
    }

    fn names(&self, row: &Row) -> bool {
        match row.kind {
            Kind::Op => self.names_operation(row),
            Kind::Mark => self.names_fact(row),
            Kind::Lead => {
                row.group.is_some_and(|group| self.clues.groups.contains(&group))
                    && self.clues.terms.contains(&row.number)
            }
            Kind::Lease => self.clues.generations.contains(&row.number),
            _ => false,
        }
    }

    fn names_operation(&self, row: &Row) -> bool {
        if row.number != 0 && self.clues.writes.contains(&row.number) {
            return true;
        }
        let session = row.other.and_then(|session| self.tables.sessions.get(session));
        let invoked = |from: Option<u64>| from.is_some_and(|from| from.abs_diff(row.from_ns) <= 1_000);
        session.is_some_and(|session| {
            self.clues
                .spans
                .iter()
                .any(|(number, from)| *number == u64::from(session.number) && invoked(*from))
        })
    }

    fn names_fact(&self, row: &Row) -> bool {
        let Some(known) = &row.known else { return false };
        let has = |set: &BTreeSet<u64>, field: &str| {
            known.number(field).is_some_and(|number| set.contains(&number))
        };
        if let Some((first, count)) = known.range() {
            let about = ["timestamp", "handed out", "took"].iter().any(|word| self.facts.contains(word));
            return about && self.clues.numbers.range(first..first + count.max(1)).next().is_some();
        }
        let Some(group) = known.group() else {
            return known.name == "Lease" && has(&self.clues.generations, "generation");
        };
        let place = ["index", "last", "applied"].iter().any(|field| has(&self.clues.indexes, field));
        let term = has(&self.clues.terms, "term");
        let peer = known.peer().is_some_and(|peer| self.clues.peers.contains(&peer))
            || row.node.is_some_and(|node| self.clues.nodes.contains(&node));
        let fits = match known.name.as_str() {
            "Leader" => term,
            "Vote" => term && (peer || self.facts.contains("both lead")),
            "ReadAsked" | "ReadServed" => place && peer && self.facts.contains("read"),
            "Started" => peer && row.from_ns == self.at_ns && self.facts.contains("starts again"),
            _ => place && peer,
        };
        self.clues.groups.contains(&group) && fits
    }

    /// When the facts name a node that gave up, or are about liveness: where it stood last.
    fn last_words(&self) -> Vec<usize> {
        let named = |row: &&Row| row.node.is_some_and(|node| self.clues.nodes.contains(&node));
        let lives =
            indexes(self.tables, |row| row.kind == Kind::Life && named(&row) && row.from_ns <= self.at_ns);
        let dead = self.facts.contains("gave up") || self.facts.contains("panick");
        let last = |state: State| {
            let is_so = |index: &&usize| self.tables.rows[**index].state == state as u8;
            lives.iter().rev().find(is_so).copied().filter(|_| dead)
        };
        // What a power loss took before is often why.
        let loss = last(State::PowerLost).filter(|index| self.tables.rows[*index].detail.contains(';'));
        last(State::GaveUp).into_iter().chain(loss).collect()
    }

    /// The read among the evidence that missed an acknowledged write: (that write, (the read, words)).
    fn stale_read(&self, evidence: &BTreeSet<usize>) -> Option<(usize, (usize, String))> {
        let rows = &self.tables.rows;
        let reads = evidence.iter().rev().filter(|index| !rows[**index].saw.is_empty());
        for read in reads {
            let row = &rows[*read];
            for (key, seen) in &row.saw {
                if !self.clues.keys.contains(key) {
                    continue;
                }
                let done = |write: &Row| {
                    write.kind == Kind::Op
                        && write.state == Outcome::Answered as u8
                        && write.is_write()
                        && write.keys.contains(key)
                        && write.until_ns < row.from_ns
                };
                let Some(newest) =
                    indexes(self.tables, done).into_iter().max_by_key(|index| rows[*index].until_ns)
                else {
                    continue;
                };
                let author = seen.map(|id| id >> 4).unwrap_or_default();
                let older =
                    rows.iter().find(|row| row.kind == Kind::Op && row.number == author && author != 0);
                let overtaken = older.map_or(seen.is_none(), |older| older.until_ns < rows[newest].from_ns);
                if overtaken
                    && rows[newest].number != author
                    && !(seen.is_none() && rows[newest].text.starts_with("delete"))
                {
                    let write = WriteId(rows[newest].number << 4);
                    let but = seen.map_or_else(
                        || format!("But {write}"),
                        |_| format!("But {} is older than {write}, which", value(*seen)),
                    );
                    let when = at(rows[newest].until_ns);
                    let words = format!("{but} had been acknowledged at {when}, before this read began.");
                    return Some((newest, (*read, words)));
                }
            }
        }
        None
    }

    /// Faults, elections and deaths between which the evidence fell.
    fn context(&self, since: u64, groups: &BTreeSet<Group>, evidence: &BTreeSet<usize>) -> Vec<usize> {
        let rows = &self.tables.rows;
        let until = self.at_ns;
        let during = |row: &Row| row.from_ns <= until && row.until_ns >= since;
        let leads = indexes(self.tables, |row| {
            row.kind == Kind::Lead && during(row) && row.group.is_some_and(|group| groups.contains(&group))
        });
        let involved: BTreeSet<usize> = leads
            .iter()
            .filter_map(|index| rows[*index].node)
            .chain(self.clues.nodes.iter().copied())
            .chain(
                evidence
                    .iter()
                    .map(|index| &rows[*index])
                    .filter(|row| row.kind == Kind::Mark)
                    .filter_map(|row| row.node),
            )
            .collect();
        let all: BTreeSet<usize> = (0..self.tables.nodes.len()).collect();
        let concerned = if involved.is_empty() { &all } else { &involved };
        let faults = indexes(self.tables, |row| {
            row.kind == Kind::Fault
                && during(row)
                && (row.nodes.is_empty() || row.nodes.iter().any(|node| concerned.contains(node)))
        });
        let deaths = indexes(self.tables, |row| {
            row.kind == Kind::Life
                && (since..=until).contains(&row.from_ns)
                && row.node.is_some_and(|node| concerned.contains(&node))
                && [State::PowerLost, State::GaveUp, State::Up, State::Killed]
                    .iter()
                    .any(|state| row.state == *state as u8)
                && row.from_ns > SECOND / 2
        });
        let snapshots = indexes(self.tables, |row| {
            row.kind == Kind::Mark
                && row.state == 2
                && (since..=until).contains(&row.from_ns)
                && row.group.is_some_and(|group| groups.contains(&group))
        });
        // In a case that was made small, every rare branch and late arrival that is left matters.
        let mut rare =
            indexes(self.tables, |row| row.kind == Kind::Mark && row.state == 4 && row.from_ns <= until);
        if rare.len() > CONTEXT_MAX {
            rare.clear();
        }
        [leads, faults, deaths, snapshots, rare]
            .into_iter()
            .flat_map(|indexes| newest(&indexes.into_iter().collect(), CONTEXT_MAX))
            .collect()
    }
}

/// The last `max` of a set of rows, which are in order of time.
fn newest(rows: &BTreeSet<usize>, max: usize) -> Vec<usize> {
    rows.iter().rev().take(max).rev().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Given;
    use crate::exec::Node;
    use crate::history::{Effect, KvOp, Register, Span};
    use crate::plan::Fault;
    use crate::record::Recording;
    use crate::run::{Failure, RunOptions};
    use crate::workload::Op;
    use std::time::Duration;

    #[test]
    fn words_keep_times_ranges_and_values_together() {
        assert_eq!(
            split("key 3: 2/17 (session 4, 1.500000s to never), 100..=200."),
            ["key", "3", "2/17", "session", "4", "1.500000s", "to", "never", "100..=200"]
        );
        assert_eq!(time("1.500000s"), Some(1_500_000_000));
        assert_eq!(time("never"), None);
    }

    /// Session 0 writes k0 = 0/0 and then 0/1; session 1 reads 0/0 afterwards. A region changes hands in between.
    fn stale_read() -> (Tables, Verdict) {
        let run = RunOptions::seed(1).resolve();
        let mut recording = Recording::default();
        let (writer, reader) = (Node(9), Node(10));
        for (number, op, from, until) in [
            (1 << 32, Op::Put { key: 0, bytes: 16 }, 1, 2),
            (1 << 32 | 1, Op::Put { key: 0, bytes: 16 }, 3, 4),
            (2 << 32, Op::Get { key: 0 }, 6, 7),
        ] {
            let node = if number >> 32 == 1 { writer } else { reader };
            recording.op_begins(from * SECOND, node, number, &op);
            recording.op_ends(until * SECOND, number, None);
        }
        let span = Span { session: 1, invoked_ns: 6 * SECOND, returned_ns: 7 * SECOND };
        let read = KvOp { key: 0, span, action: Register::Read(Some((1 << 32) << 4)), effect: Effect::Done };
        recording.history.kv.push(read);
        recording
            .fault_begins(5 * SECOND, &Fault::Kill { node: "store1".to_owned(), power: true, down_ms: 500 });
        let facts = "key 0: 0/0 was read (session 1, 6.000000s to 7.000000s)".to_owned();
        let failure = Failure { checker: "linearizability".to_owned(), facts, at_ns: 7 * SECOND };
        let short = RunOptions { given: Given::duration(Duration::from_millis(100)), ..RunOptions::seed(1) };
        let verdict = Verdict { failure: Some(failure), sim_ns: 8 * SECOND, ..crate::run(short) };
        (Tables::new(&run, &recording, &verdict), verdict)
    }

    #[test]
    fn a_stale_read_is_told_with_both_writes_and_what_fell_between() {
        let (tables, verdict) = stale_read();
        let story = Story::of(&tables, &verdict);
        assert_eq!(story.keys, ["k0"]);
        let told: Vec<&str> = story.lines.iter().map(|line| line.text.as_str()).collect();
        assert!(told[0].starts_with("session 0: put k0 = 0/0; acknowledged at 2.000 s"), "{told:#?}");
        assert!(told[1].starts_with("session 0: put k0 = 0/1; acknowledged at 4.000 s"), "{told:#?}");
        assert!(told[2].contains("store1 loses power"), "{told:#?}");
        assert!(told[3].contains("But 0/0 is older than 0/1"), "{told:#?}");
        assert_eq!(story.evidence.len(), 3);
        assert!(story.from_ns < SECOND && story.until_ns > 7 * SECOND, "opens with all of it");
    }
}
