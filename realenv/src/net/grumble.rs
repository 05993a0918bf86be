//! Complaints about peers, in the log, each peer once in a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines about one peer.
const SILENCE: Duration = Duration::from_secs(10);
/// Peers remembered; more are all told about.
const PEERS_MAX: usize = 1024;

/// Remembers about whom something was said, when, and how often nothing was said since.
#[derive(Default)]
pub(super) struct Grumble(Mutex<BTreeMap<String, (Instant, u64)>>);

impl Grumble {
    /// A client failed to come in.
    pub(super) fn about_client(&self, addr: SocketAddr, why: &str) {
        if let Some(unsaid) = self.is_due(&format!("from {}", addr.ip())) {
            tracing::warn!(peer = %addr, why, unsaid, "a client was refused before its first request");
        }
    }

    /// A server that we dialled is none that we can use. The caller is told, too: quieter.
    pub(super) fn about_server(&self, addr: &str, why: &str) {
        if let Some(unsaid) = self.is_due(&format!("to {addr}")) {
            tracing::info!(peer = addr, why, unsaid, "no secure connection");
        }
    }

    /// Whether it is time for another line about `peer`, and how many there would have been since the last.
    fn is_due(&self, peer: &str) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((last, unsaid)) = told.get_mut(peer)
            && now.duration_since(*last) < SILENCE
        {
            *unsaid += 1;
            return None;
        }
        if told.len() >= PEERS_MAX {
            told.retain(|_, (last, _)| now.duration_since(*last) < SILENCE);
        }
        if told.len() >= PEERS_MAX && !told.contains_key(peer) {
            return Some(0);
        }
        let unsaid = told.insert(peer.to_owned(), (now, 0)).map_or(0, |(_, unsaid)| unsaid);
        Some(unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_told_about_once_in_a_while() {
        let grumble = Grumble::default();
        assert_eq!(grumble.is_due("a"), Some(0));
        assert_eq!((grumble.is_due("a"), grumble.is_due("a")), (None, None));
        assert_eq!(grumble.is_due("b"), Some(0));
        let earlier = Instant::now().checked_sub(SILENCE).unwrap();
        grumble.0.lock().unwrap().get_mut("a").unwrap().0 = earlier;
        assert_eq!(grumble.is_due("a"), Some(2), "and says how often it did not");
    }
}
