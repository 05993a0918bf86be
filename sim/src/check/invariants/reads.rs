//! No write behind a served read: once a key was shown as it is at a timestamp, nothing is committed there at or below it.
//!
//! A commit counts when the first replica applies it; the others, and a replica that starts again, repeat it.

use super::{Names, Violation, ensure};
use crate::exec::Place;
use nokv_env::Fact;
use std::collections::{BTreeMap, BTreeSet};

const CHECKER: &str = "reads";

/// What the facts so far say.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The highest timestamp at which each key was shown.
    shown: BTreeMap<Vec<u8>, u64>,
    written: BTreeSet<(Vec<u8>, u64)>,
}

impl Reads {
    pub(super) fn observe(&mut self, place: Place, fact: &Fact, names: &Names) -> Result<(), Violation> {
        match fact {
            Fact::Shown { key, version } => {
                let highest = self.shown.entry(key.clone()).or_default();
                *highest = (*version).max(*highest);
                Ok(())
            }
            Fact::Written { key, version } => {
                let is_new = self.written.insert((key.clone(), *version));
                let shown = self.shown.get(key).copied().unwrap_or(0);
                ensure(!is_new || *version > shown, CHECKER, || {
                    let (who, key) = (names.of(place.node), String::from_utf8_lossy(key));
                    format!(
                        "a write behind a served read: {who} commits key {key:?} at {version}, and a read at {shown} was served before"
                    )
                })
            }
            _ => Ok(()),
        }
    }
}
