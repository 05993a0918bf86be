//! Both ends of connections, with certificates that are right and wrong in every way.

use super::*;
use crate::tls::testing::{Authority, CLIENT, NODE, Wanted};
use crate::tls::{Certificate, TlsFiles, shown_by};
use nokv_env::net::{TlsFailure, TlsProblem};
use nokv_proto::grpc::health::v1::HealthCheckRequest;
use nokv_proto::grpc::health::v1::health_client::HealthClient;
use nokv_proto::raft::v1::SnapshotChunkRequest;
use nokv_proto::raft::v1::region_snapshots_client::RegionSnapshotsClient;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tonic::Code;

/// Time for the files to be looked at again.
const LOOK: Duration = Duration::from_millis(1100);

fn net(tls: Option<Arc<Tls>>) -> RealNet {
    RealNet::secured(Handle::current(), tls)
}

/// A server with the certificate of `tls`.
async fn server(tls: Option<Arc<Tls>>) -> (Box<dyn ServerHandle>, String) {
    let server = net(tls).serve("127.0.0.1:0", Routes::default()).await.unwrap();
    let addr = server.local_addr();
    (server, addr)
}

async fn check(net: &RealNet, addr: &str) -> Result<(), Status> {
    HealthClient::new(net.connect(addr)).check(HealthCheckRequest::default()).await.map(drop)
}

/// How a client with `tls` fails at `addr`.
async fn failure(tls: Option<Arc<Tls>>, addr: &str) -> TlsFailure {
    let net = net(tls);
    let status = check(&net, addr).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let failure = TlsFailure::of(&status).unwrap_or_else(|| panic!("{status:?}")).clone();
    assert_eq!(failure.addr, addr);
    failure
}

fn authority() -> (TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "a");
    (dir, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_their_certificates() {
    let (_dir, authority) = authority();
    let (_server, addr) = server(Some(authority.tls("n", NODE))).await;
    check(&net(Some(authority.tls("c", CLIENT))), &addr).await.unwrap();
    check(&net(Some(authority.tls("m", NODE))), &addr).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_told_so() {
    let (_dir, authority) = authority();
    let (_server, addr) = server(Some(authority.tls("n", NODE))).await;
    let bare = Tls::load(TlsFiles { ca: authority.ca(), identity: None }).unwrap();
    for _ in 0..20 {
        let failure = failure(Some(bare.clone()), &addr).await;
        assert_eq!(failure.problem, TlsProblem::CertificateRequired);
        assert!(failure.what.contains("pass --tls-cert/--tls-key"), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_plainly_is_told_apart_from_who_speaks_tls() {
    let (_dir, authority) = authority();
    let (_secured, secured) = server(Some(authority.tls("n", NODE))).await;
    let (_plain, plain) = server(None).await;
    for _ in 0..20 {
        assert_eq!(failure(None, &secured).await.problem, TlsProblem::Required);
        let client = Some(authority.tls("c", CLIENT));
        assert_eq!(failure(client, &plain).await.problem, TlsProblem::Unexpected);
    }
    check(&net(None), &plain).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_no_matter_of_tls() {
    let (_dir, authority) = authority();
    let (gone, addr) = server(Some(authority.tls("n", NODE))).await;
    let client = net(Some(authority.tls("c", CLIENT)));
    check(&client, &addr).await.unwrap();
    gone.stop().await;
    let status = check(&client, &addr).await.unwrap_err();
    assert_eq!((status.code(), TlsFailure::of(&status)), (Code::Unavailable, None), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_other_authorities_are_refused_on_both_sides() {
    let (dir, authority) = authority();
    let other = Authority::new(dir.path(), "b");
    let (_server, addr) = server(Some(authority.tls("n", NODE))).await;
    let failure_at_us = failure(Some(other.tls("c", CLIENT)), &addr).await;
    assert_eq!(failure_at_us.problem, TlsProblem::CertificateInvalid);
    assert!(failure_at_us.what.contains("is not issued by an authority in "), "{failure_at_us}");
    let both = dir.path().join("both.crt");
    let text = fs::read_to_string(authority.ca()).unwrap() + &fs::read_to_string(other.ca()).unwrap();
    fs::write(&both, text).unwrap();
    let trusting = Tls::load(TlsFiles { ca: both, ..other.files("d", CLIENT) }).unwrap();
    let failure_at_them = failure(Some(trusting), &addr).await;
    assert_eq!(failure_at_them.problem, TlsProblem::CertificateRejected);
    assert!(failure_at_them.what.contains("does not trust") && failure_at_them.what.contains("CN=b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_must_be_who_was_dialled() {
    let (_dir, authority) = authority();
    let (_server, addr) = server(Some(authority.tls("n", Wanted { host: "store-1,10.0.0.1", ..NODE }))).await;
    let failure_by_name = failure(Some(authority.tls("c", CLIENT)), &addr).await;
    assert_eq!(failure_by_name.problem, TlsProblem::CertificateInvalid);
    assert!(
        failure_by_name.what.ends_with("is for store-1, 10.0.0.1, not for 127.0.0.1"),
        "{failure_by_name}"
    );
    let (_impostor, addr) = server(Some(authority.tls("i", Wanted { host: "127.0.0.1", ..CLIENT }))).await;
    let failure_by_use = failure(Some(authority.tls("c", CLIENT)), &addr).await;
    assert_eq!(failure_by_use.problem, TlsProblem::CertificateInvalid, "{failure_by_use}");
    assert!(failure_by_use.what.contains("not meant for this use"), "{failure_by_use}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_called_that_with_the_date() {
    let (_dir, authority) = authority();
    let brief = Wanted { life: 2, ..NODE };
    let (_lasting, lasting) = server(Some(authority.tls("n", NODE))).await;
    let (_ending, ending) = server(Some(authority.tls("e", brief))).await;
    let (client, brief_client) = (authority.tls("c", CLIENT), authority.tls("f", brief));
    check(&net(Some(client.clone())), &ending).await.unwrap();
    check(&net(Some(brief_client.clone())), &lasting).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3200)).await;
    let theirs = failure(Some(client), &ending).await;
    assert_eq!(theirs.problem, TlsProblem::CertificateExpired);
    assert!(theirs.what.contains("expired on 20"), "{theirs}");
    let ours = failure(Some(brief_client), &lasting).await;
    assert_eq!(ours.problem, TlsProblem::CertificateRejected);
    assert!(ours.what.contains("valid until 20"), "{ours}");
}

fn replace(at: &Path, text: &str) {
    let new = at.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, at).unwrap();
}

async fn serial(addr: &str) -> String {
    let shown: Vec<Certificate> = shown_by(addr).await.unwrap();
    shown[0].serial.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_open_connections() {
    let (_dir, authority) = authority();
    let files = authority.files("n", NODE);
    let (certificate, key) = files.identity.clone().unwrap();
    let (_server, addr) = server(Some(Tls::load(files).unwrap())).await;
    let client = net(Some(authority.tls("c", CLIENT)));
    let mut open = HealthClient::new(client.connect(&addr));
    open.check(HealthCheckRequest::default()).await.unwrap();
    let first = serial(&addr).await;

    let (new_certificate, new_key) = authority.issue(NODE);
    replace(&certificate, &new_certificate);
    tokio::time::sleep(LOOK).await;
    assert_eq!(serial(&addr).await, first, "half of a pair is no pair");
    replace(&key, &new_key);
    tokio::time::sleep(LOOK).await;
    let second = serial(&addr).await;
    assert_ne!(second, first);
    check(&client, &addr).await.unwrap();
    open.check(HealthCheckRequest::default()).await.unwrap();

    for bad in ["", "nonsense", &authority.issue(Wanted { life: -1, ..NODE }).0] {
        replace(&certificate, bad);
        tokio::time::sleep(LOOK).await;
        assert_eq!(serial(&addr).await, second, "{bad}");
        check(&client, &addr).await.unwrap();
    }
    fs::remove_file(&certificate).unwrap();
    tokio::time::sleep(LOOK).await;
    assert_eq!(serial(&addr).await, second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_decide_who_may_call_what() {
    let (_dir, authority) = authority();
    let (_server, addr) = server(Some(authority.tls("n", NODE))).await;
    let ask = async |name: &str, wanted| {
        let net = net(Some(authority.tls(name, wanted)));
        let mut stub = RegionSnapshotsClient::new(net.connect(&addr));
        stub.chunk(SnapshotChunkRequest::default()).await.unwrap_err()
    };
    let refused = ask("c", CLIENT).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("needs the role node"), "{refused:?}");
    assert_eq!(ask("m", NODE).await.code(), Code::Unimplemented, "allowed, but nobody serves it here");
    let nobody = Wanted { unit: "accounting", ..CLIENT };
    assert!(ask("x", nobody).await.message().contains("has no role"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let (_dir, authority) = authority();
    let (_server, addr) = server(Some(authority.tls("n", NODE))).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(&addr).await.unwrap());
    }
    let asked = check(&net(Some(authority.tls("c", CLIENT))), &addr).await;
    asked.unwrap();
}
