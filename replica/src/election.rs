//! How many ticks a peer waits for its leader, as a pure function.
//!
//! raft-rs draws the timeout from the thread's random generator whenever it resets. The driver overwrites it before
//! every tick, so runs depend on the seed only. The timeout must differ between peers, or elections tie for ever, and
//! between attempts of one peer: hence the count of elections it began.

use crate::config::GroupId;
use crate::digest::mix;
use nokv_env::RngSource;

/// Ticks in `election_ticks .. 2 * election_ticks`.
pub(crate) fn timeout_ticks(
    rng: &RngSource,
    election_ticks: usize,
    group: GroupId,
    peer: u64,
    term: u64,
    elections: u64,
) -> usize {
    let salt = mix(mix(mix(group.0).wrapping_add(peer)).wrapping_add(term)).wrapping_add(elections);
    let drawn = rng.pure("replica.election", salt) % election_ticks as u64;
    election_ticks + drawn as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn timeouts_lie_in_range_and_differ_between_peers_and_attempts() {
        let draw =
            |peer, elections| timeout_ticks(&RngSource::new(1, peer), 10, GroupId(1), peer, 5, elections);
        let drawn: BTreeSet<_> = (0..64).map(|elections| draw(1, elections)).collect();
        assert_eq!(drawn, (10..20).collect());
        assert_ne!(
            (0..16).map(|elections| draw(1, elections)).collect::<Vec<_>>(),
            (0..16).map(|elections| draw(2, elections)).collect::<Vec<_>>()
        );
        assert_eq!(draw(1, 3), draw(1, 3));
    }
}
