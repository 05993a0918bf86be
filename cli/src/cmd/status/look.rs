//! Asking everybody at once.

use crate::cmd::reach::{self, NoAnswer};
use futures_util::future::{join, join_all};
use nokv_client::{Client, ClientConfig};
use nokv_env::Env;
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    ExecutionRestartState, ExecutionRestartStatus, ExecutionStatusRequest, RegionRuntimeStatusRequest,
};
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::coordinator::v1::{
    CoordinatorStatusRequest, CoordinatorStatusResponse, RegionRoute, StoreInfo,
};
use nokv_proto::grpc::health::v1::HealthCheckRequest;
use nokv_proto::grpc::health::v1::health_client::HealthClient;
use nokv_proto::meta::v1::MetadataRootStatusRequest;
use nokv_proto::meta::v1::metadata_root_client::MetadataRootClient;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// Patience with one process.
const PATIENCE: Duration = Duration::from_secs(2);

/// With more regions than these, nobody is asked how far each replica is.
const LAG_REGIONS_MAX: usize = 64;

/// An answer, or why there is none.
pub type Answer<T> = Result<T, NoAnswer>;

/// Somebody who was asked.
pub struct Asked<T> {
    /// Where.
    pub addr: String,
    /// What came back.
    pub answer: Answer<T>,
}

/// What a meta-root says of itself.
pub struct Root {
    /// Whether it leads.
    pub is_leader: bool,
    /// Its raft term.
    pub term: u64,
    /// How far it has applied the log.
    pub applied_index: u64,
}

/// What a store says of itself.
#[derive(Debug, Clone, Default)]
pub struct StoreLook {
    /// What somebody should look at, each to be read behind the store's name.
    pub alarms: Vec<String>,
    /// How far its peers have applied their regions' logs.
    pub applied: BTreeMap<u64, u64>,
}

/// All answers.
pub struct Picture {
    /// Meta-roots by node id; empty when nobody told us where they are.
    pub roots: Vec<(u64, Asked<Root>)>,
    /// Coordinators, in the order of their addresses.
    pub coordinators: Vec<Asked<CoordinatorStatusResponse>>,
    /// Stores as a coordinator knows them, and what each says of itself.
    pub stores: Vec<(StoreInfo, Answer<StoreLook>)>,
    /// Regions as a coordinator knows them.
    pub regions: Vec<RegionRoute>,
}

/// Asks everybody.
pub async fn look(env: &Env, coordinators: &[String], roots: &[(u64, String)]) -> Picture {
    let ask_roots = join_all(roots.iter().map(|(node, addr)| async move { (*node, root(env, addr).await) }));
    let ask_coordinators = join_all(coordinators.iter().map(|addr| coordinator(env, addr)));
    let ((roots, mut answers), (stores, regions)) =
        join(join(ask_roots, ask_coordinators), cluster(env, coordinators)).await;
    if let Some(addr) = holder_elsewhere(&answers) {
        answers.push(coordinator(env, &addr).await);
    }
    let probes = join_all(stores.iter().map(|store| {
        let peers = |route: &&RegionRoute| {
            let region = route.descriptor.as_ref();
            region.is_some_and(|region| region.peers.iter().any(|peer| peer.store_id == store.store_id))
        };
        let hosted =
            regions.iter().filter(peers).filter_map(|route| Some(route.descriptor.as_ref()?.region_id));
        let asked: Vec<u64> = if regions.len() <= LAG_REGIONS_MAX { hosted.collect() } else { Vec::new() };
        probe(env, &store.address, asked)
    }))
    .await;
    Picture { roots, coordinators: answers, stores: stores.into_iter().zip(probes).collect(), regions }
}

/// Where the lease holder serves, when those who were asked only point at it.
fn holder_elsewhere(asked: &[Asked<CoordinatorStatusResponse>]) -> Option<String> {
    let answers: Vec<_> = asked.iter().filter_map(|asked| asked.answer.as_ref().ok()).collect();
    if answers.iter().any(|status| status.holds_lease) {
        return None;
    }
    let newest = answers.into_iter().max_by_key(|status| status.lease_generation)?;
    let addr = &newest.lease_holder_addr;
    (!addr.is_empty() && asked.iter().all(|asked| asked.addr != *addr)).then(|| addr.clone())
}

async fn root(env: &Env, addr: &str) -> Asked<Root> {
    let mut stub = MetadataRootClient::new(env.net.connect(addr));
    let asked = stub.status(MetadataRootStatusRequest {});
    let answer = patiently(env, asked).await.map(|status| Root {
        is_leader: status.is_leader,
        term: status.term,
        applied_index: status.applied_index,
    });
    Asked { addr: addr.to_owned(), answer }
}

async fn coordinator(env: &Env, addr: &str) -> Asked<CoordinatorStatusResponse> {
    let mut stub = CoordinatorClient::new(env.net.connect(addr));
    let answer = patiently(env, stub.status(CoordinatorStatusRequest {})).await;
    Asked { addr: addr.to_owned(), answer }
}

/// What any coordinator knows of stores and regions; nothing, when none answers.
async fn cluster(env: &Env, coordinators: &[String]) -> (Vec<StoreInfo>, Vec<RegionRoute>) {
    let mut config = ClientConfig::new(coordinators.to_vec());
    (config.deadline, config.coordinator_timeout) = (PATIENCE, PATIENCE / 3);
    let client = Client::new(env.clone(), config);
    let (stores, regions) = join(client.list_stores(), client.list_regions()).await;
    (stores.unwrap_or_default(), regions.unwrap_or_default())
}

/// Whether a store serves, and if it does, how it is.
async fn probe(env: &Env, addr: &str, regions: Vec<u64>) -> Answer<StoreLook> {
    if addr.is_empty() {
        return Err(NoAnswer::Refused("its address is not known yet".into()));
    }
    let channel = env.net.connect(addr);
    let mut stub = HealthClient::new(channel.clone());
    patiently(env, stub.check(HealthCheckRequest::default())).await?;
    let admin = RaftAdminClient::new(channel);
    let mut look = StoreLook::default();
    let mut asked = admin.clone();
    // A store that serves and is silent about the rest serves all the same.
    if let Ok(execution) = patiently(env, asked.execution_status(ExecutionStatusRequest {})).await {
        look.alarms = alarms(&execution.restart.unwrap_or_default());
    }
    let runtime =
        join_all(regions.into_iter().map(|region_id| {
            let mut admin = admin.clone();
            async move {
                patiently(env, admin.region_runtime_status(RegionRuntimeStatusRequest { region_id })).await
            }
        }));
    for status in runtime.await.into_iter().flatten().filter(|status| status.hosted) {
        if let Some(region) = status.region {
            look.applied.insert(region.region_id, status.applied_index);
        }
    }
    Ok(look)
}

fn alarms(restart: &ExecutionRestartStatus) -> Vec<String> {
    let mut alarms = Vec::new();
    if restart.state() == ExecutionRestartState::Degraded {
        alarms.push("is not whole since its restart; see nokv execution".to_owned());
    }
    if restart.blocked_root_event_count > 0 {
        let count = restart.blocked_root_event_count;
        alarms.push(format!("has {count} events that the meta-root refuses; see nokv execution"));
    }
    alarms
}

async fn patiently<T>(
    env: &Env,
    call: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
) -> Answer<T> {
    reach::ask(env, PATIENCE, call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        addr: &str,
        holds_lease: bool,
        generation: u64,
        holder: &str,
    ) -> Asked<CoordinatorStatusResponse> {
        let answer = CoordinatorStatusResponse {
            holds_lease,
            lease_generation: generation,
            lease_holder_addr: holder.to_owned(),
            ..CoordinatorStatusResponse::default()
        };
        Asked { addr: addr.to_owned(), answer: Ok(answer) }
    }

    #[test]
    fn the_holder_is_looked_up_when_only_others_were_asked() {
        assert_eq!(holder_elsewhere(&[]), None);
        assert_eq!(holder_elsewhere(&[asked("a:1", false, 3, "c:1")]), Some("c:1".to_owned()));
        assert_eq!(holder_elsewhere(&[asked("a:1", true, 3, "a:1")]), None);
        let stale = asked("a:1", false, 2, "b:1");
        assert_eq!(holder_elsewhere(&[stale, asked("b:1", false, 3, "c:1")]), Some("c:1".to_owned()));
        assert_eq!(holder_elsewhere(&[asked("a:1", false, 3, "a:1")]), None, "it has just lost it");
    }
}
