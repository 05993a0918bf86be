//! Finding the cluster, and saying in our words what its clients report.

use crate::args::client::Cluster;
use crate::args::values::show_duration;
use crate::cmd::security;
use crate::config;
use crate::errors::{Code, Failure, Result};
use nokv_client::{Client, ClientConfig, ClientError};
use nokv_env::net::TlsFailure;
use nokv_env::{ClockExt, Env};
use nokv_proto::admin::v1::ExecutionStatusRequest;
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::coordinator::v1::CoordinatorStatusRequest;
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::meta::v1::MetadataRootStatusRequest;
use nokv_proto::meta::v1::metadata_root_client::MetadataRootClient;
use std::fmt::{Display, Formatter};
use std::time::Duration;
use tonic::{Code as Grpc, Response, Status};

/// Where a coordinator is when nobody says otherwise.
pub const COORDINATOR: &str = "127.0.0.1:2379";

/// How coordinators begin to say which meta-roots are dead.
const ROOT_QUORUM_LOST: &str = "root_quorum_lost";

/// A way to the cluster.
pub struct Reach {
    /// The client.
    pub client: Client,
    /// The coordinators it asks.
    pub coordinators: Vec<String>,
}

/// The file of `--config`, if one is given.
pub fn file(args: &Cluster) -> Result<Option<config::Cluster>> {
    args.config.as_deref().map(config::load).transpose()
}

/// Coordinator addresses: flag or variable, else the file, else the default.
pub fn coordinators(args: &Cluster, file: Option<&config::Cluster>) -> Result<Vec<String>> {
    if let Some(addresses) = &args.coordinator_addr {
        return Ok(addresses.0.clone());
    }
    let Some(file) = file else { return Ok(vec![COORDINATOR.to_owned()]) };
    match file.coordinators(args.scope) {
        [] => {
            Err(Failure::usage("the configuration names no coordinator and --coordinator-addr is not given")
                .next("add coordinator.addr to the file, or give --coordinator-addr"))
        }
        some => Ok(some.to_vec()),
    }
}

/// Makes a client as the flags say.
pub fn reach(env: &Env, args: &Cluster) -> Result<Reach> {
    let coordinators = coordinators(args, file(args)?.as_ref())?;
    let mut config = ClientConfig::new(coordinators.clone());
    config.deadline = args.timeout;
    config.trace_id = args.trace_id.clone().unwrap_or_default();
    Ok(Reach { client: Client::new(env.clone(), config), coordinators })
}

impl Reach {
    /// Words a client's error.
    pub fn failure(&self, error: &ClientError) -> Failure {
        let failure = failure(error, &self.coordinators);
        // What a store may have something to say about.
        match failure.code() {
            Code::Usage | Code::TooLarge | Code::WrongService => failure,
            _ => failure.trace(self.client.trace_id()),
        }
    }
}

/// Why a process that was asked directly gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It does not know such questions.
    OtherKind,
    /// It is not trusted or understood, or does not trust us.
    Distrusted(TlsFailure),
    /// It knows who we are, and that is not enough.
    Denied(String),
    /// It cannot be reached, or refused.
    Refused(String),
    /// It was silent for so long.
    Silent(Duration),
}

impl Display for NoAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            NoAnswer::OtherKind => f.write_str("another kind of process listens there"),
            NoAnswer::Distrusted(failure) => f.write_str(&failure.what),
            NoAnswer::Denied(why) | NoAnswer::Refused(why) => f.write_str(why),
            NoAnswer::Silent(patience) => write!(f, "no answer within {}", show_duration(*patience)),
        }
    }
}

impl NoAnswer {
    /// The failure, if it is about who we are or who the process at `addr` is: time does not help then.
    pub fn about_trust(&self, addr: &str) -> Option<Failure> {
        match self {
            NoAnswer::Distrusted(failure) => Some(security::distrusted(failure)),
            NoAnswer::Denied(why) => Some(security::denied(addr, why)),
            NoAnswer::OtherKind | NoAnswer::Refused(_) | NoAnswer::Silent(_) => None,
        }
    }
}

impl From<&Status> for NoAnswer {
    fn from(status: &Status) -> Self {
        let why = || status.message().to_owned();
        match (status.code(), TlsFailure::of(status)) {
            (_, Some(failure)) => NoAnswer::Distrusted(failure.clone()),
            (Grpc::Unimplemented, None) => NoAnswer::OtherKind,
            (Grpc::PermissionDenied | Grpc::Unauthenticated, None) => NoAnswer::Denied(why()),
            (_, None) => NoAnswer::Refused(why()),
        }
    }
}

/// What kind of process listens at `addr`, if it is one of ours and answers.
pub async fn kind_of(env: &Env, addr: &str, patience: Duration) -> Option<&'static str> {
    let channel = || env.net.connect(addr);
    let mut coordinator = CoordinatorClient::new(channel());
    if ask(env, patience, coordinator.status(CoordinatorStatusRequest {})).await.is_ok() {
        return Some("a coordinator");
    }
    let mut root = MetadataRootClient::new(channel());
    if ask(env, patience, root.status(MetadataRootStatusRequest {})).await.is_ok() {
        return Some("a meta-root");
    }
    let mut store = RaftAdminClient::new(channel());
    let asked = ask(env, patience, store.execution_status(ExecutionStatusRequest {})).await;
    asked.is_ok().then_some("a store")
}

/// Asks one process, and waits for its answer as long as `patience` lasts.
pub async fn ask<T>(
    env: &Env,
    patience: Duration,
    call: impl Future<Output = std::result::Result<Response<T>, Status>> + Send,
) -> std::result::Result<T, NoAnswer> {
    match env.clock.timeout(patience, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(NoAnswer::from(&status)),
        Err(_) => Err(NoAnswer::Silent(patience)),
    }
}

/// What is left of ten seconds after a microsecond of work is ten seconds to people.
fn rounded(duration: Duration) -> Duration {
    let unit: u128 = if duration < Duration::from_secs(1) { 10 } else { 1000 };
    Duration::from_millis((duration.as_millis().div_ceil(unit) * unit) as u64)
}

/// Words a client's error.
pub fn failure(error: &ClientError, coordinators: &[String]) -> Failure {
    let asked = coordinators.join(", ");
    match error {
        ClientError::Timeout { what, after, cause } => {
            let after = show_duration(rounded(*after));
            if cause.contains("damaged at offset") {
                return Failure::new(Code::Corrupt, format!("{what}: {cause}"))
                    .why("the store that leads the region cannot read its own files")
                    .next("stop that store, move its directory away and start it empty: the other replicas have the data");
            }
            if let Some((_, dead)) = cause.split_once(ROOT_QUORUM_LOST) {
                return Failure::new(
                    Code::RootQuorumLost,
                    format!("{what}: the meta-roots have no majority"),
                )
                .why(dead.trim_start_matches(": ").split(") at ").next().unwrap_or_default())
                .next("start the dead meta-roots again; one of two is enough, and all goes on by itself")
                .detail("coordinators", coordinators.to_vec());
            }
            let failure = Failure::new(Code::Unavailable, format!("{what}: no answer within {after}"))
                .detail("coordinators", coordinators.to_vec());
            let failure = if cause.is_empty() { failure } else { failure.why(cause) };
            failure.next(format!(
                "is the cluster running? nokv status --coordinator-addr {}",
                coordinators.join(",")
            ))
        }
        ClientError::OutcomeUnknown { start_ts, commit_ts, cause, .. } => Failure::new(
            Code::OutcomeUnknown,
            "the write was sent and no answer settled it; it may have happened",
        )
        .why(cause)
        .next("read the key to find out; writing the same value again is safe")
        .detail("start_ts", start_ts.0)
        .detail("commit_ts", commit_ts.0),
        ClientError::Conflict { .. } => Failure::new(Code::Conflict, error).next("run the command again"),
        ClientError::TooOld { .. } => Failure::new(Code::Conflict, error).next("run the command again"),
        ClientError::AlreadyExists { .. } => Failure::new(Code::Refused, error),
        ClientError::TooLarge { what, bytes, bytes_max } => Failure::new(Code::TooLarge, error)
            .detail("what", *what)
            .detail("bytes", *bytes)
            .detail("bytes_max", *bytes_max)
            .next("split it; the limits are fixed"),
        ClientError::DiskFull(_) => Failure::new(Code::DiskFull, error)
            .why("a store keeps some of its disk free, so that it never stops for want of it; reads go on")
            .next(
                "free space on the disk of that store, or move regions away; it takes data again by itself",
            ),
        ClientError::InvalidArgument(_) => Failure::usage(error),
        ClientError::Refused { addr, reason } if reason.contains("not implemented") => {
            Failure::new(Code::WrongService, format!("{addr} is not a coordinator"))
                .why(reason)
                .next("coordinators usually listen on :2379, stores on :20160, meta-roots on :2380")
        }
        ClientError::Refused { addr, reason } => security::denied(addr, reason),
        ClientError::Tls(failure) => security::distrusted(failure),
        ClientError::Protocol(_) => Failure::new(Code::Internal, error)
            .next(format!("are {asked} of the same version as this client? if so, please report this")),
    }
}
