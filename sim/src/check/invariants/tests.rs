//! Good and bad stories, told as facts.

use super::*;
use nokv_env::{Authority, Duty, Peer, Promise, Region};

const GROUP: [u64; 3] = [1, 2, 3];

fn peer(node: u64) -> Peer {
    Peer { domain: "region", group: 7, node }
}

/// A group of three peers, each on a node of its own, and what is told of it.
struct Story {
    invariants: Invariants,
    lives: [u32; 5],
    broken: Option<String>,
}

impl Story {
    /// All three start with empty logs.
    fn new() -> Self {
        let mut story = Story { invariants: Invariants::default(), lives: [0; 5], broken: None };
        for node in GROUP {
            story.invariants.name(Node(node as u16), &format!("store{node}"));
            story.start(node, 0, 0, 0, 0);
        }
        story
    }

    fn tell(&mut self, node: u64, fact: Fact) -> &mut Self {
        let place = Place { node: Node(node as u16), life: self.lives[node as usize] };
        if let Err(violation) = self.invariants.observe(place, &fact)
            && self.broken.is_none()
        {
            self.broken = Some(violation.to_string());
        }
        self
    }

    fn start(&mut self, node: u64, last: u64, term: u64, vote: u64, applied: u64) -> &mut Self {
        let peer = peer(node);
        let started = Fact::Started {
            peer,
            base: 0,
            base_term: 0,
            last,
            term,
            vote,
            commit: applied,
            applied,
            durable: applied,
        };
        self.tell(node, started);
        self.tell(node, Fact::Members { peer, voters: GROUP.to_vec(), outgoing: Vec::new() })
    }

    fn restart(&mut self, node: u64, last: u64, term: u64, vote: u64, applied: u64) -> &mut Self {
        self.lives[node as usize] += 1;
        self.start(node, last, term, vote, applied)
    }

    fn vote(&mut self, node: u64, last: u64, term: u64, candidate: u64) -> &mut Self {
        self.synced(node, last, term, candidate);
        let peer = peer(node);
        self.tell(node, Fact::Vote { peer, term, candidate });
        let promise =
            if node == candidate { Promise::Candidacy { term } } else { Promise::Vote { term, candidate } };
        self.tell(node, Fact::Promised { peer, promise })
    }

    /// `node` wins `term` with the vote of `voter`; their logs end at the given indices.
    fn elect(&mut self, node: (u64, u64), voter: (u64, u64), term: u64) -> &mut Self {
        self.vote(node.0, node.1, term, node.0).vote(voter.0, voter.1, term, node.0).leads(node.0, term)
    }

    fn leads(&mut self, node: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::Leader { peer: peer(node), term })
    }

    fn entry(&mut self, node: u64, index: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::Entry { peer: peer(node), index, term, digest: index * 100 + term })
    }

    fn synced(&mut self, node: u64, last: u64, term: u64, vote: u64) -> &mut Self {
        self.tell(node, Fact::Synced { peer: peer(node), last, term, vote })
    }

    fn accept(&mut self, node: u64, index: u64, entry_term: u64, term: u64) -> &mut Self {
        let promise = Promise::Accept { term, index, entry_term };
        self.tell(node, Fact::Promised { peer: peer(node), promise })
    }

    fn commit(&mut self, node: u64, index: u64, entry_term: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::Committed { peer: peer(node), index, entry_term, term })
    }

    fn apply(&mut self, node: u64, index: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::Applied { peer: peer(node), index, term, digest: index * 100 + term })
    }

    fn install(&mut self, node: u64, index: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::Installing { peer: peer(node), index, term });
        self.tell(node, Fact::Installed { peer: peer(node), index, term })
    }

    fn asks(&mut self, node: u64, read: u64) -> &mut Self {
        self.tell(node, Fact::ReadAsked { peer: peer(node), read })
    }

    fn serves(&mut self, node: u64, read: u64, applied: u64, term: u64) -> &mut Self {
        self.tell(node, Fact::ReadServed { peer: peer(node), read, applied, term })
    }

    /// Peer 1 leads term 1; entries 1 and 2 are on the disks of 1 and 2, and committed; 1 has applied them.
    fn begun() -> Self {
        let mut story = Self::new();
        story.elect((1, 0), (2, 0), 1);
        for index in 1..=2 {
            story.entry(1, index, 1).entry(2, index, 1);
        }
        story.synced(1, 2, 1, 1).synced(2, 2, 1, 1).accept(2, 2, 1, 1);
        story.commit(1, 2, 1, 1).apply(1, 1, 1).apply(1, 2, 1).commit(2, 2, 1, 1);
        story
    }

    fn holds(&self) {
        assert_eq!(self.broken, None);
    }

    fn breaks(&self, why: &str) {
        let broken = self.broken.clone().unwrap_or_else(|| panic!("expected: {why}"));
        assert!(broken.contains(why), "expected: {why}\nfound: {broken}");
    }
}

#[test]
fn a_region_keeps_its_voters() {
    let mut story = Story::new();
    story.invariants.keep_voters(3);
    story.start(1, 0, 0, 0, 0);
    assert_eq!(story.broken, None);
    story.tell(1, Fact::Members { peer: peer(1), voters: vec![1, 2], outgoing: Vec::new() });
    let broken = story.broken.expect("told");
    assert!(broken.starts_with("placement: region 7 is left with the voters [1, 2]"), "{broken}");
}

#[test]
fn an_ordinary_life_breaks_nothing() {
    let mut story = Story::begun();
    story.asks(1, 1).serves(1, 1, 2, 1).apply(2, 1, 1).apply(2, 2, 1);
    // 2 takes over; an entry that 1 wrote alone loses; 3 gets a snapshot; 1 crashes and comes back.
    story.entry(1, 3, 1).synced(1, 3, 1, 1);
    story.elect((2, 2), (3, 0), 2).entry(2, 3, 2).synced(2, 3, 2, 2);
    story.install(3, 2, 1).entry(3, 3, 2).synced(3, 3, 2, 2).accept(3, 3, 2, 2);
    story.commit(2, 3, 2, 2).apply(2, 3, 2).commit(3, 3, 2, 2).apply(3, 3, 2);
    story.restart(1, 3, 1, 1, 1).entry(1, 1, 1).entry(1, 2, 1).entry(1, 3, 1).synced(1, 3, 1, 1);
    story.entry(1, 3, 2).synced(1, 3, 2, 0).accept(1, 3, 2, 2).commit(1, 3, 2, 2);
    story.apply(1, 2, 1).apply(1, 3, 2).asks(2, 1).serves(2, 1, 3, 2).holds();
}

#[test]
fn a_term_has_one_leader_and_a_peer_one_vote() {
    Story::new().elect((1, 0), (2, 0), 1).leads(1, 1).elect((3, 0), (2, 0), 2).holds();
    Story::new().leads(1, 1).leads(2, 1).breaks("peers 1 and 2 both lead term 1");
    Story::new().vote(3, 0, 4, 2).vote(3, 0, 4, 1).breaks("had synced one for 2");
    Story::new().vote(3, 0, 4, 2).restart(3, 0, 4, 2, 0).vote(3, 0, 4, 2).holds();
    Story::new().vote(3, 0, 4, 2).restart(3, 0, 4, 0, 0).breaks("had synced one for 2");
    Story::new().vote(3, 0, 4, 2).restart(3, 0, 3, 0, 0).breaks("had synced term 4");
}

#[test]
fn a_promise_follows_the_disk() {
    let promise = Promise::Vote { term: 1, candidate: 2 };
    Story::new().tell(3, Fact::Promised { peer: peer(3), promise }).breaks("gives 2 its vote in term 1");
    Story::new().vote(3, 0, 2, 0).tell(3, Fact::Promised { peer: peer(3), promise }).holds();
    let promise = Promise::Candidacy { term: 1 };
    Story::new().tell(3, Fact::Promised { peer: peer(3), promise }).breaks("asks for votes in term 1");
    let mut story = Story::new();
    story.elect((1, 0), (2, 0), 1).entry(2, 1, 1).accept(2, 1, 1, 1).breaks("its disk has it up to 0");
    let mut story = Story::new();
    story.elect((1, 0), (2, 0), 1).entry(2, 1, 1).synced(2, 1, 1, 1).entry(2, 1, 1).accept(2, 1, 1, 1);
    story.breaks("its disk has it up to 0");
}

#[test]
fn a_peer_starts_again_with_all_that_was_synced() {
    Story::begun()
        .restart(2, 1, 1, 1, 0)
        .breaks("had synced its log up to 2, and starts again with a log up to 1");
    Story::begun().restart(2, 2, 1, 1, 0).entry(2, 1, 1).entry(2, 2, 1).synced(2, 2, 1, 1).holds();
    Story::begun()
        .restart(2, 2, 1, 1, 0)
        .entry(2, 1, 1)
        .entry(2, 2, 9)
        .breaks("had synced entry 2 of term 1");
    // What was written but not synced may be there or not; what it replaced is no longer promised.
    let mut story = Story::begun();
    story.entry(3, 1, 1).entry(3, 2, 1).entry(3, 3, 1).synced(3, 3, 1, 1).entry(3, 3, 2);
    story.restart(3, 2, 1, 1, 0).holds();
}

#[test]
fn applied_after_a_restart_is_what_was_applied() {
    let mut story = Story::begun();
    story.entry(1, 3, 1).entry(1, 4, 1).synced(1, 4, 1, 1);
    story.restart(1, 4, 1, 1, 3).holds(); // 3 may have been applied when it died
    Story::begun()
        .restart(2, 2, 1, 1, 2)
        .breaks("had applied 0 at most, and starts again as if 2 were applied");
}

#[test]
fn the_machine_has_what_counts_as_applied() {
    let started = |applied, durable| {
        let peer = peer(1);
        Fact::Started { peer, base: 0, base_term: 0, last: 2, term: 1, vote: 1, commit: 2, applied, durable }
    };
    Story::begun().tell(1, started(1, 1)).holds();
    Story::begun().tell(1, started(2, 1)).breaks("starts as if 2 were applied, and its machine has 1");
    let purged = |index, durable| Fact::Purged { peer: peer(1), index, durable };
    Story::begun().tell(1, purged(1, 1)).holds();
    Story::begun().tell(1, purged(2, 1)).breaks("forgets entries up to 2, and has applied 2 (1 durably)");
    let early = Fact::Purged { peer: peer(2), index: 1, durable: 1 };
    Story::begun().tell(2, early).breaks("forgets entries up to 1, and has applied 0");
}

#[test]
fn logs_match() {
    let other = Fact::Entry { peer: peer(3), index: 2, term: 1, digest: 9 };
    Story::begun().entry(3, 1, 1).tell(3, other).breaks("has entry 0x9 at index 2 in term 1");
    let mut story = Story::begun();
    story.elect((2, 2), (3, 0), 2).entry(2, 3, 2).entry(3, 1, 1).entry(3, 2, 2).entry(3, 3, 2);
    story.breaks("behind one of term 2, another peer");
    Story::begun().entry(3, 2, 1).breaks("writes entry 2 into a log that ends at 0");
}

#[test]
fn a_committed_entry_is_on_a_quorum_of_disks_and_stays() {
    let mut story = Story::new();
    story.elect((1, 0), (2, 0), 1).entry(1, 1, 1).synced(1, 1, 1, 1).entry(2, 1, 1).commit(1, 1, 1, 1);
    story.breaks("on the disks of [1], no quorum of [1, 2, 3]");
    Story::begun().entry(2, 2, 2).breaks("replaces the committed entry 2 of term 1 by one of term 2");
    Story::begun().commit(3, 3, 1, 1).breaks("its leaders have committed 2");
    Story::begun().commit(2, 1, 1, 1).breaks("takes its commit index back from 2 to 1");
    Story::begun().commit(3, 2, 4, 1).breaks("it is one of term 1");
    let mut story = Story::begun();
    story.entry(1, 3, 1).synced(1, 3, 1, 1).entry(2, 3, 1).synced(2, 3, 1, 1);
    story.elect((2, 3), (3, 0), 2).commit(2, 3, 1, 2).breaks("commits entry 3 of term 1 by itself");
}

#[test]
fn both_majorities_count_in_a_transition() {
    let members = |outgoing: &[u64]| Fact::Members {
        peer: peer(1),
        voters: vec![1, 2, 3],
        outgoing: outgoing.to_vec(),
    };
    let mut story = Story::begun();
    story.tell(1, members(&[1, 4, 5])).entry(1, 3, 1).synced(1, 3, 1, 1).entry(2, 3, 1).synced(2, 3, 1, 1);
    story.commit(1, 3, 1, 1).breaks("no quorum of [1, 4, 5]");
    let mut story = Story::begun();
    story.tell(1, members(&[1, 2])).entry(1, 3, 1).synced(1, 3, 1, 1).entry(2, 3, 1).synced(2, 3, 1, 1);
    story.commit(1, 3, 1, 1).holds();
}

#[test]
fn a_new_voter_has_a_log() {
    let with_4 = Fact::Members { peer: peer(1), voters: vec![1, 2, 3, 4], outgoing: Vec::new() };
    Story::begun().tell(1, with_4.clone()).breaks("gives peer 4 a vote, and peer 4 is still empty");
    Story::begun().install(4, 2, 1).tell(1, with_4).holds();
}

#[test]
fn a_new_leader_has_what_was_committed() {
    Story::begun()
        .elect((3, 0), (2, 2), 2)
        .breaks("peer 3 leads term 2 without entry 2, which was committed in term 1");
    Story::begun().elect((2, 2), (3, 0), 2).holds();
    // The leader of an older term may learn of its election late.
    let mut story = Story::new();
    story.vote(3, 0, 1, 3).elect((1, 0), (2, 0), 2).entry(1, 1, 2).synced(1, 1, 2, 1);
    story.entry(2, 1, 2).synced(2, 1, 2, 1).commit(1, 1, 2, 2).leads(3, 1).holds();
}

#[test]
fn entries_are_applied_in_order_and_alike() {
    Story::begun().apply(2, 1, 1).apply(2, 2, 1).holds();
    Story::begun().apply(2, 2, 1).breaks("applies 2 after 0");
    Story::begun().apply(1, 2, 1).breaks("applies 2 after 2");
    Story::begun()
        .entry(2, 3, 1)
        .synced(2, 3, 1, 1)
        .apply(2, 1, 1)
        .apply(2, 2, 1)
        .apply(2, 3, 1)
        .breaks("peer 2 applies 3, and knows 2 as committed");
    let other = Fact::Applied { peer: peer(2), index: 1, term: 1, digest: 5 };
    Story::begun()
        .tell(2, other)
        .breaks("applies 0x5 of term 1 at index 1, and 0x65 of term 1 is committed there");
    Story::begun().commit(3, 2, 1, 1).apply(3, 1, 1).breaks("its disk has the log up to 0");
}

#[test]
fn snapshots_hold_committed_state_and_never_lead_back() {
    Story::begun().install(3, 2, 1).holds();
    Story::begun()
        .install(3, 2, 7)
        .breaks("installs a snapshot at 2 of term 7, and the entry there has term 1");
    Story::begun().install(3, 3, 1).breaks("installs a snapshot at 3, and 2 is committed");
    Story::begun().install(1, 1, 1).breaks("goes back from 2 to a snapshot at 1");
}

#[test]
fn rows_are_the_same_wherever_a_snapshot_is_made_or_installed() {
    let rows = |node, index, digest| Fact::Rows { peer: peer(node), index, digest };
    Story::begun().tell(1, rows(1, 2, 7)).tell(3, rows(3, 2, 7)).tell(2, rows(2, 1, 8)).holds();
    let mut story = Story::begun();
    story.tell(1, rows(1, 2, 7)).tell(3, rows(3, 2, 8)).breaks("peer 3 has other rows at 2 than peer 1");
}

#[test]
fn reads_see_what_was_committed_when_they_came() {
    Story::begun().asks(1, 1).serves(1, 1, 2, 1).holds();
    // 1 does not know yet that 2 leads and has committed more.
    let mut story = Story::begun();
    story
        .elect((2, 2), (3, 0), 2)
        .entry(2, 3, 2)
        .synced(2, 3, 2, 2)
        .entry(3, 1, 1)
        .entry(3, 2, 1)
        .entry(3, 3, 2);
    story.synced(3, 3, 2, 2).commit(2, 3, 2, 2).asks(1, 1).serves(1, 1, 2, 1);
    story.breaks("serves a read at 2, and 3 was committed when the read arrived");
    let mut story = Story::begun();
    story.elect((2, 2), (3, 0), 2).asks(2, 1).serves(2, 1, 2, 2).breaks("in which nothing was committed yet");
}

#[test]
fn violations_name_the_places() {
    Story::new()
        .leads(1, 1)
        .leads(2, 1)
        .breaks("region group 7: peers 1 and 2 both lead term 1 (peers: 1 on store1, 2 on");
}

#[test]
fn a_disk_that_was_lost_on_purpose_is_forgotten() {
    let mut story = Story::begun();
    story.invariants.forget(Node(2));
    story.restart(2, 0, 0, 0, 0).holds();
}

/// What a root says: every generation that ended had handed out timestamps up to 100, and its successor goes on there. Sealed
/// when not live.
fn root(index: u64, generation: u64, live: bool, timestamps: u64) -> Fact {
    let sealed = if live { generation.saturating_sub(1) } else { generation };
    let closed_by = if live && sealed > 0 { generation } else { 0 };
    let consumed = if sealed == 0 { [0; 3] } else { [0, 100, 1] };
    let now = Authority {
        generation,
        live,
        ids: 1000,
        timestamps,
        inherited: if generation > 1 { [0, 100, 1] } else { [0; 3] },
        sealed,
        consumed,
        closed_by,
    };
    Fact::Authority { node: 1, index, now }
}

/// The same with one thing wrong.
fn root_with(fact: Fact, change: impl FnOnce(&mut [u64; 3], &mut u64, &mut [u64; 3], &mut u64)) -> Fact {
    let mut fact = fact;
    if let Fact::Authority { now, .. } = &mut fact {
        change(&mut now.inherited, &mut now.sealed, &mut now.consumed, &mut now.closed_by);
    }
    fact
}

fn granted(generation: u64, first: u64, count: u64) -> Fact {
    Fact::Granted { duty: Duty::Timestamps, generation, first, count }
}

fn accepted(client: u64, generation: u64, first: u64, count: u64) -> Fact {
    Fact::Accepted { client, duty: Duty::Timestamps, generation, sealed: 0, first, count }
}

fn routed(client: u64, generation: u64, sealed: u64) -> Fact {
    Fact::Accepted { client, duty: Duty::Routes, generation, sealed, first: 0, count: 0 }
}

/// The facts come from node 1, behind a root whose generation 1 may hand out timestamps up to 100.
fn authority(facts: &[Fact]) -> Story {
    let mut story = Story { invariants: Invariants::default(), lives: [0; 5], broken: None };
    story.tell(1, root(1, 1, true, 100));
    for fact in facts {
        story.tell(1, fact.clone());
    }
    story
}

#[test]
fn numbers_are_handed_out_once_below_the_fence() {
    authority(&[granted(1, 10, 5), granted(1, 15, 5), granted(1, 1, 9), granted(1, 91, 10)]).holds();
    authority(&[granted(1, 92, 10)]).breaks("above the fence 100 of the root");
    authority(&[granted(1, 10, 5), granted(1, 14, 1)]).breaks("handed out timestamps 14..15");
    authority(&[granted(1, 10, 5), granted(1, 9, 2)]).breaks("had handed out 10..15");
    authority(&[granted(1, 10, 5), granted(1, 9, 20)]).breaks("had handed out 10..15");
    let ids = Fact::Granted { duty: Duty::Ids, generation: 1, first: 10, count: 5 };
    authority(&[granted(1, 10, 5), ids]).holds();
}

#[test]
fn a_successor_goes_on_above_its_predecessors() {
    let (sealed, successor) = (root(2, 1, false, 100), root(3, 2, true, 200));
    let handed = [granted(1, 10, 5), sealed.clone(), successor.clone(), granted(2, 101, 5)];
    authority(&handed).holds();
    // A take-over seals and grants at once.
    authority(&[granted(1, 10, 5), root(2, 2, true, 200), granted(2, 101, 5)]).holds();
    authority(&[successor.clone(), granted(2, 100, 5)]).breaks("granted above 100");
    let modest = root_with(sealed, |_, _, consumed, _| consumed[1] = 13);
    authority(&[granted(1, 10, 5), modest.clone()]).breaks("up to 14, its seal says 13");
    let below = root_with(successor.clone(), |inherited, _, _, _| inherited[1] = 99);
    authority(&[below]).breaks("breaks Inheritance: generation 2 goes on at timestamps");
    let unread = root_with(successor.clone(), |inherited, _, _, _| inherited[2] = 0);
    authority(&[unread]).breaks("goes on at cluster epochs");
}

#[test]
fn one_generation_serves_and_the_others_are_sealed() {
    let (sealed, successor) = (root(2, 1, false, 100), root(3, 2, true, 200));
    authority(&[sealed.clone(), granted(1, 10, 5)])
        .breaks("break Primacy: for the root generation 1 has ended");
    authority(&[successor.clone(), granted(1, 10, 5)])
        .breaks("break Primacy: for the root generation 2 serves, 1 is");
    authority(&[granted(2, 10, 5)]).breaks("break Primacy");
    let unsealed = root_with(successor.clone(), |_, sealed, _, _| *sealed = 0);
    authority(&[unsealed]).breaks("generation 2 is granted (live: true), and 0 is sealed");
    let open = root_with(successor.clone(), |_, _, _, closed_by| *closed_by = 0);
    authority(&[open]).breaks("breaks Finality: generation 1 is sealed, 2 is granted, and 0 closed it");
    let early = root_with(sealed.clone(), |_, _, _, closed_by| *closed_by = 2);
    authority(&[early]).breaks("breaks Finality");
    let other = root_with(successor, |inherited, _, consumed, _| {
        inherited[0] = 1;
        consumed[0] = 1;
    });
    authority(&[sealed, other]).breaks("breaks Finality: the seal goes from");
}

#[test]
fn what_a_predecessor_handed_out_is_taken_only_before_its_seal_is_known() {
    let begun = [granted(1, 20, 9), root(2, 2, true, 200), granted(2, 101, 5)];
    let then = |more: &[Fact]| authority(&[&begun[..], more].concat());
    then(&[accepted(7, 2, 101, 5), accepted(8, 1, 20, 5)]).holds(); // nobody told client 8
    then(&[accepted(7, 2, 101, 5), accepted(7, 1, 20, 5)])
        .breaks("breaks Silence: it took timestamps of generation 1");
    then(&[routed(7, 1, 0), accepted(7, 1, 20, 5), routed(7, 0, 1)]).holds();
    then(&[routed(7, 0, 1), accepted(7, 1, 20, 5)]).breaks("breaks Silence");
    then(&[accepted(7, 2, 101, 5), routed(7, 1, 0)]).breaks("breaks Silence: it took routes of generation 1");
    then(&[routed(7, 2, 2)]).breaks("breaks Silence");
    authority(&[granted(1, 20, 5), accepted(7, 1, 22, 3)]).holds();
    authority(&[granted(1, 20, 5), accepted(7, 1, 22, 4)]).breaks("which nobody handed out");
}

#[test]
fn the_root_never_goes_back() {
    authority(&[root(2, 2, true, 100), root(3, 2, false, 150), root(4, 3, true, 150)]).holds();
    authority(&[root(2, 2, true, 100), root(1, 1, true, 100)]).holds(); // another root lags
    authority(&[root(2, 3, true, 100)]).breaks("goes from 1 to 3");
    authority(&[root(2, 0, true, 100)]).breaks("goes from 1 to 0");
    authority(&[root(2, 1, false, 100), root(3, 1, true, 100)]).breaks("serves again");
    authority(&[root(2, 1, true, 99)]).breaks("fences fall");
    authority(&[root(1, 1, true, 99)]).breaks("where another root has");
    let lease = |holder: &str| Fact::Lease { node: 1, holder: holder.to_owned(), generation: 1 };
    authority(&[lease("a"), lease("a")]).holds();
    authority(&[lease("a"), lease("b")]).breaks("belongs to a and to b");
}

#[test]
fn nothing_is_written_behind_a_served_read() {
    let shown = |version| Fact::Shown { key: b"k".to_vec(), version };
    let written = |key: &str, version| Fact::Written { key: key.as_bytes().to_vec(), version };
    authority(&[written("k", 5), shown(9), written("k", 5), written("j", 7), written("k", 10)]).holds();
    authority(&[shown(9), shown(4), written("k", 9)]).breaks("a write behind a served read: ");
    authority(&[shown(9), written("k", 8)])
        .breaks("commits key \"k\" at 8, and a read at 9 was served before");
}

fn region(id: u64, version: u64, start: &str, end: &str) -> Region {
    Region { id, version, conf_version: 1, start: start.into(), end: end.into() }
}

fn regions(facts: Vec<Fact>) -> Story {
    let mut story = Story { invariants: Invariants::default(), lives: [0; 5], broken: None };
    for fact in facts {
        story.tell(1, fact);
    }
    story
}

fn at_root(index: u64, regions: &[Region]) -> Fact {
    Fact::Regions { node: 1, index, regions: regions.to_vec() }
}

#[test]
fn regions_tile_the_keys() {
    let (left, right) = (region(1, 1, "", "m"), region(2, 1, "m", ""));
    let split = [region(1, 2, "", "g"), region(3, 2, "g", "m"), right.clone()];
    let begun = vec![at_root(1, std::slice::from_ref(&left)), at_root(2, &[left.clone(), right.clone()])];
    let then = |more: Fact| [begun.clone(), vec![more]].concat();
    regions(then(at_root(3, &split))).holds();
    regions(then(at_root(1, std::slice::from_ref(&left)))).holds(); // another root lags
    regions(then(at_root(3, &split[..2]))).breaks("do not cover all keys any more");
    regions(then(at_root(3, &[split[0].clone(), right.clone()]))).breaks("do not cover all keys any more");
    let overlap = [region(1, 2, "", "n"), right.clone()];
    regions(then(at_root(3, &overlap))).breaks("overlaps region 2 \"m\"..\"\"");
    regions(then(at_root(3, &[region(1, 1, "", "n"), right.clone()]))).breaks("at version 1 as \"\"..\"n\"");
    let gone = [then(at_root(3, &[region(2, 2, "", "")])), vec![at_root(4, &[left, region(2, 3, "m", "")])]];
    regions(gone.concat()).breaks("region 1 is back at index 4");
    let back = [then(at_root(3, &split)), vec![at_root(4, &[region(1, 1, "", "m"), right])]].concat();
    regions(back).breaks("takes region 1 back from epoch (2, 1) to (1, 1)");
}

#[test]
fn peers_agree_with_the_root_and_never_go_back() {
    let told = |version, end| Fact::Region { peer: peer(1), region: region(7, version, "", end) };
    regions(vec![at_root(1, &[region(7, 1, "", "m")]), told(1, "m"), told(2, "g")]).holds();
    regions(vec![at_root(1, &[region(7, 1, "", "m")]), told(1, "n")])
        .breaks("knows region 7 at version 1 as");
    let mut story = regions(vec![told(1, "m"), told(2, "g")]);
    story.lives[1] = 1;
    story.tell(1, told(1, "m")).holds();
    story
        .tell(1, told(2, "g"))
        .tell(1, told(1, "m"))
        .breaks("takes region 7 back from epoch (2, 1) to (1, 1)");
}
