//! Every event of a run, with names: where do two runs part?
//!
//! A trace is a hash over small events. When two runs that should be equal are not, their events say where they part;
//! what a task, a path, a fact was called is kept beside them, so that a person understands the answer. The events of
//! a run can be saved in a compact file and compared with another build, another machine, another day.
//!
//! ```text
//! "NOKVEV1\n" | len u32 | head: JSON { about, trace, nodes } | names: JSON [[kind, a, b, name], ..] | len u32 ..
//! then an event after the other: kind u8, node, time since the last one, a, b; all but kind as varints
//! ```

use crate::exec::Node;
use crate::plan::Names;
use crate::run::{RunOptions, Verdict, run_keeping};
use crate::trace::{Event, Keep, Kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const MAGIC: &[u8; 8] = b"NOKVEV1\n";

/// Kind, and the details that the name belongs to.
type Key = (u8, u64, u64);

/// Events while they are recorded, and what they are called.
#[derive(Debug, Default)]
pub struct Named {
    /// In order.
    pub events: Vec<Event>,
    /// Names of tasks, paths, facts and the like.
    pub names: BTreeMap<Key, String>,
}

/// A recorded run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Which run it was, for people.
    pub about: String,
    /// The hash of the trace.
    pub trace: u64,
    /// Names of nodes by index; 0 is the world itself.
    nodes: Vec<String>,
    names: BTreeMap<Key, String>,
    events: Vec<Event>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    about: String,
    trace: u64,
    nodes: Vec<String>,
    names: Vec<(u8, u64, u64, String)>,
    events: u64,
}

impl Events {
    /// Runs a world and keeps every event.
    pub fn of(about: impl Into<String>, options: &RunOptions) -> (Verdict, Self) {
        let mut nodes = vec!["world".to_owned()];
        nodes.extend(Names::of(&options.resolve().config).all().cloned());
        let ran = run_keeping(options, Keep::Named(Box::default()));
        let named = if let Keep::Named(named) = ran.kept { *named } else { Named::default() };
        let trace = ran.verdict.trace;
        let about = about.into();
        (ran.verdict, Self { about, trace, nodes, names: named.names, events: named.events })
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Number of the first event that differs. A run that ends early differs where it ends.
    pub fn first_difference(&self, other: &Self) -> Option<usize> {
        let same = |(index, event): (usize, &Event)| {
            other.events.get(index) == Some(event) && self.name(event) == other.name(event)
        };
        let differs = self.events.iter().enumerate().position(|event| !same(event));
        differs.or_else(|| (other.events.len() > self.events.len()).then_some(self.events.len()))
    }

    fn name(&self, event: &Event) -> Option<&str> {
        self.names.get(&key(event.kind, event.a, event.b)).map(String::as_str)
    }

    fn node(&self, node: Node) -> &str {
        self.nodes.get(node.index()).map_or("?", String::as_str)
    }

    /// One event in words.
    pub fn line(&self, index: usize) -> String {
        let Some(event) = self.events.get(index) else { return "(the run has ended)".to_owned() };
        let (seconds, nanos) = (event.at_ns / 1_000_000_000, event.at_ns % 1_000_000_000);
        let node = self.node(event.node);
        format!("{index:>9} {seconds:>4}.{nanos:09} s  {node:<8} {}", self.words(event))
    }

    fn words(&self, event: &Event) -> String {
        let (a, b) = (event.a, event.b);
        let other = |number: u64| self.node(Node(number as u16));
        let name = self.name(event).map_or_else(|| format!("(unknown {a:#x})"), str::to_owned);
        match event.kind {
            Kind::Poll => format!("runs task {name} (slot {a}, tenant {b})"),
            Kind::Send => {
                let bytes = a & 0xffff_ffff_ffff;
                format!("sends {bytes} bytes to {}, there at {}", other(a >> 48), at(b))
            }
            Kind::Open => format!("calls {name} of {}", other(a)),
            Kind::Break => format!(
                "connection of {} to {} breaks, noticed at {}",
                other(a >> 16),
                other(a & 0xffff),
                at(b)
            ),
            Kind::Disk => format!("disk: {:.3} ms, {b} operations so far", a as f64 / 1e6),
            Kind::Fault if a == 1 => format!("link to {} is cut", other(b)),
            Kind::Fault if a == 2 => format!("link to {} is mended", other(b)),
            Kind::Fault => format!("fault {name}"),
            Kind::Life => {
                let what = ["?", "starts", "has stopped", "gives up", "dies"];
                format!("{} (life {b})", what.get(a as usize).unwrap_or(&"?"))
            }
            Kind::Fact => format!("fact {name}"),
            Kind::Op => {
                let (session, number) = ((a >> 32).saturating_sub(1), a & 0xffff_ffff);
                let what = match b {
                    0 => "asks",
                    1 => "got no answer",
                    _ => "was answered",
                };
                let op = self.names.get(&key(Kind::Op, a, 0)).map(String::as_str).unwrap_or_default();
                format!("session {session} {what}: operation {number} {op}")
            }
            Kind::Probe => format!("reaches {name} for the first time"),
            Kind::Chance => format!("takes the chance {name}"),
        }
    }

    /// The compact form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let names = self.names.iter().map(|(&(kind, a, b), name)| (kind, a, b, name.clone()));
        let head = Head {
            about: self.about.clone(),
            trace: self.trace,
            nodes: self.nodes.clone(),
            names: names.collect(),
            events: self.events.len() as u64,
        };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        let mut last = 0;
        for event in &self.events {
            bytes.push(event.kind as u8);
            for word in [u64::from(event.node.0), event.at_ns.wrapping_sub(last), event.a, event.b] {
                push(&mut bytes, word);
            }
            last = event.at_ns;
        }
        bytes
    }

    /// Whether these are the bytes of such a file.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// Reads [`Events::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin like one")?;
        let (len, rest) = rest.split_at_checked(4).ok_or("it ends in its head")?;
        let len = u32::from_le_bytes(len.try_into().unwrap_or_default()) as usize;
        let (head, mut rest) = rest.split_at_checked(len).ok_or("it ends in its head")?;
        let head: Head = serde_json::from_slice(head).map_err(|error| format!("its head: {error}"))?;
        let mut events = Vec::new();
        let mut last = 0u64;
        for index in 0..head.events {
            let event = read_event(&mut rest, last).ok_or_else(|| format!("it ends in event {index}"))?;
            last = event.at_ns;
            events.push(event);
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the last event", rest.len()));
        }
        let names = head.names.into_iter().map(|(kind, a, b, name)| ((kind, a, b), name)).collect();
        Ok(Self { about: head.about, trace: head.trace, nodes: head.nodes, names, events })
    }
}

/// Where two runs part, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parting {
    /// Number of the first event that differs, from 0.
    pub index: usize,
    /// The last events that both runs have.
    pub both: Vec<String>,
    /// What the first run did then.
    pub first: Vec<String>,
    /// What the second run did then.
    pub second: Vec<String>,
    #[serde(skip)]
    about: [String; 2],
}

/// Where two runs part, with `around` events on either side; `None` if they are equal.
pub fn diverge(first: &Events, second: &Events, around: usize) -> Option<Parting> {
    let index = first.first_difference(second)?;
    let after = |events: &Events| {
        let end = events.len().clamp(index + 1, index + around.max(1));
        (index..end).map(|index| events.line(index)).collect()
    };
    Some(Parting {
        index,
        both: (index.saturating_sub(around)..index).map(|index| first.line(index)).collect(),
        first: after(first),
        second: after(second),
        about: [first.about.clone(), second.about.clone()],
    })
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "first difference: event {}", self.index)?;
        if !self.both.is_empty() {
            writeln!(f, "both runs:")?;
        }
        for line in &self.both {
            writeln!(f, "  {line}")?;
        }
        for (about, lines) in self.about.iter().zip([&self.first, &self.second]) {
            writeln!(f, "{about}:")?;
            for (number, line) in lines.iter().enumerate() {
                writeln!(f, "{} {line}", if number == 0 { '>' } else { ' ' })?;
            }
        }
        Ok(())
    }
}

/// What a name belongs to: some kinds are named by `a` alone.
pub(crate) fn key(kind: Kind, a: u64, b: u64) -> Key {
    match kind {
        Kind::Poll => (kind as u8, a, b),
        // The path is the second detail.
        Kind::Open => (kind as u8, b, 0),
        _ => (kind as u8, a, 0),
    }
}

fn at(ns: u64) -> String {
    if ns == u64::MAX { "no time".to_owned() } else { format!("{:.9} s", ns as f64 / 1e9) }
}

fn push(bytes: &mut Vec<u8>, mut word: u64) {
    while word >= 0x80 {
        bytes.push(word as u8 | 0x80);
        word >>= 7;
    }
    bytes.push(word as u8);
}

fn read_event(rest: &mut &[u8], last: u64) -> Option<Event> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    let kind = Kind::from_number(*kind)?;
    let node = Node(u16::try_from(pull(rest)?).ok()?);
    let at_ns = last.wrapping_add(pull(rest)?);
    Some(Event { at_ns, node, kind, a: pull(rest)?, b: pull(rest)? })
}

fn pull(rest: &mut &[u8]) -> Option<u64> {
    let mut word = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        word |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(word);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Given;
    use std::time::Duration;

    fn short(seed: u64) -> RunOptions {
        RunOptions { given: Given::duration(Duration::from_secs(1)), ..RunOptions::seed(seed) }
    }

    #[test]
    fn events_survive_their_file_and_damage_is_told() {
        let (verdict, events) = Events::of("seed 3", &short(3));
        assert_eq!((events.len() as u64, events.trace), (verdict.events, verdict.trace));
        let bytes = events.to_bytes();
        assert!(Events::is(&bytes));
        assert_eq!(Events::from_bytes(&bytes).expect("readable"), events);
        let cut = Events::from_bytes(&bytes[..bytes.len() - 1]).expect_err("cut short");
        assert!(cut.contains("ends in event"), "{cut}");
        assert!(Events::from_bytes(b"{}").is_err());
        assert!(Events::from_bytes(&bytes[..9]).is_err());
        assert!(
            Events::from_bytes(&[bytes.as_slice(), b"x"].concat()).expect_err("longer").contains("follow")
        );
    }

    #[test]
    fn equal_runs_do_not_part_and_others_part_in_words() {
        let plain = crate::run(short(3));
        let (verdict, first) = Events::of("seed 3", &short(3));
        assert_eq!(plain.trace, verdict.trace, "recording changes nothing");
        let (_, again) = Events::of("seed 3", &short(3));
        assert_eq!(diverge(&first, &again, 3), None);

        let mut other = again.clone();
        let at = other.events.iter().position(|event| event.kind == Kind::Open).expect("calls");
        other.events[at].a += 1;
        let text = diverge(&first, &other, 2).expect("different").to_string();
        assert!(text.contains(&format!("event {at}\n")), "{text}");
        assert!(text.contains("calls /"), "{text}");
        assert!(text.contains("\n> "), "{text}");

        let mut shorter = again;
        shorter.events.truncate(10);
        let text = diverge(&first, &shorter, 2).expect("different").to_string();
        assert!(text.contains("event 10\n") && text.contains("(the run has ended)"), "{text}");
    }

    #[test]
    fn every_event_has_words() {
        let (_, events) = Events::of("seed 5", &short(5));
        for (index, event) in events.events.iter().enumerate() {
            let line = events.line(index);
            assert!(!line.contains("unknown") && !line.contains('?'), "{event}: {line}");
        }
    }
}
