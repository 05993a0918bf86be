//! Asking every process how it is: what heartbeats do not tell, or only much later.

use crate::cmd::reach::{self, NoAnswer};
use futures_util::future::{join_all, join3};
use nokv_coordinator::Survey;
use nokv_env::{Channel, Env};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{RegionLoad, RegionLoadsRequest};
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::coordinator::v1::{CoordinatorStatusRequest, CoordinatorStatusResponse};
use nokv_proto::meta::v1::metadata_root_client::MetadataRootClient;
use nokv_proto::meta::v1::{MetadataRootStatusRequest, MetadataRootStatusResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Patience with one process.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What came back, or why nothing did.
pub type Answer<T> = Result<T, String>;

/// The answers of one round.
#[derive(Debug, Default)]
pub struct Answers {
    /// A round has ended.
    pub asked: bool,
    /// By node id.
    pub roots: BTreeMap<u64, Answer<MetadataRootStatusResponse>>,
    /// By address; the one that asks is not among them.
    pub coordinators: BTreeMap<String, Answer<CoordinatorStatusResponse>>,
    /// By store: the regions that it leads, as far as there is anything to say of them.
    pub stores: BTreeMap<u64, Answer<BTreeMap<u64, Load>>>,
}

impl Answers {
    /// What leaders say of their regions; two may think that they lead one.
    pub fn loads(&self) -> BTreeMap<u64, Load> {
        let mut loads: BTreeMap<u64, Load> = BTreeMap::new();
        for (region, said) in self.stores.values().flatten().flatten() {
            let load = loads.entry(*region).or_default();
            load.requests += said.requests;
            load.bytes = load.bytes.max(said.bytes);
        }
        loads
    }
}

/// What a leader says of its region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// In the last second.
    pub requests: u64,
    /// Of keys and values, if measured.
    pub bytes: Option<u64>,
}

/// Connections that are kept from round to round.
#[derive(Default)]
pub struct Ways(BTreeMap<String, Channel>);

impl Ways {
    fn to(&mut self, env: &Env, addr: &str) -> Channel {
        self.0.entry(addr.to_owned()).or_insert_with(|| env.net.connect(addr)).clone()
    }
}

/// Asks everybody whom `survey` and the configuration know, at the same time.
pub async fn ask(env: &Env, ways: &mut Ways, survey: &Survey, coordinators: &[String]) -> Answers {
    let others: BTreeSet<&String> = coordinators
        .iter()
        .chain([&survey.holder_addr])
        .filter(|addr| !addr.is_empty() && **addr != survey.addr)
        .collect();
    let stores = survey.stores.iter().filter(|store| !store.address.is_empty());
    let roots = survey.root_peers.iter().map(|(node, addr)| (*node, ways.to(env, addr))).collect::<Vec<_>>();
    let others = others.into_iter().map(|addr| (addr.clone(), ways.to(env, addr))).collect::<Vec<_>>();
    let stores = stores.map(|store| (store.store_id, ways.to(env, &store.address))).collect::<Vec<_>>();
    let (roots, coordinators, stores) = join3(
        join_all(roots.into_iter().map(async |(node, way)| (node, root(env, way).await))),
        join_all(others.into_iter().map(async |(addr, way)| (addr, coordinator(env, way).await))),
        join_all(stores.into_iter().map(async |(store, way)| (store, loads(env, way).await))),
    )
    .await;
    Answers {
        asked: true,
        roots: roots.into_iter().collect(),
        coordinators: coordinators.into_iter().collect(),
        stores: stores.into_iter().collect(),
    }
}

async fn root(env: &Env, way: Channel) -> Answer<MetadataRootStatusResponse> {
    let mut stub = MetadataRootClient::new(way);
    let asked = reach::ask(env, PATIENCE, stub.status(MetadataRootStatusRequest {})).await;
    asked.map_err(|why| plain(&why))
}

async fn coordinator(env: &Env, way: Channel) -> Answer<CoordinatorStatusResponse> {
    let mut stub = CoordinatorClient::new(way);
    let asked = reach::ask(env, PATIENCE, stub.status(CoordinatorStatusRequest {})).await;
    asked.map_err(|why| plain(&why))
}

async fn loads(env: &Env, way: Channel) -> Answer<BTreeMap<u64, Load>> {
    let mut stub = RaftAdminClient::new(way);
    let asked = reach::ask(env, PATIENCE, stub.region_loads(RegionLoadsRequest {})).await;
    let loads = asked.map_err(|why| plain(&why))?.loads;
    let load =
        |said: RegionLoad| (said.region_id, Load { requests: said.requests_per_second, bytes: said.bytes });
    Ok(loads.into_iter().map(load).collect())
}

/// Why there is no answer, without what only programmers say.
fn plain(why: &NoAnswer) -> String {
    match why {
        NoAnswer::Refused(text) if text.contains("tcp connect error") => "nothing listens there".to_owned(),
        why => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_two_leaders_are_put_together() {
        let load = |requests, bytes: u64| Load { requests, bytes: (bytes > 0).then_some(bytes) };
        let loads = |pairs: &[(u64, Load)]| Ok(pairs.iter().copied().collect::<BTreeMap<_, _>>());
        let stores = BTreeMap::from([
            (1, loads(&[(7, load(10, 5)), (8, load(1, 0))])),
            (2, loads(&[(7, load(5, 9))])),
            (3, Err("refused".to_owned())),
        ]);
        let answers = Answers { stores, ..Answers::default() };
        assert_eq!(answers.loads(), BTreeMap::from([(7, load(15, 9)), (8, load(1, 0))]));
    }

    #[test]
    fn a_dead_process_is_said_in_plain_words() {
        assert_eq!(plain(&NoAnswer::Refused("tcp connect error: x".into())), "nothing listens there");
        assert_eq!(plain(&NoAnswer::OtherKind), "another kind of process listens there");
    }
}
