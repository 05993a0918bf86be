//! Asking everybody at once.

use crate::cmd::reach::{self, NoAnswer};
use futures_util::future::{join, join_all};
use nokv_client::{Client, ClientConfig};
use nokv_env::Env;
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::coordinator::v1::{
    CoordinatorStatusRequest, CoordinatorStatusResponse, RegionRoute, StoreInfo,
};
use nokv_proto::grpc::health::v1::HealthCheckRequest;
use nokv_proto::grpc::health::v1::health_client::HealthClient;
use nokv_proto::meta::v1::MetadataRootStatusRequest;
use nokv_proto::meta::v1::metadata_root_client::MetadataRootClient;
use std::time::Duration;
use tonic::Status;

/// Patience with one process.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// All answers.
pub struct Picture {
    /// Meta-roots by node id; empty when nobody told us where they are.
    pub roots: Vec<(u64, Asked<Root>)>,
    /// Coordinators, in the order of their addresses.
    pub coordinators: Vec<Asked<CoordinatorStatusResponse>>,
    /// Stores as a coordinator knows them, and whether each answers us.
    pub stores: Vec<(StoreInfo, Answer<()>)>,
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
    let probes = join_all(stores.iter().map(|store| probe(env, &store.address))).await;
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

/// Whether a store serves.
async fn probe(env: &Env, addr: &str) -> Answer<()> {
    if addr.is_empty() {
        return Err(NoAnswer::Refused("its address is not known yet".into()));
    }
    let mut stub = HealthClient::new(env.net.connect(addr));
    patiently(env, stub.check(HealthCheckRequest::default())).await.map(drop)
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
