//! What the flags about certificates and the configuration file add up to.

use crate::args::client::{Cluster, Mvcc, Region, Store};
use crate::args::daily::Debug;
use crate::args::security::{Certificates, ClientSecurity, ServerSecurity};
use crate::config;
use crate::errors::{Code, Failure, Result};
use nokv_env::net::{TlsFailure, TlsProblem};
use nokv_realenv::tls::{Tls, TlsError, TlsFiles};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a command reaches servers.
#[derive(Clone, Copy)]
pub struct Dial<'a> {
    security: Option<&'a ClientSecurity>,
    config: Option<&'a Path>,
}

impl<'a> Dial<'a> {
    /// As flags say, and a configuration file if there is one.
    pub fn cluster(args: &'a Cluster) -> Self {
        Self { security: Some(&args.security), config: args.config.as_deref() }
    }

    /// As flags say.
    pub fn flags(security: &'a ClientSecurity) -> Self {
        Self { security: Some(security), config: None }
    }

    /// It reaches nobody.
    pub fn nobody() -> Self {
        Self { security: None, config: None }
    }

    /// The way of `nokv region`.
    pub fn region(command: &'a Region) -> Self {
        match command {
            Region::Split(args) => Self::cluster(&args.cluster),
            Region::Merge(args) => Self::cluster(&args.cluster),
            Region::TransferLeader(args) | Region::RemovePeer(args) => Self::cluster(&args.cluster),
            Region::AddPeer(args) => Self::cluster(&args.on.cluster),
            Region::Check(args) => Self::cluster(&args.cluster),
            Region::Export(args) => Self::flags(&args.security),
            Region::Import(args) => Self::flags(&args.security),
            Region::ForgetEvent(args) => Self::flags(&args.security),
        }
    }

    /// The way of `nokv mvcc`.
    pub fn mvcc(command: &'a Mvcc) -> Self {
        match command {
            Mvcc::Get(args) => Self::cluster(&args.cluster),
        }
    }

    /// The way of `nokv store`.
    pub fn store(command: &'a Store) -> Self {
        match command {
            Store::List(args) => Self::cluster(&args.cluster),
            Store::Decommission(args) => Self::cluster(&args.cluster),
        }
    }

    /// The way of `nokv debug`.
    pub fn debug(command: &'a Debug) -> Self {
        match command {
            Debug::Bundle(args) => Self { security: Some(&args.security), config: args.config.as_deref() },
        }
    }

    /// Our certificates, if there are to be any.
    pub fn tls(self) -> Result<Option<Arc<Tls>>> {
        let Some(security) = self.security else { return Ok(None) };
        let given = &security.certificates;
        if security.insecure {
            return match first_given(given) {
                Some(flag) => Err(Failure::usage(format!("--insecure and {flag} contradict each other"))
                    .next("leave one of them out; NOKV_TLS_* count, too")),
                None => Ok(None),
            };
        }
        let file = self.config.map(config::load).transpose()?;
        load(files(given, file.as_ref())?)
    }
}

/// Our certificates as a server, if there are to be any. Every listener, given as flag and address, must then be fit
/// for where it listens; `metrics` never has TLS.
pub fn server(
    security: &ServerSecurity,
    config: Option<&Path>,
    listeners: &[(&str, &str)],
    metrics: Option<&String>,
) -> Result<Option<Arc<Tls>>> {
    crate::logging::start("info")?;
    let file = config.map(config::load).transpose()?;
    let files = files(&security.certificates, file.as_ref())?;
    if let Some(TlsFiles { identity: None, .. }) = &files {
        return Err(Failure::usage("a server needs a certificate of its own beside --tls-ca")
            .next("give --tls-cert and --tls-key; nokv cert create-node makes them"));
    }
    let open = |(_, addr): &&(&str, &str)| !is_loopback(addr);
    if !security.insecure
        && files.is_none()
        && let Some((flag, addr)) = listeners.iter().find(open)
    {
        return Err(Failure::usage(format!("{flag} {addr}: other machines may reach it, and there is no TLS"))
            .why("whoever reaches it could read and change everything")
            .next("give --tls-ca, --tls-cert and --tls-key (see nokv cert), or --insecure if nobody else can reach it")
            .detail("addr", *addr));
    }
    if let Some(addr) = metrics.filter(|addr| !security.insecure && !is_loopback(addr)) {
        return Err(Failure::usage(format!("--metrics-addr {addr}: other machines may reach it"))
            .why("metrics are plain HTTP that anybody may read")
            .next("choose an address of 127.0.0.1, or add --insecure")
            .detail("addr", addr.as_str()));
    }
    load(files)
}

/// Whether only this machine can reach an address. Names other than `localhost` are not looked up.
fn is_loopback(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn first_given(given: &Certificates) -> Option<&'static str> {
    let all = [("--tls-ca", &given.tls_ca), ("--tls-cert", &given.tls_cert), ("--tls-key", &given.tls_key)];
    all.into_iter().find(|(_, path)| path.is_some()).map(|(flag, _)| flag)
}

/// Flags, then the file. Certificate and key come from the same place.
fn files(given: &Certificates, file: Option<&config::Cluster>) -> Result<Option<TlsFiles>> {
    let section = file.and_then(|file| file.tls.as_ref());
    let identity = match (&given.tls_cert, &given.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (Some(_), None) => return Err(half("--tls-cert", "--tls-key")),
        (None, Some(_)) => return Err(half("--tls-key", "--tls-cert")),
        (None, None) => section.and_then(|tls| tls.identity.clone()),
    };
    let ca: Option<PathBuf> = given.tls_ca.clone().or_else(|| section.map(|tls| tls.ca.clone()));
    match (ca, identity) {
        (Some(ca), identity) => Ok(Some(TlsFiles { ca, identity })),
        (None, Some(_)) => {
            Err(Failure::usage("--tls-cert without --tls-ca: nothing says whom to trust")
                .next("give --tls-ca"))
        }
        (None, None) => Ok(None),
    }
}

fn half(given: &str, missing: &str) -> Failure {
    Failure::usage(format!("{given} without {missing}")).next("certificate and private key go together")
}

fn load(files: Option<TlsFiles>) -> Result<Option<Arc<Tls>>> {
    files.map(|files| Tls::load(files).map_err(|error| unusable(&error))).transpose()
}

/// Files that cannot be used.
pub fn unusable(error: &TlsError) -> Failure {
    let (failure, path) = match error {
        TlsError::Io { path, source } => (Failure::io(format!("read {}", path.display()), source), path),
        TlsError::Invalid { path, .. } => (Failure::new(Code::CertificateInvalid, error), path),
        TlsError::Expired { path, .. } => (
            Failure::new(Code::CertificateExpired, error)
                .next("make a new one: nokv cert create-node, create-client or create-ca"),
            path,
        ),
    };
    failure.detail("path", path.display().to_string())
}

/// A server that we do not trust or understand, or that does not trust us.
pub fn distrusted(failure: &TlsFailure) -> Failure {
    let (code, next) = match failure.problem {
        TlsProblem::Required => (
            Code::TlsRequired,
            "give --tls-ca, --tls-cert and --tls-key, or NOKV_TLS_CA, NOKV_TLS_CERT and NOKV_TLS_KEY; whoever runs \
             the cluster makes them: nokv cert create-client",
        ),
        TlsProblem::Unexpected => (
            Code::TlsUnexpected,
            "leave out --tls-ca (and NOKV_TLS_CA), or start the server with certificates",
        ),
        TlsProblem::CertificateRequired => (
            Code::CertificateRequired,
            "give --tls-cert and --tls-key; whoever runs the cluster makes them: nokv cert create-client",
        ),
        TlsProblem::CertificateRejected => (
            Code::CertificateRejected,
            "look at the certificate with nokv cert show; the server's log says more about its reasons",
        ),
        TlsProblem::CertificateExpired => (
            Code::CertificateExpired,
            "replace the server's certificate (nokv cert create-node); no restart is needed",
        ),
        TlsProblem::CertificateInvalid => (
            Code::CertificateInvalid,
            "dial the server by a name in its certificate and trust its authority; nokv cert show --addr shows both",
        ),
    };
    Failure::new(code, failure).next(next).detail("addr", failure.addr.as_str())
}

/// A server that knows who we are and refuses.
pub fn denied(addr: &str, why: &str) -> Failure {
    Failure::new(Code::Denied, format!("{addr}: {why}"))
        .next("use a certificate with that role: nokv cert create-client --role admin")
        .detail("addr", addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn told<T>(result: Result<T>) -> String {
        result.map(|_| ()).unwrap_err().message().to_owned()
    }

    fn client(flags: &str) -> Result<Option<Arc<Tls>>> {
        match Cli::try_parse_from(format!("nokv get {flags} k").split_whitespace()).unwrap().command {
            Command::Get(args) => Dial::cluster(&args.cluster).tls(),
            _ => unreachable!(),
        }
    }

    fn listens(addr: &str, metrics: Option<&str>, flags: &str) -> Result<Option<Arc<Tls>>> {
        let line = format!("nokv serve --store-id 1 --workdir d --coordinator-addr a:1 {flags}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Serve(args) => {
                server(&args.security, None, &[("--addr", addr)], metrics.map(str::to_owned).as_ref())
            }
            _ => unreachable!(),
        }
    }

    #[test]
    fn flags_go_together() {
        assert!(client("").unwrap().is_none() && client("--insecure").unwrap().is_none());
        assert!(told(client("--tls-ca a --tls-cert b")).contains("--tls-cert without --tls-key"));
        assert!(told(client("--tls-ca a --tls-key b")).contains("--tls-key without --tls-cert"));
        assert!(told(client("--tls-cert b --tls-key c")).contains("whom to trust"));
        assert!(told(client("--tls-ca a --insecure")).contains("contradict"));
        assert_eq!(client("--tls-ca /none/a").err().map(|error| error.code()), Some(Code::FileNotFound));
        assert!(told(listens("127.0.0.1:1", None, "--tls-ca a")).contains("certificate of its own"));
    }

    #[test]
    fn only_loopback_goes_without_tls() {
        for addr in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LOCALHOST:1"] {
            assert!(listens(addr, Some(addr), "").is_ok(), "{addr}");
        }
        for addr in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "store-1:20160", "localhost.example:1"] {
            assert!(told(listens(addr, None, "")).contains("there is no TLS"), "{addr}");
            assert!(told(listens("127.0.0.1:1", Some(addr), "")).contains("--metrics-addr"), "{addr}");
            assert!(listens(addr, Some(addr), "--insecure").is_ok(), "{addr}");
        }
    }

    #[test]
    fn certificate_and_key_come_from_the_same_place() {
        let section = config::Tls { ca: "fc".into(), identity: Some(("fx".into(), "fk".into())) };
        let file = config::Cluster { tls: Some(section), ..config::Cluster::default() };
        let own = |ca: Option<&str>, certificate: Option<&str>| Certificates {
            tls_ca: ca.map(Into::into),
            tls_cert: certificate.map(Into::into),
            tls_key: certificate.map(|_| "k".into()),
        };
        let picked = |given: Certificates| {
            let files = files(&given, Some(&file)).unwrap().unwrap();
            let identity = files.identity.unwrap();
            format!("{} {} {}", files.ca.display(), identity.0.display(), identity.1.display())
        };
        assert_eq!(picked(own(None, None)), "fc fx fk");
        assert_eq!(picked(own(Some("a"), None)), "a fx fk");
        assert_eq!(picked(own(None, Some("x"))), "fc x k");
    }
}
