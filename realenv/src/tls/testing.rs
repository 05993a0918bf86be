//! Certificates of every kind of right and wrong, for tests.
#![allow(clippy::unwrap_used, reason = "only tests come here")]

use super::{Tls, TlsFiles, now};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;

/// An authority and a directory for what it issues.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate is to say.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) unit: &'a str,
    pub(crate) host: &'a str,
    /// Seconds that it is still valid.
    pub(crate) life: i64,
}

pub(crate) const NODE: Wanted<'static> = Wanted { unit: "node", host: "127.0.0.1", life: 86_400 * 90 };
pub(crate) const CLIENT: Wanted<'static> = Wanted { unit: "client", host: "", life: 86_400 * 90 };

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(now() + seconds).unwrap()
}

impl Authority {
    /// An authority called `name`, below `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (at(-60), at(86_400 * 365));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.join("ca.crt"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// The file with the authority's own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Certificate and key in PEM form.
    pub(crate) fn issue(&self, wanted: Wanted<'_>) -> (String, String) {
        let hosts: Vec<String> =
            wanted.host.split(',').filter(|host| !host.is_empty()).map(Into::into).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test");
        if !wanted.unit.is_empty() {
            params.distinguished_name.push(DnType::OrganizationalUnitName, wanted.unit);
        }
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        if wanted.unit == "node" {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        (params.not_before, params.not_after) = (at(-60), at(wanted.life));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same as files called `name`, with this authority as the one that is trusted.
    pub(crate) fn files(&self, name: &str, wanted: Wanted<'_>) -> TlsFiles {
        let (certificate, key) = self.issue(wanted);
        let paths = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        fs::write(&paths.0, certificate).unwrap();
        fs::write(&paths.1, key).unwrap();
        TlsFiles { ca: self.ca(), identity: Some(paths) }
    }

    /// The same, loaded.
    pub(crate) fn tls(&self, name: &str, wanted: Wanted<'_>) -> Arc<Tls> {
        Tls::load(self.files(name, wanted)).unwrap()
    }
}
