//! What every server of ours answers besides its own services: health checks and reflection.
//!
//! Both must know which services a `Routes` holds, and `Routes` does not tell. So each service named in our
//! descriptor set is knocked at with a method that does not exist; the ones that are not there let the
//! request fall through to a fallback with an unmistakable answer.

use futures_util::{Stream, StreamExt, stream};
use http_body_util::Empty;
use nokv_env::task::Stop;
use nokv_proto::FILE_DESCRIPTOR_SET;
use nokv_proto::grpc::health::v1::health_check_response::ServingStatus;
use nokv_proto::grpc::health::v1::health_server::{Health, HealthServer};
use nokv_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use prost::Message;
use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tower::ServiceExt;

const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
/// What the fallback answers; no gRPC service does.
const NOBODY: http::StatusCode = http::StatusCode::GONE;

/// `routes` with health and reflection added. Health turns to not serving when `stop` is raised.
pub(super) async fn add(routes: Routes, stop: Stop) -> io::Result<Routes> {
    let mut services = registered(&routes).await?;
    services.insert(HEALTH.to_owned());
    services.extend(REFLECTION.map(str::to_owned));
    let reflection = || {
        let all = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET);
        services.iter().fold(all, |builder, service| builder.with_service_name(service.clone()))
    };
    let v1 = reflection().build_v1().map_err(io::Error::other)?;
    let v1alpha = reflection().build_v1alpha().map_err(io::Error::other)?;
    let health = HealthServer::new(HealthOf { services: services.into(), stop });
    Ok(routes.add_service(v1).add_service(v1alpha).add_service(health).prepare())
}

/// Those of our services that are in `routes`.
async fn registered(routes: &Routes) -> io::Result<BTreeSet<String>> {
    let router = routes.clone().into_axum_router().fallback(|| async { NOBODY });
    let mut found = BTreeSet::new();
    for service in described()? {
        let knock = http::Request::post(format!("/{service}/nokv.probe"))
            .body(Empty::<bytes::Bytes>::new())
            .map_err(io::Error::other)?;
        match router.clone().oneshot(knock).await {
            Ok(response) if response.status() == NOBODY => {}
            Ok(_) => drop(found.insert(service)),
            Err(never) => match never {},
        }
    }
    Ok(found)
}

/// Full names of all services in our descriptor set.
fn described() -> io::Result<Vec<String>> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).map_err(io::Error::other)?;
    let mut names = Vec::new();
    for file in &set.file {
        names.extend(file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())));
    }
    Ok(names)
}

/// The standard health service: up until the server stops.
struct HealthOf {
    services: Arc<BTreeSet<String>>,
    stop: Stop,
}

impl HealthOf {
    fn status(&self, service: &str) -> ServingStatus {
        if !service.is_empty() && !self.services.contains(service) {
            ServingStatus::ServiceUnknown
        } else if self.stop.is_stopped() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }
}

#[tonic::async_trait]
impl Health for HealthOf {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.status(&service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("no service `{service}` here"))),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = self.status(&request.into_inner().service);
        let stop = self.stop.clone();
        let last = stream::once(async move {
            stop.stopped().await;
            Ok(response(ServingStatus::NotServing))
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(response(status))]).chain(last))))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
