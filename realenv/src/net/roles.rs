//! Who may call what: the role in a client's certificate against the path of each call.

use super::connection::Peer;
use crate::tls::Role;
use futures_util::future::Either;
use http::{Request, Response};
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::service::Routes;
use tower::Service;
use tower::layer::layer_fn;

/// `routes`, each call of which needs a role.
pub(super) fn guard(routes: Routes) -> Routes {
    routes.into_axum_router().layer(layer_fn(|inner| Guard { inner })).into()
}

/// The role that a call needs. Services that are not ours (health, reflection) are for everybody with a certificate;
/// what is ours and not named here is for the cluster itself.
fn needed(path: &str) -> Role {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match (service, method) {
        ("nokv.kv.v1.NoKV", _) => Role::Client,
        ("nokv.coordinator.v1.Coordinator", "StoreHeartbeat" | "RegionLiveness" | "AssessRootEvent") => {
            Role::Node
        }
        ("nokv.coordinator.v1.Coordinator", "PublishRootEvent" | "RemoveRegion") => Role::Admin,
        ("nokv.coordinator.v1.Coordinator", _) => Role::Client,
        (
            "nokv.admin.v1.RaftAdmin",
            "ExecutionStatus"
            | "RegionRuntimeStatus"
            | "MvccGet"
            | "RegionLoads"
            | "ExportRegionSnapshot"
            | "ExportRegionSnapshotStream",
        ) => Role::Client,
        ("nokv.admin.v1.RaftAdmin", "ReplicaChecksum") => Role::Node,
        ("nokv.admin.v1.RaftAdmin", _) => Role::Admin,
        ("nokv.meta.v1.MetadataRoot", "Status") => Role::Client,
        (service, _) if service.starts_with("nokv.") => Role::Node,
        _ => Role::Client,
    }
}

/// Whether whoever holds the certificate of `peer` may call `path`.
fn check(peer: Option<&Peer>, path: &str) -> Result<(), Status> {
    let Some(certificate) = peer.and_then(|peer| peer.certificate.as_ref()) else {
        return Err(Status::unauthenticated("this server requires a client certificate"));
    };
    let needed = needed(path);
    let subject = &certificate.subject;
    match certificate.role {
        Some(role) if role >= needed => Ok(()),
        Some(role) => Err(Status::permission_denied(format!(
            "{path} needs the role {}; the certificate ({subject}) has the role {}",
            needed.name(),
            role.name()
        ))),
        None => Err(Status::permission_denied(format!(
            "the certificate ({subject}) has no role: its OU must be client, admin or node"
        ))),
    }
}

#[derive(Clone)]
struct Guard<S> {
    inner: S,
}

impl<S, B, R: Default> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match check(request.extensions().get(), request.uri().path()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::FILE_DESCRIPTOR_SET;
    use prost::Message;

    /// Every method of our services, with the role it needs.
    fn methods() -> Vec<(String, Role)> {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let role = needed(&path);
                    methods.push((path, role));
                }
            }
        }
        methods
    }

    #[test]
    fn clients_change_keys_and_nothing_else() {
        let allowed: Vec<String> =
            methods().into_iter().filter(|(_, role)| *role == Role::Client).map(|(path, _)| path).collect();
        let ours = allowed.iter().filter(|path| path.contains("nokv.") && !path.contains("nokv.kv."));
        let ours: Vec<&str> = ours.filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(
            ours,
            [
                "ExportRegionSnapshot",
                "ExportRegionSnapshotStream",
                "RegionRuntimeStatus",
                "ExecutionStatus",
                "MvccGet",
                "RegionLoads",
                "Status",
                "ListTransitions",
                "GetRegionByKey",
                "AllocID",
                "Tso",
                "ListStores",
                "ListRegions",
                "ListOperators",
                "Status",
                "HoldSafePoint",
            ],
            "a new method needs a role"
        );
    }

    #[test]
    fn what_is_between_nodes_is_for_nodes() {
        for (path, role) in methods() {
            if path.starts_with("/nokv.raft.") || path.ends_with("ApplyCoordinatorLease") {
                assert_eq!(role, Role::Node, "{path}");
            }
        }
        assert_eq!(needed("/nokv.new.v1.Service/Method"), Role::Node);
        assert_eq!(needed("/nokv.admin.v1.RaftAdmin/New"), Role::Admin);
        assert_eq!(needed("/grpc.health.v1.Health/Check"), Role::Client);
        assert_eq!(needed("nonsense"), Role::Client);
    }
}
