//! What `raft_config.json` says, and who lives where in a scope.

use super::json::Pos;
use crate::args::Scope;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer, RegionReplicaState};
use std::path::PathBuf;

/// The whole file.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Client retry hint of the reference; accepted and unused, clients have deadlines.
    pub max_retries: Option<u64>,
    /// The coordinators.
    pub coordinator: Coordinator,
    /// Certificates of every process that uses the file.
    pub tls: Option<Tls>,
    /// The three meta-roots; empty when the file does not list them.
    pub meta_roots: Vec<MetaRoot>,
    /// Store directory with `{id}` in it.
    pub store_work_dir_template: Option<String>,
    /// The same inside containers.
    pub store_docker_work_dir_template: Option<String>,
    /// The stores.
    pub stores: Vec<Store>,
    /// The first regions; later truth lives in the meta-root.
    pub regions: Vec<Region>,
}

/// Certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities to trust.
    pub ca: PathBuf,
    /// Certificate and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Coordinator endpoints.
#[derive(Debug, Clone, Default)]
pub struct Coordinator {
    /// On the host.
    pub addr: Vec<String>,
    /// In containers.
    pub docker_addr: Vec<String>,
    /// Accepted for compatibility; coordinators keep nothing on disk.
    pub work_dir: Option<PathBuf>,
    /// As above.
    pub docker_work_dir: Option<PathBuf>,
}

/// One meta-root.
#[derive(Debug, Clone, Default)]
pub struct MetaRoot {
    /// Where it stands in the file.
    pub pos: Pos,
    /// Its id.
    pub node_id: u64,
    /// gRPC address.
    pub addr: Option<String>,
    /// In containers.
    pub docker_addr: Option<String>,
    /// Raft address.
    pub transport_addr: Option<String>,
    /// In containers.
    pub docker_transport_addr: Option<String>,
    /// Directory.
    pub work_dir: Option<PathBuf>,
    /// In containers.
    pub docker_work_dir: Option<PathBuf>,
}

/// One store.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// Where it stands in the file.
    pub pos: Pos,
    /// Its id.
    pub store_id: u64,
    /// Address for others.
    pub addr: Option<String>,
    /// In containers.
    pub docker_addr: Option<String>,
    /// Address to bind.
    pub listen_addr: Option<String>,
    /// In containers.
    pub docker_listen_addr: Option<String>,
    /// Overrides the template.
    pub work_dir: Option<PathBuf>,
    /// In containers.
    pub docker_work_dir: Option<PathBuf>,
}

/// One region at birth.
#[derive(Debug, Clone, Default)]
pub struct Region {
    /// Where it stands in the file.
    pub pos: Pos,
    /// Its id.
    pub id: u64,
    /// First key; empty: unbounded.
    pub start_key: String,
    /// First key after it; empty: unbounded.
    pub end_key: String,
    /// Epoch, range part.
    pub version: u64,
    /// Epoch, membership part.
    pub conf_version: u64,
    /// (store, peer).
    pub peers: Vec<(u64, u64)>,
    /// Who should lead first; 0: whoever.
    pub leader_store_id: u64,
}

/// Picks by scope; the docker value falls back to the host's.
fn scoped<T>(scope: Scope, host: Option<T>, docker: Option<T>) -> Option<T> {
    match scope {
        Scope::Host => host,
        Scope::Docker => docker.or(host),
    }
}

impl Cluster {
    /// Coordinator endpoints in `scope`.
    pub fn coordinators(&self, scope: Scope) -> &[String] {
        match scope {
            Scope::Docker if !self.coordinator.docker_addr.is_empty() => &self.coordinator.docker_addr,
            _ => &self.coordinator.addr,
        }
    }

    /// The store with id `store_id`.
    pub fn store(&self, store_id: u64) -> Option<&Store> {
        self.stores.iter().find(|store| store.store_id == store_id)
    }

    /// The meta-root with id `node_id`.
    pub fn meta_root(&self, node_id: u64) -> Option<&MetaRoot> {
        self.meta_roots.iter().find(|root| root.node_id == node_id)
    }

    /// Directory of a store: its own, else from the template.
    pub fn store_workdir(&self, store: &Store, scope: Scope) -> Option<PathBuf> {
        let template = scoped(
            scope,
            self.store_work_dir_template.as_ref(),
            self.store_docker_work_dir_template.as_ref(),
        );
        scoped(scope, store.work_dir.as_ref(), store.docker_work_dir.as_ref())
            .cloned()
            .or_else(|| template.map(|text| text.replace("{id}", &store.store_id.to_string()).into()))
    }

    /// The regions that have a peer on `store_id`, as descriptors.
    pub fn regions_of(&self, store_id: u64) -> Vec<RegionDescriptor> {
        let hosted = |region: &&Region| region.peers.iter().any(|(store, _)| *store == store_id);
        self.regions.iter().filter(hosted).map(Region::descriptor).collect()
    }
}

impl Store {
    /// Address for others.
    pub fn addr(&self, scope: Scope) -> Option<&String> {
        scoped(scope, self.addr.as_ref(), self.docker_addr.as_ref())
    }

    /// Address to bind: the listen address, else the advertised one.
    pub fn listen_addr(&self, scope: Scope) -> Option<&String> {
        scoped(scope, self.listen_addr.as_ref(), self.docker_listen_addr.as_ref())
            .or_else(|| self.addr(scope))
    }
}

impl MetaRoot {
    /// gRPC address.
    pub fn addr(&self, scope: Scope) -> Option<&String> {
        scoped(scope, self.addr.as_ref(), self.docker_addr.as_ref())
    }

    /// Raft address.
    pub fn transport_addr(&self, scope: Scope) -> Option<&String> {
        scoped(scope, self.transport_addr.as_ref(), self.docker_transport_addr.as_ref())
    }

    /// Directory.
    pub fn workdir(&self, scope: Scope) -> Option<&PathBuf> {
        scoped(scope, self.work_dir.as_ref(), self.docker_work_dir.as_ref())
    }
}

impl Region {
    /// As the cluster knows regions.
    pub fn descriptor(&self) -> RegionDescriptor {
        let peers = self.peers.iter().map(|&(store_id, peer_id)| RegionPeer { store_id, peer_id }).collect();
        RegionDescriptor {
            region_id: self.id,
            start_key: self.start_key.clone().into(),
            end_key: self.end_key.clone().into(),
            epoch: Some(RegionEpoch { version: self.version, conf_version: self.conf_version }),
            peers,
            state: RegionReplicaState::Running.into(),
            ..Default::default()
        }
    }
}
