//! What clients did and saw, in true simulated time: the input of the checkers.

use crate::check::Violation;
use crate::check::oracle::{Oracle, Ticket};
use crate::exec::lock;
use crate::watch::Watch;
use std::sync::{Arc, Mutex};

/// The time span of an operation. An operation that never returned ends at [`NEVER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which session asked.
    pub session: u32,
    /// When it was invoked.
    pub invoked_ns: u64,
    /// When it returned.
    pub returned_ns: u64,
}

/// Return time of operations that never returned.
pub const NEVER: u64 = u64::MAX;

/// What became of an operation that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Acknowledged.
    Done,
    /// Certainly not executed.
    Refused,
    /// May have been executed, or may still be.
    Unknown,
}

/// What a single-key operation did. Values are numbers, unique over the run; absent is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// It saw this.
    Read(Option<u64>),
    /// It wrote this (`None` = delete).
    Write(Option<u64>),
    /// It found nothing and wrote this.
    Insert(u64),
    /// It was to insert, and found something.
    Present,
}

/// One operation on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvOp {
    /// Which key.
    pub key: u32,
    /// When.
    pub span: Span,
    /// What.
    pub action: Register,
    /// Reads are [`Effect::Done`]; failed reads are not recorded.
    pub effect: Effect,
}

/// A bank transfer between two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// When.
    pub span: Span,
    /// Account that pays.
    pub from: u32,
    /// Account that gets.
    pub to: u32,
    /// How it ended.
    pub effect: Effect,
}

/// One account as a reader saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Money.
    pub balance: i64,
    /// Transfers that ever touched it.
    pub transfers: u64,
    /// Number of the write that this is the outcome of.
    pub writer: u64,
}

/// All accounts, read in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// When.
    pub span: Span,
    /// The snapshot's timestamp.
    pub at: u64,
    /// Account by account.
    pub accounts: Vec<Account>,
    /// The same, read again later in the same transaction.
    pub again: Option<Vec<Account>>,
}

/// What a transaction did with a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListStep {
    /// It read this.
    Read {
        /// Which list.
        list: u32,
        /// Its values.
        values: Vec<u64>,
    },
    /// It appended this.
    Append {
        /// Which list.
        list: u32,
        /// A value that is unique in the run.
        value: u64,
    },
}

/// A transaction on lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTxn {
    /// When.
    pub span: Span,
    /// Number of the operation, see [`crate::check::oracle::WriteId`].
    pub id: u64,
    /// How it ended.
    pub effect: Effect,
    /// What it did, in order.
    pub steps: Vec<ListStep>,
}

/// Two keys that are written independently, read in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRead {
    /// When.
    pub span: Span,
    /// Which pair.
    pub pair: u32,
    /// Whether each was there.
    pub seen: [bool; 2],
}

/// A timestamp or id that a client received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When.
    pub span: Span,
    /// The value.
    pub value: u64,
}

/// Everything clients did and saw in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Single-key operations.
    pub kv: Vec<KvOp>,
    /// Transfers.
    pub transfers: Vec<Transfer>,
    /// Snapshot reads of all accounts.
    pub totals: Vec<Totals>,
    /// Transactions on lists.
    pub lists: Vec<ListTxn>,
    /// Reads of pairs.
    pub pairs: Vec<PairRead>,
    /// Snapshots that showed a write skew.
    pub write_skews: u64,
    /// Timestamps.
    pub timestamps: Vec<Stamp>,
    /// Ids.
    pub ids: Vec<Stamp>,
    /// Operations invoked.
    pub invoked: u64,
    /// Operations that returned a definite answer.
    pub answered: u64,
}

/// A history under construction, shared by all sessions. The [`Oracle`] sees every operation as it passes.
pub struct Recorder {
    history: Mutex<History>,
    oracle: Mutex<Oracle>,
    watch: Arc<Watch>,
}

impl Recorder {
    /// An empty history; violations stop the run through `watch`.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { history: Mutex::default(), oracle: Mutex::default(), watch }
    }

    /// An operation begins.
    pub fn begin(&self, session: u32, now_ns: u64) -> Ticket {
        lock(&self.history).invoked += 1;
        lock(&self.oracle).invoke(session, now_ns)
    }

    /// Adds to the history.
    pub fn add(&self, change: impl FnOnce(&mut History)) {
        change(&mut lock(&self.history));
    }

    /// Tells the oracle something that needs no judgement.
    pub fn tell<T>(&self, what: impl FnOnce(&mut Oracle) -> T) -> T {
        what(&mut lock(&self.oracle))
    }

    /// Asks the oracle; a violation ends the run.
    pub fn judge(&self, now_ns: u64, question: impl FnOnce(&mut Oracle) -> Result<(), Violation>) {
        if let Err(violation) = self.tell(question) {
            self.watch.fail(now_ns, violation);
        }
    }

    /// Takes the history.
    pub fn take(&self) -> History {
        std::mem::take(&mut lock(&self.history))
    }

    /// Operations invoked and answered so far.
    pub fn counts(&self) -> (u64, u64) {
        let history = lock(&self.history);
        (history.invoked, history.answered)
    }
}
