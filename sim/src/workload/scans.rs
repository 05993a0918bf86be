//! Scans of a session: a range is read in one snapshot, so everything in it is held against that one timestamp.

use super::HOLD;
use super::keys::{self, Name};
use super::session::Runner;
use super::txns::owner;
use crate::check::oracle::{Ticket, WriteId};
use crate::history::{Account, Effect, ListStep, ListTxn, PairRead, Span, Totals};
use bytes::Bytes;
use nokv_client::{ClientError, Snapshot};
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use std::collections::BTreeMap;

/// What a scan showed, by kind.
#[derive(Default)]
struct Seen {
    accounts: BTreeMap<u32, Account>,
    lists: Vec<ListStep>,
    pairs: BTreeMap<u32, bool>,
    skews: BTreeMap<u32, bool>,
}

impl Runner {
    pub(super) async fn scan(&self, id: WriteId, ticket: Ticket) -> Result<(), ClientError> {
        self.range((0, None), usize::MAX, None, id, ticket).await
    }

    /// A scan of everything that comes to its end however long it takes: its snapshot is held.
    pub(super) async fn scan_held(&self, ticket: Ticket) -> Result<(), ClientError> {
        let snapshot = self.client.snapshot().await?;
        let _hold = snapshot.hold(HOLD).await?;
        self.range_of(&snapshot, (0, None), usize::MAX, None, WriteId(0), ticket).await
    }

    /// Reads up to `limit` pairs of a range, `page` of them at a time.
    pub(super) async fn range(
        &self,
        bounds: (u8, Option<u8>),
        limit: usize,
        page: Option<u32>,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let snapshot = self.client.snapshot().await?;
        self.range_of(&snapshot, bounds, limit, page, id, ticket).await
    }

    async fn range_of(
        &self,
        snapshot: &Snapshot,
        (from, to): (u8, Option<u8>),
        limit: usize,
        page: Option<u32>,
        id: WriteId,
        ticket: Ticket,
    ) -> Result<(), ClientError> {
        let border = |digits: u8| Bytes::from(format!("{digits:02x}"));
        let range = KeyRange { start: border(from), end: to.map_or_else(Bytes::new, border) };
        let at = snapshot.version();
        self.stamped(&ticket, at, 1);
        let mut scanner = snapshot.scanner(range.clone());
        if let Some(page) = page {
            scanner = scanner.page_size(page);
        }
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let Some(page) = scanner.next_page().await? else { break };
            pairs.extend(page.pairs);
        }
        pairs.truncate(limit);
        if !pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.garbage(format!(
                "a scan returned keys out of order: {:?}",
                pairs.iter().map(|(key, _)| key).collect::<Vec<_>>()
            ));
        }
        // What lies behind the last pair of a scan that reached its limit was not looked at.
        let last = pairs.last().filter(|_| pairs.len() == limit).map(|(key, _)| key.clone());
        let covered = |key: &Bytes| {
            *key >= range.start
                && (range.end.is_empty() || *key < range.end)
                && last.as_ref().is_none_or(|last| key <= last)
        };
        let span = self.span(&ticket);
        let mut found: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        let mut seen = Seen::default();
        for (key, name) in &self.rows {
            if covered(key) {
                self.scanned(*name, found.remove(key), (at, span), &ticket, &mut seen);
            }
        }
        let is_known = |key: &[u8]| {
            key.starts_with(keys::OLD.as_bytes()) || matches!(Name::parse(key), Some(Name::Alive(_)))
        };
        for key in found.keys().filter(|key| !is_known(key)) {
            self.garbage(format!(
                "a scan of {from:02x} to {to:02x?} returned a key that is not there: {key:?}"
            ));
        }
        self.conclude(seen, (at, span), id);
        Ok(())
    }

    /// One key of a scan.
    fn scanned(
        &self,
        name: Name,
        value: Option<Bytes>,
        (at, span): (Timestamp, Span),
        ticket: &Ticket,
        seen: &mut Seen,
    ) {
        match name {
            Name::Account(number) => match value.as_deref().and_then(keys::parse_account) {
                Some(account) => {
                    self.saw(ticket, name, at, Some(account.writer));
                    seen.accounts.insert(number, account);
                }
                None => self.garbage(format!("account {number} is {value:?} in a scan at timestamp {at}")),
            },
            Name::List(list) => {
                if let Some(values) = self.parse_list(list, value.as_deref()) {
                    self.saw(ticket, name, at, owner(values.last()));
                    seen.lists.push(ListStep::Read { list, values });
                }
            }
            _ => match value.as_deref().map(keys::number).transpose() {
                Err(what) => self.garbage(format!("{name:?}: {what}")),
                Ok(number) => {
                    self.saw(ticket, name, at, number);
                    match name {
                        Name::Key(key) => self.read(key, number, span),
                        Name::Fork(side) => _ = seen.pairs.insert(side, number.is_some()),
                        Name::Skew(side) => _ = seen.skews.insert(side, number.is_some()),
                        _ => {}
                    }
                }
            },
        }
    }

    /// What a scan says as a whole.
    fn conclude(&self, seen: Seen, (at, span): (Timestamp, Span), id: WriteId) {
        let Seen { accounts, lists: steps, pairs, skews } = seen;
        let both = |sides: &BTreeMap<u32, bool>| -> Vec<(u32, [bool; 2])> {
            let pair = |(side, first): (&u32, &bool)| {
                let second = sides.get(&(side + 1)).filter(|_| side % 2 == 0)?;
                Some((side / 2, [*first, *second]))
            };
            sides.iter().filter_map(pair).collect()
        };
        self.recorder.add(|history| {
            if accounts.len() == self.shape.accounts as usize {
                let accounts = accounts.into_values().collect();
                history.totals.push(Totals { span, at: at.0, accounts, again: None });
            }
            if !steps.is_empty() {
                history.lists.push(ListTxn { span, id: id.0, effect: Effect::Done, steps });
            }
            history.pairs.extend(both(&pairs).into_iter().map(|(pair, seen)| PairRead { span, pair, seen }));
        });
        for (pair, _) in both(&skews).iter().filter(|(_, on)| *on == [true, true]) {
            self.skewed(*pair, at);
        }
    }

    pub(super) fn parse_list(&self, list: u32, value: Option<&[u8]>) -> Option<Vec<u64>> {
        let parsed = keys::parse_list(value.unwrap_or_default());
        if parsed.is_none() {
            self.garbage(format!("list {list} is {value:?}"));
        }
        parsed
    }
}
