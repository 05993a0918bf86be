//! Reading much, as of one timestamp: the snapshot is held, and failures that may pass are waited out.

use crate::args::values::show_duration;
use crate::cmd::reach::Reach;
use crate::cmd::stall::Stall;
use crate::errors::{Code, Failure, Result};
use indicatif::ProgressBar;
use nokv_client::{ClientError, Hold, Page, Scanner, Snapshot};
use nokv_env::clock::rfc3339;
use nokv_env::{ClockExt, Env};
use nokv_proto::id::Timestamp;
use std::time::Duration;

/// The longest hold that a coordinator grants; renewed four times in this time. It is also what is left of the hold when
/// this process is killed.
const HOLD: Duration = Duration::from_secs(60);
/// Patience with a coordinator that is told of the end of a hold.
const LET_GO: Duration = Duration::from_secs(2);
/// How often a stall is mentioned.
const STALL_NOTE_INTERVAL: Duration = Duration::from_secs(5);

/// A snapshot whose versions are kept for as long as this exists.
pub struct Held {
    /// What to read from.
    pub snapshot: Snapshot,
    hold: Hold,
}

impl Held {
    /// Lets go, with a little patience: otherwise old versions are kept for another minute.
    pub async fn release(self, env: &Env) {
        let _ = env.clock.timeout(LET_GO, self.hold.release()).await;
    }
}

/// Holds the snapshot of `at`, or of now.
pub async fn hold(reach: &Reach, at: Option<u64>) -> Result<Held> {
    let failed = |error: &ClientError| failure(reach, error);
    let now = reach.client.snapshot().await.map_err(|error| failed(&error))?;
    let snapshot = match at {
        None => now,
        Some(at) if at > now.version().0 => {
            return Err(Failure::usage(format!("timestamp {at} lies in the future"))
                .why(format!("the cluster is at {}, {}", now.version().0, shown(now.version().0)))
                .next("give a timestamp that `put`, `txn` or `scan -o json` has printed, or leave it out"));
        }
        Some(at) => reach.client.snapshot_at(Timestamp(at)),
    };
    let hold = snapshot.hold(HOLD).await.map_err(|error| failed(&error))?;
    Ok(Held { snapshot, hold })
}

/// Words an error of a reader.
pub fn failure(reach: &Reach, error: &ClientError) -> Failure {
    match error {
        ClientError::TooOld { version, safe_point } => Failure::new(
            Code::TooOld,
            format!("timestamp {} ({}) is too old", version.0, shown(version.0)),
        )
        .why(format!("versions below {} ({}) may be gone", safe_point.0, shown(safe_point.0)))
        .next("take a newer timestamp; `nokv coordinator --gc-life` says for how long old versions are kept")
        .detail("timestamp", version.0)
        .detail("safe_point", safe_point.0),
        error => reach.failure(error),
    }
}

/// The wall clock's part of a timestamp.
pub fn shown(timestamp: u64) -> String {
    let millis = i64::try_from(Timestamp(timestamp).physical_ms()).unwrap_or(i64::MAX);
    rfc3339(millis.saturating_mul(1_000_000))
}

/// Tries again what may pass.
pub struct Patience<'a> {
    /// Where time passes.
    pub env: &'a Env,
    /// Words failures.
    pub reach: &'a Reach,
    /// Steps aside for notes.
    pub bar: &'a ProgressBar,
    /// Gives up after so long without success, see [`Stall`].
    pub retry_for: Duration,
}

impl Patience<'_> {
    /// Runs `attempt` until it succeeds, fails for good, or time is up. Whatever it does must bear repetition.
    pub async fn with<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> std::result::Result<T, ClientError>,
    ) -> Result<T> {
        let began = self.env.clock.now();
        let mut stall = Stall::new(began, self.reach.client.deadline());
        let (mut pause, mut noted) = (Duration::from_millis(50), began);
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let now = self.env.clock.now();
            let stalled = stall.failed(now);
            let may_pass = error.is_retryable() || matches!(error, ClientError::OutcomeUnknown { .. });
            if !may_pass || matches!(error, ClientError::TooOld { .. }) {
                return Err(failure(self.reach, &error));
            }
            if stalled >= self.retry_for {
                let seconds = show_duration(Duration::from_secs(stalled.as_secs()));
                return Err(failure(self.reach, &error).next(format!(
                    "nothing went on for {seconds}; run the same command again (--retry-for waits longer)"
                )));
            }
            if now.since(noted) >= STALL_NOTE_INTERVAL {
                noted = now;
                let line = format!("nothing goes on for {} s, trying again: {error}", stalled.as_secs());
                self.bar.suspend(|| eprintln!("{line}"));
            }
            self.env.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// The next page of a scan.
    pub async fn page(&self, scanner: &mut Scanner) -> Result<Option<Page>> {
        self.with(async || scanner.next_page().await).await
    }
}
