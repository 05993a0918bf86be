//! The coordinator's side of the lease: pure bookkeeping of what the meta-root granted.
//!
//! The root leader measures the lease by its own monotonic clock, starting when it applied the renewal. The
//! holder starts counting when it *sent* the request, and trusts only nine tenths of the time to live, so its
//! lease ends before the root lets anybody else in as long as clock *rates* differ by less than five percent
//! each. Wall clocks are never compared.

use nokv_env::Instant;
use std::time::Duration;

/// What this coordinator knows of its own lease.
#[derive(Debug, Clone, Default)]
pub struct Lease {
    generation: u64,
    trusted_until: Option<Instant>,
    /// The lease was granted and, as far as is known, not given to another or ended.
    renewable: bool,
    /// The newest generation that this coordinator ended itself; it never serves again.
    ended: u64,
    /// The meta-root has not confirmed the end yet.
    unsealed: bool,
    /// Who held the lease when the root last refused it to us, and where that one serves.
    other_holder: Option<(String, String)>,
    /// Why the root could not be asked the last time.
    trouble: Option<String>,
}

impl Lease {
    /// The root granted (or renewed) `generation` in answer to a request sent at `sent`. A generation that was ended here
    /// stays so: the answer is older than the seal.
    pub fn granted(&mut self, generation: u64, sent: Instant, ttl: Duration) {
        if generation <= self.ended {
            return;
        }
        let until = sent + ttl.mul_f64(0.9);
        self.trouble = None;
        // Answers may overtake each other; an older one must not shorten the lease or bring a generation back.
        self.renewable |= generation >= self.generation;
        if generation > self.generation {
            self.generation = generation;
            self.trusted_until = Some(until);
        } else if generation == self.generation {
            self.trusted_until = Some(self.trusted_until.map_or(until, |known| known.max(until)));
        }
        self.other_holder = None;
    }

    /// The root could not be asked.
    pub fn unheard(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Somebody else holds the lease.
    pub fn refused(&mut self, holder: &str, address: &str) {
        self.lost();
        self.trouble = None;
        self.other_holder = Some((holder.to_owned(), address.to_owned()));
    }

    /// The root does not renew the generation any more.
    pub fn lost(&mut self) {
        self.trusted_until = None;
        self.renewable = false;
    }

    /// The generation to renew, if this process has one.
    pub fn renewable(&self) -> Option<u64> {
        self.renewable.then_some(self.generation)
    }

    /// Stops trusting the lease until it is renewed.
    pub fn drop_it(&mut self) {
        self.trusted_until = None;
    }

    /// Ends the generation for good, before it is sealed at the root.
    pub fn end(&mut self) {
        if self.renewable {
            self.lost();
            self.ended = self.generation;
            self.unsealed = true;
        }
    }

    /// The generation that has ended here and may not have at the root.
    pub fn unsealed(&self) -> Option<u64> {
        self.unsealed.then_some(self.ended)
    }

    /// The root knows that `generation` has ended.
    pub fn sealed(&mut self, generation: u64) {
        self.unsealed &= self.ended != generation;
    }

    /// The generation under which numbers may be handed out at `now`, if the lease is trusted.
    pub fn generation(&self, now: Instant) -> Option<u64> {
        self.trusted_until.filter(|until| now < *until).map(|_| self.generation)
    }

    /// How long the lease is trusted from `now` on, unless it is renewed.
    pub fn trusted_for(&self, now: Instant) -> Option<Duration> {
        self.trusted_until.filter(|until| now < *until).map(|until| until.since(now))
    }

    /// Who holds the lease, as the root last said when it refused it to us.
    pub fn other_holder(&self) -> Option<&str> {
        self.other_holder.as_ref().map(|(holder, _)| holder.as_str())
    }

    /// Why the lease is not held, for the error text. Clients follow the address at its end.
    pub fn reason(&self) -> String {
        let waits = |why: &str| match &self.trouble {
            Some(trouble) => format!("{why}: {trouble}"),
            None => why.to_owned(),
        };
        match &self.other_holder {
            // As far as known: that may have changed while the root could not be asked.
            Some((holder, address)) => match (&self.trouble, address.as_str()) {
                (None, "") => format!("held by {holder}"),
                (None, address) => format!("held by {holder} at {address}"),
                (Some(trouble), "") => format!("held by {holder} ({trouble})"),
                (Some(trouble), address) => format!("held by {holder} ({trouble}) at {address}"),
            },
            None if self.generation == 0 => waits("not granted yet"),
            None if self.generation == self.ended => "handed over".to_owned(),
            None => waits("expired, waiting for the metadata root"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn trust_counts_from_the_sending_of_the_request() {
        let mut lease = Lease::default();
        lease.granted(3, Instant(SECOND), Duration::from_secs(10));
        assert_eq!(lease.generation(Instant(9 * SECOND)), Some(3));
        assert_eq!(lease.generation(Instant(10 * SECOND)), None);
    }

    #[test]
    fn a_late_answer_never_revives_an_older_generation() {
        let mut lease = Lease::default();
        lease.granted(4, Instant(0), Duration::from_secs(1));
        lease.granted(3, Instant(SECOND), Duration::from_secs(100));
        assert_eq!(lease.generation(Instant(2 * SECOND)), None);
    }

    #[test]
    fn what_was_ended_is_never_revived() {
        let mut lease = Lease::default();
        lease.granted(4, Instant(0), Duration::from_secs(10));
        lease.end();
        assert_eq!((lease.generation(Instant(1)), lease.unsealed()), (None, Some(4)));
        lease.granted(4, Instant(0), Duration::from_secs(10)); // a renewal that was under way
        assert_eq!((lease.generation(Instant(1)), lease.reason()), (None, "handed over".to_owned()));
        assert_eq!(lease.renewable(), None);
        lease.sealed(4);
        assert_eq!(lease.unsealed(), None);
        lease.granted(5, Instant(0), Duration::from_secs(10));
        assert_eq!((lease.generation(Instant(1)), lease.renewable()), (Some(5), Some(5)));
    }

    #[test]
    fn refusal_ends_trust_at_once() {
        let mut lease = Lease::default();
        lease.granted(1, Instant(0), Duration::from_secs(10));
        lease.refused("c2", "host:1");
        assert_eq!(lease.renewable(), None);
        assert_eq!(lease.generation(Instant(1)), None);
        assert_eq!(lease.reason(), "held by c2 at host:1");
        lease.unheard("nobody answers".to_owned());
        assert_eq!(lease.reason(), "held by c2 (nobody answers) at host:1", "the address comes last");
    }
}
