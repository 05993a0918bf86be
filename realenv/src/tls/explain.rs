//! What went wrong between two ends, in words that say what to do.

use super::certificate::{Certificate, moment};
use super::{Loaded, Seen};
use nokv_env::net::TlsProblem;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use std::path::Path;
use std::sync::PoisonError;

/// A disagreement about TLS, from where we stand.
pub(crate) type Trouble = (TlsProblem, String);

/// The first bytes of TLS records: from change-cipher-spec to heartbeat.
const RECORDS: std::ops::RangeInclusive<u8> = 20..=24;

/// Whether a peer that began with `first` speaks TLS.
fn speaks_tls(first: Option<u8>) -> bool {
    first.is_some_and(|byte| RECORDS.contains(&byte))
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// What is wrong with a server that we dialled, if TLS is the matter; `first` is the first byte it sent.
pub(crate) fn about_server(error: &io::Error, first: Option<u8>, us: &Loaded) -> Option<Trouble> {
    match cause(error)? {
        Error::InvalidMessage(_) if first.is_some() && !speaks_tls(first) => {
            Some((TlsProblem::Unexpected, "the server does not speak TLS".to_owned()))
        }
        Error::AlertReceived(alert) => about_alert(*alert, us),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Some((TlsProblem::CertificateExpired, about_peer(cause(error)?, &us.ca)?))
        }
        other => Some((TlsProblem::CertificateInvalid, about_peer(other, &us.ca)?)),
    }
}

/// What a server told us about our certificate.
fn about_alert(alert: AlertDescription, us: &Loaded) -> Option<Trouble> {
    use AlertDescription as Alert;
    let Some(own) = &us.own else {
        let refusals = [
            Alert::CertificateRequired,
            Alert::NoCertificate,
            Alert::HandshakeFailure,
            Alert::BadCertificate,
        ];
        let what = "the server requires a client certificate; pass --tls-cert/--tls-key";
        return refusals.contains(&alert).then(|| (TlsProblem::CertificateRequired, what.to_owned()));
    };
    let ours = format!("our certificate ({}, valid until {})", own.subject, moment(own.not_after));
    let what = match alert {
        Alert::CertificateExpired => format!("the server takes {ours} for expired; is its clock right?"),
        Alert::UnknownCA => format!("the server does not trust {}, which issued {ours}", own.issuer),
        Alert::CertificateRequired
        | Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::AccessDenied
        | Alert::DecryptError => format!("the server refuses {ours}: {alert:?}"),
        _ => return None,
    };
    Some((TlsProblem::CertificateRejected, what))
}

/// The same about a server's certificate, with its owner.
fn about_peer(error: &Error, ca: &Path) -> Option<String> {
    about_certificate(error, ca).map(|what| format!("the server's certificate {what}"))
}

/// What is wrong with a certificate, if that is it: "expired on ...".
pub(super) fn about_certificate(error: &Error, ca: &Path) -> Option<String> {
    let Error::InvalidCertificate(error) = error else { return None };
    Some(match error {
        CertificateError::ExpiredContext { not_after, .. } => format!("expired on {}", day(*not_after)),
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}; is the clock right?", day(*not_before))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let hosts: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let hosts = if hosts.is_empty() { "no host".to_owned() } else { hosts.join(", ") };
            format!("is for {hosts}, not for {}", expected.to_str())
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("is not issued by an authority in {}", ca.display())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for this use (a client's certificate on a server, or the other way round)"
                .to_owned()
        }
        other => format!("cannot be used: {other}"),
    })
}

/// `localhost` of `DnsName("localhost")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    inner.trim_matches('"')
}

fn day(time: UnixTime) -> String {
    moment(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// What is wrong with a client that dialled us; `None` when it just went away.
pub(crate) fn about_client(error: &io::Error, first: Option<u8>, seen: &Seen, us: &Loaded) -> Option<String> {
    let whose = || match &*seen.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(Certificate { subject, .. }) => format!("its certificate ({subject})"),
        None => "its certificate".to_owned(),
    };
    match cause(error) {
        Some(Error::InvalidMessage(_)) if first.is_some() && !speaks_tls(first) => {
            Some("it does not speak TLS; it needs --tls-ca, --tls-cert and --tls-key".to_owned())
        }
        Some(Error::NoCertificatesPresented) => Some("it shows no certificate".to_owned()),
        Some(Error::AlertReceived(alert)) => {
            Some(format!("it does not accept the certificate of this server: {alert:?}"))
        }
        Some(other) => Some(match about_certificate(other, &us.ca) {
            Some(what) => format!("{} {what}", whose()),
            None => other.to_string(),
        }),
        None => first.map(|_| error.to_string()),
    }
}
