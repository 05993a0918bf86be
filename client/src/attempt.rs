//! One operation under way: its deadline, how often it failed, and why the last time.

use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::{self, Wait};
use nokv_env::net::TlsFailure;
use nokv_env::{ClockExt, Instant};
use std::time::Duration;

/// The patience of one operation. Every retry loop of the operation draws on the same one.
pub(crate) struct Attempt<'a> {
    shared: &'a Shared,
    what: &'static str,
    allowed: Duration,
    deadline: Instant,
    failures: u32,
    learned_in_a_row: u32,
    cause: String,
    /// Set when the last failure was one of trust: time alone does not help then.
    pub(crate) tls: Option<TlsFailure>,
    /// Set when a request that could commit may have been executed without an answer reaching us.
    pub(crate) ambiguous: bool,
    /// Set when a store has had a request, whatever it answered: a copy of it may still be on its way.
    pub(crate) delivered: bool,
}

impl<'a> Attempt<'a> {
    /// Patience of `allowed` from now on for `what`.
    pub(crate) fn new(shared: &'a Shared, what: &'static str, allowed: Duration) -> Self {
        let deadline = shared.env.clock.now() + allowed;
        Self::until(shared, what, allowed, deadline)
    }

    fn until(shared: &'a Shared, what: &'static str, allowed: Duration, deadline: Instant) -> Self {
        let cause = "nothing was tried yet".into();
        Self {
            shared,
            what,
            allowed,
            deadline,
            failures: 0,
            learned_in_a_row: 0,
            cause,
            tls: None,
            ambiguous: false,
            delivered: false,
        }
    }

    /// Patience for one of several things done at the same time, ending with this one's.
    pub(crate) fn branch(&self) -> Attempt<'a> {
        Self::until(self.shared, self.what, self.allowed, self.deadline)
    }

    /// When the operation must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time for one call that should take no longer than `limit`; an error when none is left.
    pub(crate) fn slice(&self, limit: Duration) -> Result<Duration> {
        let left = self.deadline.since(self.shared.env.clock.now());
        if left.is_zero() { Err(self.timeout()) } else { Ok(left.min(limit)) }
    }

    /// An even share of the time left for one of `among` calls that come one after the other; an error when none is left.
    pub(crate) fn share(&self, among: u32) -> Result<Duration> {
        Ok(self.slice(Duration::MAX)? / among.max(1))
    }

    /// Takes note of a failure without waiting.
    pub(crate) fn note(&mut self, cause: impl Into<String>) {
        self.cause = cause.into();
        self.tls = None;
    }

    /// Takes note of a failure and pauses as it deserves. An error when the deadline comes first.
    pub(crate) async fn pause(&mut self, wait: Wait, cause: impl Into<String>) -> Result<()> {
        self.cause = cause.into();
        self.failures += 1;
        self.learned_in_a_row = if wait == Wait::Learned { self.learned_in_a_row + 1 } else { 0 };
        let pause = retry::backoff(self.failures, self.learned_in_a_row, wait, self.shared.dice());
        let clock = &self.shared.env.clock;
        if self.deadline <= clock.now() + pause {
            return Err(self.timeout());
        }
        if !pause.is_zero() {
            clock.sleep(pause).await;
        }
        Ok(())
    }

    /// The error of a passed deadline.
    pub(crate) fn timeout(&self) -> ClientError {
        if let Some(failure) = &self.tls {
            return ClientError::Tls(failure.clone());
        }
        ClientError::Timeout { what: self.what, after: self.allowed, cause: self.cause.clone() }
    }

    /// The last failure in words.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }
}
