//! What was done to a world, in sentences: the faults that struck it, and what it decided against the default.
//!
//! In a case that was made small this list is the whole cause; the rest of the run took its ordinary course.

use super::story;
use super::tables::{Kind, Tables};
use super::words::{self, at};
use crate::atoms::{Atom, Decisions};
use crate::run::{Resolved, Verdict};

/// Sentences at most; a run with more to tell is not small yet.
const CAUSES_MAX: usize = 24;

/// One sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) text: String,
    /// When it struck; `None` for what was so all the time or has no single moment.
    pub(super) at_ns: Option<u64>,
    /// The fault that it tells.
    pub(super) row: Option<usize>,
}

/// How much was done, and each of it as long as that is readable.
pub(super) fn causes(run: &Resolved, tables: &Tables, verdict: &Verdict) -> (String, Vec<Cause>) {
    let strikes: Vec<usize> =
        (0..tables.rows.len()).filter(|index| tables.rows[*index].kind == Kind::Fault).collect();
    let given = run.decisions.as_ref();
    let decisions = given.map_or(verdict.decisions as usize, Decisions::len);
    let mut head = format!(
        "Done to this world: {}, {}, {}",
        words::count(strikes.len(), "fault", "faults"),
        words::count(decisions, "decision against the default", "decisions against the default"),
        words::count(run.workload.len(), "client operation", "client operations")
    );
    if strikes.len() + decisions > CAUSES_MAX {
        if verdict.failure.is_some() {
            head.push_str("; shrink the run to see which of them matter");
        }
        return (head, Vec::new());
    }
    let faults = strikes.into_iter().map(|index| Cause {
        text: format!("at {}: {}", at(tables.rows[index].from_ns), story::words_of(tables, index)),
        at_ns: Some(tables.rows[index].from_ns),
        row: Some(index),
    });
    let decided = given.into_iter().flat_map(Decisions::atoms).map(|atom| Cause {
        text: format!("{}.", decision(&atom, &tables.nodes)),
        at_ns: None,
        row: None,
    });
    // First what was so all the time, then what struck, then what was decided once.
    let (always, once): (Vec<_>, Vec<_>) = decided.partition(|cause| cause.text.contains(" clock of "));
    (head, always.into_iter().chain(faults).chain(once).collect())
}

/// A decision against the default, in words; the kinds are those of [`crate::atoms`].
pub(super) fn decision(atom: &Atom, nodes: &[String]) -> String {
    let Atom { key, nth, value } = atom;
    let (place, kind) = key.split_once('/').unwrap_or((key, ""));
    let nth = words::nth(*nth + 1);
    let signed = *value as i64;
    let late = format!("{:.1} ms", *value as f64 / 1e6);
    let packet = || match place.split_once('>') {
        Some((from, to)) => format!("the {nth} packet from {from} to {to}"),
        None => format!("the {nth} packet of {place}"),
    };
    if let Some(chance) = kind.strip_prefix("chance/") {
        return format!("{place} takes the rare branch {chance} the {nth} time it comes by");
    }
    if let (Some(method), Some((from, to))) = (kind.strip_suffix("/again"), place.split_once('>')) {
        return format!("the {nth} {method} from {from} to {to} arrives once more, {late} after itself");
    }
    match kind {
        "schedule" => "tasks that could run at the same moment run in a random order".to_owned(),
        "jitter" => "packets take a random time on top of the latency of their link".to_owned(),
        "clock/rate" => {
            let way = if signed < 0 { "slow" } else { "fast" };
            format!("the clock of {place} runs {:.4} % {way}", signed.unsigned_abs() as f64 / 1e7)
        }
        "clock/wall" => {
            let way = if signed < 0 { "behind" } else { "ahead" };
            format!("the wall clock of {place} is {} {way}", words::millis(signed.unsigned_abs()))
        }
        "disk/survival" => format!("the {nth} power loss of {place} takes what was not synced"),
        "late" => format!("{} is {late} late", packet()),
        "rest" => format!(
            "what the {nth} stream cut between {} still held arrives {late} later",
            place.replace('>', " and ")
        ),
        "lost" => format!("{} is lost and sent again, {late} late", packet()),
        _ if place == "core" => left_out(kind, *value, nodes),
        _ => format!("{key}: {value}, the {nth} time it is asked"),
    }
}

/// Who is left out when the others are healed, as `Faults::leave_out` reads the number.
fn left_out(kind: &str, value: u64, nodes: &[String]) -> String {
    let prefix = if kind == "coordinator" { "coord" } else { kind };
    let all: Vec<&String> = nodes.iter().filter(|name| name.starts_with(prefix)).collect();
    let Some(count) = Some(all.len() as u64).filter(|count| *count > 0) else {
        return format!("one {kind} is not healed with the others");
    };
    let how = ["loses power", "freezes", "is cut off"][(value / count % 3) as usize];
    format!("when the others are healed, {} {how} instead, for a while", all[(value % count) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(key: &str, nth: u64, value: u64) -> String {
        let nodes = ["root1", "root2", "root3", "store1", "store2", "store3"].map(str::to_owned);
        decision(&Atom { key: key.to_owned(), nth, value }, &nodes)
    }

    #[test]
    fn decisions_are_told_as_sentences() {
        assert_eq!(told("coord2/clock/wall", 0, 9610), "the wall clock of coord2 is 9.6 s ahead");
        assert_eq!(told("coord2/clock/wall", 0, -20_i64 as u64), "the wall clock of coord2 is 20 ms behind");
        assert_eq!(
            told("coord1/chance/coordinator.renewal.skip", 2, 1),
            "coord1 takes the rare branch coordinator.renewal.skip the 3rd time it comes by"
        );
        assert_eq!(
            told("store3/disk/survival", 0, 1),
            "the 1st power loss of store3 takes what was not synced"
        );
        assert_eq!(
            told("coord1>root2/late", 11, 18_073_197),
            "the 12th packet from coord1 to root2 is 18.1 ms late"
        );
        assert_eq!(
            told("coord1>root2/ApplyCoordinatorLease/again", 0, 2_500_000_000),
            "the 1st ApplyCoordinatorLease from coord1 to root2 arrives once more, 2500.0 ms after itself"
        );
        // 3 stores: number % 3 is the store, number / 3 % 3 is what befalls it.
        assert_eq!(
            told("core/store", 0, 5),
            "when the others are healed, store3 freezes instead, for a while"
        );
    }
}
