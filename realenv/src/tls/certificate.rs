//! What a certificate says, for people and for the decision who may do what.

use super::TlsError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::IpAddr;
use std::path::Path;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::AttributeTypeAndValue;

const DAY: i64 = 86_400;

/// What the holder of a certificate may do; each role may all that the ones before it may. It is the organizational
/// unit (`OU`) of the certificate's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads and writes keys, and looks at the cluster.
    Client,
    /// Changes regions and stores, too.
    Admin,
    /// Is a process of the cluster.
    Node,
}

impl Role {
    /// The name in certificates.
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Admin => "admin",
            Role::Node => "node",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Role::Client, Role::Admin, Role::Node].into_iter().find(|role| role.name() == name)
    }
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is, in full.
    pub subject: String,
    /// The common name in it.
    pub name: String,
    /// What the holder may do; `None` for authorities and for certificates that were not made for this cluster.
    pub role: Option<Role>,
    /// Whether it is an authority's.
    pub is_ca: bool,
    /// Host names and addresses that it is for.
    pub hosts: Vec<String>,
    /// Who issued it.
    pub issuer: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until, in seconds since 1970.
    pub not_after: i64,
    /// The public key, as it stands in the certificate.
    pub public_key: Vec<u8>,
}

impl Certificate {
    /// Reads the binary form.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let text = |attribute: Option<&AttributeTypeAndValue<'_>>| {
            attribute.and_then(|attribute| attribute.as_str().ok()).map(str::to_owned)
        };
        let unit = text(parsed.subject().iter_organizational_unit().next());
        let common = text(parsed.subject().iter_common_name().next());
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let hosts = names.map(|names| names.value.general_names.iter().map(host).collect());
        Ok(Self {
            subject: parsed.subject().to_string(),
            name: common.unwrap_or_default(),
            role: unit.and_then(|unit| Role::named(&unit)),
            is_ca: parsed.is_ca(),
            hosts: hosts.unwrap_or_default(),
            issuer: parsed.issuer().to_string(),
            serial: parsed.raw_serial_as_string().replace(':', ""),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().raw.to_vec(),
        })
    }

    /// Every certificate of a PEM file, in its order.
    pub fn read(path: &Path) -> Result<Vec<Self>, TlsError> {
        let ders = read_ders(path)?;
        let read = |der: &CertificateDer<'static>| {
            Self::from_der(der).map_err(|what| TlsError::Invalid { path: path.to_owned(), what })
        };
        ders.iter().map(read).collect()
    }

    /// Whole days until it expires; negative when it has.
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(DAY)
    }
}

/// The certificates of a PEM file, at least one.
pub(super) fn read_ders(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = super::read(path)?;
    let invalid = |what: String| TlsError::Invalid { path: path.to_owned(), what };
    let ders: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("is no PEM file: {error}")))?;
    if ders.is_empty() {
        let is_key = bytes.windows(11).any(|window| window == b"PRIVATE KEY");
        let what = if is_key { "is a private key, not a certificate" } else { "has no certificate in it" };
        return Err(invalid(what.to_owned()));
    }
    Ok(ders)
}

fn host(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let six = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            four.or(six).map_or_else(|_| "?".to_owned(), |ip| ip.to_string())
        }
        other => other.to_string(),
    }
}

/// A time as `2026-11-26T17:00:00Z`.
pub fn moment(unix: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(unix) else { return format!("{unix} s after 1970") };
    let time = time.to_datetime();
    let month = u8::from(time.month());
    let (hour, minute, second) = time.to_hms();
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", time.year(), time.day())
}
