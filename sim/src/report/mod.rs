//! A verdict for people: [`text`] for the terminal, and one self-contained page ([`page`]) that tells the story of a run.
//!
//! The page is made in three steps. [`tables`] turns a recording into flat tables: bars, marks, arrows, each with its
//! words ([`words`], [`facts`]). [`story`] reads the violation, finds the rows that make it up and tells them in
//! order, with the turning points between them ([`turns`]); [`headline`] says in one sentence what is wrong, [`causes`]
//! what was done to the world. `page.html` draws all of it; it loads nothing from anywhere.

mod causes;
mod facts;
mod headline;
pub mod page;
mod story;
mod tables;
mod text;
mod turns;
mod words;

pub use text::{failure, failure_of_case, line, replay, timeline};

#[cfg(test)]
mod testing {
    use super::tables::Tables;
    use crate::Given;
    use crate::exec::Node;
    use crate::record::{Packet, Recording, Told};
    use crate::run::{Failure, RunOptions, Verdict};
    use crate::workload::keys::Name;
    use nokv_env::{Fact, Peer};
    use std::time::Duration;

    pub(super) const SECOND: u64 = 1_000_000_000;
    pub(super) const COORD1: Node = Node(4);
    pub(super) const COORD2: Node = Node(5);
    pub(super) const STORE1: Node = Node(6);
    pub(super) const STORE2: Node = Node(7);
    pub(super) const STORE3: Node = Node(8);
    pub(super) const CLIENT1: Node = Node(9);

    /// A recording as the run of a plain world that ended with `facts`, at `at_s`.
    pub(super) fn failed(
        recording: &Recording,
        checker: &str,
        facts: &str,
        at_s: u64,
    ) -> (Tables, Verdict, Failure) {
        let failure = Failure { checker: checker.to_owned(), facts: facts.to_owned(), at_ns: at_s * SECOND };
        let short = RunOptions { given: Given::duration(Duration::from_millis(100)), ..RunOptions::seed(1) };
        let run = RunOptions::seed(1).resolve();
        let verdict =
            Verdict { failure: Some(failure.clone()), sim_ns: (at_s + 1) * SECOND, ..crate::run(short) };
        (Tables::new(&run, recording, &verdict), verdict, failure)
    }

    pub(super) fn tell(recording: &mut Recording, at_ms: u64, node: Node, fact: Fact) {
        recording.told.push((at_ms * 1_000_000, node, Told::Fact(fact)));
    }

    pub(super) fn peer(group: u64, node: u64) -> Peer {
        Peer { domain: "region", group, node }
    }

    /// A request and its answer.
    pub(super) fn asks(
        recording: &mut Recording,
        (from_ms, until_ms): (u64, u64),
        (from, to): (Node, Node),
        call: &str,
        keys: &[Name],
    ) {
        recording.calls.push(format!("/nokv.kv.v1.Kv/{call}"));
        let call = recording.calls.len() - 1;
        for (answer, sent_ms, from, to) in [(false, from_ms, from, to), (true, until_ms - 1, to, from)] {
            recording.packets.push(Packet {
                from,
                to,
                call,
                answer,
                sent_ns: sent_ms * 1_000_000,
                arrives_ns: (sent_ms + 1) * 1_000_000,
                held: false,
                bytes: 100,
                content: Vec::new(),
                keys: if answer { Vec::new() } else { keys.to_vec() },
            });
        }
    }
}
