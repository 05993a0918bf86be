//! A recording as rows: everything that the page can show, each with its time, its place and its words.

use super::facts::{Group, Known};
use super::words;
use crate::check::oracle::WriteId;
use crate::exec::Node;
use crate::history::{Account, Effect, History, ListStep, Register, Span};
use crate::plan::Names;
use crate::record::{Life, NEVER, Packet, Recording, State, Told};
use crate::run::{Resolved, Verdict};
use crate::services;
use crate::workload::keys::Name;
use std::collections::BTreeMap;

/// Marks that happen all the time; far from the story only some of them are kept.
const ORDINARY: [&str; 15] = [
    "Applied",
    "Entry",
    "Synced",
    "Committed",
    "Promised",
    "ReadAsked",
    "ReadServed",
    "Granted",
    "Accepted",
    "Timestamps",
    "Ids",
    "Authority",
    "Purged",
    "Shown",
    "Written",
];
/// Ordinary marks and packets that are kept, those nearest to the violation first.
const ORDINARY_MAX: usize = 30_000;
const PACKETS_MAX: usize = 60_000;

/// What a row is; the page knows them by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A node stands somewhere.
    Life = 0,
    /// A node leads a group.
    Lead = 1,
    /// A coordinator holds the lease.
    Lease = 2,
    /// A fault is in force.
    Fault = 3,
    /// A client operation.
    Op = 4,
    /// Something that a node told.
    Mark = 5,
    /// A packet.
    Packet = 6,
}

/// How an operation ended; the `state` of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered = 0,
    Unknown = 1,
    Refused = 2,
    Open = 3,
}

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) from_ns: u64,
    /// Equal to `from_ns` for a moment, [`NEVER`] if it had not ended.
    pub(super) until_ns: u64,
    pub(super) node: Option<usize>,
    /// Receiver of a packet, session of an operation.
    pub(super) other: Option<usize>,
    /// Kind-specific: an [`Outcome`], a [`State`], whether a packet was held or lost, the sort of a mark.
    pub(super) state: u8,
    pub(super) text: String,
    pub(super) detail: String,
    pub(super) group: Option<Group>,
    pub(super) keys: Vec<String>,
    /// Targets of a fault.
    pub(super) nodes: Vec<usize>,
    /// Number of an operation.
    pub(super) number: u64,
    /// What an operation saw of registers.
    pub(super) saw: Vec<(String, Option<u64>)>,
    /// The fact behind a mark.
    pub(super) known: Option<Known>,
}

impl Row {
    fn new(kind: Kind, from_ns: u64, until_ns: u64, node: Option<usize>, text: impl Into<String>) -> Self {
        Self {
            kind,
            from_ns,
            until_ns,
            node,
            other: None,
            state: 0,
            text: text.into(),
            detail: String::new(),
            group: None,
            keys: Vec::new(),
            nodes: Vec::new(),
            number: 0,
            saw: Vec::new(),
            known: None,
        }
    }

    pub(super) fn is_write(&self) -> bool {
        ["put", "delete", "insert", "append", "transfer", "swap", "write"]
            .iter()
            .any(|verb| self.text.starts_with(verb))
    }

    /// A transaction that may write several keys.
    pub(super) fn is_write_of_many(&self) -> bool {
        self.kind == Kind::Op && (self.is_write() || self.text.starts_with("read and append"))
    }
}

/// A session of operations, as a lane.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) number: u32,
    pub(super) node: usize,
}

/// All rows, and the names in them.
pub(super) struct Tables {
    pub(super) nodes: Vec<String>,
    pub(super) sessions: Vec<Session>,
    pub(super) groups: Vec<Group>,
    /// What each region holds at birth.
    pub(super) ranges: Vec<(u64, String)>,
    /// Region of each workload key at birth.
    pub(super) regions: BTreeMap<String, u64>,
    /// Each workload key as stores know it.
    pub(super) places: BTreeMap<String, Vec<u8>>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<(u64, String)>,
    /// Packets and marks that were left out, to keep the page small.
    pub(super) left_out: usize,
    pub(super) end_ns: u64,
    /// Who a raft peer is.
    pub(super) peers: BTreeMap<(Group, u64), usize>,
    /// When each node's lives ended.
    deaths: BTreeMap<usize, Vec<u64>>,
}

/// The name of a workload key as operations call it: what follows the digits that spread keys over regions.
pub(super) fn key_name(name: Name) -> String {
    let key = name.key();
    let text = String::from_utf8_lossy(&key);
    text.split_once('/').map_or(text.as_ref(), |(_, name)| name).to_owned()
}

/// The name of a written value, or "nothing".
pub(super) fn value(id: Option<u64>) -> String {
    id.map_or_else(|| "nothing".to_owned(), |id| WriteId(id).to_string())
}

fn index(node: Node) -> Option<usize> {
    node.index().checked_sub(1)
}

impl Tables {
    pub(super) fn new(run: &Resolved, recording: &Recording, verdict: &Verdict) -> Self {
        let names = Names::of(&run.config);
        let nodes: Vec<String> = names.all().cloned().collect();
        let mut tables = Self {
            nodes,
            sessions: Vec::new(),
            groups: Vec::new(),
            ranges: ranges(run),
            regions: Self::regions_of_keys(run, recording),
            places: Self::keys(run, recording).map(|name| (key_name(name), name.key().to_vec())).collect(),
            rows: Vec::new(),
            notes: recording.notes.iter().filter(|(_, note)| tells_the_story(note)).cloned().collect(),
            left_out: 0,
            end_ns: verdict.sim_ns,
            peers: BTreeMap::new(),
            deaths: BTreeMap::new(),
        };
        tables.lives(&recording.lives);
        tables.faults(recording);
        tables.facts(recording);
        tables.operations(recording, usize::from(run.config.nodes() - 1 - run.config.clients));
        let near = verdict.failure.as_ref().map_or(verdict.sim_ns / 2, |failure| failure.at_ns);
        tables.packets(recording, near);
        tables.thin_marks(near);
        tables.rows.sort_by_key(|row| (row.from_ns, row.kind));
        tables
    }

    /// All workload keys that anybody may have named.
    fn keys(run: &Resolved, recording: &Recording) -> impl Iterator<Item = Name> {
        let in_packets = recording.packets.iter().flat_map(|packet| packet.keys.iter().copied());
        run.workload.shape.rows().into_iter().map(|(_, name)| name).chain(in_packets)
    }

    fn regions_of_keys(run: &Resolved, recording: &Recording) -> BTreeMap<String, u64> {
        let regions = services::regions(&run.config);
        Self::keys(run, recording)
            .filter_map(|name| {
                let key = name.key();
                let home = regions.iter().find(|region| {
                    region.start_key <= key && (region.end_key.is_empty() || key < region.end_key)
                })?;
                Some((key_name(name), home.region_id))
            })
            .collect()
    }

    fn lives(&mut self, lives: &[Life]) {
        let mut last: BTreeMap<usize, Life> = BTreeMap::new();
        for life in lives {
            let Some(node) = index(life.node) else { continue };
            if let Some(before) = last.get(&node) {
                // Whoever stopped cleanly is swept up by the same hand that kills.
                if before.state == State::Stopped && life.state == State::Killed {
                    continue;
                }
                let before = before.clone();
                self.life(node, &before, life.at_ns);
            }
            last.insert(node, life.clone());
        }
        for (node, life) in last {
            self.life(node, &life, NEVER);
        }
    }

    fn life(&mut self, node: usize, life: &Life, until_ns: u64) {
        let words = match life.state {
            State::Starting => "starting",
            State::Up => "up",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Killed => "process killed",
            State::PowerLost => "power lost",
            State::GaveUp => "gave up",
        };
        let mut row = Row::new(Kind::Life, life.at_ns, until_ns, Some(node), words);
        row.state = life.state as u8;
        row.detail.clone_from(&life.why);
        self.rows.push(row);
        if matches!(life.state, State::Stopped | State::Killed | State::PowerLost | State::GaveUp) {
            self.deaths.entry(node).or_default().push(life.at_ns);
        }
    }

    fn faults(&mut self, recording: &Recording) {
        for strike in &recording.strikes {
            let (text, kind) = words::fault(&strike.fault, &self.nodes);
            let mut row = Row::new(Kind::Fault, strike.from_ns, strike.until_ns, None, text);
            row.nodes = words::targets(&strike.fault, &self.nodes);
            row.detail = kind;
            self.rows.push(row);
        }
    }

    fn facts(&mut self, recording: &Recording) {
        let mut leads: BTreeMap<Group, usize> = BTreeMap::new();
        let mut lease: Option<(usize, u64)> = None;
        for (at_ns, node, told) in &recording.told {
            let node = index(*node);
            match told {
                Told::Probe(name) => {
                    self.mark(*at_ns, node, 3, format!("probe {name}"), "reached for the first time");
                }
                Told::Chance(name) => {
                    self.mark(*at_ns, node, 4, format!("chance {name}"), "the rare branch was taken");
                }
                Told::Again(what) => {
                    self.mark(*at_ns, node, 4, what.clone(), "it was on its way all the time");
                }
                Told::Fact(fact) => {
                    let known = Known::of(fact);
                    self.know_peer(&known, node);
                    match known.name.as_str() {
                        // Its bar says it.
                        "Leader" => {
                            self.leader(*at_ns, node, &known, &mut leads);
                            continue;
                        }
                        "Lease" => self.lease(*at_ns, &known, &mut lease),
                        _ => {}
                    }
                    self.fact(*at_ns, node, known);
                }
            }
        }
    }

    fn know_peer(&mut self, known: &Known, node: Option<usize>) {
        if let (Some(group), Some(peer), Some(node)) = (known.group(), known.peer(), node) {
            self.peers.insert((group, peer), node);
            if !self.groups.contains(&group) {
                self.groups.push(group);
                self.groups.sort();
            }
        }
    }

    fn mark(&mut self, at_ns: u64, node: Option<usize>, sort: u8, text: String, detail: &str) {
        let mut row = Row::new(Kind::Mark, at_ns, at_ns, node, text);
        row.state = sort;
        detail.clone_into(&mut row.detail);
        self.rows.push(row);
    }

    fn fact(&mut self, at_ns: u64, node: Option<usize>, known: Known) {
        let candidate = known.number("candidate").or_else(|| known.number("vote"));
        let candidate = known.group().zip(candidate).map(|peer| self.peer_name(peer));
        let text = words::stamps(&words::fact(&known, candidate.as_deref().unwrap_or_default()));
        let mut row = Row::new(Kind::Mark, at_ns, at_ns, node, text);
        row.group = known.group();
        row.detail = known.others();
        row.state = match known.name.as_str() {
            "Vote" => 1,
            "Installed" | "Installing" => 2,
            name if ORDINARY.contains(&name) => 5,
            _ => 0,
        };
        row.known = Some(known);
        self.rows.push(row);
    }

    /// The node that a raft peer is, or the peer's number.
    pub(super) fn peer_name(&self, peer: (Group, u64)) -> String {
        let node = self.peers.get(&peer).and_then(|node| self.nodes.get(*node));
        node.cloned().unwrap_or_else(|| match peer {
            (Group::Roots, number) => format!("root{number}"),
            (Group::Region(_), number) => format!("store{}", number % 100),
        })
    }

    fn leader(&mut self, at_ns: u64, node: Option<usize>, known: &Known, leads: &mut BTreeMap<Group, usize>) {
        let Some(group) = known.group() else { return };
        if let Some(row) = leads.get(&group).and_then(|before| self.rows.get_mut(*before))
            && row.until_ns == NEVER
        {
            row.until_ns = at_ns;
        }
        let until_ns = node.map_or(NEVER, |node| self.dies_after(node, at_ns));
        let term = known.number("term").unwrap_or_default();
        let mut row = Row::new(Kind::Lead, at_ns, until_ns, node, format!("term {term}"));
        row.group = Some(group);
        row.number = term;
        leads.insert(group, self.rows.len());
        self.rows.push(row);
    }

    /// When a target of a fault died while it was in force.
    pub(super) fn dies_between(&self, fault: &Row) -> Option<u64> {
        let deaths = fault.nodes.iter().map(|node| self.dies_after(*node, fault.from_ns));
        deaths.min().filter(|death| *death <= fault.until_ns)
    }

    fn dies_after(&self, node: usize, at_ns: u64) -> u64 {
        let deaths = self.deaths.get(&node).into_iter().flatten();
        deaths.copied().find(|death| *death > at_ns).unwrap_or(NEVER)
    }

    fn lease(&mut self, at_ns: u64, known: &Known, lease: &mut Option<(usize, u64)>) {
        let Some(generation) = known.number("generation") else { return };
        if lease.is_some_and(|(_, newest)| newest >= generation) {
            return;
        }
        if let Some(row) = lease.and_then(|(row, _)| self.rows.get_mut(row)) {
            row.until_ns = at_ns;
        }
        let holder = self.nodes.iter().position(|name| name == known.text("holder"));
        let mut row = Row::new(Kind::Lease, at_ns, NEVER, holder, format!("generation {generation}"));
        row.detail =
            format!("granted to {}; until the next grant, or until it expires", known.text("holder"));
        row.number = generation;
        *lease = Some((self.rows.len(), generation));
        self.rows.push(row);
    }

    fn operations(&mut self, recording: &Recording, first_client: usize) {
        let mut rows = Vec::new();
        let mut places: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        for operation in &recording.operations {
            let session = (operation.number >> 32) as u32 - 1;
            let (text, keys) = words::operation(&operation.op, &WriteId(operation.number << 4).to_string());
            let node = index(operation.node);
            let mut row = Row::new(Kind::Op, operation.invoked_ns, operation.returned_ns, node, text);
            row.other = Some(self.session(session, node.unwrap_or_default()));
            row.keys = keys;
            row.number = operation.number;
            row.state = match &operation.error {
                _ if operation.returned_ns == NEVER => Outcome::Open,
                None => Outcome::Answered,
                Some(error) if error.contains("outcome") => Outcome::Unknown,
                Some(_) => Outcome::Refused,
            } as u8;
            row.detail = operation.error.clone().unwrap_or_default();
            places.insert((session, operation.invoked_ns), rows.len());
            rows.push(row);
        }
        let mut seen = Seen { rows, places, tables: self, first_client };
        seen.history(&recording.history);
        let rows = seen.rows;
        self.rows.extend(rows);
    }

    fn session(&mut self, number: u32, node: usize) -> usize {
        self.sessions.iter().position(|known| known.number == number).unwrap_or_else(|| {
            self.sessions.push(Session { number, node });
            self.sessions.len() - 1
        })
    }

    fn packets(&mut self, recording: &Recording, near_ns: u64) {
        let mut nearest: Vec<&Packet> = recording.packets.iter().collect();
        if nearest.len() > PACKETS_MAX {
            nearest.sort_by_key(|packet| packet.sent_ns.abs_diff(near_ns));
            self.left_out += nearest.len() - PACKETS_MAX;
            nearest.truncate(PACKETS_MAX);
        }
        for packet in nearest {
            let path = recording.calls.get(packet.call).map_or("", String::as_str);
            let call = path.rsplit('/').next().unwrap_or_default();
            let lost = packet.arrives_ns == NEVER
                || index(packet.to)
                    .is_some_and(|to| self.died_between(to, packet.sent_ns, packet.arrives_ns));
            let raft = path.contains("RaftTransport");
            let text = match (raft, packet.answer, packet.content.as_slice()) {
                (true, _, [only]) => only.clone(),
                (true, _, [first, ..]) => format!("{} raft messages: {first}, ..", packet.content.len()),
                (true, false, []) => "raft stream opens".to_owned(),
                (true, true, []) => "raft stream answers".to_owned(),
                (false, true, _) => format!("{call} answered"),
                (false, false, _) => call.to_owned(),
            };
            let mut row = Row::new(Kind::Packet, packet.sent_ns, packet.arrives_ns, index(packet.from), text);
            row.other = index(packet.to);
            row.state = if lost { 2 } else { u8::from(packet.held) };
            row.keys = packet.keys.iter().map(|name| key_name(*name)).collect();
            let content = if packet.content.len() > 1 { packet.content.join("\n") } else { String::new() };
            row.detail =
                format!("{} bytes{}{content}", packet.bytes, if content.is_empty() { "" } else { "\n" });
            row.group = packet.content.first().and_then(|first| group_of(first));
            self.rows.push(row);
        }
    }

    fn died_between(&self, node: usize, from_ns: u64, until_ns: u64) -> bool {
        self.dies_after(node, from_ns) < until_ns
    }

    /// Keeps the ordinary marks that are nearest to the story.
    fn thin_marks(&mut self, near_ns: u64) {
        let ordinary = |row: &Row| row.kind == Kind::Mark && row.state == 5;
        let mut distances: Vec<u64> =
            self.rows.iter().filter(|row| ordinary(row)).map(|row| row.from_ns.abs_diff(near_ns)).collect();
        if distances.len() <= ORDINARY_MAX {
            return;
        }
        distances.sort_unstable();
        let limit = distances[ORDINARY_MAX];
        let before = self.rows.len();
        self.rows.retain(|row| !ordinary(row) || row.from_ns.abs_diff(near_ns) < limit);
        self.left_out += before - self.rows.len();
    }
}

fn group_of(content: &str) -> Option<Group> {
    let (group, _) = content.split_once(',')?;
    match group.strip_prefix("region ") {
        Some(number) => number.parse().ok().map(Group::Region),
        None => (group == "roots").then_some(Group::Roots),
    }
}

/// Notes that are told nowhere else: lives and faults have rows of their own.
fn tells_the_story(note: &str) -> bool {
    ["the cluster serves", "healing begins", "everything was read", "where "]
        .iter()
        .any(|part| note.contains(part))
}

fn ranges(run: &Resolved) -> Vec<(u64, String)> {
    let regions = services::regions(&run.config);
    regions.iter().map(|region| (region.region_id, range(&region.start_key, &region.end_key))).collect()
}

/// A range of keys in words.
pub(super) fn range(start: &[u8], end: &[u8]) -> String {
    let show = |key: &[u8], open: &str| {
        if key.is_empty() { open.to_owned() } else { String::from_utf8_lossy(key).into_owned() }
    };
    format!("{} to {}", show(start, "first key"), show(end, "last key"))
}

/// Adds to the operations what the history says that they saw.
struct Seen<'a> {
    rows: Vec<Row>,
    places: BTreeMap<(u32, u64), usize>,
    tables: &'a mut Tables,
    first_client: usize,
}

impl Seen<'_> {
    fn history(&mut self, history: &History) {
        for op in &history.kv {
            let key = format!("k{}", op.key);
            let row = self.at(&op.span, &format!("get {key}"));
            match op.action {
                Register::Read(seen) => {
                    push_result(row, &format!("{key} is {}", value(seen)));
                    row.saw.push((key, seen));
                }
                Register::Present => push_result(row, &format!("{key} was there already")),
                Register::Write(_) | Register::Insert(_) => effect(row, op.effect),
            }
        }
        for transfer in &history.transfers {
            effect(self.at(&transfer.span, "transfer"), transfer.effect);
        }
        for totals in &history.totals {
            let row = self.at(&totals.span, "read all accounts");
            push_result(row, &accounts(&totals.accounts));
            if let Some(again) = totals.again.as_ref().filter(|again| **again != totals.accounts) {
                push_result(row, &format!("read again: {}", accounts(again)));
            }
            row.keys.extend((0..totals.accounts.len()).map(|number| format!("a{number}")));
        }
        for txn in &history.lists {
            let row = self.at(&txn.span, "lists");
            effect(row, txn.effect);
            for step in &txn.steps {
                let (key, done) = match step {
                    ListStep::Read { list, values } => {
                        let values: Vec<String> = values.iter().map(|id| WriteId(*id).to_string()).collect();
                        (format!("l{list}"), format!("l{list} is [{}]", values.join(" ")))
                    }
                    ListStep::Append { list, value } => {
                        (format!("l{list}"), format!("{} to l{list}", WriteId(*value)))
                    }
                };
                push_result(row, &done);
                if !row.keys.contains(&key) {
                    row.keys.push(key);
                }
            }
        }
        for read in &history.pairs {
            let [first, second] = read.seen.map(|seen| if seen { "there" } else { "not there" });
            let row = self.at(&read.span, "look at a pair");
            push_result(row, &format!("pair {}: first {first}, second {second}", read.pair));
        }
        for (what, stamps) in [("timestamp", &history.timestamps), ("id", &history.ids)] {
            for stamp in stamps {
                push_result(self.at(&stamp.span, what), &stamp.value.to_string());
            }
        }
    }

    /// The operation of a span; whoever is not of the workload (the last reads) gets a row here.
    fn at(&mut self, span: &Span, text: &str) -> &mut Row {
        let place = (span.session, span.invoked_ns);
        let index = *self.places.entry(place).or_insert_with(|| {
            let node = self.first_client;
            let mut row = Row::new(Kind::Op, span.invoked_ns, span.returned_ns, Some(node), text);
            row.other = Some(self.tables.session(span.session, node));
            row.keys = text.split_once(' ').map(|(_, key)| key.to_owned()).into_iter().collect();
            self.rows.push(row);
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }
}

fn push_result(row: &mut Row, result: &str) {
    let arrow = if row.detail.is_empty() { "" } else { ", " };
    row.detail.push_str(arrow);
    row.detail.push_str(result);
}

fn effect(row: &mut Row, effect: Effect) {
    row.state = match effect {
        Effect::Done => Outcome::Answered,
        Effect::Refused => Outcome::Refused,
        Effect::Unknown => Outcome::Unknown,
    } as u8;
}

fn accounts(accounts: &[Account]) -> String {
    let total: i64 = accounts.iter().map(|account| account.balance).sum();
    let each: Vec<String> = accounts
        .iter()
        .enumerate()
        .map(|(number, account)| {
            format!(
                "a{number}={} ({} transfers, last by {})",
                account.balance,
                account.transfers,
                WriteId(account.writer)
            )
        })
        .collect();
    format!("total {total}: {}", each.join(", "))
}
