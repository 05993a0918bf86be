//! A structured recording of a run, for the report: who lived when, what struck, who led, what clients did, what was sent.
//!
//! A recording is one of the things that a [`crate::trace::Trace`] may keep; whoever owns a trace tells it what
//! happens by [`crate::trace::Trace::record`]. Without a recording that is one branch, and nothing that is recorded
//! enters the hash: a recorded run has the trace of the same run in a sweep.
//!
//! Packets are kept with what can be read off them: the call they belong to, the raft messages of a batch, the
//! names of workload keys in their bytes. Everything else is kept as it was told.

use crate::exec::Node;
use crate::history::History;
use crate::plan::Fault;
use crate::workload::Op;
use crate::workload::keys::Name;
use nokv_env::Fact;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A time that never comes: the packet never arrived, the operation never returned.
pub const NEVER: u64 = u64::MAX;

/// Bytes of a packet that are searched for keys.
const SEARCHED_BYTES: usize = 16 << 10;
/// Raft messages of one batch that are named one by one.
const NAMED_MESSAGES: usize = 6;

/// What a node turned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its process starts.
    Starting,
    /// Its service serves.
    Up,
    /// It was asked to stop.
    Stopping,
    /// It stopped cleanly.
    Stopped,
    /// Its process was killed.
    Killed,
    /// It lost power.
    PowerLost,
    /// It gave up by itself.
    GaveUp,
}

/// A change in the life of a node.
#[derive(Debug, Clone)]
pub struct Life {
    /// When.
    pub at_ns: u64,
    /// Who.
    pub node: Node,
    /// What it turned to.
    pub state: State,
    /// Why, if there is something to say.
    pub why: String,
}

/// A fault and how long it was in force.
#[derive(Debug, Clone)]
pub struct Strike {
    /// The fault.
    pub fault: Fault,
    /// When it struck.
    pub from_ns: u64,
    /// When it was over; [`NEVER`] if the run ended first.
    pub until_ns: u64,
}

/// Something that a node told through its hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A protocol fact.
    Fact(Fact),
    /// A probe was reached for the first time in the run.
    Probe(&'static str),
    /// A chance point fired.
    Chance(&'static str),
    /// Something that was sent before arrives once more.
    Again(String),
}

/// An operation of a session, as the client saw it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Number in the run: session + 1, and the position in its session.
    pub number: u64,
    /// On which node.
    pub node: Node,
    /// What.
    pub op: Op,
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When the client returned; [`NEVER`] if it had not by the end.
    pub returned_ns: u64,
    /// The client's error, if it returned one.
    pub error: Option<String>,
}

/// A packet: everything that one direction of one call sent in one instant.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Sender.
    pub from: Node,
    /// Receiver.
    pub to: Node,
    /// The call, as an index into [`Recording::calls`].
    pub call: usize,
    /// An answer instead of a request.
    pub answer: bool,
    /// When it left.
    pub sent_ns: u64,
    /// When it arrives; [`NEVER`] if it never did.
    pub arrives_ns: u64,
    /// A cut held it back.
    pub held: bool,
    /// Its size.
    pub bytes: usize,
    /// What can be read off it: raft messages.
    pub content: Vec<String>,
    /// Workload keys in it.
    pub keys: Vec<Name>,
}

/// What a crash took from a disk, in words; empty if every file is as long as it was.
pub fn losses(before: &[(PathBuf, u64)], after: &[(PathBuf, u64)]) -> String {
    let left: BTreeMap<&PathBuf, u64> = after.iter().map(|(path, bytes)| (path, *bytes)).collect();
    let (mut gone, mut shorter) = (Vec::new(), Vec::new());
    for (path, had) in before {
        let name = path.display();
        match left.get(path) {
            None => gone.push(format!("{name} ({had} bytes)")),
            Some(has) if has < had => shorter.push(format!("{name} by {} of {had} bytes", had - has)),
            Some(_) => {}
        }
    }
    let told = [("gone, as the name was not durable", gone), ("shorter", shorter)];
    let told = told.into_iter().filter(|(_, files)| !files.is_empty());
    told.map(|(how, files)| format!("; {how}: {}", files.join(", "))).collect::<Vec<_>>().concat()
}

/// Everything that was recorded.
#[derive(Debug, Default)]
pub struct Recording {
    /// Changes of standing, in order of time.
    pub lives: Vec<Life>,
    /// Faults that found their target, in order of time.
    pub strikes: Vec<Strike>,
    /// What nodes told, in order of time.
    pub told: Vec<(u64, Node, Told)>,
    /// Operations of the sessions, in order of invocation.
    pub operations: Vec<Operation>,
    /// Packets, in order of sending.
    pub packets: Vec<Packet>,
    /// Paths of calls.
    pub calls: Vec<String>,
    /// Notes of the story: the cluster serves, healing begins.
    pub notes: Vec<(u64, String)>,
    /// What clients saw; filled in at the end.
    pub history: History,
    /// The call of each open stream and its packets that are held back.
    streams: BTreeMap<usize, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    call: usize,
    /// The newest packet of requests and of answers.
    newest: [Option<usize>; 2],
    held: [Vec<usize>; 2],
}

/// Where a packet travels.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Number of the stream.
    pub stream: usize,
    /// An answer instead of a request.
    pub answer: bool,
    /// Sender.
    pub from: Node,
    /// Receiver.
    pub to: Node,
}

impl Recording {
    /// A node's standing changed.
    pub fn life(&mut self, at_ns: u64, node: Node, state: State, why: impl Into<String>) {
        self.lives.push(Life { at_ns, node, state, why: why.into() });
    }

    /// A fault struck.
    pub fn fault_begins(&mut self, at_ns: u64, fault: &Fault) {
        self.strikes.push(Strike { fault: fault.clone(), from_ns: at_ns, until_ns: NEVER });
    }

    /// A fault is over. It may never have struck.
    pub fn fault_ends(&mut self, at_ns: u64, fault: &Fault) {
        let open = self.strikes.iter_mut().find(|strike| strike.until_ns == NEVER && strike.fault == *fault);
        if let Some(strike) = open {
            strike.until_ns = at_ns;
        }
    }

    /// A session begins an operation.
    pub fn op_begins(&mut self, at_ns: u64, node: Node, number: u64, op: &Op) {
        self.operations.push(Operation {
            number,
            node,
            op: op.clone(),
            invoked_ns: at_ns,
            returned_ns: NEVER,
            error: None,
        });
    }

    /// An operation returned.
    pub fn op_ends(&mut self, at_ns: u64, number: u64, error: Option<String>) {
        if let Some(operation) = self.operations.iter_mut().rev().find(|known| known.number == number) {
            operation.returned_ns = at_ns;
            operation.error = error;
        }
    }

    /// A call was opened: its head leaves.
    pub fn opened(&mut self, at_ns: u64, way: Way, path: &str, arrives_ns: u64) {
        let call = self.calls.iter().position(|known| known == path).unwrap_or_else(|| {
            self.calls.push(path.to_owned());
            self.calls.len() - 1
        });
        self.streams.insert(way.stream, Stream { call, ..Stream::default() });
        self.sent(at_ns, way, 64, arrives_ns, None);
    }

    /// Something left; what leaves in one instant is one packet. An arrival at [`NEVER`]: it is held back.
    pub fn sent(&mut self, at_ns: u64, way: Way, bytes: usize, arrives_ns: u64, data: Option<&[u8]>) {
        let stream = self.streams.entry(way.stream).or_default();
        let side = usize::from(way.answer);
        let same = stream.newest[side]
            .filter(|index| self.packets.get(*index).is_some_and(|packet| packet.sent_ns == at_ns));
        let index = same.unwrap_or_else(|| {
            self.packets.push(Packet {
                from: way.from,
                to: way.to,
                call: stream.call,
                answer: way.answer,
                sent_ns: at_ns,
                arrives_ns,
                held: arrives_ns == NEVER,
                bytes: 0,
                content: Vec::new(),
                keys: Vec::new(),
            });
            self.packets.len() - 1
        });
        stream.newest[side] = Some(index);
        if arrives_ns == NEVER && stream.held[side].last() != Some(&index) {
            stream.held[side].push(index);
        }
        let Some(packet) = self.packets.get_mut(index) else { return };
        packet.bytes += bytes;
        if let Some(data) = data {
            if self.calls.get(packet.call).is_some_and(|path| path.contains("RaftTransport")) {
                packet.content.extend(raft_batches(data));
            }
            for name in keys_in(&data[..data.len().min(SEARCHED_BYTES)]) {
                if !packet.keys.contains(&name) {
                    packet.keys.push(name);
                }
            }
        }
    }

    /// What was held back gets through.
    pub fn released(&mut self, stream: usize, answer: bool, arrives_ns: u64) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        for index in std::mem::take(&mut stream.held[usize::from(answer)]) {
            if let Some(packet) = self.packets.get_mut(index) {
                packet.arrives_ns = arrives_ns;
            }
        }
    }
}

/// Workload keys in some bytes: two hex digits, a slash, a letter, a number.
pub fn keys_in(bytes: &[u8]) -> Vec<Name> {
    let mut names = Vec::new();
    for (slash, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        if slash < 2 {
            continue;
        }
        let digits = bytes[slash + 1..].iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
        // A digit may follow the key by chance: the longest number that is a name counts.
        let name = (1..=digits.min(9))
            .rev()
            .find_map(|count| bytes.get(slash - 2..slash + 2 + count).and_then(Name::parse));
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// A field of a protobuf message: its number, and its varint or its bytes.
enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
}

/// The fields of a protobuf message, as far as they are sound.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => Some(Field::Number(tag >> 3, varint(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (field, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Some(Field::Bytes(tag >> 3, field))
            }
            _ => None,
        }
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Names the raft messages in gRPC frames of `RaftBatch`es.
fn raft_batches(mut data: &[u8]) -> Vec<String> {
    let mut named = Vec::new();
    while let Some((head, rest)) = data.split_at_checked(5) {
        let length = head[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let Some((batch, rest)) = rest.split_at_checked(length) else { break };
        data = rest;
        let mut domain = "region";
        for field in fields(batch) {
            match field {
                Field::Bytes(1, name) => domain = if name == b"root" { "root" } else { "region" },
                Field::Bytes(4, envelope) => named.push(raft_envelope(domain, envelope)),
                _ => {}
            }
        }
    }
    // What matters comes first.
    named.sort_by_key(|message| message.contains("heartbeat"));
    if named.len() > NAMED_MESSAGES {
        let more = named.len() - NAMED_MESSAGES;
        named.truncate(NAMED_MESSAGES);
        named.push(format!("and {more} more"));
    }
    named
}

fn raft_envelope(domain: &str, envelope: &[u8]) -> String {
    let (mut group, mut message): (u64, &[u8]) = (0, &[]);
    for field in fields(envelope) {
        match field {
            Field::Number(1, number) => group = number,
            Field::Bytes(2, bytes) => message = bytes,
            _ => {}
        }
    }
    let (mut kind, mut term, mut index, mut entries, mut rejected) = (0, 0, 0, 0, false);
    for field in fields(message) {
        match field {
            Field::Number(1, number) => kind = number,
            Field::Number(4, number) => term = number,
            Field::Number(6, number) => index = number,
            Field::Number(10, number) => rejected = number != 0,
            Field::Bytes(7, _) => entries += 1,
            _ => {}
        }
    }
    let what = match kind {
        3 => match entries {
            0 => format!("append: nothing after {index}"),
            1 => format!("append: entry {}", index + 1),
            _ => format!("append: entries {}..{}", index + 1, index + entries),
        },
        4 if rejected => format!("append refused at {index}"),
        4 => format!("append accepted up to {index}"),
        5 => format!("asks for a vote (log ends at {index})"),
        6 if rejected => "vote refused".to_owned(),
        6 => "vote granted".to_owned(),
        7 => "snapshot".to_owned(),
        8 => "heartbeat".to_owned(),
        9 => "heartbeat answered".to_owned(),
        14 => "told to campaign now".to_owned(),
        17 => format!("asks for a pre-vote (log ends at {index})"),
        18 if rejected => "pre-vote refused".to_owned(),
        18 => "pre-vote granted".to_owned(),
        other => format!("raft message {other}"),
    };
    let group = if domain == "root" { "roots".to_owned() } else { format!("region {group}") };
    format!("{group}, term {term}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { stream: 3, answer: false, from: Node(1), to: Node(2) };

    #[test]
    fn what_leaves_at_once_is_one_packet_and_what_is_held_arrives_when_released() {
        let mut recording = Recording::default();
        recording.opened(10, WAY, "/nokv.kv.v1.Kv/KvGet", 20);
        recording.sent(10, WAY, 30, 20, Some(&Name::Key(3).key()));
        recording.sent(15, WAY, 30, NEVER, None);
        recording.sent(16, Way { answer: true, ..WAY }, 5, 25, None);
        assert_eq!(recording.packets.len(), 3);
        assert_eq!(recording.packets[0].bytes, 94);
        assert_eq!(recording.packets[0].keys, [Name::Key(3)]);
        recording.released(3, false, 99);
        assert_eq!((recording.packets[1].arrives_ns, recording.packets[1].held), (99, true));
        assert_eq!(recording.packets[2].arrives_ns, 25);
    }

    #[test]
    fn a_crash_is_told_by_what_it_took() {
        let files = |list: &[(&str, u64)]| -> Vec<(PathBuf, u64)> {
            list.iter().map(|(path, bytes)| (PathBuf::from(path), *bytes)).collect()
        };
        let before = files(&[("/a", 10), ("/b", 20), ("/c", 30)]);
        assert_eq!(losses(&before, &before), "");
        assert_eq!(
            losses(&before, &files(&[("/a", 4), ("/c", 30)])),
            "; gone, as the name was not durable: /b (20 bytes); shorter: /a by 6 of 10 bytes"
        );
    }

    #[test]
    fn raft_messages_are_named() {
        // kind 3 (append), term 5, index 17, one empty entry; in an envelope of group 2, in a batch of regions.
        let message = [8, 3, 32, 5, 48, 17, 58, 0];
        let envelope = [&[8, 2, 18, message.len() as u8][..], &message].concat();
        let batch = [&[10, 6][..], b"region", &[34, envelope.len() as u8], &envelope].concat();
        let frame = [&[0, 0, 0, 0, batch.len() as u8][..], &batch].concat();
        assert_eq!(raft_batches(&frame), ["region 2, term 5: append: entry 18"]);
        assert!(raft_batches(&frame[..9]).is_empty(), "a cut frame names nothing");
    }

    #[test]
    fn keys_are_found_among_other_bytes() {
        let bytes = [&[0xff, 7][..], &Name::Account(12).key(), b"/", &Name::List(1).key(), b"9"].concat();
        assert_eq!(keys_in(&bytes), [Name::Account(12), Name::List(1)]);
    }
}
