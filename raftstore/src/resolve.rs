//! Where the other stores are: what the operator said, else what the coordinators say.

use crate::control::Coordinators;
use crate::region::lock;
use futures_util::future::select;
use nokv_env::cluster::is_of_another_cluster;
use nokv_env::{ClockExt, Env};
use nokv_proto::coordinator::v1::ListStoresRequest;
use nokv_replica::Resolver;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// Pause after a look that did not help.
const RETRY: Duration = Duration::from_millis(200);

/// Addresses of stores.
pub(crate) struct StoreAddresses {
    overrides: BTreeMap<u64, String>,
    known: Mutex<BTreeMap<u64, String>>,
    /// Somebody asked for an address that is not known.
    missing: Notify,
}

impl StoreAddresses {
    pub(crate) fn new(overrides: BTreeMap<u64, String>) -> Self {
        Self { overrides, known: Mutex::default(), missing: Notify::new() }
    }

    fn learn(&self, stores: impl Iterator<Item = (u64, String)>) {
        lock(&self.known).extend(stores.filter(|(_, addr)| !addr.is_empty()));
    }

    /// Keeps the addresses fresh: every `refresh`, and soon after one was missing.
    pub(crate) async fn follow(&self, env: &Env, coordinators: &Coordinators, refresh: Duration) {
        loop {
            let look = coordinators
                .first(|mut client| async move { client.list_stores(ListStoresRequest {}).await });
            match look.await {
                Ok(reply) => {
                    self.learn(reply.stores.into_iter().map(|store| (store.store_id, store.address)));
                }
                Err(error) if is_of_another_cluster(&error) => {
                    env.probe("store.identity.refused");
                    tracing::error!(%error, "the coordinators are of another cluster; they are told nothing");
                }
                Err(error) => tracing::debug!(%error, "looking up store addresses"),
            }
            env.clock.sleep(RETRY).await;
            let pause = env.clock.sleep(refresh.saturating_sub(RETRY));
            select(pin!(self.missing.notified()), pause).await;
        }
    }
}

impl Resolver for StoreAddresses {
    fn address(&self, node: u64) -> Option<String> {
        if let Some(addr) = self.overrides.get(&node) {
            return Some(addr.clone());
        }
        let addr = lock(&self.known).get(&node).cloned();
        if addr.is_none() {
            self.missing.notify_one();
        }
        addr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_says_goes_first() {
        let addresses = StoreAddresses::new([(1, "static:1".to_owned())].into());
        assert_eq!(addresses.address(2), None);
        let told = [(1, "told:1"), (2, "told:2"), (3, "")];
        addresses.learn(told.into_iter().map(|(store, addr)| (store, addr.to_owned())));
        assert_eq!(addresses.address(1).as_deref(), Some("static:1"));
        assert_eq!(addresses.address(2).as_deref(), Some("told:2"));
        assert_eq!(addresses.address(3), None);
    }
}
