//! Who may hand out ids and timestamps, and what was handed out.
//!
//! - A lease generation has one holder. In the root's applied state generations only grow, one at a time, a
//!   generation that was sealed or released never serves again, fences never fall.
//! - A number is handed out once, and only below a fence that the root has applied (so it is durable there).
//! - Generations share the numbers in their own order: whatever a successor hands out is above all that its
//!   predecessors handed out, whenever they did.
//! - Once a client took a successor's numbers, nothing that an older generation hands out later is taken by
//!   anybody; and no client takes numbers of an older generation than it took before.

use super::{Names, Violation, ensure};
use crate::exec::Place;
use nokv_env::{Duty, Fact};
use std::collections::BTreeMap;

const CHECKER: &str = "authority";

/// The root's state at the newest index that anybody applied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Root {
    index: u64,
    generation: u64,
    live: bool,
    ids: u64,
    timestamps: u64,
}

/// What the facts so far say.
#[derive(Debug, Default)]
pub(super) struct Authority {
    root: Root,
    holders: BTreeMap<u64, String>,
    ids: Numbers,
    timestamps: Numbers,
}

impl Authority {
    pub(super) fn observe(&mut self, place: Place, fact: &Fact, names: &Names) -> Result<(), Violation> {
        match *fact {
            Fact::Lease { ref holder, generation, .. } => self.granted(holder, generation),
            Fact::Authority { node, index, generation, live, ids, timestamps } => {
                self.changed(node, Root { index, generation, live, ids, timestamps })
            }
            Fact::Granted { duty, generation, first, count } => {
                let (numbers, fence) = match duty {
                    Duty::Ids => (&mut self.ids, self.root.ids),
                    Duty::Timestamps => (&mut self.timestamps, self.root.timestamps),
                };
                let stretch = Stretch { end: first + count, place, generation, late: false };
                ensure(stretch.end - 1 <= fence, CHECKER, || {
                    format!(
                        "{} {first}..{} handed out by {} are above the fence {fence} of the root",
                        what(duty),
                        stretch.end,
                        stretch.who(names)
                    )
                })?;
                numbers.hand_out(duty, first, stretch, names)
            }
            Fact::Accepted { client, duty, generation, first, count } => {
                let numbers = if duty == Duty::Ids { &mut self.ids } else { &mut self.timestamps };
                numbers.accept(duty, (place, client), generation, first..first + count, names)
            }
            _ => Ok(()),
        }
    }

    fn granted(&mut self, holder: &str, generation: u64) -> Result<(), Violation> {
        let first = self.holders.entry(generation).or_insert_with(|| holder.to_owned());
        ensure(first == holder, CHECKER, || {
            format!("lease generation {generation} belongs to {first} and to {holder}")
        })
    }

    fn changed(&mut self, node: u64, now: Root) -> Result<(), Violation> {
        let before = self.root;
        if now.index < before.index {
            return Ok(());
        }
        if now.index == before.index {
            return ensure(now == before, CHECKER, || {
                format!("root {node} has {now:?} where another root has {before:?}")
            });
        }
        self.root = now;
        ensure(
            now.generation >= before.generation && now.generation <= before.generation + 1,
            CHECKER,
            || format!("the root's lease generation goes from {} to {}", before.generation, now.generation),
        )?;
        let revived = now.generation == before.generation && now.live && !before.live && before.index > 0;
        ensure(!revived, CHECKER, || {
            format!("lease generation {} serves again after it was sealed or released", now.generation)
        })?;
        ensure(now.ids >= before.ids && now.timestamps >= before.timestamps, CHECKER, || {
            format!("the root's fences fall: {before:?}, then {now:?}")
        })
    }
}

/// Numbers handed out in one go or one after the other.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    end: u64,
    place: Place,
    generation: u64,
    /// Handed out after a client had taken numbers of a successor.
    late: bool,
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
    /// Highest generation whose numbers a client took.
    served: u64,
    /// Highest generation that each client took numbers of.
    clients: BTreeMap<(Place, u64), u64>,
}

impl Numbers {
    fn hand_out(
        &mut self,
        duty: Duty,
        first: u64,
        mut stretch: Stretch,
        names: &Names,
    ) -> Result<(), Violation> {
        stretch.late = stretch.generation < self.served;
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
            && (before.place, before.generation, before.late)
                == (stretch.place, stretch.generation, stretch.late)
        {
            before.end = stretch.end;
        } else {
            self.stretches.insert(first, stretch);
        }
        Ok(())
    }

    fn accept(
        &mut self,
        duty: Duty,
        client: (Place, u64),
        generation: u64,
        range: std::ops::Range<u64>,
        names: &Names,
    ) -> Result<(), Violation> {
        let who = names.of(client.0.node);
        let newest = self.clients.entry(client).or_default();
        ensure(generation >= *newest, CHECKER, || {
            format!(
                "a client on {who} took {} {range:?} of generation {generation} after some of generation {newest}",
                what(duty)
            )
        })?;
        *newest = generation;
        let owner = self.stretches.range(..=range.start).next_back().map(|(_, stretch)| *stretch);
        let owner = owner.filter(|owner| owner.end >= range.end && owner.generation == generation);
        let Some(owner) = owner else {
            return Err(Violation::new(
                CHECKER,
                format!(
                    "a client on {who} took {} {range:?} of generation {generation}, which nobody handed out",
                    what(duty)
                ),
            ));
        };
        ensure(!owner.late, CHECKER, || {
            format!(
                "a client on {who} took {} {range:?}, which {} handed out after generation {} had served",
                what(duty),
                owner.who(names),
                self.served
            )
        })?;
        self.served = self.served.max(generation);
        Ok(())
    }
}

fn what(duty: Duty) -> &'static str {
    match duty {
        Duty::Ids => "ids",
        Duty::Timestamps => "timestamps",
    }
}
