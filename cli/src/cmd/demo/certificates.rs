//! The certificates of a demo: one authority, one certificate for all processes, one for whoever tries it out.

use crate::cmd::cert::authority::{self, Authority, Subject};
use crate::cmd::security::unusable;
use crate::config::{Cluster, Tls};
use crate::errors::Result;
use nokv_realenv::tls::{Role, TlsFiles};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who tries it out.
const USER: &str = "demo";
const CA_DAYS: u32 = 3650;
const DAYS: u32 = 365;

fn home(dir: &Path) -> PathBuf {
    dir.join("tls")
}

/// Makes what is missing.
pub fn make(dir: &Path) -> Result<Tls> {
    let home = home(dir);
    let (ca, certificate, key) = (home.join("ca.crt"), home.join("node.crt"), home.join("node.key"));
    if !ca.exists() {
        authority::create(&home, "NoKV demo CA", CA_DAYS)?;
    }
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    if !certificate.exists() {
        let node = Subject { name: "demo node", role: Role::Node, hosts: &hosts, days: DAYS };
        Authority::open(&home)?.issue(&node, &home, "node")?;
    }
    if !client(dir).0.exists() {
        let user = Subject { name: USER, role: Role::Admin, hosts: &[], days: DAYS };
        Authority::open(&home)?.issue(&user, &home, &format!("client.{USER}"))?;
    }
    Ok(Tls { ca, identity: Some((certificate, key)) })
}

fn client(dir: &Path) -> (PathBuf, PathBuf) {
    let file = |kind: &str| home(dir).join(format!("client.{USER}.{kind}"));
    (file("crt"), file("key"))
}

/// How we talk to our own cluster: as its user does, where that is possible.
pub fn ours(cluster: &Cluster, dir: &Path) -> Result<Option<Arc<nokv_realenv::tls::Tls>>> {
    let Some(tls) = &cluster.tls else { return Ok(None) };
    let user = client(dir);
    let identity = if user.0.exists() { Some(user) } else { tls.identity.clone() };
    let files = TlsFiles { ca: tls.ca.clone(), identity };
    nokv_realenv::tls::Tls::load(files).map(Some).map_err(|error| unusable(&error))
}

/// What a user's shell needs to know.
pub fn exports(cluster: &Cluster, dir: &Path) -> String {
    let Some(tls) = &cluster.tls else { return String::new() };
    let (certificate, key) = client(dir);
    format!(
        "  export NOKV_TLS_CA={}\n  export NOKV_TLS_CERT={} NOKV_TLS_KEY={}\n",
        super::relative(&tls.ca),
        super::relative(&certificate),
        super::relative(&key)
    )
}
