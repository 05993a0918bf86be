//! The newest events, kept so that a reader that is only a little behind gets exactly what it missed.
//!
//! Bounded: the oldest events leave, all events of one log entry together, and the floor says how far back
//! the tail still reaches. A reader below the floor takes the whole state instead.

use nokv_proto::meta::v1::{RootCommittedEvent, RootCursor};
use std::collections::VecDeque;

/// A window of committed events.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    events: VecDeque<RootCommittedEvent>,
    /// Newest event that left; nothing at or below it is in the window.
    floor: RootCursor,
    events_max: usize,
}

impl Tail {
    /// An empty window for up to `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self { events: VecDeque::new(), floor: RootCursor::default(), events_max }
    }

    /// The window with these events in it.
    pub fn rebuild(events: Vec<RootCommittedEvent>, floor: RootCursor, events_max: usize) -> Self {
        let mut tail = Self { events: events.into(), floor, events_max };
        tail.shrink();
        tail
    }

    /// Adds the events of one log entry.
    pub fn push(&mut self, events: &[RootCommittedEvent]) {
        self.events.extend(events.iter().cloned());
        self.shrink();
    }

    /// Newest event that is no longer here.
    pub fn floor(&self) -> RootCursor {
        self.floor
    }

    /// Everything in the window above log index `index`, oldest first.
    pub fn after(&self, index: u64) -> Vec<RootCommittedEvent> {
        let first = self.events.partition_point(|event| index_of(event) <= index);
        self.events.range(first..).cloned().collect()
    }

    fn shrink(&mut self) {
        while self.events.len() > self.events_max {
            let Some(oldest) = self.events.pop_front() else { return };
            self.floor = oldest.cursor.unwrap_or_default();
            while self.events.front().is_some_and(|event| index_of(event) == self.floor.index) {
                self.events.pop_front();
            }
        }
    }
}

fn index_of(event: &RootCommittedEvent) -> u64 {
    event.cursor.map_or(0, |cursor| cursor.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u64) -> RootCommittedEvent {
        RootCommittedEvent { cursor: Some(RootCursor { term: 1, index }), event: None }
    }

    fn indexes(tail: &Tail, after: u64) -> Vec<u64> {
        tail.after(after).iter().map(index_of).collect()
    }

    #[test]
    fn readers_get_what_they_missed() {
        let mut tail = Tail::new(10);
        for index in [3, 5, 9] {
            tail.push(&[event(index)]);
        }
        assert_eq!(indexes(&tail, 0), [3, 5, 9]);
        assert_eq!(indexes(&tail, 5), [9]);
        assert!(indexes(&tail, 9).is_empty());
    }

    #[test]
    fn the_events_of_one_entry_leave_together() {
        let mut tail = Tail::new(3);
        tail.push(&[event(1), event(1)]);
        tail.push(&[event(2), event(2)]);
        assert_eq!((indexes(&tail, 0), tail.floor().index), (vec![2, 2], 1));
        let again = Tail::rebuild(tail.after(0), tail.floor(), 3);
        assert_eq!(again, tail);
    }
}
