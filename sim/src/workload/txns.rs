//! Transactions of a session: registers, transfers, lists, pairs.

use super::ListOp;
use super::keys::{self, Name};
use super::session::Runner;
use crate::check::oracle::{Ticket, WriteId};
use crate::history::{Account, Effect, ListStep, ListTxn, NEVER, PairRead, Register, Span, Totals, Transfer};
use futures_util::future::{Either, select};
use nokv_client::{ClientError, Txn};
use nokv_env::ClockExt;
use nokv_proto::id::Timestamp;
use std::pin::pin;
use std::time::Duration;

/// A transaction under way.
struct Work {
    txn: Txn,
    ticket: Ticket,
    id: WriteId,
    /// What it writes; `true` deletes.
    writes: Vec<(Name, bool)>,
}

impl Work {
    fn put(&mut self, name: Name, value: impl Into<bytes::Bytes>) -> Result<(), ClientError> {
        self.note(name, false);
        self.txn.put(name.key(), value)
    }

    fn delete(&mut self, name: Name) -> Result<(), ClientError> {
        self.note(name, true);
        self.txn.delete(name.key())
    }

    fn note(&mut self, name: Name, deletes: bool) {
        if !self.writes.iter().any(|(other, _)| *other == name) {
            self.writes.push((name, deletes));
        }
    }
}

/// How a commit ended; `None` when the client vanished before it knew.
type Ended = Option<Result<Timestamp, ClientError>>;

impl Runner {
    async fn begin_txn(&self, ticket: Ticket, id: WriteId) -> Result<Work, ClientError> {
        let txn = self.client.begin().await?;
        self.stamped(&ticket, txn.start_ts(), 1);
        Ok(Work { txn, ticket, id, writes: Vec::new() })
    }

    /// Commits. The client vanishes after `vanish_ms`, unless that is 0.
    async fn commit(&self, work: Work, vanish_ms: u64) -> (Effect, Span, Ended) {
        let Work { txn, ticket, id, writes } = work;
        self.intend(&ticket, txn.start_ts().0, &writes, id);
        let ended = if vanish_ms == 0 {
            Some(txn.commit().await)
        } else {
            let gone = self.env.clock.sleep(Duration::from_millis(vanish_ms));
            match select(pin!(txn.commit()), gone).await {
                Either::Left((result, _)) => Some(result),
                Either::Right(_) => None,
            }
        };
        let names: Vec<Name> = writes.iter().map(|(name, _)| *name).collect();
        let (effect, span) = match &ended {
            // Without writes, a commit is no more than the end of the snapshot.
            Some(Ok(_)) if names.is_empty() => (Effect::Done, self.span(&ticket)),
            Some(result) => self.ended(&ticket, &names, id, result),
            None => (Effect::Unknown, Span { returned_ns: NEVER, ..self.span(&ticket) }),
        };
        (effect, span, ended)
    }

    /// A key that holds numbered values, as a transaction sees it. `None`: it holds garbage.
    async fn look(&self, work: &Work, name: Name) -> Result<Option<Option<u64>>, ClientError> {
        let value = work.txn.get(name.key()).await?;
        match value.as_deref().map(keys::number).transpose() {
            Ok(number) => {
                self.saw(&work.ticket, name, work.txn.start_ts(), number);
                Ok(Some(number))
            }
            Err(what) => {
                self.garbage(format!("{name:?}: {what}"));
                Ok(None)
            }
        }
    }

    pub(super) async fn insert(
        &self,
        key: u32,
        bytes: u32,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        let name = Name::Key(key);
        work.txn.insert(name.key(), keys::value(id.0, bytes))?;
        work.note(name, false);
        let (effect, span, ended) = self.commit(work, 0).await;
        match ended {
            Some(Err(ClientError::AlreadyExists { .. })) => {
                self.register(key, Register::Present, Effect::Done, span);
                self.register(key, Register::Insert(id.0), Effect::Refused, span);
                Ok(())
            }
            ended => {
                self.register(key, Register::Insert(id.0), effect, span);
                outcome(ended)
            }
        }
    }

    pub(super) async fn swap(
        &self,
        key: u32,
        bytes: u32,
        think_ms: u64,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        let Some(old) = self.look(&work, Name::Key(key)).await? else { return Ok(()) };
        self.read(key, old, self.span(&ticket));
        work.put(Name::Key(key), keys::value(id.0, bytes))?;
        self.think(think_ms).await;
        let (effect, span, ended) = self.commit(work, 0).await;
        self.register(key, Register::Write(Some(id.0)), effect, span);
        outcome(ended)
    }

    pub(super) async fn multi(
        &self,
        (puts, deletes): (&[u32], &[u32]),
        bytes: u32,
        vanish_ms: u64,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        for key in puts {
            work.put(Name::Key(*key), keys::value(id.0, bytes))?;
        }
        for key in deletes {
            work.delete(Name::Key(*key))?;
        }
        let (effect, span, ended) = self.commit(work, vanish_ms).await;
        for key in puts {
            self.register(*key, Register::Write(Some(id.0)), effect, span);
        }
        for key in deletes {
            self.register(*key, Register::Write(None), effect, span);
        }
        outcome(ended)
    }

    /// Several registers in one snapshot, and again after a pause.
    pub(super) async fn read_many(
        &self,
        keys: &[u32],
        again_ms: u64,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let work = self.begin_txn(ticket, WriteId(0)).await?;
        for key in keys {
            if let Some(number) = self.look(&work, Name::Key(*key)).await? {
                self.read(*key, number, self.span(&ticket));
            }
        }
        if again_ms > 0 {
            self.think(again_ms).await;
            for key in keys {
                self.look(&work, Name::Key(*key)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn skew(
        &self,
        pair: u32,
        side: u32,
        think_ms: u64,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        let mine = Name::Skew(2 * pair + side);
        let other = Name::Skew(2 * pair + (1 - side));
        let (Some(on), Some(other_on)) = (self.look(&work, mine).await?, self.look(&work, other).await?)
        else {
            return Ok(());
        };
        if on.is_some() && other_on.is_some() {
            self.skewed(pair, work.txn.start_ts());
        }
        if is_guarded(pair) {
            work.txn.guard(other.key())?;
        }
        match (on, other_on) {
            (None, None) => work.put(mine, keys::value(id.0, 16))?,
            (Some(_), _) => work.delete(mine)?,
            (None, Some(_)) => return Ok(()),
        }
        self.think(think_ms).await;
        outcome(self.commit(work, 0).await.2)
    }

    /// Both sides of a pair were on in one snapshot: allowed, unless transactions guard what they read.
    pub(super) fn skewed(&self, pair: u32, at: Timestamp) {
        self.recorder.add(|history| history.write_skews += 1);
        if is_guarded(pair) {
            self.violated(
                "transactions",
                format!("both sides of guarded pair {pair} are on at timestamp {at}"),
            );
        }
    }

    pub(super) async fn fork_read(&self, pair: u32, ticket: Ticket) -> Result<(), ClientError> {
        let work = self.begin_txn(ticket, WriteId(0)).await?;
        let mut seen = [false; 2];
        for (side, seen) in (0..).zip(&mut seen) {
            let Some(number) = self.look(&work, Name::Fork(2 * pair + side)).await? else { return Ok(()) };
            *seen = number.is_some();
        }
        let span = self.span(&ticket);
        self.recorder.add(|history| history.pairs.push(PairRead { span, pair, seen }));
        Ok(())
    }

    async fn read_account(&self, work: &Work, number: u32) -> Result<Account, ClientError> {
        let (txn, name) = (&work.txn, Name::Account(number));
        let value = txn.get(name.key()).await?;
        match value.as_deref().and_then(keys::parse_account) {
            Some(account) => {
                self.saw(&work.ticket, name, txn.start_ts(), Some(account.writer));
                Ok(account)
            }
            None => {
                self.garbage(format!("account {number} is {value:?} at timestamp {}", txn.start_ts()));
                Err(ClientError::InvalidArgument("no account".to_owned()))
            }
        }
    }

    pub(super) async fn transfer(
        &self,
        (from, to): (u32, u32),
        amount: i64,
        (think_ms, vanish_ms): (u64, u64),
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        for (number, change) in [(from, -amount), (to, amount)] {
            let account = self.read_account(&work, number).await?;
            let (balance, transfers) = (account.balance + change, account.transfers + 1);
            let changed = Account { balance, transfers, writer: id.0 };
            work.put(Name::Account(number), keys::account(changed))?;
        }
        self.think(think_ms).await;
        let (effect, span, ended) = self.commit(work, vanish_ms).await;
        self.recorder.add(|history| history.transfers.push(Transfer { span, from, to, effect }));
        outcome(ended)
    }

    pub(super) async fn totals(&self, again_ms: u64, ticket: Ticket) -> Result<(), ClientError> {
        let work = self.begin_txn(ticket, WriteId(0)).await?;
        let accounts = self.all_accounts(&work).await?;
        let span = self.span(&ticket);
        let at = work.txn.start_ts().0;
        let mut again = None;
        if again_ms > 0 {
            self.think(again_ms).await;
            again = self.all_accounts(&work).await.ok();
        }
        self.recorder.add(|history| history.totals.push(Totals { span, at, accounts, again }));
        Ok(())
    }

    async fn all_accounts(&self, work: &Work) -> Result<Vec<Account>, ClientError> {
        let mut accounts = Vec::new();
        for number in 0..self.shape.accounts {
            accounts.push(self.read_account(work, number).await?);
        }
        Ok(accounts)
    }

    /// Reads and appends. An append reads first, for there is nothing else to append to.
    pub(super) async fn lists(
        &self,
        ops: &[ListOp],
        (think_ms, vanish_ms): (u64, u64),
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let mut work = self.begin_txn(ticket, id).await?;
        let mut steps = Vec::new();
        let mut appends = 0;
        for ListOp { list, append } in ops {
            let (list, name) = (*list, Name::List(*list));
            let value = work.txn.get(name.key()).await?;
            let Some(mut values) = self.parse_list(list, value.as_deref()) else { return Ok(()) };
            if !work.writes.iter().any(|(written, _)| *written == name) {
                self.saw(&ticket, name, work.txn.start_ts(), owner(values.last()));
            }
            steps.push(ListStep::Read { list, values: values.clone() });
            if *append {
                appends += 1;
                let value = id.0 | appends;
                values.push(value);
                steps.push(ListStep::Append { list, value });
                work.put(name, keys::list(&values))?;
            }
        }
        self.think(think_ms).await;
        let (effect, span, ended) = self.commit(work, vanish_ms).await;
        self.recorder.add(|history| history.lists.push(ListTxn { span, id: id.0, effect, steps }));
        outcome(ended)
    }

    pub(super) async fn read_list(&self, list: u32, id: WriteId, ticket: Ticket) -> Result<(), ClientError> {
        let parse = |value: Option<&[u8]>| {
            let values = keys::parse_list(value.unwrap_or_default())
                .ok_or_else(|| format!("not a list: {value:?}"))?;
            Ok((owner(values.last()), values))
        };
        if let Some(values) = self.newest(Name::List(list), &ticket, parse).await? {
            let span = self.span(&ticket);
            let steps = vec![ListStep::Read { list, values }];
            let read = ListTxn { span, id: id.0, effect: Effect::Done, steps };
            self.recorder.add(|history| history.lists.push(read));
        }
        Ok(())
    }
}

/// The transaction that appended a value: values of one differ in the last digit only.
pub(super) fn owner(value: Option<&u64>) -> Option<u64> {
    value.map(|value| value & !0xf)
}

/// Whether transactions on a pair guard the side that they only read.
fn is_guarded(pair: u32) -> bool {
    pair % 2 == 1
}

fn outcome(ended: Ended) -> Result<(), ClientError> {
    ended.map_or(Ok(()), |result| result.map(|_| ()))
}
