//! Faults, operations and facts in words. What has no words of its own is listed field by field.

use super::facts::Known;
use crate::node::EPOCH_MS;
use crate::plan::{Fault, HOLDER, LEADER};
use crate::workload::Op;
use nokv_proto::id::PHYSICAL_SHIFT;
use serde_json::Value;

/// Whatever is further from the beginning of the world is no timestamp.
const DAY_MS: u64 = 86_400_000;

/// Milliseconds, as people say them.
pub(super) fn millis(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1e3) }
}

/// Simulated time with as many digits as tell events apart.
pub(super) fn at(ns: u64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}

/// How many of something there are.
pub(super) fn count(many: usize, one: &str, more: &str) -> String {
    match many {
        0 => format!("no {more}"),
        1 => format!("1 {one}"),
        many => format!("{many} {more}"),
    }
}

/// 1st, 2nd, 3rd, 4th.
pub(super) fn nth(number: u64) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

/// Regions as the lanes call them, in the text of a store's error: `g1:` is region 1.
pub(super) fn regions(text: &str) -> String {
    let region = |word: &str| word.strip_prefix('g')?.strip_suffix(':')?.parse::<u64>().ok();
    let words = text
        .split(' ')
        .map(|word| region(word).map_or_else(|| word.to_owned(), |id| format!("region {id}:")));
    words.collect::<Vec<_>>().join(" ")
}

/// Timestamps in a text as the wall clock that gave them, in seconds since the world began, and their counter:
/// `4.368+2`. Other long numbers by their last digits.
pub(super) fn stamps(text: &str) -> String {
    let mut short = String::new();
    let mut digits = String::new();
    for letter in text.chars().chain([' ']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        short.push_str(&stamp(&digits).unwrap_or_else(|| match digits.len() {
            13.. => format!("…{}", &digits[digits.len() - 9..]),
            _ => digits.clone(),
        }));
        digits.clear();
        short.push(letter);
    }
    short.pop();
    short
}

fn stamp(digits: &str) -> Option<String> {
    let number: u64 = digits.parse().ok().filter(|number| *number >> PHYSICAL_SHIFT > 0)?;
    let since = i64::try_from(number >> PHYSICAL_SHIFT).ok()? - EPOCH_MS;
    let (sign, ms) = (if since < 0 { "-" } else { "" }, since.unsigned_abs());
    let counter = number & ((1 << PHYSICAL_SHIFT) - 1);
    (ms < DAY_MS).then(|| format!("{sign}{}.{:03}+{counter}", ms / 1_000, ms % 1_000))
}

/// What a checker insists on, for people who have not met it.
pub(super) fn rule(checker: &str) -> &'static str {
    match checker {
        "linearizability" => {
            "There must be one order of all operations on a key that explains every answer. There is none:"
        }
        "client.phantom" => "Whatever is read must have been written. This was not:",
        "client.refused" => "A refused write must never be seen. This one was:",
        "client.stale" => "A read must not miss what was known before it began. This one does:",
        "client.snapshot" => {
            "A snapshot must show the newest version at or below its timestamp. This one does not:"
        }
        "client.lost_update" => {
            "Of two overlapping transactions that write one key, one must fail. Both went through:"
        }
        "client.time" | "timestamps" => "Timestamps must be unique and grow in real time. These do not:",
        "ids" => "Ids must be handed out once. These were not:",
        "client.hold" => "A snapshot that is held must stay readable. This one did not:",
        "transactions" => "Transactions must keep what they promise. These do not:",
        "durability" => "Nothing may appear that nobody wrote. This does:",
        "raft" => {
            "Raft's invariants must hold at every step (one vote of a peer and one leader a term; what was promised is on disk; what is committed stays). One is broken:"
        }
        "authority" => {
            "One generation of the lease serves at a time, above all that was handed out before, and nobody believes one that is sealed. Here that is broken:"
        }
        "reads" => "Nothing may be written behind a served read. Here something is:",
        "regions" => {
            "Regions must cover all keys, never overlap and never go back in their epochs. Here one does not:"
        }
        "placement" => "No region may be left with fewer voters than it needs. This one is:",
        "routes" => {
            "A route must be as fresh as it says, and any coordinator must give one. Here that is broken:"
        }
        "garbage" => "A region that is said to be rid of old versions must have none. This one has:",
        "replicas" => "After healing, all replicas of a region must be equal. These are not:",
        "liveness" => "After healing, everything must serve within a bound. It does not:",
        "failure" => "No node may give up without an injected disk fault. This one did:",
        "panic" => "No task may panic. This one did:",
        _ => "Here the rule is broken:",
    }
}

/// The names of nodes in a fault, in the order in which they appear.
pub(super) fn targets(fault: &Fault, nodes: &[String]) -> Vec<usize> {
    fn walk(value: &Value, nodes: &[String], found: &mut Vec<usize>) {
        match value {
            Value::String(text) => {
                let index = nodes.iter().position(|name| name == text);
                found.extend(index.filter(|index| !found.contains(index)));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, nodes, found)),
            Value::Object(fields) => fields.values().for_each(|item| walk(item, nodes, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&serde_json::to_value(fault).unwrap_or_default(), nodes, &mut found);
    found
}

/// What a fault does, and the name of its kind.
pub(super) fn fault(fault: &Fault, nodes: &[String]) -> (String, String) {
    let value = serde_json::to_value(fault).unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or("fault").to_owned();
    let text = |field: &str| value[field].as_str().unwrap_or("?").to_owned();
    let number = |field: &str| value[field].as_u64().unwrap_or_default();
    let node = match text("node") {
        holder if holder == HOLDER => "the lease holder".to_owned(),
        node => match node.strip_prefix(LEADER) {
            Some("root") => "the leader of the meta-roots".to_owned(),
            Some(region) => format!("the leader of the region number {region}"),
            None => node,
        },
    };
    let words = match kind.as_str() {
        "kill" if value["power"].as_bool() == Some(true) => format!("{node} loses power"),
        "kill" => format!("the process of {node} is killed"),
        "restart" => format!("{node} is restarted cleanly"),
        "pause" => format!("{node} freezes"),
        "slow_cpu" => format!("{node} computes slowly (a step takes {} µs)", number("step_us")),
        "partition" => {
            let (left, right) = (side(&value["left"], nodes), side(&value["right"], nodes));
            let one_way = value["one_way"].as_bool() == Some(true);
            if one_way {
                format!("messages from {left} to {right} are held back")
            } else {
                format!("{left} and {right} cannot reach each other")
            }
        }
        "slow_link" => {
            format!("packets from {} to {} are {} late", text("from"), text("to"), millis(number("extra_ms")))
        }
        "loss" => format!("{node} loses {} % of its packets", number("ppm") as f64 / 1e4),
        "reset" => format!("connections between {} and {} are reset", text("a"), text("b")),
        "disk_slow" => {
            let stall = number("stall_ms");
            let stalled =
                if stall > 0 { format!(", one operation hangs {}", millis(stall)) } else { String::new() };
            format!("the disk of {node} is {} times slower{stalled}", number("times"))
        }
        "disk_crash" => {
            format!("{node} will lose power at its {} disk operation from now", nth(number("after_ops")))
        }
        "disk_error" => {
            let what = if value["sync"].as_bool() == Some(true) { "sync" } else { "disk operation" };
            format!("the {} {what} of {node} from now will fail", nth(number("after_ops")))
        }
        "wall_clock" => {
            let by = value["by_ms"].as_i64().unwrap_or_default();
            let way = if by < 0 { "back" } else { "forward" };
            format!("the wall clock of {node} jumps {} {way}", millis(by.unsigned_abs()))
        }
        "blackout" => "power fails everywhere".to_owned(),
        "transfer_leader" => {
            format!(
                "the operator moves leadership of region {} to store{}",
                number("region"),
                number("store")
            )
        }
        "shuffle_leaders" => {
            format!("the operator moves leaderships around, one every {}", millis(number("every_ms")))
        }
        "move_peer" => format!(
            "the operator moves a peer of the region number {} to store{}",
            number("region"),
            number("store")
        ),
        "decommission" => {
            let after = number("for_ms");
            let back = if after > 0 {
                format!(", and takes that back after {}", millis(after))
            } else {
                String::new()
            };
            format!("the operator has store{} emptied{back}", number("store"))
        }
        "lose" => format!("{node} is lost for good"),
        "merge" => format!(
            "the operator merges the region number {}, in order of keys, with the one right of it",
            number("region")
        ),
        "split" => format!("the operator splits a region at {}", text("key")),
        "rolling" => {
            format!("all servers restart, one after the other, each down {}", millis(number("down_ms")))
        }
        "crash_at_boot" => {
            let times = value["ops"].as_array().map_or(0, Vec::len);
            format!("{node} loses power, and again {times} times while it starts")
        }
        "wipe" => format!("{node} dies and comes back with an empty disk"),
        "rot" => {
            let file =
                Some(text("file")).filter(|file| !file.is_empty()).unwrap_or_else(|| "some".to_owned());
            format!("synced data of {node} rots: a {} of a {file} file", text("rot"))
        }
        "no_space" => format!("the disk of {node} is full ({} bytes left)", number("free_bytes")),
        "short_read" => format!("a read of {node} gives less than was asked for"),
        "at_event" => {
            let (what, nth) = (text("event"), number("nth"));
            format!("a fault waits for {what} to happen ({nth}): {}", text_of(&value["then"], nodes))
        }
        _ => listed(&kind, &value, "kind"),
    };
    (words, kind)
}

/// The words of a fault in a fault.
fn text_of(then: &Value, nodes: &[String]) -> String {
    serde_json::from_value(then.clone()).map_or_else(|_| "?".to_owned(), |then| fault(&then, nodes).0)
}

/// One side of a partition.
fn side(value: &Value, nodes: &[String]) -> String {
    let names: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if names.len() > 3 && names.len() + 1 == nodes.len() {
        "everybody else".to_owned()
    } else {
        names.join("+")
    }
}

/// A kind and its fields.
fn listed(kind: &str, value: &Value, skip: &str) -> String {
    let mut words = kind.replace('_', " ");
    for (name, field) in value.as_object().into_iter().flatten().filter(|(name, _)| *name != skip) {
        let field = field.as_str().map_or_else(|| field.to_string(), str::to_owned);
        words.push_str(", ");
        words.push_str(&name.replace('_', " "));
        words.push(' ');
        words.push_str(&field);
    }
    words
}

/// What an operation asks for, its value named by `id`, and the workload keys that it touches.
pub(super) fn operation(op: &Op, id: &str) -> (String, Vec<String>) {
    let value = serde_json::to_value(op).unwrap_or_default();
    let kind = value["op"].as_str().unwrap_or("operation").to_owned();
    let number = |field: &str| value[field].as_u64().unwrap_or_default();
    let keys = keys_of(&kind, &value);
    let all = || keys.join(", ");
    let words = match kind.as_str() {
        "get" => format!("get k{}", number("key")),
        "put" | "insert" | "swap" => format!("{kind} k{} = {id}", number("key")),
        "delete" => format!("delete k{} ({id})", number("key")),
        "scan" => "scan everything".to_owned(),
        "range" => {
            let end = value["to"].as_u64().map_or_else(|| "the end".to_owned(), |to| format!("{to:02x}"));
            format!("scan from {:02x} to {end}, at most {} pairs", number("from"), number("limit"))
        }
        "transfer" => {
            let vanish = number("vanish_ms");
            let gone =
                if vanish > 0 { format!(", client gone after {}", millis(vanish)) } else { String::new() };
            format!("transfer {}: a{} to a{} ({id}{gone})", number("amount"), number("from"), number("to"))
        }
        "totals" => "read all accounts".to_owned(),
        "append" => format!("append {id} to l{}", number("list")),
        "multi" => format!("write {} in one transaction ({id})", all()),
        "snapshot" => format!("read {} in one snapshot", all()),
        "lists" => format!("read and append to {} in one transaction ({id})", all()),
        "skew" => format!("write {} after a look at its pair ({id})", all()),
        "stale" => {
            format!("read k{} from any replica, at most {} old", number("key"), millis(number("stale_ms")))
        }
        "old" => {
            let held = if value["hold"].as_bool() == Some(true) { "a held" } else { "one" };
            format!("read {} in {held} snapshot for {}", all(), millis(number("for_ms")))
        }
        "fork_write" => format!("write {} ({id})", all()),
        "fork_read" => format!("read {} in one snapshot", all()),
        "read_list" => format!("read l{}", number("list")),
        "timestamp" => format!("ask for {} timestamps", number("count")),
        "id" => format!("ask for {} ids", number("count")),
        _ => listed(&kind, &value, "op"),
    };
    (words, keys)
}

/// The workload keys that an operation names.
fn keys_of(kind: &str, value: &Value) -> Vec<String> {
    let number = |field: &str| value[field].as_u64();
    let named = |field: &str, letter: char| number(field).map(|number| format!("{letter}{number}"));
    let listed = |field: &str, letter: char| {
        let numbers: Vec<u64> =
            value[field].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        numbers.into_iter().map(move |number| format!("{letter}{number}"))
    };
    let steps = value["steps"].as_array().into_iter().flatten().filter_map(|step| step["list"].as_u64());
    let mut keys: Vec<String> = match kind {
        "transfer" => [named("from", 'a'), named("to", 'a')].into_iter().flatten().collect(),
        "skew" | "fork_write" | "fork_read" => {
            let letter = if kind == "skew" { 's' } else { 'f' };
            let both = number("pair").map(|pair| [2 * pair, 2 * pair + 1]).into_iter().flatten();
            let own = number("side").filter(|_| kind == "fork_write");
            both.filter(|key| own.is_none_or(|side| key % 2 == side))
                .map(|key| format!("{letter}{key}"))
                .collect()
        }
        _ => named("key", 'k')
            .into_iter()
            .chain(named("list", 'l'))
            .chain(["puts", "deletes", "keys"].into_iter().flat_map(|field| listed(field, 'k')))
            .chain(steps.map(|list| format!("l{list}")))
            .collect(),
    };
    keys.dedup();
    keys
}

/// What a node tells. `candidate` names the peer that a vote is for.
pub(super) fn fact(known: &Known, candidate: &str) -> String {
    let number = |field: &str| known.number(field).unwrap_or_default();
    let group = known.group().map_or_else(String::new, |group| group.to_string());
    let numbers = |what: &str| {
        let (first, count) = known.range().unwrap_or_default();
        let generation = number("generation");
        if count == 1 {
            return format!("hands out {} {first} (generation {generation})", what.trim_end_matches('s'));
        }
        format!("hands out {what} {first} to {} (generation {generation})", first + count.saturating_sub(1))
    };
    match known.name.as_str() {
        "Leader" => format!("leads {group} in term {}", number("term")),
        "Vote" => format!("votes for {candidate} in term {} of {group}", number("term")),
        "Applied" => format!("applies entry {} of {group} (term {})", number("index"), number("term")),
        "Installed" => format!("installed a snapshot of {group} at index {}", number("index")),
        "Installing" => format!("begins to install a snapshot of {group} at index {}", number("index")),
        "Lease" => {
            format!("learns that {} holds lease generation {}", known.text("holder"), number("generation"))
        }
        "Timestamps" => numbers("timestamps"),
        "Ids" => numbers("ids"),
        "Granted" => numbers(&known.text("duty").to_lowercase()),
        "Accepted" if known.text("duty") == "Routes" => {
            format!("takes a route (generation {})", number("generation"))
        }
        "Accepted" => numbers(&known.text("duty").to_lowercase()).replacen("hands out", "takes", 1),
        "Promised" => match known.text("promise") {
            "Accept" => format!(
                "tells its leader that it has entry {} of {group} (term {})",
                number("index"),
                number("term")
            ),
            "Vote" => format!("tells {candidate} that it has its vote in term {} of {group}", number("term")),
            _ => format!("stands for leader of {group} in term {}", number("term")),
        },
        "Synced" => {
            format!("has entries up to {} of {group} on disk (term {})", number("last"), number("term"))
        }
        "Members" => {
            let (voters, outgoing) = (known.text("voters"), known.text("outgoing"));
            let change =
                if outgoing == "[]" { String::new() } else { format!(", on the way there from {outgoing}") };
            format!("has {voters} as voters of {group}{change}")
        }
        "Entry" => format!("writes entry {} of {group} (term {})", number("index"), number("term")),
        "Committed" => format!("knows entry {} of {group} to be committed", number("index")),
        "Purged" => format!("forgets the log of {group} up to {}", number("index")),
        "Started" => format!(
            "finds {group} on disk: log to {}, term {}, {}, applied {}",
            number("last"),
            number("term"),
            if number("vote") == 0 { "no vote".to_owned() } else { format!("a vote for {candidate}") },
            number("applied")
        ),
        "Region" => {
            let (version, members) = (number("version"), number("conf_version"));
            format!("knows {group} at epoch {version} (range), {members} (members)")
        }
        "Regions" => format!("applies a change of regions at index {}", number("index")),
        "Authority" => {
            let live = if known.text("live") == "true" { "may serve" } else { "has ended" };
            let (ids, timestamps) = (number("ids"), number("timestamps"));
            format!(
                "knows that generation {} {live}, and that timestamps up to {timestamps} and ids up to {ids} may have been handed out",
                number("generation")
            )
        }
        "Shown" => format!("shows a key as it is at {}", number("version")),
        "Written" => format!("applies a commit at {}", number("version")),
        "ReadAsked" => format!("is asked to read from {group}"),
        "ReadServed" => {
            format!("reads from {group} at applied index {} (term {})", number("applied"), number("term"))
        }
        "Removed" => format!("leaves {group} for good"),
        name => format!("{} {group}: {}", split_words(name), known.others()),
    }
}

fn split_words(name: &str) -> String {
    let mut words = String::new();
    for (index, letter) in name.chars().enumerate() {
        if index > 0 && letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WorldConfig;
    use crate::plan::Plan;
    use crate::workload::Workload;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_words_of_its_own() {
        for seed in 0..60 {
            let config = WorldConfig::draw(seed);
            for timed in Plan::draw(seed, &config, 20_000).faults {
                let (words, kind) = fault(&timed.fault, &[]);
                let value = serde_json::to_value(&timed.fault).expect("serializable");
                assert_ne!(words, listed(&kind, &value, "kind"));
            }
        }
    }

    #[test]
    fn every_operation_has_words_of_its_own() {
        let mut kinds = BTreeSet::new();
        let range = Op::Range { from: 0x1a, to: None, limit: 9, page: 2 };
        assert_eq!(operation(&range, "v1").0, "scan from 1a to the end, at most 9 pairs");
        for seed in 0..60 {
            let workload = Workload::draw(seed, &WorldConfig::draw(seed), 20_000);
            for step in workload.sessions.iter().flat_map(|session| &session.steps) {
                let value = serde_json::to_value(&step.op).expect("serializable");
                let kind = value["op"].as_str().expect("a kind").to_owned();
                assert_ne!(operation(&step.op, "v1").0, listed(&kind, &value, "op"));
                kinds.insert(kind);
            }
        }
        assert_eq!(kinds.len(), 20, "all but ranges: {kinds:?}");
    }

    #[test]
    fn every_checker_of_the_book_has_words_of_its_own() {
        let book = include_str!("../../../docs/simulation.md");
        let (_, checkers) = book.split_once("### Checkers").expect("a chapter on checkers");
        let (checkers, _) = checkers.split_once("\n## ").expect("a chapter behind it");
        let rows = checkers.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
        let names: Vec<&str> = rows.flat_map(|row| row.split(['`', ','])).map(str::trim).collect();
        let names: Vec<&str> =
            names.into_iter().filter(|name| !name.is_empty() && !name.contains('*')).collect();
        assert!(names.len() > 12, "{names:?}");
        for name in names {
            assert_ne!(rule(name), rule("no such checker"), "{name}");
        }
    }
}
