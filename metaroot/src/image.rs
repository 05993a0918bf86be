//! The whole machine at one applied position, as it is written to a file and sent as a raft snapshot.

use crate::state::RootState;
use crate::tail::Tail;
use nokv_proto::meta::v1::{RootCursor, RootImage};

/// State, newest events, and the log entry they stand at.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Cluster truth.
    pub state: RootState,
    /// Newest events.
    pub tail: Tail,
    /// Last log entry applied; not every entry is an event.
    pub applied: RootCursor,
}

impl Image {
    /// The machine of an empty log.
    pub fn empty(tail_events: usize) -> Self {
        Self { state: RootState::default(), tail: Tail::new(tail_events), applied: RootCursor::default() }
    }

    /// The image as a message.
    pub fn to_message(&self) -> RootImage {
        RootImage {
            checkpoint: Some(self.state.checkpoint()),
            applied: Some(self.applied),
            tail: self.tail.after(0),
            tail_floor: Some(self.tail.floor()),
            removed_region_ids: self.state.removed_regions(),
        }
    }

    /// The image of a message, with room for `tail_events` events.
    pub fn from_message(message: RootImage, tail_events: usize) -> Self {
        let floor = message.tail_floor.unwrap_or_default();
        Self {
            state: RootState::rebuild(message.checkpoint.unwrap_or_default(), message.removed_region_ids),
            tail: Tail::rebuild(message.tail, floor, tail_events),
            applied: message.applied.unwrap_or_default(),
        }
    }
}
