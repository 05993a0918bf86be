//! Reads that wait: for their round of leadership confirmation, then for the machine to have applied far enough.
//!
//! ```text
//! add ──> gathering ──begin──> rounds ──confirmed──> applying ──applied──> answered
//! ```
//! All reads gathered while a round is under way share the next one. A confirmation of a round also confirms the ones
//! before it. Pure: raft and time are the caller's.

use crate::error::ReadError;
use crate::inbox::ReadReply;
use nokv_env::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Rounds that may be under way at once: two keep the link busy, more would only make them smaller.
const ROUNDS_MAX: usize = 2;

struct Waiter {
    /// Counts the reads of this group.
    read: u64,
    at_least: u64,
    since: Instant,
    reply: ReadReply,
}

struct Round {
    id: u64,
    waiters: Vec<Waiter>,
}

/// The reads of one group.
#[derive(Default)]
pub(crate) struct Reads {
    gathering: Vec<Waiter>,
    rounds: VecDeque<Round>,
    /// By the index that must be applied.
    applying: BTreeMap<u64, Vec<(u64, ReadReply)>>,
    last_round: u64,
    last_read: u64,
}

impl Reads {
    /// Takes a read up and gives it a number.
    pub(crate) fn add(&mut self, at_least: u64, reply: ReadReply, now: Instant) -> u64 {
        self.last_read += 1;
        self.gathering.push(Waiter { read: self.last_read, at_least, since: now, reply });
        self.last_read
    }

    /// No read waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.gathering.is_empty() && self.rounds.is_empty() && self.applying.is_empty()
    }

    /// Reads wait for a round to begin.
    pub(crate) fn is_gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Starts a round for what was gathered, if there is anything and no round too many.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        self.gathering.retain(|waiter| !waiter.reply.is_closed());
        if self.gathering.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        self.last_round += 1;
        let waiters = std::mem::take(&mut self.gathering);
        self.rounds.push_back(Round { id: self.last_round, waiters });
        Some(self.last_round)
    }

    /// Leadership was confirmed for a round, and `index` was committed when it began.
    pub(crate) fn confirmed(&mut self, id: u64, index: u64) {
        while self.rounds.front().is_some_and(|round| round.id <= id) {
            let Some(round) = self.rounds.pop_front() else { return };
            for waiter in round.waiters {
                self.applying
                    .entry(index.max(waiter.at_least))
                    .or_default()
                    .push((waiter.read, waiter.reply));
            }
        }
    }

    /// Answers the reads for which `applied` is enough, and says which.
    pub(crate) fn applied(&mut self, applied: u64, mut served: impl FnMut(u64)) {
        while let Some(first) = self.applying.first_entry().filter(|first| *first.key() <= applied) {
            let (index, replies) = first.remove_entry();
            for (read, reply) in replies {
                served(read);
                let _ = reply.send(Ok(index));
            }
        }
    }

    /// Answers all reads with an error.
    pub(crate) fn fail(&mut self, error: &ReadError) {
        let applying = std::mem::take(&mut self.applying).into_values().flatten().map(|(_, reply)| reply);
        let rounds = self.rounds.drain(..).flat_map(|round| round.waiters);
        let waiting = self.gathering.drain(..).chain(rounds).map(|waiter| waiter.reply);
        for reply in waiting.chain(applying) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Answers reads that waited longer than `patience` for their confirmation; forgets those nobody waits for.
    pub(crate) fn expire(&mut self, now: Instant, patience: Duration) {
        let mut expired = Vec::new();
        let mut sort_out = |waiters: &mut Vec<Waiter>| {
            let is_late =
                |waiter: &mut Waiter| now.since(waiter.since) > patience || waiter.reply.is_closed();
            expired.extend(waiters.extract_if(.., is_late));
        };
        sort_out(&mut self.gathering);
        for round in &mut self.rounds {
            sort_out(&mut round.waiters);
        }
        self.rounds.retain(|round| !round.waiters.is_empty());
        for waiter in expired {
            let _ = waiter.reply.send(Err(ReadError::Timeout));
        }
        for replies in self.applying.values_mut() {
            replies.retain(|(_, reply)| !reply.is_closed());
        }
        self.applying.retain(|_, replies| !replies.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::{self, error::TryRecvError};

    type Answer = oneshot::Receiver<Result<u64, ReadError>>;

    fn read(reads: &mut Reads, at_least: u64) -> Answer {
        let (reply, answer) = oneshot::channel();
        reads.add(at_least, reply, Instant(0));
        answer
    }

    #[test]
    fn reads_share_a_round_and_wait_for_their_index() {
        let mut reads = Reads::default();
        let (mut plain, mut far) = (read(&mut reads, 0), read(&mut reads, 9));
        assert_eq!(reads.begin(), Some(1));
        assert_eq!(reads.begin(), None);
        reads.confirmed(1, 5);
        reads.applied(4, |_| {});
        assert_eq!(plain.try_recv(), Err(TryRecvError::Empty));
        reads.applied(5, |_| {});
        assert_eq!(plain.try_recv(), Ok(Ok(5)));
        assert_eq!(far.try_recv(), Err(TryRecvError::Empty));
        reads.applied(9, |_| {});
        assert_eq!(far.try_recv(), Ok(Ok(9)));
    }

    #[test]
    fn a_confirmation_covers_earlier_rounds_but_not_later_ones() {
        let mut reads = Reads::default();
        let mut answers: Vec<Answer> = Vec::new();
        for round in 1..=2 {
            answers.push(read(&mut reads, 0));
            assert_eq!(reads.begin(), Some(round));
        }
        answers.push(read(&mut reads, 0));
        assert_eq!(reads.begin(), None);
        reads.confirmed(2, 1);
        reads.applied(1, |_| {});
        assert_eq!(answers[0].try_recv(), Ok(Ok(1)));
        assert_eq!(answers[1].try_recv(), Ok(Ok(1)));
        assert_eq!(answers[2].try_recv(), Err(TryRecvError::Empty));
        assert_eq!(reads.begin(), Some(3));
    }

    #[test]
    fn late_reads_time_out_and_lost_leadership_fails_the_rest() {
        let mut reads = Reads::default();
        let mut late = read(&mut reads, 0);
        reads.begin();
        let (reply, mut fresh) = oneshot::channel();
        reads.add(0, reply, Instant(900));
        reads.expire(Instant(1000), Duration::from_nanos(500));
        assert_eq!(late.try_recv(), Ok(Err(ReadError::Timeout)));
        reads.fail(&ReadError::NotLeader { leader: Some(2) });
        assert_eq!(fresh.try_recv(), Ok(Err(ReadError::NotLeader { leader: Some(2) })));
    }
}
