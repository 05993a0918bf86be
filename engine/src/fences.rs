//! The first bytes of sorted keys side by side: a search among them touches little memory, and the keys themselves only
//! where many begin alike.

/// Prefixes of keys in ascending order.
#[derive(Clone, Default)]
pub(crate) struct Fences(Vec<u64>);

/// The first bytes of a family and user key as a number. Where two of them differ the keys do, in the same way: a key that
/// ended is smaller than all that go on.
pub(crate) fn prefix(cf: u8, user: &[u8]) -> u64 {
    let mut prefix = [0; 8];
    prefix[0] = cf;
    match user.first_chunk::<7>() {
        Some(user) => prefix[1..].copy_from_slice(user),
        None => prefix[1..=user.len()].copy_from_slice(user),
    }
    u64::from_be_bytes(prefix)
}

impl Fences {
    pub(crate) fn of(prefixes: impl Iterator<Item = u64>) -> Self {
        Self(prefixes.collect())
    }

    /// How many of the keys are before one with `prefix`. Of those with that very prefix, `is_before` knows.
    pub(crate) fn before(&self, prefix: u64, is_before: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (self.0.partition_point(|fence| *fence < prefix), 0);
        if self.0.get(low) == Some(&prefix) {
            high = low + self.0[low..].partition_point(|fence| *fence == prefix);
        }
        while low < high {
            let middle = low.midpoint(high);
            if is_before(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_a_search_among_the_keys_finds() {
        let mut keys: Vec<(u8, Vec<u8>)> = Vec::new();
        for n in 0..120_u32 {
            let cf = (n % 3) as u8;
            keys.push((cf, n.to_be_bytes()[3..].to_vec()));
            keys.push((cf, format!("a long common prefix {n}").into_bytes()));
            keys.push((cf, vec![0; n as usize % 11]));
            keys.push((cf, vec![0xff; n as usize % 9]));
        }
        keys.sort();
        keys.dedup();
        for some in [0, 1, 2, 3, 7] {
            let fenced: Vec<_> = keys.iter().step_by(some + 1).collect();
            let fences = Fences::of(fenced.iter().map(|(cf, user)| prefix(*cf, user)));
            for key in &keys {
                let found = fences.before(prefix(key.0, &key.1), |at| fenced[at] < key);
                assert_eq!(found, fenced.partition_point(|fence| *fence < key), "{key:?}");
            }
        }
        assert_eq!(Fences::default().before(7, |_| unreachable!("there is none")), 0);
    }
}
