//! Snapshot isolation of transactions that read and append to lists.
//!
//! A list shows its history: whoever reads `[1, 2]` saw the version that the transaction of 2 left, and missed the
//! one that came next. So every version order is known, and with it what must have happened before what. Each
//! transaction is two moments, its start and its commit:
//!
//! ```text
//! ww  a's append is followed by b's:    commit(a) < start(b)     who overwrites has seen what is there
//! wr  b read what a left:               commit(a) < start(b)
//! rw  a read what b's append replaced:  start(a)  < commit(b)
//! rt  a returned before b was invoked:  commit(a) < start(b)     timestamps come from one oracle
//! ```
//!
//! The history is possible under snapshot isolation (with its real-time order) exactly if these relations have no cycle.
//! A cycle is reported in the weakest class it belongs to: G0 (ww), G1c (and wr), lost update, G-single and
//! G-nonadjacent (and rw), with real time last. Write skew has two rw in a row; it is no cycle here. Before that, what
//! needs no graph: values of nobody (phantom) or of refused transactions (G1a), intermediate values (G1b),
//! values twice, lists of different histories, reads that contradict the transaction's own (internal).

use super::oracle::WriteId;
use super::{Violation, show_span};
use crate::history::{Effect, ListStep, ListTxn, NEVER};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const CHECKER: &str = "transactions";

/// Judges all list transactions of a run.
pub fn check(txns: &[ListTxn]) -> Result<(), Violation> {
    judge(txns).map_err(|facts| Violation::new(CHECKER, facts))
}

fn judge(txns: &[ListTxn]) -> Result<(), String> {
    let index = Index::new(txns)?;
    match index.graph().shortest_cycle() {
        None => Ok(()),
        Some(cycle) => Err(index.show_cycle(&cycle)),
    }
}

/// What a transaction found in a list when it began.
#[derive(Debug, Clone)]
struct Found<'a> {
    txn: usize,
    list: u32,
    values: &'a [u64],
}

struct Index<'a> {
    txns: &'a [ListTxn],
    /// Who appended a value.
    writers: BTreeMap<(u32, u64), usize>,
    found: Vec<Found<'a>>,
    /// The longest version of each list.
    orders: BTreeMap<u32, &'a [u64]>,
    /// Transactions that certainly took effect: acknowledged, or seen by somebody.
    committed: BTreeSet<usize>,
}

impl<'a> Index<'a> {
    fn new(txns: &'a [ListTxn]) -> Result<Self, String> {
        let mut index = Self {
            txns,
            writers: BTreeMap::new(),
            found: Vec::new(),
            orders: BTreeMap::new(),
            committed: BTreeSet::new(),
        };
        for (number, txn) in txns.iter().enumerate() {
            for step in &txn.steps {
                if let ListStep::Append { list, value } = step {
                    index.writers.insert((*list, *value), number);
                }
            }
        }
        for number in 0..txns.len() {
            index.own_reads(number)?;
        }
        index.order()?;
        index.commits();
        index.overwritten()?;
        for found in &index.found {
            index.last_is_final(found)?;
        }
        Ok(index)
    }

    fn name(&self, txn: usize) -> String {
        format!("txn {}", WriteId(self.txns[txn].id))
    }

    /// Reads of one transaction agree with each other and with its own appends.
    fn own_reads(&mut self, number: usize) -> Result<(), String> {
        // What the transaction found and then appended, list by list.
        let mut known: BTreeMap<u32, (Option<&[u64]>, Vec<u64>)> = BTreeMap::new();
        for step in &self.txns[number].steps {
            match step {
                ListStep::Append { list, value } => known.entry(*list).or_default().1.push(*value),
                ListStep::Read { list, values } => {
                    let (found, own) = known.entry(*list).or_default();
                    let before = values.strip_suffix(&own[..]);
                    let agrees = match (&found, before) {
                        (_, None) => false,
                        (Some(found), Some(before)) => *found == before,
                        (None, Some(_)) => true,
                    };
                    let (Some(before), true) = (before, agrees) else {
                        let name = self.name(number);
                        return Err(format!(
                            "internal: {name} found list {list} to be {}, appended {}, then read {} ({})",
                            show_list(found.unwrap_or_default()),
                            show_list(own),
                            show_list(values),
                            show_span(&self.txns[number].span)
                        ));
                    };
                    *found = Some(before);
                }
            }
        }
        let found = known.into_iter().filter_map(|(list, (values, _))| Some((list, values?)));
        self.found.extend(found.map(|(list, values)| Found { txn: number, list, values }));
        Ok(())
    }

    /// All versions of a list are beginnings of the longest.
    fn order(&mut self) -> Result<(), String> {
        for found in &self.found {
            let longest = self.orders.entry(found.list).or_insert(found.values);
            let before = *longest;
            let (short, long) = if found.values.len() > longest.len() {
                (*longest, found.values)
            } else {
                (found.values, *longest)
            };
            *longest = long;
            if !long.starts_with(short) {
                return Err(format!(
                    "incompatible order: list {} was read as {} by {} ({}) and as {} by another",
                    found.list,
                    show_list(found.values),
                    self.name(found.txn),
                    show_span(&self.txns[found.txn].span),
                    show_list(before)
                ));
            }
        }
        for (list, order) in &self.orders {
            let mut seen = BTreeSet::new();
            for value in *order {
                if !seen.insert(*value) {
                    return Err(format!("list {list} holds {} twice: {}", WriteId(*value), show_list(order)));
                }
                self.written(*list, *value)?;
            }
        }
        Ok(())
    }

    /// Values come from somebody who was not refused.
    fn written(&self, list: u32, value: u64) -> Result<(), String> {
        let reader = self.found.iter().find(|found| found.list == list && found.values.contains(&value));
        let reader = reader.map_or_else(String::new, |found| self.name(found.txn));
        match self.writers.get(&(list, value)) {
            None => {
                Err(format!("phantom: {reader} read {} in list {list}: nobody appended it", WriteId(value)))
            }
            Some(writer) if self.txns[*writer].effect == Effect::Refused => Err(format!(
                "G1a: {reader} read {} in list {list}, but {} was refused",
                WriteId(value),
                self.name(*writer)
            )),
            Some(_) => Ok(()),
        }
    }

    /// The last value read is the last that its transaction appended.
    fn last_is_final(&self, found: &Found) -> Result<(), String> {
        let Some(last) = found.values.last() else { return Ok(()) };
        let Some(writer) = self.writers.get(&(found.list, *last)) else { return Ok(()) };
        let appended = self.txns[*writer].steps.iter().rev().find_map(|step| match step {
            ListStep::Append { list, value } if *list == found.list => Some(*value),
            _ => None,
        });
        if appended == Some(*last) {
            return Ok(());
        }
        Err(format!(
            "G1b: {} read list {} up to {}, in the middle of {}",
            self.name(found.txn),
            found.list,
            WriteId(*last),
            self.name(*writer)
        ))
    }

    fn commits(&mut self) {
        let done = (0..self.txns.len()).filter(|txn| self.txns[*txn].effect == Effect::Done);
        let values = self.orders.iter().flat_map(|(list, order)| order.iter().map(|value| (*list, *value)));
        self.committed = done.chain(values.filter_map(|value| self.writers.get(&value).copied())).collect();
    }

    /// No two transactions replaced the same version.
    fn overwritten(&self) -> Result<(), String> {
        let mut replaced: BTreeMap<(u32, usize), usize> = BTreeMap::new();
        for found in self.found.iter().filter(|found| self.committed.contains(&found.txn)) {
            let appends =
                |step: &ListStep| matches!(step, ListStep::Append { list, .. } if *list == found.list);
            if !self.txns[found.txn].steps.iter().any(appends) {
                continue;
            }
            if let Some(other) = replaced.insert((found.list, found.values.len()), found.txn) {
                return Err(format!(
                    "lost update: {} ({}) and {} ({}) both found list {} to be {}, and appended to it",
                    self.name(other),
                    show_span(&self.txns[other].span),
                    self.name(found.txn),
                    show_span(&self.txns[found.txn].span),
                    found.list,
                    show_list(found.values)
                ));
            }
        }
        Ok(())
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new(self.txns.len());
        let writer = |list: u32, value: u64| self.writers.get(&(list, value)).copied();
        for (list, order) in &self.orders {
            for pair in order.windows(2) {
                if let (Some(a), Some(b)) = (writer(*list, pair[0]), writer(*list, pair[1])) {
                    graph.link(Why::Ww(*list, pair[1]), a, b);
                }
            }
            let last = order.last().and_then(|last| writer(*list, *last));
            for (value, author) in self.unseen(*list) {
                if let Some(last) = last {
                    graph.link(Why::Ww(*list, value), last, author);
                }
            }
        }
        for found in &self.found {
            let (list, length) = (found.list, found.values.len());
            if let Some(author) = found.values.last().and_then(|last| writer(list, *last)) {
                graph.link(Why::Wr(list, found.values[length - 1]), author, found.txn);
            }
            let order = self.orders.get(&list).copied().unwrap_or_default();
            if let Some(next) = order.get(length) {
                if let Some(author) = writer(list, *next) {
                    graph.link(Why::Rw(list, *next), found.txn, author);
                }
                continue;
            }
            // Appends that nobody ever saw come after everything that was seen.
            for (value, author) in self.unseen(list) {
                graph.link(Why::Rw(list, value), found.txn, author);
            }
        }
        self.real_time(&mut graph);
        graph
    }

    /// Appends to a list that took effect, but that no read shows.
    fn unseen(&self, list: u32) -> impl Iterator<Item = (u64, usize)> {
        let order = self.orders.get(&list).copied().unwrap_or_default();
        self.writers
            .range((list, 0)..=(list, u64::MAX))
            .filter(|(_, writer)| self.committed.contains(writer))
            .map(|((_, value), writer)| (*value, *writer))
            .filter(move |(value, _)| !order.contains(value))
    }

    /// Whatever returned comes before whatever was invoked later, through a chain of moments.
    fn real_time(&self, graph: &mut Graph) {
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (number, txn) in self.txns.iter().enumerate() {
            events.push((txn.span.invoked_ns, false, number));
            if txn.span.returned_ns != NEVER && txn.effect == Effect::Done {
                events.push((txn.span.returned_ns, true, number));
            }
        }
        events.sort_unstable();
        let mut moment = None;
        for (_, returns, txn) in events {
            if returns {
                moment = Some(graph.moment(txn, moment));
            } else if let Some(moment) = moment {
                graph.edge(moment, start(txn), Why::RealTime);
            }
        }
    }

    fn show_cycle(&self, cycle: &[(usize, usize, Why)]) -> String {
        let mut lines = vec![format!("{}: no snapshots explain this cycle:", class(cycle))];
        for (from, to, why) in cycle {
            let (a, b) = (self.name(*from), self.name(*to));
            lines.push(match why {
                Why::Ww(list, value) => {
                    format!("  {a} ww {b}: it appended {} to list {list} next", WriteId(*value))
                }
                Why::Wr(list, value) => {
                    format!("  {a} wr {b}: it read {} at the end of list {list}", WriteId(*value))
                }
                Why::Rw(list, value) => {
                    format!("  {a} rw {b}: it read list {list} before {} was appended", WriteId(*value))
                }
                Why::RealTime | Why::Inner => {
                    format!("  {a} rt {b}: it returned before the other was invoked")
                }
            });
        }
        let shown: BTreeSet<usize> = cycle.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
        for txn in shown {
            let steps: Vec<String> = self.txns[txn].steps.iter().map(show_step).collect();
            lines.push(format!(
                "  {} ({:?}, {}): {}",
                self.name(txn),
                self.txns[txn].effect,
                show_span(&self.txns[txn].span),
                steps.join(", ")
            ));
        }
        lines.join("\n")
    }
}

fn show_step(step: &ListStep) -> String {
    match step {
        ListStep::Read { list, values } => format!("reads list {list} {}", show_list(values)),
        ListStep::Append { list, value } => format!("appends {} to list {list}", WriteId(*value)),
    }
}

/// The end of a list: what is before is the same for everybody.
fn show_list(values: &[u64]) -> String {
    let tail: Vec<String> =
        values.iter().skip(values.len().saturating_sub(3)).map(|value| WriteId(*value).to_string()).collect();
    let dots = if values.len() > 3 { format!("({}) .. ", values.len()) } else { String::new() };
    format!("[{dots}{}]", tail.join(" "))
}

/// Why something comes before something else: the list and the value that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Ww(u32, u64),
    Wr(u32, u64),
    Rw(u32, u64),
    RealTime,
    /// A transaction starts before it commits.
    Inner,
}

impl Why {
    /// Weaker classes of anomalies use fewer kinds of edges.
    fn rank(self) -> u8 {
        match self {
            Why::Inner | Why::Ww(..) => 0,
            Why::Wr(..) => 1,
            Why::Rw(..) => 2,
            Why::RealTime => 3,
        }
    }
}

fn start(txn: usize) -> usize {
    2 * txn
}

fn commit(txn: usize) -> usize {
    2 * txn + 1
}

struct Graph {
    txns: usize,
    edges: Vec<Vec<(usize, Why)>>,
}

impl Graph {
    fn new(txns: usize) -> Self {
        let mut graph = Self { txns, edges: vec![Vec::new(); 2 * txns] };
        (0..txns).for_each(|txn| graph.edge(start(txn), commit(txn), Why::Inner));
        graph
    }

    fn edge(&mut self, from: usize, to: usize, why: Why) {
        self.edges[from].push((to, why));
    }

    fn link(&mut self, why: Why, a: usize, b: usize) {
        if a == b {
            return;
        }
        match why {
            Why::Rw(..) => self.edge(start(a), commit(b), why),
            _ => self.edge(commit(a), start(b), why),
        }
    }

    /// A moment after the commit of `txn` and after the moment `before`.
    fn moment(&mut self, txn: usize, before: Option<usize>) -> usize {
        let moment = self.edges.len();
        self.edges.push(Vec::new());
        self.edge(commit(txn), moment, Why::RealTime);
        if let Some(before) = before {
            self.edge(before, moment, Why::RealTime);
        }
        moment
    }

    /// The shortest cycle of the weakest class, as steps from transaction to transaction.
    fn shortest_cycle(&self) -> Option<Vec<(usize, usize, Why)>> {
        self.knotted(3).first()?;
        for rank in 0..=3 {
            let nodes = self.knotted(rank);
            let shortest = nodes.iter().filter_map(|node| self.cycle_from(*node, rank)).min_by_key(Vec::len);
            if let Some(cycle) = shortest {
                return Some(self.steps(&cycle));
            }
        }
        None
    }

    /// Nodes that are left when those before and behind all cycles are peeled off.
    fn knotted(&self, rank: u8) -> Vec<usize> {
        let mut left = vec![true; self.edges.len()];
        for backwards in [false, true] {
            let mut blockers = vec![0_usize; self.edges.len()];
            let mut blocked: Vec<Vec<usize>> = vec![Vec::new(); self.edges.len()];
            for (from, edges) in self.edges.iter().enumerate().filter(|(from, _)| left[*from]) {
                for (to, why) in edges.iter().filter(|(to, _)| left[*to]) {
                    if why.rank() <= rank {
                        let (first, second) = if backwards { (*to, from) } else { (from, *to) };
                        blockers[second] += 1;
                        blocked[first].push(second);
                    }
                }
            }
            let mut free: Vec<usize> =
                (0..self.edges.len()).filter(|node| left[*node] && blockers[*node] == 0).collect();
            while let Some(node) = free.pop() {
                left[node] = false;
                for other in &blocked[node] {
                    blockers[*other] -= 1;
                    if blockers[*other] == 0 {
                        free.push(*other);
                    }
                }
            }
        }
        (0..left.len()).filter(|node| left[*node]).collect()
    }

    /// A shortest way from `origin` back to itself.
    fn cycle_from(&self, origin: usize, rank: u8) -> Option<Vec<(usize, usize, Why)>> {
        let mut came: BTreeMap<usize, (usize, Why)> = BTreeMap::new();
        let mut queue = VecDeque::from([origin]);
        while let Some(node) = queue.pop_front() {
            for (to, why) in self.edges[node].iter().filter(|(_, why)| why.rank() <= rank) {
                if *to != origin && came.contains_key(to) {
                    continue;
                }
                came.insert(*to, (node, *why));
                if *to == origin {
                    let mut way = Vec::new();
                    let mut at = origin;
                    loop {
                        let (from, why) = came[&at];
                        way.push((from, at, why));
                        at = from;
                        if at == origin {
                            way.reverse();
                            return Some(way);
                        }
                    }
                }
                queue.push_back(*to);
            }
        }
        None
    }

    /// Edges between transactions; ways through moments become one step.
    fn steps(&self, way: &[(usize, usize, Why)]) -> Vec<(usize, usize, Why)> {
        // Begin at a transaction, not at a moment.
        let first = way.iter().position(|(from, ..)| *from < 2 * self.txns).unwrap_or(0);
        let mut steps = Vec::new();
        let mut left = None;
        for (from, to, why) in way[first..].iter().chain(&way[..first]) {
            if *from < 2 * self.txns {
                left = Some(*from / 2);
            }
            if let Some(from) = left.filter(|_| *to < 2 * self.txns && *why != Why::Inner) {
                steps.push((from, *to / 2, *why));
            }
        }
        steps
    }
}

fn class(cycle: &[(usize, usize, Why)]) -> String {
    let has = |kind: fn(&Why) -> bool| cycle.iter().filter(|(_, _, why)| kind(why)).count();
    let rw = has(|why| matches!(why, Why::Rw(..)));
    let base = match rw {
        0 if has(|why| matches!(why, Why::Wr(..))) > 0 => "G1c",
        0 => "G0",
        1 if matches!(cycle, [(_, _, a), (_, _, b)] if one_list(*a, *b)) => "lost update",
        1 => "G-single",
        _ => "G-nonadjacent",
    };
    let time = if has(|why| *why == Why::RealTime) > 0 { " in real time" } else { "" };
    format!("{base}{time}")
}

/// An rw and a ww at the same list.
fn one_list(a: Why, b: Why) -> bool {
    match (a, b) {
        (Why::Rw(a, _), Why::Ww(b, _)) | (Why::Ww(b, _), Why::Rw(a, _)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    fn read(list: u32, values: &[u64]) -> ListStep {
        ListStep::Read { list, values: values.to_vec() }
    }
    fn append(list: u32, value: u64) -> ListStep {
        ListStep::Append { list, value }
    }
    fn txn(id: u64, from: u64, to: u64, steps: Vec<ListStep>) -> ListTxn {
        let span = Span { session: 0, invoked_ns: from, returned_ns: to };
        ListTxn { span, id: (id + 1) << 36, effect: Effect::Done, steps }
    }
    fn with(mut txn: ListTxn, effect: Effect) -> ListTxn {
        txn.effect = effect;
        txn
    }
    fn verdict(txns: &[ListTxn]) -> String {
        check(txns).err().map_or_else(|| "fine".to_owned(), |violation| violation.facts)
    }
    /// Appends after reading, as clients do.
    fn adds(id: u64, from: u64, to: u64, list: u32, before: &[u64], value: u64) -> ListTxn {
        txn(id, from, to, vec![read(list, before), append(list, value)])
    }

    #[test]
    fn good_histories_pass() {
        let after = txn(3, 20, 30, vec![read(1, &[1, 2])]);
        assert_eq!(verdict(&[adds(1, 0, 5, 1, &[], 1), adds(2, 6, 9, 1, &[1], 2), after.clone()]), "fine");
        let unknown = |effect| with(txn(2, 6, NEVER, vec![read(1, &[1]), append(1, 2)]), effect);
        assert_eq!(verdict(&[adds(1, 0, 5, 1, &[], 1), unknown(Effect::Unknown), after]), "fine");
        let missed = txn(3, 20, 30, vec![read(1, &[1])]);
        assert_eq!(verdict(&[adds(1, 0, 5, 1, &[], 1), unknown(Effect::Unknown), missed.clone()]), "fine");
        assert_eq!(verdict(&[adds(1, 0, 5, 1, &[], 1), unknown(Effect::Refused), missed]), "fine");
    }

    #[test]
    fn write_skew_is_allowed() {
        let skew = [
            txn(1, 0, 9, vec![read(1, &[]), read(2, &[]), append(1, 1)]),
            txn(2, 0, 9, vec![read(1, &[]), read(2, &[]), append(2, 2)]),
            txn(3, 10, 12, vec![read(1, &[1]), read(2, &[2])]),
        ];
        assert_eq!(verdict(&skew), "fine");
    }

    #[test]
    fn own_writes_and_intermediate_ones() {
        let own =
            txn(1, 0, 9, vec![read(1, &[]), append(1, 1), read(1, &[1]), append(1, 2), read(1, &[1, 2])]);
        assert_eq!(verdict(std::slice::from_ref(&own)), "fine");
        assert!(verdict(&[own, txn(2, 10, 11, vec![read(1, &[1])])]).starts_with("G1b"));
        let forgot = txn(1, 0, 9, vec![read(1, &[]), append(1, 1), read(1, &[])]);
        assert!(verdict(&[forgot]).starts_with("internal"));
        let unrepeatable = txn(2, 0, 9, vec![read(1, &[]), read(1, &[1])]);
        assert!(verdict(&[adds(1, 0, 5, 1, &[], 1), unrepeatable]).starts_with("internal"));
    }

    #[test]
    fn what_needs_no_graph() {
        let one = adds(1, 0, 5, 1, &[], 1);
        let reads = |values: &[u64]| txn(9, 20, 30, vec![read(1, values)]);
        assert!(verdict(&[one.clone(), reads(&[1, 7])]).starts_with("phantom"));
        assert!(verdict(&[with(one.clone(), Effect::Refused), reads(&[1])]).starts_with("G1a"));
        assert!(verdict(&[one.clone(), reads(&[1, 1])]).contains("twice"));
        let two = adds(2, 0, 5, 1, &[], 2);
        assert!(verdict(&[one, two, reads(&[1, 2]), reads(&[2])]).starts_with("incompatible order"));
    }

    #[test]
    fn lost_updates_are_found_and_named() {
        let both =
            [adds(1, 0, 9, 1, &[], 1), adds(2, 0, 9, 1, &[], 2), txn(3, 0, 30, vec![read(1, &[1, 2])])];
        let facts = verdict(&both);
        assert!(facts.starts_with("lost update"), "{facts}");
        let blind = [
            txn(1, 0, 9, vec![append(1, 1)]),
            adds(2, 0, 9, 1, &[], 2),
            txn(3, 0, 30, vec![read(1, &[1, 2])]),
        ];
        let facts = verdict(&blind);
        assert!(facts.starts_with("lost update:"), "{facts}");
        assert!(facts.lines().count() <= 5, "{facts}");
        let gone = [adds(1, 0, 9, 1, &[], 1), txn(3, 10, 30, vec![read(1, &[])])];
        assert!(verdict(&gone).starts_with("G-single in real time"), "{}", verdict(&gone));
    }

    #[test]
    fn fractured_reads_and_long_forks_are_found() {
        let both = txn(1, 0, 9, vec![read(1, &[]), read(2, &[]), append(1, 1), append(2, 1)]);
        let fractured = [both, txn(2, 0, 9, vec![read(1, &[1]), read(2, &[])])];
        assert!(verdict(&fractured).starts_with("G-single:"), "{}", verdict(&fractured));
        let fork = [
            adds(1, 0, 9, 1, &[], 1),
            adds(2, 0, 9, 2, &[], 2),
            txn(3, 0, 9, vec![read(1, &[1]), read(2, &[])]),
            txn(4, 0, 9, vec![read(1, &[]), read(2, &[2])]),
        ];
        assert!(verdict(&fork).starts_with("G-nonadjacent"), "{}", verdict(&fork));
    }

    #[test]
    fn what_is_seen_in_one_list_happened_in_the_others() {
        let unknown = with(txn(1, 0, NEVER, vec![append(1, 1), append(2, 2)]), Effect::Unknown);
        let half = [unknown, txn(2, 0, 9, vec![read(1, &[1]), read(2, &[])])];
        assert!(verdict(&half).starts_with("G-single:"), "{}", verdict(&half));
    }

    #[test]
    fn cycles_of_writes_and_reads() {
        let g0 = [
            txn(1, 0, 9, vec![append(1, 1), append(2, 1)]),
            txn(2, 0, 9, vec![append(1, 2), append(2, 2)]),
            txn(3, 0, 9, vec![read(1, &[1, 2])]),
            txn(4, 0, 9, vec![read(2, &[2, 1])]),
        ];
        assert!(verdict(&g0).starts_with("G0"), "{}", verdict(&g0));
        let g1c = [
            txn(1, 0, 9, vec![append(1, 1), read(2, &[2])]),
            txn(2, 0, 9, vec![append(2, 2), read(1, &[1])]),
        ];
        assert!(verdict(&g1c).starts_with("G1c"), "{}", verdict(&g1c));
    }
}
