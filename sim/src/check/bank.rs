//! Bank transfers: money is conserved in every snapshot, and no transfer is lost.
//!
//! Each account counts the transfers that touched it. So a snapshot says more than its total: an account must
//! show at least the transfers acknowledged before the snapshot was asked for (none was lost, the snapshot is
//! fresh) and at most those that had begun when it was answered (none happened twice, none after being refused).

use super::{Violation, show_span};
use crate::history::{Account, Effect, Totals, Transfer};

const CHECKER: &str = "transactions";

/// The bank at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bank {
    /// How many accounts there are.
    pub accounts: u32,
    /// What each holds at first.
    pub balance: i64,
}

/// Judges transfers and snapshots.
pub fn check(bank: &Bank, transfers: &[Transfer], totals: &[Totals]) -> Result<(), Violation> {
    for read in totals {
        conserved(bank, read)?;
        if let Some(again) = &read.again
            && *again != read.accounts
        {
            return Err(Violation::new(
                CHECKER,
                format!(
                    "two reads of one snapshot differ (timestamp {}, {}): {:?} then {:?}",
                    read.at,
                    show_span(&read.span),
                    read.accounts,
                    again
                ),
            ));
        }
        for (number, account) in read.accounts.iter().enumerate() {
            counted(transfers, read, number as u32, account)?;
        }
    }
    Ok(())
}

fn conserved(bank: &Bank, read: &Totals) -> Result<(), Violation> {
    let expected = i64::from(bank.accounts) * bank.balance;
    let total: i64 = read.accounts.iter().map(|account| account.balance).sum();
    if total == expected {
        return Ok(());
    }
    Err(Violation::new(
        CHECKER,
        format!(
            "the total is {total}, not {expected}, in the snapshot at timestamp {} ({}): {:?}",
            read.at,
            show_span(&read.span),
            read.accounts
        ),
    ))
}

fn counted(transfers: &[Transfer], read: &Totals, number: u32, account: &Account) -> Result<(), Violation> {
    let touching =
        || transfers.iter().filter(move |transfer| transfer.from == number || transfer.to == number);
    let at_least = touching()
        .filter(|transfer| {
            transfer.effect == Effect::Done && transfer.span.returned_ns < read.span.invoked_ns
        })
        .count() as u64;
    let at_most = touching()
        .filter(|transfer| {
            transfer.effect != Effect::Refused && transfer.span.invoked_ns < read.span.returned_ns
        })
        .count() as u64;
    if (at_least..=at_most).contains(&account.transfers) {
        return Ok(());
    }
    Err(Violation::new(
        CHECKER,
        format!(
            "account {number} shows {} transfers, but {at_least} were acknowledged before and {at_most} begun by \
             the end of the snapshot at timestamp {} ({})",
            account.transfers,
            read.at,
            show_span(&read.span)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Span;

    const BANK: Bank = Bank { accounts: 2, balance: 10 };

    fn span(invoked_ns: u64, returned_ns: u64) -> Span {
        Span { session: 0, invoked_ns, returned_ns }
    }
    fn transfer(invoked_ns: u64, returned_ns: u64, effect: Effect) -> Transfer {
        Transfer { span: span(invoked_ns, returned_ns), from: 0, to: 1, effect }
    }
    fn totals(invoked_ns: u64, returned_ns: u64, balances: [i64; 2], transfers: u64) -> Totals {
        let accounts = balances.map(|balance| Account { balance, transfers, writer: 0 }).to_vec();
        Totals { span: span(invoked_ns, returned_ns), at: invoked_ns, accounts, again: None }
    }

    #[test]
    fn good_histories_pass() {
        let transfers = [transfer(1, 2, Effect::Done), transfer(5, 50, Effect::Unknown)];
        let reads = [totals(0, 1, [10, 10], 0), totals(3, 4, [7, 13], 1), totals(8, 9, [2, 18], 2)];
        assert_eq!(check(&BANK, &transfers, &reads), Ok(()));
    }

    #[test]
    fn bad_histories_are_found() {
        let done = [transfer(1, 2, Effect::Done)];
        assert!(check(&BANK, &done, &[totals(3, 4, [7, 10], 1)]).is_err(), "half a transfer");
        assert!(check(&BANK, &done, &[totals(3, 4, [10, 10], 0)]).is_err(), "stale snapshot");
        assert!(check(&BANK, &done, &[totals(3, 4, [4, 16], 2)]).is_err(), "done twice");
        let refused = [transfer(1, 2, Effect::Refused)];
        assert!(check(&BANK, &refused, &[totals(3, 4, [7, 13], 1)]).is_err(), "refused but done");
        let mut unstable = totals(3, 4, [7, 13], 1);
        unstable.again = Some(totals(3, 4, [10, 10], 1).accounts);
        assert!(check(&BANK, &done, &[unstable]).is_err(), "unrepeatable read");
    }
}
