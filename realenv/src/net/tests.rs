use super::*;
use futures_util::stream;
use nokv_proto::grpc::health::v1::HealthCheckRequest;
use nokv_proto::grpc::health::v1::health_check_response::ServingStatus;
use nokv_proto::grpc::health::v1::health_client::HealthClient;
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const HEALTH: &str = "grpc.health.v1.Health";

async fn server() -> (RealNet, Box<dyn ServerHandle>) {
    let net = RealNet::new(Handle::current());
    let server = net.serve("127.0.0.1:0", Routes::default()).await.unwrap();
    (net, server)
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_over_loopback() {
    let (net, server) = server().await;
    let mut client = HealthClient::new(net.connect(&server.local_addr()));
    for service in ["", HEALTH] {
        let status = client.check(ask(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    for absent in ["nokv.kv.v1.NoKV", "no.Such"] {
        assert_eq!(client.check(ask(absent)).await.unwrap_err().code(), Code::NotFound, "{absent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_what_is_served() {
    let (net, server) = server().await;
    let mut client = ServerReflectionClient::new(net.connect(&server.local_addr()));
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer: ServerReflectionResponse = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&HEALTH) && !names.contains(&"nokv.kv.v1.NoKV"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_reported_by_serve() {
    let (net, server) = server().await;
    let taken = net.serve(&server.local_addr(), Routes::default()).await.map(|_| ()).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    assert!(taken.to_string().contains(&server.local_addr()), "{taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_transport_are_unavailable() {
    let (net, server) = server().await;
    let addr = server.local_addr();
    let mut client = HealthClient::new(net.connect(&addr));
    client.check(ask("")).await.unwrap();
    drop(server);
    assert_eq!(client.check(ask("")).await.unwrap_err().code(), Code::Unavailable, "server gone");
    assert_eq!(client.check(ask("")).await.unwrap_err().code(), Code::Unavailable, "nobody listens");
    let mut nonsense = HealthClient::new(net.connect("not an address"));
    assert_eq!(nonsense.check(ask("")).await.unwrap_err().code(), Code::Unavailable);
    let _again = net.serve(&addr, Routes::default()).await.unwrap();
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
}

#[test]
fn a_connection_lost_under_a_request_is_not_called_cancelled() {
    let told = |code| super::told_to_callers(Status::new(code, "h2"), "a:1: gone".into()).code();
    assert_eq!(told(Code::Cancelled), Code::Unavailable);
    assert_eq!(told(Code::Unknown), Code::Unavailable);
    assert_eq!(told(Code::ResourceExhausted), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tells_watchers_and_ends_them() {
    let (net, server) = server().await;
    let mut client = HealthClient::new(net.connect(&server.local_addr()));
    let mut watch = client.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let stopping = tokio::spawn(server.stop());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop((watch, client));
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_made_on_a_dedicated_thread_works_after_the_thread_is_gone() {
    use nokv_env::{Tasks, TasksExt};
    let (_, server) = server().await;
    let (addr, runtime) = (server.local_addr(), Handle::current());
    let (tx, rx) = tokio::sync::oneshot::channel();
    let tasks: &dyn Tasks = &crate::RealTasks::new(Handle::current());
    tasks.go_dedicated("loop", async move {
        let mut client = HealthClient::new(RealNet::new(runtime).connect(&addr));
        // Unboxed, rustc cannot prove the call `Send` (rust-lang/rust#64552).
        let first: nokv_env::BoxFuture<'_, _> = Box::pin(client.check(ask("")));
        first.await.unwrap();
        assert!(tx.send(client).is_ok());
    });
    let mut client = rx.await.unwrap();
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_calls_that_do_not_end() {
    let (net, server) = server().await;
    let mut client = ServerReflectionClient::new(net.connect(&server.local_addr()));
    let endless = stream::pending::<ServerReflectionRequest>();
    let mut answers = client.server_reflection_info(endless).await.unwrap().into_inner();
    let stopped = tokio::time::timeout(STOP_GRACE + 2 * CUT_GRACE, server.stop());
    let (answer, stopped) = futures_util::future::join(answers.message(), stopped).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(stopped.is_ok(), "the stop hangs");
}
