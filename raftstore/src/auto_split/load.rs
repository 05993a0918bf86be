//! How often a region is asked, and for what: a count and an even sample of keys.

use bytes::Bytes;

/// Keys in a sample, at most.
const KEPT_MAX: usize = 256;
/// Fewer say nothing about a region.
const KEPT_MIN: usize = 16;
/// A split must leave at least one of so many requests on each side. Beyond that a hot key, or the first of many scans,
/// is what the load is, and a split would only give it another region.
const SIDE_SHARE: usize = 4;

/// What a region was asked for since the last [`Load::clear`].
#[derive(Debug, Default)]
pub(crate) struct Load {
    requests: u64,
    /// One request of 2^thin is kept.
    thin: u32,
    /// Numbers of requests, and the key of each.
    kept: Vec<(u64, Bytes)>,
}

impl Load {
    /// Counts a request, and perhaps keeps one of its keys. One without keys costs nothing and does not count.
    pub(crate) fn note<'a>(&mut self, mut keys: impl Iterator<Item = &'a Bytes>) {
        let Some(first) = keys.next() else { return };
        let number = self.requests;
        self.requests += 1;
        if !is_kept(number, self.thin) {
            return;
        }
        if self.kept.len() == KEPT_MAX {
            self.thin += 1;
            let thin = self.thin;
            self.kept.retain(|(number, _)| is_kept(*number, thin));
            if !is_kept(number, thin) {
                return;
            }
        }
        // Not always the first: keys come in order.
        let rest: Vec<&Bytes> = keys.collect();
        let at = usize::try_from(number).unwrap_or(0) % (1 + rest.len());
        let key = at.checked_sub(1).map_or(first, |at| rest[at]);
        // A copy: the key shares its memory with the whole request.
        self.kept.push((number, Bytes::copy_from_slice(key)));
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The key that divides the requests most evenly, if the load is really on both sides of it.
    pub(crate) fn middle(&self) -> Option<Bytes> {
        let mut keys: Vec<&Bytes> = self.kept.iter().map(|(_, key)| key).collect();
        keys.sort_unstable();
        if keys.len() < KEPT_MIN {
            return None;
        }
        let smaller_side = |left: usize| left.min(keys.len() - left);
        let borders = (1..keys.len()).filter(|at| keys[at - 1] != keys[*at]);
        let best = borders.max_by_key(|at| smaller_side(*at))?;
        (smaller_side(best) * SIDE_SHARE >= keys.len()).then(|| keys[best].clone())
    }
}

/// Whether the request with this number is in a sample of one in 2^thin. Multiples of the golden ratio: evenly spread, and
/// in step with no pattern that clients may have.
fn is_kept(number: u64, thin: u32) -> bool {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).leading_zeros() >= thin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(requests: impl Iterator<Item = String>) -> Load {
        let mut load = Load::default();
        requests.for_each(|key| load.note(std::iter::once(&Bytes::from(key))));
        load
    }

    #[test]
    fn the_middle_of_an_even_load_is_near_the_middle_of_its_keys() {
        let load = load((0..100_000).map(|number| format!("{:04}", number * 7919 % 10_000)));
        assert!(load.kept.len() > KEPT_MAX / 4 && load.kept.len() <= KEPT_MAX, "{}", load.kept.len());
        let middle = String::from_utf8(load.middle().expect("a middle").to_vec()).expect("digits");
        assert!((4_000..6_000).contains(&middle.parse().expect("a number")), "{middle}");
    }

    #[test]
    fn a_pattern_of_the_clients_does_not_hide_half_of_the_keys() {
        let load = load((0..100_000).map(|number| if number % 2 == 0 { "a" } else { "b" }.to_owned()));
        assert_eq!(load.middle(), Some("b".into()));
    }

    #[test]
    fn all_keys_of_large_requests_count() {
        let keys: Vec<Bytes> = (0..100).map(|number| Bytes::from(format!("{number:02}"))).collect();
        let mut load = Load::default();
        (0..1_000).for_each(|_| load.note(keys.iter()));
        load.note(std::iter::empty());
        assert_eq!(load.requests(), 1_000);
        let middle = load.middle().expect("a middle");
        assert!((Bytes::from("35")..Bytes::from("65")).contains(&middle), "{middle:?}");
    }

    #[test]
    fn one_hot_key_is_not_split() {
        assert_eq!(load((0..1_000).map(|_| "hot".to_owned())).middle(), None);
        let hot =
            |number: u32| if number.is_multiple_of(10) { format!("{number:04}") } else { "0500".into() };
        assert_eq!(load((0..1_000).map(hot)).middle(), None);
        assert_eq!(load((0..8).map(|number| number.to_string())).middle(), None, "too few to tell");
    }

    #[test]
    fn what_was_asked_before_is_forgotten() {
        let mut load = load((0..1_000).map(|number| format!("{number:04}")));
        assert_eq!(load.requests(), 1_000);
        load.clear();
        assert_eq!((load.requests(), load.middle()), (0, None));
    }
}
