//! Transactions of a session: transfers, totals, lists.

use super::keys::{self, Name};
use super::session::Runner;
use crate::check::oracle::{Ticket, WriteId};
use crate::history::{Account, Append, Effect, ListRead, NEVER, Span, Totals, Transfer};
use futures_util::future::{Either, select};
use nokv_client::{ClientError, Txn};
use nokv_env::ClockExt;
use nokv_proto::id::Timestamp;
use std::pin::pin;
use std::time::Duration;

impl Runner {
    async fn begin_txn(&self, ticket: &Ticket) -> Result<Txn, ClientError> {
        let txn = self.client.begin().await?;
        self.stamped(ticket, txn.start_ts(), 1);
        Ok(txn)
    }

    /// Commits what `txn` wrote to `keys`. The client vanishes after `vanish_ms`, unless that is 0.
    async fn commit(
        &self,
        txn: Txn,
        ticket: &Ticket,
        keys: &[Name],
        id: WriteId,
        vanish_ms: u64,
    ) -> (Effect, Span, Result<(), ClientError>) {
        let intents: Vec<(Name, bool)> = keys.iter().map(|key| (*key, false)).collect();
        self.intend(ticket, txn.start_ts().0, &intents, id);
        let result: Result<Timestamp, ClientError> = if vanish_ms == 0 {
            txn.commit().await
        } else {
            let gone = self.env.clock.sleep(Duration::from_millis(vanish_ms));
            match select(pin!(txn.commit()), gone).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => {
                    let span = Span { returned_ns: NEVER, ..self.span(ticket) };
                    return (Effect::Unknown, span, Ok(()));
                }
            }
        };
        let (effect, span) = self.ended(ticket, keys, id, &result);
        (effect, span, result.map(|_| ()))
    }

    async fn read_account(&self, txn: &Txn, ticket: &Ticket, number: u32) -> Result<Account, ClientError> {
        let value = txn.get(Name::Account(number).key()).await?;
        match value.as_deref().and_then(keys::parse_account) {
            Some(account) => {
                self.saw(ticket, Name::Account(number), txn.start_ts(), Some(account.writer));
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
        let mut txn = self.begin_txn(&ticket).await?;
        for (number, change) in [(from, -amount), (to, amount)] {
            let account = self.read_account(&txn, &ticket, number).await?;
            let (balance, transfers) = (account.balance + change, account.transfers + 1);
            let changed = Account { balance, transfers, writer: id.0 };
            txn.put(Name::Account(number).key(), keys::account(changed))?;
        }
        self.think(think_ms).await;
        let keys = [Name::Account(from), Name::Account(to)];
        let (effect, span, result) = self.commit(txn, &ticket, &keys, id, vanish_ms).await;
        self.recorder.add(|history| history.transfers.push(Transfer { span, from, to, effect }));
        result
    }

    pub(super) async fn totals(&self, again_ms: u64, ticket: Ticket) -> Result<(), ClientError> {
        let txn = self.begin_txn(&ticket).await?;
        let accounts = self.all_accounts(&txn, &ticket).await?;
        let span = self.span(&ticket);
        let at = txn.start_ts().0;
        let mut again = None;
        if again_ms > 0 {
            self.think(again_ms).await;
            again = self.all_accounts(&txn, &ticket).await.ok();
        }
        txn.rollback();
        self.recorder.add(|history| history.totals.push(Totals { span, at, accounts, again }));
        Ok(())
    }

    async fn all_accounts(&self, txn: &Txn, ticket: &Ticket) -> Result<Vec<Account>, ClientError> {
        let mut accounts = Vec::new();
        for number in 0..self.accounts {
            accounts.push(self.read_account(txn, ticket, number).await?);
        }
        Ok(accounts)
    }

    pub(super) async fn append(&self, list: u32, id: WriteId, ticket: Ticket) -> Result<(), ClientError> {
        let mut txn = self.begin_txn(&ticket).await?;
        let name = Name::List(list);
        let old = txn.get(name.key()).await?;
        let Some(mut values) = self.parse_list(list, old.as_deref()) else { return Ok(()) };
        self.saw(&ticket, name, txn.start_ts(), values.last().copied());
        values.push(id.0);
        txn.put(name.key(), keys::list(&values))?;
        let (effect, span, result) = self.commit(txn, &ticket, &[name], id, 0).await;
        self.recorder.add(|history| history.appends.push(Append { span, key: list, value: id.0, effect }));
        result
    }

    pub(super) async fn read_list(&self, list: u32, ticket: Ticket) -> Result<(), ClientError> {
        let parse = |value: Option<&[u8]>| {
            let values = keys::parse_list(value.unwrap_or_default())
                .ok_or_else(|| format!("not a list: {value:?}"))?;
            Ok((values.last().copied(), values))
        };
        if let Some(values) = self.newest(Name::List(list), &ticket, parse).await? {
            let span = self.span(&ticket);
            self.recorder.add(|history| history.lists.push(ListRead { span, key: list, values }));
        }
        Ok(())
    }
}
