//! Who may hand out ids and timestamps, and what was handed out. The four invariants of the hand-over, and what they rest on,
//! at every fact:
//!
//! - *Primacy*: in every state of the root, each generation but the newest is sealed, and only the newest, while it is not
//!   sealed, hands out anything: from the moment that any root has applied the seal.
//! - *Inheritance*: a seal covers all that its generation handed out; the successor is granted above the seal, of every duty, and
//!   hands out only what is above.
//! - *Finality*: a sealed generation waits for its successor, or was closed by the very next one. None is forgotten.
//! - *Silence*: no client takes numbers or routes of a generation that it was told is sealed (by any reply: that one generation
//!   serves says that all before it are sealed).
//!
//! - A lease generation has one holder, and serves in one life of its process; generations grow one at a time, a seal never changes, fences never fall.
//! - A number is handed out once, and only below a fence that the root has applied (so it is durable there).
//! - Generations share the numbers in their own order: whatever a successor hands out is above all that its
//!   predecessors handed out. Reads are served at timestamps that were handed out, so no successor's write is behind one.

use super::{Names, Violation, ensure};
use crate::exec::Place;
use nokv_env::{Authority as Said, Duty, Fact};
use std::collections::BTreeMap;
use std::ops::Range;

const CHECKER: &str = "authority";

/// Places of the duties in frontiers.
const DUTIES: [&str; 3] = ["ids", "timestamps", "cluster epochs"];

/// What the facts so far say.
#[derive(Debug, Default)]
pub(super) struct Authority {
    /// The newest index that any root applied, and what it says there.
    index: u64,
    root: Said,
    holders: BTreeMap<u64, String>,
    ids: Numbers,
    timestamps: Numbers,
    clients: Clients,
}

impl Authority {
    pub(super) fn observe(&mut self, place: Place, fact: &Fact, names: &Names) -> Result<(), Violation> {
        match *fact {
            Fact::Lease { ref holder, generation, .. } => self.granted(holder, generation),
            Fact::Authority { node, index, now } => self.changed(node, index, now),
            Fact::Granted { duty, generation, first, count } => {
                let stretch = Stretch { end: first + count, place, generation };
                self.handed_out(duty, first, stretch, names)
            }
            Fact::Accepted { client, duty, generation, sealed, first, count } => {
                self.clients.hears((place, client), duty, (generation, sealed), names)?;
                let numbers = match duty {
                    Duty::Ids => &self.ids,
                    Duty::Timestamps => &self.timestamps,
                    Duty::Routes => return Ok(()),
                };
                numbers.accept(duty, place, generation, first..first + count, names)
            }
            _ => Ok(()),
        }
    }

    fn handed_out(
        &mut self,
        duty: Duty,
        first: u64,
        stretch: Stretch,
        names: &Names,
    ) -> Result<(), Violation> {
        let root = self.root;
        let (numbers, fence, inherited) = match duty {
            Duty::Ids => (&mut self.ids, root.ids, root.inherited[0]),
            Duty::Timestamps => (&mut self.timestamps, root.timestamps, root.inherited[1]),
            Duty::Routes => return Ok(()),
        };
        let what = |why: String| {
            format!("{} {first}..{} handed out by {} {why}", what(duty), stretch.end, stretch.who(names))
        };
        ensure(stretch.end - 1 <= fence, CHECKER, || {
            what(format!("are above the fence {fence} of the root"))
        })?;
        ensure(root.live && stretch.generation == root.generation, CHECKER, || {
            let live = if root.live { "serves" } else { "has ended" };
            what(format!(
                "break Primacy: for the root generation {} {live}, {} is sealed",
                root.generation, root.sealed
            ))
        })?;
        ensure(first > inherited, CHECKER, || {
            what(format!("break Inheritance: the generation was granted above {inherited}"))
        })?;
        numbers.hand_out(duty, first, stretch, names)
    }

    fn granted(&mut self, holder: &str, generation: u64) -> Result<(), Violation> {
        let first = self.holders.entry(generation).or_insert_with(|| holder.to_owned());
        ensure(first == holder, CHECKER, || {
            format!("lease generation {generation} belongs to {first} and to {holder}")
        })
    }

    fn changed(&mut self, node: u64, index: u64, now: Said) -> Result<(), Violation> {
        let before = self.root;
        if index < self.index {
            return Ok(());
        }
        if index == self.index {
            return ensure(now == before, CHECKER, || {
                format!("root {node} has {now:?} where another root has {before:?}")
            });
        }
        let is_first = self.index == 0;
        (self.index, self.root) = (index, now);
        ensure(
            now.generation >= before.generation && now.generation <= before.generation + 1,
            CHECKER,
            || format!("the root's lease generation goes from {} to {}", before.generation, now.generation),
        )?;
        let revived = now.generation == before.generation && now.live && !before.live && !is_first;
        ensure(!revived, CHECKER, || {
            format!("lease generation {} serves again after it was sealed or released", now.generation)
        })?;
        ensure(now.ids >= before.ids && now.timestamps >= before.timestamps, CHECKER, || {
            format!("the root's fences fall: {before:?}, then {now:?}")
        })?;
        self.hands_over(before, now)
    }

    /// Primacy, Finality and Inheritance in the root's state.
    fn hands_over(&self, before: Said, now: Said) -> Result<(), Violation> {
        let Said { generation, live, inherited, sealed, consumed, closed_by, .. } = now;
        let pending = sealed == generation;
        let one_unsealed = sealed + 1 == generation || pending && !live;
        ensure(one_unsealed, CHECKER, || {
            format!(
                "the root breaks Primacy: generation {generation} is granted (live: {live}), and {sealed} is sealed"
            )
        })?;
        let expected = if pending || sealed == 0 { 0 } else { generation };
        ensure(closed_by == expected, CHECKER, || {
            format!(
                "the root breaks Finality: generation {sealed} is sealed, {generation} is granted, and {closed_by} closed it"
            )
        })?;
        let same = before.sealed != sealed || before.consumed == consumed;
        ensure(same && sealed >= before.sealed, CHECKER, || {
            format!("the root breaks Finality: the seal goes from {before:?} to {now:?}")
        })?;
        if sealed == 0 {
            return Ok(());
        }
        for (numbers, duty) in [(&self.ids, 0), (&self.timestamps, 1)] {
            let highest = numbers.highest.get(&sealed).map_or(0, |(highest, _)| *highest);
            ensure(consumed[duty] >= highest, CHECKER, || {
                let (what, told) = (DUTIES[duty], consumed[duty]);
                format!(
                    "the root breaks Inheritance: generation {sealed} handed out {what} up to {highest}, its seal says {told}"
                )
            })?;
        }
        let gap = (0..DUTIES.len()).find(|duty| !pending && inherited[*duty] < consumed[*duty]);
        ensure(gap.is_none(), CHECKER, || {
            let what = gap.map_or("", |duty| DUTIES[duty]);
            format!(
                "the root breaks Inheritance: generation {generation} goes on at {what} {inherited:?}, {sealed} was sealed at {consumed:?}"
            )
        })
    }
}

/// What clients were told of the ends of generations.
#[derive(Debug, Default)]
struct Clients(BTreeMap<(Place, u64), u64>);

impl Clients {
    /// A client believes a reply of `generation` that says that `sealed` is. 0: the reply cites no generation.
    fn hears(
        &mut self,
        client: (Place, u64),
        duty: Duty,
        (generation, sealed): (u64, u64),
        names: &Names,
    ) -> Result<(), Violation> {
        let known = self.0.entry(client).or_default();
        *known = sealed.max(*known);
        ensure(generation == 0 || generation > *known, CHECKER, || {
            let (who, what) = (names.of(client.0.node), what(duty));
            format!(
                "a client on {who} breaks Silence: it took {what} of generation {generation} after it had heard that {known} is sealed"
            )
        })?;
        *known = generation.saturating_sub(1).max(*known);
        Ok(())
    }
}

/// Numbers handed out in one go or one after the other.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    end: u64,
    place: Place,
    generation: u64,
}

impl Stretch {
    fn who(&self, names: &Names) -> String {
        format!("{} (generation {})", names.of(self.place.node), self.generation)
    }
}

/// The numbers of one duty.
#[derive(Debug, Default)]
struct Numbers {
    /// By first number; disjoint.
    stretches: BTreeMap<u64, Stretch>,
    /// Highest number of each generation, and the life of the process that it belongs to.
    highest: BTreeMap<u64, (u64, Place)>,
}

impl Numbers {
    fn hand_out(&mut self, duty: Duty, first: u64, stretch: Stretch, names: &Names) -> Result<(), Violation> {
        let (highest, place) = self.highest.entry(stretch.generation).or_insert((0, stretch.place));
        ensure(*place == stretch.place, CHECKER, || {
            let other = names.of(place.node);
            format!(
                "{} serves after another life of {other} did under the same generation",
                stretch.who(names)
            )
        })?;
        *highest = (stretch.end - 1).max(*highest);
        let range = first..stretch.end;
        let below = self.stretches.range(..range.end).next_back();
        if let Some((other_first, other)) = below.filter(|(_, other)| other.end > first) {
            return Err(Violation::new(
                CHECKER,
                format!(
                    "{} handed out {} {range:?}, {} had handed out {other_first}..{}",
                    stretch.who(names),
                    what(duty),
                    other.who(names),
                    other.end
                ),
            ));
        }
        let above =
            self.stretches.range(range.end..).next().filter(|(_, up)| up.generation < stretch.generation);
        let below = below.filter(|(_, down)| down.generation > stretch.generation);
        if let Some((other_first, other)) = above.or(below) {
            return Err(Violation::new(
                CHECKER,
                format!(
                    "{} handed out {} {range:?}, on the wrong side of {other_first}..{}, which {} had handed out",
                    stretch.who(names),
                    what(duty),
                    other.end,
                    other.who(names)
                ),
            ));
        }
        // Neighbours of one owner grow together: the map stays small.
        if let Some((_, before)) = self.stretches.range_mut(..first).next_back()
            && before.end == first
            && (before.place, before.generation) == (stretch.place, stretch.generation)
        {
            before.end = stretch.end;
        } else {
            self.stretches.insert(first, stretch);
        }
        Ok(())
    }

    /// Whether somebody handed out what a client takes.
    fn accept(
        &self,
        duty: Duty,
        client: Place,
        generation: u64,
        range: Range<u64>,
        names: &Names,
    ) -> Result<(), Violation> {
        let owner = self.stretches.range(..=range.start).next_back().map(|(_, stretch)| *stretch);
        let owned = owner.is_some_and(|owner| owner.end >= range.end && owner.generation == generation);
        ensure(owned, CHECKER, || {
            let (who, what) = (names.of(client.node), what(duty));
            format!(
                "a client on {who} took {what} {range:?} of generation {generation}, which nobody handed out"
            )
        })
    }
}

fn what(duty: Duty) -> &'static str {
    match duty {
        Duty::Ids => "ids",
        Duty::Timestamps => "timestamps",
        Duty::Routes => "routes",
    }
}
