//! Typed ids, so that a region is never passed where a store is meant, and hybrid timestamps.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(id: u64) -> Self {
                Self(id)
            }
        }
    };
}

id!(
    /// A key range replicated by one raft group. Prints `r7`.
    RegionId, "r"
);
id!(
    /// A store process with its directory. Prints `s2`.
    StoreId, "s"
);
id!(
    /// One replica of a region. Prints `p101`.
    PeerId, "p"
);
id!(
    /// A meta-root node. Prints `n1`.
    NodeId, "n"
);

/// Bits of a timestamp below the physical milliseconds.
pub const PHYSICAL_SHIFT: u32 = 18;

/// A hybrid timestamp: physical milliseconds << 18 | counter. Unique in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Builds a timestamp from its parts; `counter` must fit 18 bits.
    pub fn compose(physical_ms: u64, counter: u64) -> Self {
        debug_assert!(counter < 1 << PHYSICAL_SHIFT);
        Self((physical_ms << PHYSICAL_SHIFT) | counter)
    }

    /// Milliseconds since the Unix epoch, as the coordinator's clock saw it (never below its past).
    pub fn physical_ms(self) -> u64 {
        self.0 >> PHYSICAL_SHIFT
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical_ms(), self.0 & ((1 << PHYSICAL_SHIFT) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_with_their_letter() {
        assert_eq!(format!("{} {} {} {}", RegionId(7), StoreId(2), PeerId(101), NodeId(1)), "r7 s2 p101 n1");
    }

    #[test]
    fn a_timestamp_keeps_its_parts() {
        let ts = Timestamp::compose(1_776_500_000_000, 5);
        assert_eq!((ts.physical_ms(), ts.to_string().as_str()), (1_776_500_000_000, "1776500000000.5"));
    }
}
