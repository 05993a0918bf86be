//! Which cluster this store is of.
//!
//! A store that is of none yet learns it from the first coordinator that knows, and writes it down before it tells anybody of
//! itself. From then on every call carries the id ([`nokv_env::OfCluster`]): coordinators, meta-roots and stores of another
//! cluster refuse it, and this store refuses theirs.

use crate::mode;
use crate::store::Shared;
use nokv_env::{ClockExt, Net};
use nokv_proto::coordinator::v1::ListStoresRequest;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Pause between two questions.
const RETRY: Duration = Duration::from_millis(200);

/// Whether it is known.
#[derive(Default)]
pub(crate) struct Identity {
    is_known: AtomicBool,
    learned: Notify,
}

impl Identity {
    /// Says that `cluster` is the one, if it is not 0.
    pub(crate) fn begin(net: &dyn Net, cluster: u64) -> Self {
        let identity = Self::default();
        // Nobody has said anything else to a network that was made for this process.
        identity.is_known.store(cluster != 0 && net.identify(cluster).is_ok(), Ordering::Release);
        identity
    }

    /// Waits until it is known.
    pub(crate) async fn known(&self) {
        loop {
            let learned = self.learned.notified();
            if self.is_known.load(Ordering::Acquire) {
                return;
            }
            learned.await;
        }
    }
}

/// Asks until a coordinator knows.
pub(crate) async fn learn(shared: &Shared) {
    while !shared.identity.is_known.load(Ordering::Acquire) {
        let asked = shared
            .coordinators
            .first(|mut client| async move { client.list_stores(ListStoresRequest {}).await });
        let problem = match asked.await {
            Ok(reply) if reply.cluster_id == 0 => "it does not know its cluster yet".to_owned(),
            Ok(reply) => match belong(shared, reply.cluster_id) {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(error, "the store does not know which cluster it is of");
                    error
                }
            },
            Err(error) => error.message().to_owned(),
        };
        // Heartbeats have not begun, so nobody else says it.
        for at in 0..shared.coordinators.len() {
            shared.coordinators.missed(at, shared.env.clock.now(), &problem);
        }
        shared.env.clock.sleep(RETRY).await;
    }
}

/// Writes it down, then acts by it.
fn belong(shared: &Shared, cluster: u64) -> Result<(), String> {
    let (disk, workdir) = (&*shared.env.disk, &shared.config.workdir);
    let state = mode::read(disk, workdir).map_err(|error| error.to_string())?;
    mode::write(disk, workdir, &mode::State { cluster_id: cluster, ..state })
        .map_err(|error| error.to_string())?;
    shared.env.net.identify(cluster)?;
    tracing::info!(cluster = nokv_env::cluster::show_cluster(cluster), "this store is of a cluster now");
    shared.env.probe("store.identity.learned");
    shared.identity.is_known.store(true, Ordering::Release);
    shared.identity.learned.notify_waiters();
    Ok(())
}
