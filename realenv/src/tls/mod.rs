//! Who we are and whom we trust: TLS 1.3 (or 1.2) with rustls, certificates on both sides.
//!
//! A [`Tls`] is read from three PEM files: the authorities (`ca`), our certificate and its key. Clients may do
//! without the last two and learn from the server that it wants them. Certificates carry a [`Role`] as `OU` of their
//! subject, which `net` checks at every call.
//!
//! Files are read again when they change: at a new connection, at most once a second. What cannot be used (damaged,
//! expired, key and certificate of two pairs) is reported and changes nothing. Connections that are open go on under
//! the certificates with which they came up.

mod certificate;
mod explain;

pub use certificate::{Certificate, Role, moment};
pub(crate) use explain::{Trouble, about_client, about_server};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A certificate that ends sooner than this is worth a warning.
const SOON: i64 = 14;
/// HTTP/2, which is what gRPC speaks.
const ALPN: &[u8] = b"h2";

/// Where certificates and key are, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that issue certificates for this cluster.
    pub ca: PathBuf,
    /// Our certificate (with those between it and the authority, if any) and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operating system does not give us the file.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path} {what}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Its time is over.
    #[error("{path} expired on {day}", path = path.display(), day = moment(*not_after))]
    Expired {
        /// The file.
        path: PathBuf,
        /// Valid until, in seconds since 1970.
        not_after: i64,
    },
}

/// Our certificates and those we trust, as the files say now.
pub struct Tls {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    looked: Instant,
    stamps: Vec<Option<Stamp>>,
    current: Arc<Loaded>,
}

/// What tells that a file is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// One state of the files.
pub(crate) struct Loaded {
    provider: Arc<CryptoProvider>,
    /// Our own certificate.
    pub(crate) own: Option<Certificate>,
    /// Where the authorities come from.
    pub(crate) ca: PathBuf,
    identity: Option<Arc<CertifiedKey>>,
    clients: Arc<dyn ClientCertVerifier>,
    dialling: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let stamps = stamps(&files);
        let current = Arc::new(Loaded::read(&files)?);
        current.warn(&files);
        let state = State { looked: Instant::now(), stamps, current };
        Ok(Arc::new(Self { files, state: Mutex::new(state) }))
    }

    /// What the files say now, or said when they were last good.
    pub(crate) fn current(&self) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < LOOK_INTERVAL {
            return state.current.clone();
        }
        state.looked = Instant::now();
        let stamps = stamps(&self.files);
        if stamps == state.stamps {
            return state.current.clone();
        }
        // Remembered also when the new files are bad: that is told once.
        state.stamps = stamps;
        match Loaded::read(&self.files) {
            Ok(loaded) => {
                let (subject, serial, until) = loaded.introduction();
                tracing::info!(subject, serial, until, "certificates were read again");
                loaded.warn(&self.files);
                state.current = Arc::new(loaded);
            }
            Err(error) => {
                tracing::warn!(%error, "new certificates cannot be used; the old ones stay in force");
            }
        }
        state.current.clone()
    }

    /// Our own certificate.
    pub fn own(&self) -> Option<Certificate> {
        self.current().own.clone()
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(authorities(&files.ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| invalid(&files.ca, error))?;
        let (own, identity) = match &files.identity {
            Some((certificate, key)) => {
                let (own, identity) = identity(certificate, key, &provider)?;
                accepted_by(&*clients, &identity, certificate, &files.ca)?;
                (Some(own), Some(Arc::new(identity)))
            }
            None => (None, None),
        };
        let dialling = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&files.ca, error))?
            .with_root_certificates(roots);
        let mut dialling = match &identity {
            Some(key) => dialling.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone()))),
            None => dialling.with_no_client_auth(),
        };
        dialling.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would go on under certificates that may have been replaced. Connections live long.
        dialling.resumption = Resumption::disabled();
        let dialling = Arc::new(dialling);
        Ok(Self { provider, own, ca: files.ca.clone(), identity, clients, dialling })
    }

    /// How we dial.
    pub(crate) fn dialling(&self) -> Arc<ClientConfig> {
        self.dialling.clone()
    }

    /// How we answer one connection; `seen` learns whose certificate is shown, also when it is refused.
    pub(crate) fn answering(&self, seen: &Seen) -> Result<Arc<ServerConfig>, rustls::Error> {
        let Some(identity) = &self.identity else {
            return Err(rustls::Error::General("a server needs a certificate of its own".to_owned()));
        };
        let watched = Arc::new(Watched { inner: self.clients.clone(), seen: seen.clone() });
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(watched)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn introduction(&self) -> (&str, &str, String) {
        match &self.own {
            Some(own) => (&own.subject, &own.serial, moment(own.not_after)),
            None => ("", "", String::new()),
        }
    }

    /// Says what is good enough for now but should not stay so.
    fn warn(&self, files: &TlsFiles) {
        if let (Some(own), Some((certificate, _))) = (&self.own, &files.identity) {
            let days = own.days_left(now());
            if days < SOON {
                let (file, until) = (certificate.display().to_string(), moment(own.not_after));
                tracing::warn!(file, until, days, "the certificate expires soon");
            }
        }
        if let Some((_, key)) = &files.identity
            && is_open_to_others(key)
        {
            tracing::warn!(file = %key.display(), "other users can read this private key; chmod 600 it");
        }
    }
}

/// Whether others than the owner may read a file.
pub fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0)
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn stamps(files: &TlsFiles) -> Vec<Option<Stamp>> {
    let identity = files.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
    std::iter::once(&files.ca).chain(identity).map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        length: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

fn invalid(path: &Path, what: impl std::fmt::Display) -> TlsError {
    TlsError::Invalid { path: path.to_owned(), what: format!("cannot be used: {what}") }
}

/// The authorities of a file. Those that have expired help nobody, but do not harm while another one is left.
fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let (mut roots, mut ended) = (RootCertStore::empty(), None);
    for der in certificate::read_ders(path)? {
        let one = Certificate::from_der(&der).map_err(|what| invalid(path, what))?;
        if !one.is_ca {
            let what = format!("is no authority: {} is a certificate of its own", one.subject);
            return Err(TlsError::Invalid { path: path.to_owned(), what });
        }
        if one.not_after < now() {
            ended = Some(one.not_after);
            continue;
        }
        roots.add(der).map_err(|error| invalid(path, error))?;
    }
    match ended {
        Some(not_after) if roots.is_empty() => Err(TlsError::Expired { path: path.to_owned(), not_after }),
        _ => Ok(roots),
    }
}

fn identity(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(Certificate, CertifiedKey), TlsError> {
    let chain = certificate::read_ders(certificate)?;
    let own = Certificate::from_der(&chain[0]).map_err(|what| invalid(certificate, what))?;
    if own.not_after < now() {
        return Err(TlsError::Expired { path: certificate.to_owned(), not_after: own.not_after });
    }
    if own.not_before > now() {
        let what = format!("is not valid before {}; is the clock right?", moment(own.not_before));
        return Err(TlsError::Invalid { path: certificate.to_owned(), what });
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| {
        let what = match error {
            rustls::pki_types::pem::Error::NoItemsFound => "has no private key in it".to_owned(),
            other => format!("is no PEM file: {other}"),
        };
        TlsError::Invalid { path: key.to_owned(), what }
    })?;
    match CertifiedKey::from_der(chain, secret, provider) {
        Ok(both) => Ok((own, both)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Invalid {
            path: key.to_owned(),
            what: format!("is not the key of {}", certificate.display()),
        }),
        Err(error) => Err(invalid(key, error)),
    }
}

/// Our own certificate must be one that our own authorities vouch for: the others have the same ones.
fn accepted_by(
    clients: &dyn ClientCertVerifier,
    own: &CertifiedKey,
    path: &Path,
    ca: &Path,
) -> Result<(), TlsError> {
    let Some((first, between)) = own.cert.split_first() else { return Ok(()) };
    match clients.verify_client_cert(first, between, UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(error) => Err(TlsError::Invalid {
            path: path.to_owned(),
            what: explain::about_certificate(&error, ca)
                .unwrap_or_else(|| format!("cannot be used: {error}")),
        }),
    }
}

/// The certificate that a client has shown.
pub(crate) type Seen = Arc<Mutex<Option<Certificate>>>;

/// The ordinary check of client certificates, which remembers what it looked at.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn ClientCertVerifier>,
    seen: Seen,
}

impl ClientCertVerifier for Watched {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Certificate::from_der(end_entity).ok();
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The certificates that the server at `addr` shows, first its own, whoever issued them. Nothing is said to it.
pub async fn shown_by(addr: &str) -> io::Result<Vec<Certificate>> {
    let provider = Arc::new(ring::default_provider());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let curious = Arc::new(Curious { provider: provider.clone(), seen: seen.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(curious)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = server_name(addr).map_err(io::Error::other)?;
    let tcp = tokio::net::TcpStream::connect(addr).await?;
    let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    // It may refuse us for having no certificate; by then it has shown its own.
    match handshake {
        Err(error) if seen.is_empty() => Err(error),
        _ => seen.iter().map(|der| Certificate::from_der(der).map_err(io::Error::other)).collect(),
    }
}

/// Looks at the certificates of a server and trusts nobody with anything.
#[derive(Debug)]
struct Curious {
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Err(only_looking())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_looking())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_looking())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Seen is seen: no connection comes about.
fn only_looking() -> rustls::Error {
    rustls::Error::General("only looking".to_owned())
}

/// The host of `host:port`, as the certificate of whoever serves there must name it.
pub(crate) fn server_name(addr: &str) -> Result<ServerName<'static>, String> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| format!("no certificate can be for the name '{host}'"))
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
