//! Reads of the past: snapshots that are held for longer than old versions live, and replicas that may be behind.

use super::keys::{self, Name};
use super::session::Runner;
use crate::check::oracle::Ticket;
use nokv_client::{ClientError, Hold, Staleness};
use std::time::Duration;

/// Asked for by every hold; the coordinator may grant less.
pub(crate) const HOLD: Duration = Duration::from_secs(2);
/// Pause between two looks at a held snapshot.
const PAUSE_MS: u64 = 400;

impl Runner {
    /// A read that may be old, but not older than it says.
    pub(super) async fn stale(
        &self,
        key: u32,
        stale_ms: u64,
        behind: u64,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let name = Name::Key(key);
        let staleness = Staleness { time: Duration::from_millis(stale_ms), entries: behind };
        let value = self.client.get_stale(name.key(), staleness).await?;
        let now = self.exec.now_ns();
        match value.as_deref().map(keys::number).transpose() {
            // How much is missing of a region says nothing of one key.
            Ok(_) if behind > 0 => {}
            Ok(seen) => {
                // A node's clock may run slow, by a percent at most.
                let bound_ns = stale_ms * 1_000_000 + stale_ms * 20_000;
                self.recorder.judge(now, |oracle| oracle.stale_read(&ticket, name, bound_ns, seen, now));
            }
            Err(what) => self.garbage(format!("{name:?}: {what}")),
        }
        Ok(())
    }

    /// A snapshot shows the same, however old it is; one that is held is never refused.
    pub(super) async fn old(
        &self,
        keys: &[u32],
        for_ms: u64,
        held: bool,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let snapshot = self.client.snapshot().await?;
        let at = snapshot.version();
        self.stamped(&ticket, at, 1);
        let hold = if held { Some(snapshot.hold(HOLD).await?) } else { None };
        let is_held = || hold.as_ref().is_some_and(Hold::is_alive);
        let until = self.exec.now_ns() + for_ms * 1_000_000;
        while self.exec.now_ns() < until && !self.stop.is_stopped() {
            for key in keys {
                let name = Name::Key(*key);
                let was_held = is_held();
                match snapshot.get(name.key()).await {
                    Ok(value) => match value.as_deref().map(keys::number).transpose() {
                        Ok(seen) => self.saw(&ticket, name, at, seen),
                        Err(what) => self.garbage(format!("{name:?}: {what}")),
                    },
                    Err(error @ ClientError::TooOld { .. }) if was_held && is_held() => {
                        self.violated("client.hold", format!("{name:?}: {error}, and it is held"));
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.think(PAUSE_MS).await;
            if hold.as_ref().is_some_and(Hold::is_broken) {
                self.violated(
                    "client.hold",
                    format!("the hold of timestamp {at} was refused while it lasted"),
                );
            }
        }
        Ok(())
    }
}
