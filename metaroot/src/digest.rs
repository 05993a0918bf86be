//! Digests that travel: of descriptors, and of seals (a successor names the seal it follows by its digest).
//!
//! ```text
//! descriptor  SHA-256 over, little-endian:
//!             region_id u64 | len u64 start | len u64 end | version u64 | conf_version u64
//!             | count u64 { store_id u64 | peer_id u64 } | state u32
//! seal        hex of SHA-256 over, big-endian:
//!             len u32 holder | generation u64 | mask u32 | { duty u32 | frontier u64 } | term u64 | index u64
//! ```
//! A seal lists a duty when it is in the mask or has a frontier, in the order of the bits.

use bytes::Bytes;
use nokv_proto::meta::v1::{RegionDescriptor, RootCoordinatorSeal};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Duty bits, in the order in which digests list them: ids, timestamps, routes, lease start.
const DUTIES: [u32; 4] = [1, 2, 4, 8];

/// The hash of a descriptor's content; says nothing of when it was published.
pub(crate) fn descriptor(region: &RegionDescriptor) -> Bytes {
    let mut hash = Sha256::new();
    let (version, conf_version) = region.epoch_pair();
    hash.update(region.region_id.to_le_bytes());
    for key in [&region.start_key, &region.end_key] {
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key);
    }
    hash.update(version.to_le_bytes());
    hash.update(conf_version.to_le_bytes());
    hash.update((region.peers.len() as u64).to_le_bytes());
    for peer in &region.peers {
        hash.update(peer.store_id.to_le_bytes());
        hash.update(peer.peer_id.to_le_bytes());
    }
    hash.update(region.state.to_le_bytes());
    Bytes::copy_from_slice(&hash.finalize())
}

/// The digest by which a successor names the seal.
pub(crate) fn seal(seal: &RootCoordinatorSeal) -> String {
    let mut hash = Sha256::new();
    hash.update((seal.holder_id.len() as u32).to_be_bytes());
    hash.update(&seal.holder_id);
    hash.update(seal.cert_generation.to_be_bytes());
    hash.update(seal.duty_mask.to_be_bytes());
    for duty in DUTIES {
        let consumed = seal.consumed_frontiers.iter().find(|frontier| frontier.duty_mask == duty);
        let frontier = consumed.map_or(0, |consumed| consumed.frontier);
        if seal.duty_mask & duty != 0 || frontier != 0 {
            hash.update(duty.to_be_bytes());
            hash.update(frontier.to_be_bytes());
        }
    }
    let cursor = seal.sealed_at_cursor.unwrap_or_default();
    hash.update(cursor.term.to_be_bytes());
    hash.update(cursor.index.to_be_bytes());
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
