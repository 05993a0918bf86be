//! Carrying out a session with the product's client, and writing down what happened.
//!
//! Single keys, timestamps and ids are here, scans in [`super::scans`], transactions in [`super::txns`].

use super::keys::{self, Name};
use super::{Op, Session, Shape, Workload};
use crate::check::Violation;
use crate::check::oracle::{Ticket, WriteId};
use crate::exec::{Executor, Node};
use crate::history::{Account, Effect, KvOp, NEVER, Recorder, Register, Span, Stamp};
use crate::trace::{Kind, Trace};
use bytes::Bytes;
use futures_util::future::select;
use nokv_client::{Client, ClientError};
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env};
use nokv_proto::id::Timestamp;
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
    /// How much there is to work on.
    pub shape: Shape,
    /// [`Shape::rows`], made once: every scan goes through them.
    pub rows: Vec<(Bytes, Name)>,
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

    /// Reads everything once more, for the checkers. Only the scan is held: no other read goes on for as long as old
    /// versions live.
    pub async fn final_reads(&self) -> Result<(), ClientError> {
        for key in 0..self.shape.keys {
            self.get(key, self.begin()).await?;
        }
        self.totals(0, self.begin()).await?;
        for list in 0..self.shape.lists {
            self.read_list(list, WriteId(0), self.begin()).await?;
        }
        self.scan_held(self.begin()).await
    }

    /// Gives the accounts their first balance.
    pub async fn prepare(&self, workload: &Workload) -> Result<(), ClientError> {
        let bank = workload.bank();
        let first = keys::account(Account { balance: bank.balance, transfers: 0, writer: 0 });
        let accounts = (0..bank.accounts).map(|number| (Name::Account(number).key(), first.clone()));
        self.client.put_many(accounts.collect()).await.map(|_| ())
    }

    pub(super) fn begin(&self) -> Ticket {
        self.recorder.begin(self.session, self.exec.now_ns())
    }

    pub(super) fn span(&self, ticket: &Ticket) -> Span {
        let (session, invoked_ns) = (ticket.session, ticket.invoked_ns);
        Span { session, invoked_ns, returned_ns: self.exec.now_ns() }
    }

    async fn step(&self, index: u64, op: &Op) {
        let number = u64::from(self.session + 1) << 32 | index;
        let id = WriteId(number << 4);
        let ticket = self.begin();
        self.trace.event(ticket.invoked_ns, self.node, Kind::Op, number, 0);
        self.trace.name(Kind::Op, number, 0, || format!("{op:?}"));
        let invoked_ns = ticket.invoked_ns;
        self.trace.record(|recording| recording.op_begins(invoked_ns, self.node, number, op));
        let outcome = self.carry_out(op, id, ticket).await;
        let answered = outcome.is_ok();
        if let Err(ClientError::Protocol(what)) = &outcome {
            self.garbage(format!("a reply broke the protocol: {what}"));
        }
        let now = self.exec.now_ns();
        self.trace.event(now, self.node, Kind::Op, number, 1 + u64::from(answered));
        self.trace.record(|recording| {
            recording.op_ends(now, number, outcome.err().map(|error| error.to_string()));
        });
        if answered {
            self.recorder.add(|history| history.answered += 1);
        }
    }

    async fn carry_out(&self, op: &Op, id: WriteId, ticket: Ticket) -> Result<(), ClientError> {
        match op {
            Op::Get { key } => self.get(*key, ticket).await,
            Op::Put { key, bytes } => {
                self.intend(&ticket, 0, &[(Name::Key(*key), false)], id);
                let result = self.client.put(Name::Key(*key).key(), keys::value(id.0, *bytes)).await;
                self.wrote(&[(*key, Register::Write(Some(id.0)))], id, &ticket, &result);
                result.map(|_| ())
            }
            Op::Delete { key } => {
                self.intend(&ticket, 0, &[(Name::Key(*key), true)], id);
                let result = self.client.delete(Name::Key(*key).key()).await;
                self.wrote(&[(*key, Register::Write(None))], id, &ticket, &result);
                result.map(|_| ())
            }
            Op::Insert { key, bytes } => self.insert(*key, *bytes, id, ticket).await,
            Op::Swap { key, bytes, think_ms } => self.swap(*key, *bytes, *think_ms, id, ticket).await,
            Op::Multi { puts, deletes, bytes, vanish_ms } => {
                self.multi((puts, deletes), *bytes, *vanish_ms, id, ticket).await
            }
            Op::Snapshot { keys, again_ms } => self.read_many(keys, *again_ms, ticket).await,
            Op::Scan => self.scan(id, ticket).await,
            Op::Range { from, to, limit, page } => {
                self.range((*from, *to), *limit, Some(*page), id, ticket).await
            }
            Op::Transfer { from, to, amount, think_ms, vanish_ms } => {
                self.transfer((*from, *to), *amount, (*think_ms, *vanish_ms), id, ticket).await
            }
            Op::Totals { again_ms } => self.totals(*again_ms, ticket).await,
            Op::Append { list } => {
                let steps = [super::ListOp { list: *list, append: true }];
                self.lists(&steps, (0, 0), id, ticket).await
            }
            Op::ReadList { list } => self.read_list(*list, id, ticket).await,
            Op::Lists { steps, think_ms, vanish_ms } => {
                self.lists(steps, (*think_ms, *vanish_ms), id, ticket).await
            }
            Op::Skew { pair, side, think_ms } => self.skew(*pair, *side, *think_ms, id, ticket).await,
            Op::ForkWrite { pair, side } => {
                let name = Name::Fork(2 * pair + side);
                self.intend(&ticket, 0, &[(name, false)], id);
                let result = self.client.put(name.key(), keys::value(id.0, 16)).await;
                self.ended(&ticket, &[name], id, &result);
                result.map(|_| ())
            }
            Op::ForkRead { pair } => self.fork_read(*pair, ticket).await,
            Op::Stale { key, stale_ms, behind } => self.stale(*key, *stale_ms, *behind, ticket).await,
            Op::Old { keys, for_ms, hold } => self.old(keys, *for_ms, *hold, ticket).await,
            Op::Timestamp { count } => self.timestamps(*count, ticket).await,
            Op::Id { count } => self.ids(*count, ticket).await,
        }
    }

    pub(super) async fn think(&self, millis: u64) {
        if millis > 0 {
            self.env.clock.sleep(Duration::from_millis(millis)).await;
        }
    }

    /// Something that cannot be what anybody wrote or should answer.
    pub(super) fn garbage(&self, what: String) {
        self.violated("durability", what);
    }

    pub(super) fn violated(&self, checker: &'static str, what: String) {
        self.recorder.judge(self.exec.now_ns(), |_| Err(Violation::new(checker, what)));
    }

    /// Tells the oracle which keys (and whether to delete them) a write is about to change.
    pub(super) fn intend(&self, ticket: &Ticket, start: u64, keys: &[(Name, bool)], id: WriteId) {
        self.recorder.tell(|oracle| {
            for (key, deletes) in keys {
                oracle.write(ticket, *key, id, *deletes, start);
            }
        });
    }

    /// What became of a write. The client promises that only [`ClientError::OutcomeUnknown`] is in doubt.
    pub(super) fn ended(
        &self,
        ticket: &Ticket,
        keys: &[Name],
        id: WriteId,
        result: &Result<Timestamp, ClientError>,
    ) -> (Effect, Span) {
        let mut span = self.span(ticket);
        let now = span.returned_ns;
        let effect = match result {
            Ok(at) => {
                self.stamped(ticket, *at, 1);
                for key in keys {
                    self.recorder.judge(now, |oracle| oracle.committed(*key, id, at.0, now));
                }
                Effect::Done
            }
            Err(ClientError::OutcomeUnknown { .. }) => {
                span.returned_ns = NEVER;
                Effect::Unknown
            }
            Err(_) => {
                for key in keys {
                    self.recorder.judge(now, |oracle| oracle.refused(*key, id, now));
                }
                Effect::Refused
            }
        };
        (effect, span)
    }

    /// Shows the oracle timestamps that this client got.
    pub(super) fn stamped(&self, ticket: &Ticket, first: Timestamp, count: u64) {
        self.recorder.judge(self.exec.now_ns(), |oracle| oracle.stamps(ticket, first.0, count));
    }

    /// Shows the oracle what a snapshot showed.
    pub(super) fn saw(&self, ticket: &Ticket, key: Name, at: Timestamp, seen: Option<u64>) {
        let now = self.exec.now_ns();
        let seen = seen.map(WriteId);
        self.recorder.judge(now, |oracle| oracle.snapshot_read(ticket, key, at.0, seen, now));
    }

    /// Reads the newest version of a key. `parse` gives the number of the write that it is from, and whatever else.
    pub(super) async fn newest<T>(
        &self,
        key: Name,
        ticket: &Ticket,
        parse: impl Fn(Option<&[u8]>) -> Result<(Option<u64>, T), String>,
    ) -> Result<Option<T>, ClientError> {
        let before = self.recorder.tell(|oracle| oracle.before(key));
        let value = self.client.get(key.key()).await?;
        let now = self.exec.now_ns();
        match parse(value.as_deref()) {
            Ok((seen, parsed)) => {
                let seen = seen.map(WriteId);
                self.recorder.judge(now, |oracle| oracle.newest_read(ticket, key, &before, seen, now));
                Ok(Some(parsed))
            }
            Err(what) => {
                self.garbage(format!("{key:?}: {what}"));
                Ok(None)
            }
        }
    }

    async fn get(&self, key: u32, ticket: Ticket) -> Result<(), ClientError> {
        let parse = |value: Option<&[u8]>| {
            let number = value.map(keys::number).transpose()?;
            Ok((number, number))
        };
        if let Some(number) = self.newest(Name::Key(key), &ticket, parse).await? {
            self.read(key, number, self.span(&ticket));
        }
        Ok(())
    }

    /// Notes what a register was seen to hold.
    pub(super) fn read(&self, key: u32, number: Option<u64>, span: Span) {
        self.register(key, Register::Read(number), Effect::Done, span);
    }

    pub(super) fn register(&self, key: u32, action: Register, effect: Effect, span: Span) {
        self.recorder.add(|history| history.kv.push(KvOp { key, span, action, effect }));
    }

    /// What became of a write to registers.
    pub(super) fn wrote(
        &self,
        actions: &[(u32, Register)],
        id: WriteId,
        ticket: &Ticket,
        result: &Result<Timestamp, ClientError>,
    ) {
        let names: Vec<Name> = actions.iter().map(|(key, _)| Name::Key(*key)).collect();
        let (effect, span) = self.ended(ticket, &names, id, result);
        for (key, action) in actions {
            self.register(*key, *action, effect, span);
        }
    }

    async fn timestamps(&self, count: u64, ticket: Ticket) -> Result<(), ClientError> {
        let first = self.client.tso(count).await?;
        self.stamped(&ticket, first, count);
        let span = self.span(&ticket);
        let stamps = (first.0..first.0 + count).map(|value| Stamp { span, value });
        self.recorder.add(|history| history.timestamps.extend(stamps));
        Ok(())
    }

    async fn ids(&self, count: u64, ticket: Ticket) -> Result<(), ClientError> {
        let first = self.client.alloc_id(count).await?;
        let span = self.span(&ticket);
        let stamps = (first..first + count).map(|value| Stamp { span, value });
        self.recorder.add(|history| history.ids.extend(stamps));
        Ok(())
    }
}
