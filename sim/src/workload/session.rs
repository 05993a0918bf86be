//! Carrying out a session with the product's client, and writing down what happened.

use super::keys::{self, Name};
use super::{Op, Session, Workload};
use crate::exec::{Executor, Node};
use crate::history::{
    Account, Append, Effect, KvOp, ListRead, NEVER, Recorder, Register, Span, Stamp, Totals, Transfer,
};
use crate::trace::{Kind, Trace};
use futures_util::future::{Either, select};
use nokv_client::{Client, ClientError, Txn};
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env};
use nokv_proto::key::KeyRange;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Everything a session needs.
pub struct Runner {
    /// Number of the session; values are unique by it.
    pub session: u32,
    /// Its client node.
    pub node: Node,
    /// The client node's environment.
    pub env: Env,
    /// The client.
    pub client: Client,
    /// True time.
    pub exec: Arc<dyn Executor>,
    /// Trace of the run.
    pub trace: Arc<Trace>,
    /// Where to write down what happened.
    pub recorder: Arc<Recorder>,
    /// Raised when the load phase is over.
    pub stop: Stop,
    /// Counts of accounts, keys, lists.
    pub accounts: u32,
    /// Keys for single-key operations.
    pub keys: u32,
    /// Lists.
    pub lists: u32,
}

impl Runner {
    /// Runs the steps until they end or the load phase is over.
    pub async fn run(self, session: Session) {
        for (index, step) in session.steps.into_iter().enumerate() {
            {
                let wait = self.env.clock.sleep(Duration::from_millis(step.wait_ms));
                select(wait, pin!(self.stop.stopped())).await;
            }
            if self.stop.is_stopped() {
                return;
            }
            self.step(index as u64, &step.op).await;
        }
    }

    /// Reads everything once more, for the checkers.
    pub async fn final_reads(&self) -> Result<(), ClientError> {
        for key in 0..self.keys {
            self.get(key, self.begin()).await?;
        }
        self.totals(0, self.begin()).await?;
        for list in 0..self.lists {
            self.read_list(list, self.begin()).await?;
        }
        self.scan(self.begin()).await
    }

    /// Gives the accounts their first balance and the lists their first (empty) value.
    pub async fn prepare(&self, workload: &Workload) -> Result<(), ClientError> {
        let bank = workload.bank();
        let first = keys::account(Account { balance: bank.balance, transfers: 0 });
        let accounts = (0..bank.accounts).map(|number| (Name::Account(number).key(), first.clone()));
        self.client.put_many(accounts.collect()).await.map(|_| ())
    }

    fn begin(&self) -> u64 {
        self.recorder.add(|history| history.invoked += 1);
        self.exec.now_ns()
    }

    fn span(&self, invoked_ns: u64) -> Span {
        Span { session: self.session, invoked_ns, returned_ns: self.exec.now_ns() }
    }

    async fn step(&self, index: u64, op: &Op) {
        let number = u64::from(self.session + 1) << 32 | index;
        let invoked = self.begin();
        self.trace.event(invoked, self.node, Kind::Op, number, 0);
        let outcome = match op {
            Op::Get { key } => self.get(*key, invoked).await,
            Op::Put { key, bytes } => {
                let result = self.client.put(Name::Key(*key).key(), keys::value(number, *bytes)).await;
                self.wrote(*key, Some(number), invoked, result.map(|_| ()))
            }
            Op::Delete { key } => {
                let result = self.client.delete(Name::Key(*key).key()).await;
                self.wrote(*key, None, invoked, result.map(|_| ()))
            }
            Op::Scan => self.scan(invoked).await,
            Op::Transfer { from, to, amount, think_ms, vanish_ms } => {
                self.transfer((*from, *to), *amount, *think_ms, *vanish_ms, invoked).await
            }
            Op::Totals { again_ms } => self.totals(*again_ms, invoked).await,
            Op::Append { list } => self.append(*list, number, invoked).await,
            Op::ReadList { list } => self.read_list(*list, invoked).await,
            Op::Timestamp { count } => self.timestamps(*count, invoked).await,
            Op::Id { count } => self.ids(*count, invoked).await,
        };
        let answered = outcome.is_ok();
        if let Err(ClientError::Protocol(what)) = &outcome {
            self.garbage(format!("a reply broke the protocol: {what}"));
        }
        self.trace.event(self.exec.now_ns(), self.node, Kind::Op, number, 1 + u64::from(answered));
        if answered {
            self.recorder.add(|history| history.answered += 1);
        }
    }

    async fn get(&self, key: u32, invoked: u64) -> Result<(), ClientError> {
        let value = self.client.get(Name::Key(key).key()).await?;
        self.read(key, value.as_deref(), self.span(invoked));
        Ok(())
    }

    /// Notes what a register was seen to hold.
    fn read(&self, key: u32, value: Option<&[u8]>, span: Span) {
        match value.map(keys::number).transpose() {
            Ok(number) => {
                let op = KvOp { key, span, action: Register::Read(number), effect: Effect::Done };
                self.recorder.add(|history| history.kv.push(op));
            }
            Err(what) => self.garbage(format!("key {key}: {what}")),
        }
    }

    fn garbage(&self, what: String) {
        self.recorder.add(|history| history.garbage.push(what));
    }

    fn wrote(
        &self,
        key: u32,
        value: Option<u64>,
        invoked: u64,
        result: Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let (effect, span) = self.ended(invoked, &result);
        let op = KvOp { key, span, action: Register::Write(value), effect };
        self.recorder.add(|history| history.kv.push(op));
        result
    }

    /// What became of a write. The client promises that only [`ClientError::OutcomeUnknown`] is in doubt.
    fn ended(&self, invoked: u64, result: &Result<(), ClientError>) -> (Effect, Span) {
        let effect = match result {
            Ok(()) => Effect::Done,
            Err(ClientError::OutcomeUnknown { .. }) => Effect::Unknown,
            Err(_) => Effect::Refused,
        };
        let mut span = self.span(invoked);
        if effect == Effect::Unknown {
            span.returned_ns = NEVER;
        }
        (effect, span)
    }

    async fn scan(&self, invoked: u64) -> Result<(), ClientError> {
        let pairs = self.client.scan(KeyRange::default(), 10_000).await?;
        let span = self.span(invoked);
        let mut values: Vec<Option<&[u8]>> = vec![None; self.keys as usize];
        let mut accounts = vec![None; self.accounts as usize];
        for (key, value) in &pairs {
            match Name::parse(key) {
                Some(Name::Key(number)) if number < self.keys => values[number as usize] = Some(value),
                Some(Name::Account(number)) if number < self.accounts => {
                    accounts[number as usize] = keys::parse_account(value);
                }
                Some(Name::List(number)) if number < self.lists => self.saw_list(number, Some(value), span),
                Some(Name::Alive(_)) => {}
                _ => self.garbage(format!("a scan returned a key that nobody wrote: {key:?}")),
            }
        }
        for (key, value) in values.into_iter().enumerate() {
            self.read(key as u32, value, span);
        }
        match accounts.into_iter().collect::<Option<Vec<_>>>() {
            Some(accounts) => {
                self.recorder
                    .add(|history| history.totals.push(Totals { span, at: 0, accounts, again: None }));
            }
            None => self.garbage(format!("a scan of {} pairs misses accounts, {span:?}", pairs.len())),
        }
        Ok(())
    }

    async fn read_account(&self, txn: &Txn, number: u32) -> Result<Account, ClientError> {
        let value = txn.get(Name::Account(number).key()).await?;
        value.as_deref().and_then(keys::parse_account).ok_or_else(|| {
            self.garbage(format!("account {number} is {value:?} at timestamp {}", txn.start_ts()));
            ClientError::InvalidArgument("no account".to_owned())
        })
    }

    async fn transfer(
        &self,
        (from, to): (u32, u32),
        amount: i64,
        think_ms: u64,
        vanish_ms: u64,
        invoked: u64,
    ) -> Result<(), ClientError> {
        let mut txn = self.client.begin().await?;
        for (number, change) in [(from, -amount), (to, amount)] {
            let account = self.read_account(&txn, number).await?;
            let changed = Account { balance: account.balance + change, transfers: account.transfers + 1 };
            txn.put(Name::Account(number).key(), keys::account(changed))?;
        }
        if think_ms > 0 {
            self.env.clock.sleep(Duration::from_millis(think_ms)).await;
        }
        let result = if vanish_ms == 0 {
            txn.commit().await.map(|_| ())
        } else {
            let gone = self.env.clock.sleep(Duration::from_millis(vanish_ms));
            match select(pin!(txn.commit()), gone).await {
                Either::Left((result, _)) => result.map(|_| ()),
                Either::Right(_) => {
                    let span = Span { returned_ns: NEVER, ..self.span(invoked) };
                    let transfer = Transfer { span, from, to, effect: Effect::Unknown };
                    self.recorder.add(|history| history.transfers.push(transfer));
                    return Ok(());
                }
            }
        };
        let (effect, span) = self.ended(invoked, &result);
        self.recorder.add(|history| history.transfers.push(Transfer { span, from, to, effect }));
        result
    }

    async fn totals(&self, again_ms: u64, invoked: u64) -> Result<(), ClientError> {
        let txn = self.client.begin().await?;
        let accounts = self.all_accounts(&txn).await?;
        let span = self.span(invoked);
        let at = txn.start_ts().0;
        let mut again = None;
        if again_ms > 0 {
            self.env.clock.sleep(Duration::from_millis(again_ms)).await;
            again = self.all_accounts(&txn).await.ok();
        }
        txn.rollback();
        self.recorder.add(|history| history.totals.push(Totals { span, at, accounts, again }));
        Ok(())
    }

    async fn all_accounts(&self, txn: &Txn) -> Result<Vec<Account>, ClientError> {
        let mut accounts = Vec::new();
        for number in 0..self.accounts {
            accounts.push(self.read_account(txn, number).await?);
        }
        Ok(accounts)
    }

    async fn append(&self, list: u32, value: u64, invoked: u64) -> Result<(), ClientError> {
        let mut txn = self.client.begin().await?;
        let key = Name::List(list).key();
        let old = txn.get(key.clone()).await?;
        let Some(mut values) = keys::parse_list(old.as_deref().unwrap_or_default()) else {
            self.garbage(format!("list {list} is {old:?}"));
            return Ok(());
        };
        values.push(value);
        txn.put(key, keys::list(&values))?;
        let result = txn.commit().await.map(|_| ());
        let (effect, span) = self.ended(invoked, &result);
        self.recorder.add(|history| history.appends.push(Append { span, key: list, value, effect }));
        result
    }

    async fn read_list(&self, list: u32, invoked: u64) -> Result<(), ClientError> {
        let value = self.client.get(Name::List(list).key()).await?;
        self.saw_list(list, value.as_deref(), self.span(invoked));
        Ok(())
    }

    fn saw_list(&self, list: u32, value: Option<&[u8]>, span: Span) {
        match keys::parse_list(value.unwrap_or_default()) {
            Some(values) => {
                self.recorder.add(|history| history.lists.push(ListRead { span, key: list, values }));
            }
            None => self.garbage(format!("list {list} is {value:?}")),
        }
    }

    async fn timestamps(&self, count: u64, invoked: u64) -> Result<(), ClientError> {
        let first = self.client.tso(count).await?.0;
        let span = self.span(invoked);
        let stamps = (first..first + count).map(|value| Stamp { span, value });
        self.recorder.add(|history| history.timestamps.extend(stamps));
        Ok(())
    }

    async fn ids(&self, count: u64, invoked: u64) -> Result<(), ClientError> {
        let first = self.client.alloc_id(count).await?;
        let span = self.span(invoked);
        let stamps = (first..first + count).map(|value| Stamp { span, value });
        self.recorder.add(|history| history.ids.extend(stamps));
        Ok(())
    }
}
