//! The violation in one sentence, with the names that the lanes have.
//!
//! Checkers count peers and print whole timestamps. [`plain`] says the same with the names of nodes, short times and
//! readable timestamps; where the recording knows more than the checker (when, and what fell between), a rule's own
//! sentence is made from both.

use super::facts::Group;
use super::tables::{Kind, Row, Tables};
use super::words::{at, regions, stamps};
use crate::record::State;
use crate::run::Failure;

/// One sentence on what is wrong.
pub(super) fn headline(tables: &Tables, failure: &Failure) -> String {
    let told = Headline { tables, failure };
    told.lost_vote()
        .or_else(|| told.two_leaders())
        .or_else(|| told.numbers())
        .or_else(|| told.gave_up())
        .or_else(|| told.snapshot())
        .unwrap_or_else(|| format!("{}.", plain(tables, &failure.facts)))
}

/// The facts of a checker, with names instead of numbers.
pub(super) fn plain(tables: &Tables, facts: &str) -> String {
    // What a snapshot of all accounts showed is told with the read itself.
    let facts =
        facts.split(" (peers: ").next().unwrap_or_default().split(": [Account ").next().unwrap_or_default();
    let (group, facts) = group_of(facts);
    let name = |peer: u64, group: Group| match peer {
        0 => "nobody".to_owned(),
        peer => tables.peer_name((group, peer)),
    };
    let mut said: Vec<String> = Vec::new();
    for word in facts.split(' ') {
        let mut core = word.trim_end_matches([',', ';', ':', '.']);
        if !core.trim_start_matches('(').contains('(') {
            core = core.trim_end_matches(')');
        }
        let (core, mark) = word.split_at(core.len());
        let (open, core) = core.split_at(core.len() - core.trim_start_matches('(').len());
        let before = said.last().map(String::as_str);
        let peer = group
            .zip(core.parse::<u64>().ok())
            .filter(|_| matches!(before, Some("peer" | "peers" | "for" | "gives")));
        let told = if let Some((group, peer)) = peer {
            if matches!(before, Some("peer" | "peers")) {
                said.pop();
            }
            name(peer, group)
        } else if let Some(session) =
            last_reads(core).filter(|_| before.is_some_and(|word| word.ends_with("session")))
        {
            let open = said.pop().unwrap_or_default().replace("session", "");
            format!("{open}{session}")
        } else if let Some(seconds) = core.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok()) {
            at((seconds * 1e9).round() as u64)
        } else {
            key_of(core).unwrap_or_else(|| core.to_owned())
        };
        said.push(format!("{open}{told}{mark}"));
    }
    let prefix = group.map(|group| format!("{group}: ")).unwrap_or_default();
    stamps(&format!("{prefix}{}", said.join(" ")))
}

/// The raft group with which the facts of a raft checker begin, and the rest.
fn group_of(facts: &str) -> (Option<Group>, &str) {
    let Some((head, rest)) = facts.split_once(": ") else { return (None, facts) };
    match head.strip_prefix("region group ").map(str::parse) {
        Some(Ok(id)) => (Some(Group::Region(id)), rest),
        _ if head.starts_with("root group ") => (Some(Group::Roots), rest),
        _ => (None, facts),
    }
}

/// What is no session of the workload.
fn last_reads(number: &str) -> Option<String> {
    let number = number.parse().ok().filter(|number| *number > u32::from(u16::MAX))?;
    Some(super::story::session_name(number))
}

/// `Key(6)` as operations call it.
fn key_of(word: &str) -> Option<String> {
    let (kind, number) = word.strip_suffix(')')?.split_once('(')?;
    let letter = match kind {
        "Key" => 'k',
        "Account" => 'a',
        "List" => 'l',
        "Skew" => 's',
        "Fork" => 'f',
        _ => return None,
    };
    number.parse::<u32>().ok().map(|number| format!("{letter}{number}"))
}

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(rest.split(after).next().unwrap_or(rest))
}

struct Headline<'a> {
    tables: &'a Tables,
    failure: &'a Failure,
}

impl Headline<'_> {
    fn facts(&self) -> &str {
        &self.failure.facts
    }

    /// The last row until the violation that is like this.
    fn last(&self, which: impl Fn(&Row) -> bool) -> Option<&Row> {
        self.tables.rows.iter().rfind(|row| row.from_ns <= self.failure.at_ns && which(row))
    }

    fn node(&self, node: Option<usize>) -> &str {
        node.and_then(|node| self.tables.nodes.get(node)).map_or("a node", String::as_str)
    }

    /// A peer comes back without the vote that it gave.
    fn lost_vote(&self) -> Option<String> {
        let (group, facts) = group_of(self.facts());
        let group = group?;
        let number = |before: &str, after: &str| between(facts, before, after)?.parse::<u64>().ok();
        let peer = number("peer ", " starts again with a vote for ")?;
        let (kept, term) = (number("a vote for ", " ")?, number(" in term ", ",")?);
        let given = number("had synced one for ", " (")?;
        let node = self.tables.peers.get(&(group, peer)).copied();
        let vote = self.last(|row| {
            row.kind == Kind::Mark
                && row.group == Some(group)
                && row.node == node
                && row.known.as_ref().is_some_and(|known| {
                    known.name == "Vote"
                        && known.number("term") == Some(term)
                        && known.number("candidate") == Some(given)
                })
        })?;
        let ended = |row: &Row| row.state == State::PowerLost as u8 || row.state == State::Killed as u8;
        let died = self.last(|row| row.kind == Kind::Life && row.node == node && ended(row));
        let died = died.map(|row| format!("{} at {}, ", lost_how(row), at(row.from_ns))).unwrap_or_default();
        let (who, to) = (self.node(node), self.tables.peer_name((group, given)));
        let now = match kept {
            0 => "without that vote".to_owned(),
            other => format!("with a vote for {}", self.tables.peer_name((group, other))),
        };
        Some(format!(
            "{who} voted for {to} in term {term} of {group} at {}, {died}and came back at {} {now}: \
             it could now help another to lead the same term.",
            at(vote.from_ns),
            at(self.failure.at_ns),
        ))
    }

    /// Two peers lead one term.
    fn two_leaders(&self) -> Option<String> {
        let (group, facts) = group_of(self.facts());
        let (group, both) = (group?, between(facts, "peers ", " both lead term ")?);
        let term: u64 = between(facts, " both lead term ", " ")?.parse().ok()?;
        let (first, second) = both.split_once(" and ")?;
        let since = |peer: &str| {
            let peer = (group, peer.parse().ok()?);
            let node = self.tables.peers.get(&peer).copied();
            let lead = self.last(|row| {
                row.kind == Kind::Lead && row.node == node && row.group == Some(group) && row.number == term
            });
            let when = lead.map_or(self.failure.at_ns, |lead| lead.from_ns);
            Some(format!("{} (since {})", self.tables.peer_name(peer), at(when)))
        };
        let twice: Vec<String> = self.voted_twice(group, term);
        let twice = if twice.is_empty() { String::new() } else { format!(" {}.", twice.join("; ")) };
        Some(format!("{} and {} both lead term {term} of {group}.{twice}", since(first)?, since(second)?))
    }

    /// Who gave two votes in one term.
    fn voted_twice(&self, group: Group, term: u64) -> Vec<String> {
        let votes = |node: usize| {
            let of_node = self.tables.rows.iter().filter(move |row| {
                row.kind == Kind::Mark && row.node == Some(node) && row.group == Some(group)
            });
            let mut votes: Vec<(u64, u64)> = of_node
                .filter_map(|row| {
                    let known = row.known.as_ref()?;
                    let fits = known.name == "Vote" && known.number("term") == Some(term);
                    Some((row.from_ns, known.number("candidate")?)).filter(|_| fits)
                })
                .collect();
            votes.dedup_by_key(|vote| vote.1);
            votes
        };
        let nodes = 0..self.tables.nodes.len();
        let twice = nodes.map(|node| (node, votes(node))).filter(|(_, votes)| votes.len() > 1);
        twice
            .map(|(node, votes)| {
                let to: Vec<String> = votes
                    .iter()
                    .map(|(at_ns, to)| format!("{} at {}", self.tables.peer_name((group, *to)), at(*at_ns)))
                    .collect();
                format!("{} voted for {}", self.tables.nodes[node], to.join(" and for "))
            })
            .collect()
    }

    /// Numbers that were handed out below, or again after, those of somebody else.
    fn numbers(&self) -> Option<String> {
        let (late, early) = match self.facts().split_once(", on the wrong side of ") {
            Some((late, rest)) => (
                late,
                rest.rsplit_once(", which ")
                    .map(|(range, who)| (range, who.trim_end_matches(" had handed out")))?,
            ),
            None => {
                let (late, rest) = self.facts().rsplit_once(", ")?;
                let (who, range) = rest.split_once(" had handed out ")?;
                (late, (range, who))
            }
        };
        let (who, range) = late.split_once(" handed out ")?;
        let (what, range) = range.split_once(' ')?;
        let first = |range: &str| range.split("..").next().and_then(|number| number.parse::<u64>().ok());
        let (new, old) = (first(range)?, first(early.0)?);
        let when = |number: u64, who: &str| {
            let node = who.split(' ').next().unwrap_or_default();
            self.last(|row| {
                row.kind == Kind::Mark
                    && self.node(row.node) == node
                    && row.known.as_ref().is_some_and(|known| {
                        known.name == "Granted"
                            && known
                                .range()
                                .is_some_and(|(first, count)| (first..first + count).contains(&number))
                    })
            })
        };
        let (at_new, at_old) = (when(new, who)?, when(old, early.1)?);
        let order = match new.cmp(&old) {
            std::cmp::Ordering::Less => "which is lower",
            std::cmp::Ordering::Equal => "which is the same",
            std::cmp::Ordering::Greater => "which is out of order",
        };
        Some(stamps(&format!(
            "{} handed out {what} from {old} at {}; at {} {who} handed out {what} from {new}, {order}.",
            early.1,
            at(at_old.from_ns),
            at(at_new.from_ns)
        )))
    }

    /// A node that nobody hurt gives up.
    fn gave_up(&self) -> Option<String> {
        let (who, reason) = self.facts().split_once(" gave up without a disk fault: ")?;
        let (does, reason) = match reason.strip_prefix("does not start: ") {
            Some(reason) => ("cannot start again", reason),
            None => ("gives up", reason),
        };
        let lost = self.last(|row| {
            row.kind == Kind::Life && row.state == State::PowerLost as u8 && self.node(row.node) == who
        });
        let lost = lost.and_then(|row| {
            let (_, lost) = row.detail.split_once("; ")?;
            Some(format!(" Its disk after the power loss at {}: {lost}.", at(row.from_ns)))
        });
        Some(stamps(&format!("{who} {does}: {}.{}", regions(reason), lost.unwrap_or_default())))
    }

    /// A snapshot does not show what it should.
    fn snapshot(&self) -> Option<String> {
        let text = plain(self.tables, self.facts());
        let (key, rest) = text.split_once(": the snapshot at timestamp ")?;
        let (stamp, rest) = rest.split_once(" (")?;
        let (reader, rest) = rest.split_once(") ")?;
        let (session, times) = reader.split_once(", ")?;
        Some(format!("{session} read {key} as of timestamp {stamp} ({times}), and this {rest}."))
    }
}

fn lost_how(life: &Row) -> &'static str {
    if life.state == State::PowerLost as u8 { "lost power" } else { "was killed" }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{COORD1, COORD2, STORE1, STORE2, STORE3, failed, peer, tell};
    use super::*;
    use crate::record::Recording;
    use nokv_env::{Duty, Fact};

    fn told(recording: &Recording, checker: &str, facts: &str) -> String {
        let (tables, _, failure) = failed(recording, checker, facts, 3);
        headline(&tables, &failure)
    }

    fn vote(recording: &mut Recording, at_ms: u64, node: crate::exec::Node, voter: u64, candidate: u64) {
        tell(recording, at_ms, node, Fact::Vote { peer: peer(1, voter), term: 1, candidate });
    }

    #[test]
    fn a_lost_vote_is_told_with_its_times() {
        let mut recording = Recording::default();
        vote(&mut recording, 900, STORE2, 102, 102);
        vote(&mut recording, 1_000, STORE3, 103, 102);
        recording.life(2_000_000_000, STORE3, State::PowerLost, "all that was written survives");
        let facts = "region group 1: peer 103 starts again with a vote for 0 in term 1, and had synced one for 102 \
                     (peers: 102 on store2, 103 on store3)";
        assert_eq!(
            told(&recording, "raft", facts),
            "store3 voted for store2 in term 1 of region 1 at 1.000 s, lost power at 2.000 s, and came back at 3.000 s \
             without that vote: it could now help another to lead the same term."
        );
    }

    #[test]
    fn two_leaders_are_told_with_who_voted_for_both() {
        let mut recording = Recording::default();
        vote(&mut recording, 500, STORE1, 101, 101);
        vote(&mut recording, 600, STORE3, 103, 101);
        tell(&mut recording, 700, STORE1, Fact::Leader { peer: peer(1, 101), term: 1 });
        vote(&mut recording, 2_000, STORE2, 102, 102);
        vote(&mut recording, 2_100, STORE3, 103, 102);
        tell(&mut recording, 3_000, STORE2, Fact::Leader { peer: peer(1, 102), term: 1 });
        let facts =
            "region group 1: peers 101 and 102 both lead term 1 (peers: 101 on store1, 102 on store2)";
        assert_eq!(
            told(&recording, "raft", facts),
            "store1 (since 0.700 s) and store2 (since 3.000 s) both lead term 1 of region 1. \
             store3 voted for store1 at 0.600 s and for store2 at 2.100 s."
        );
    }

    #[test]
    fn numbers_out_of_order_are_told_with_who_gave_them_when() {
        let (high, low) = (463_267_590_522_273_792, 463_267_588_831_444_992);
        let mut recording = Recording::default();
        let granted =
            |generation, first, count| Fact::Granted { duty: Duty::Timestamps, generation, first, count };
        tell(&mut recording, 1_000, COORD2, granted(1, high, 2));
        tell(&mut recording, 3_000, COORD1, granted(2, low, 1));
        let facts = format!(
            "coord1 (generation 2) handed out timestamps {low}..{}, on the wrong side of {high}..{}, which coord2 \
             (generation 1) had handed out",
            low + 1,
            high + 2
        );
        assert_eq!(
            told(&recording, "authority", &facts),
            "coord2 (generation 1) handed out timestamps from 10.818+0 at 1.000 s; at 3.000 s coord1 (generation 2) \
             handed out timestamps from 4.368+0, which is lower."
        );
    }

    #[test]
    fn a_node_that_gives_up_is_told_with_what_its_disk_lost() {
        let mut recording = Recording::default();
        recording.life(
            2_000_000_000,
            STORE3,
            State::PowerLost,
            "what was not synced may be lost; gone, as the name was not durable: /raft/1 (9 bytes)",
        );
        let facts = "store3 gave up without a disk fault: does not start: raft: g1: the log ends at 0";
        assert_eq!(
            told(&recording, "failure", facts),
            "store3 cannot start again: raft: region 1: the log ends at 0. \
             Its disk after the power loss at 2.000 s: gone, as the name was not durable: /raft/1 (9 bytes)."
        );
    }

    #[test]
    fn what_has_no_sentence_of_its_own_is_told_with_names() {
        let recording = Recording::default();
        let facts = "region group 1: peer 103 gives 101 its vote in term 2, and its disk has a vote for 0 in term 2 \
                     (peers: 101 on store1)";
        assert_eq!(
            told(&recording, "raft", facts),
            "region 1: store3 gives store1 its vote in term 2, and its disk has a vote for nobody in term 2."
        );
        let snapshot = "Key(6): the snapshot at timestamp 463267588296671232 (session 0, 2.328008s to 2.329521s) shows \
                        nothing, although there was write 0/0 (1.700962s to 1.703008s, committed at timestamp \
                        463267588132306945)";
        assert_eq!(
            told(
                &recording,
                "transactions",
                "it is 5, not 6 (session 16777215 from 2.591000s to never): [Account { .. }]"
            ),
            "it is 5, not 6 (the checker's reads from 2.591 s to never)."
        );
        assert_eq!(
            told(&recording, "client.snapshot", snapshot),
            "session 0 read k6 as of timestamp 2.328+0 (2.328 s to 2.330 s), and this shows nothing, although there was \
             write 0/0 (1.701 s to 1.703 s, committed at timestamp 1.701+1)."
        );
    }
}
