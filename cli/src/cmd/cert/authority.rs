//! Authorities, and the certificates that they issue.

use super::new_file::{self, PUBLIC, SECRET};
use crate::cmd::security::unusable;
use crate::errors::{Code, Failure, Result};
use nokv_realenv::tls::{Certificate, Role, is_open_to_others, moment, now};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use std::fs;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

const DAY: i64 = 86_400;
/// Certificates count from a little before now: clocks differ.
const LEEWAY: i64 = 3600;

/// Files that were made.
pub struct Made {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose it is.
    pub subject: String,
    /// Valid until, in seconds since 1970.
    pub not_after: i64,
}

/// What a certificate is to say.
pub struct Subject<'a> {
    /// Common name.
    pub name: &'a str,
    /// What the holder may do.
    pub role: Role,
    /// Where the holder is dialled.
    pub hosts: &'a [String],
    /// How long it is valid.
    pub days: u32,
}

/// Makes an authority in `dir`.
pub fn create(dir: &Path, name: &str, days: u32) -> Result<Made> {
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    new_file::check_free(&[&certificate, &key])?;
    let mut params = CertificateParams::default();
    describe(&mut params, name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = now() + i64::from(days) * DAY;
    (params.not_before, params.not_after) = (at(now() - LEEWAY)?, at(not_after)?);
    let pair = KeyPair::generate().map_err(|error| broken(&error))?;
    let made = params.self_signed(&pair).map_err(|error| broken(&error))?;
    write_pair(&certificate, &made.pem(), &key, &pair.serialize_pem())?;
    let subject = format!("CN={name}");
    Ok(Made { certificate, key, subject, not_after })
}

/// An authority that can issue.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: i64,
}

impl Authority {
    /// The one in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let missing = || format!("no authority there? nokv cert create-ca --dir {}", dir.display());
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| {
                Failure::io(format!("read {}", path.display()), &error)
                    .detail("path", path.display().to_string())
                    .next(missing())
            })
        };
        let (certificate_text, key_text) = (read(&certificate)?, read(&key)?);
        let all = Certificate::read(&certificate).map_err(|error| unusable(&error))?;
        let [own] = all.as_slice() else {
            let text = format!("{} has {} certificates, not one", certificate.display(), all.len());
            return Err(Failure::new(Code::CertificateInvalid, text));
        };
        if !own.is_ca {
            let text = format!("{} is no authority: {}", certificate.display(), own.subject);
            return Err(Failure::new(Code::CertificateInvalid, text).next(missing()));
        }
        if own.not_after < now() {
            let day = moment(own.not_after);
            let text = format!("the authority {} expired on {day}", certificate.display());
            return Err(
                Failure::new(Code::CertificateExpired, text).next("make a new one: nokv cert create-ca")
            );
        }
        let pair = KeyPair::from_pem(&key_text).map_err(|error| {
            let text = format!("{} is no private key of ours: {error}", key.display());
            Failure::new(Code::CertificateInvalid, text)
        })?;
        if pair.subject_public_key_info() != own.public_key {
            let text = format!("{} is not the key of {}", key.display(), certificate.display());
            return Err(Failure::new(Code::CertificateInvalid, text));
        }
        if is_open_to_others(&key) {
            eprintln!("warning: other users can read {}; chmod 600 it", key.display());
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate_text, pair).map_err(|error| broken(&error))?;
        Ok(Self { issuer, not_after: own.not_after })
    }

    /// Makes `stem.crt` and `stem.key` in `dir`.
    pub fn issue(&self, subject: &Subject<'_>, dir: &Path, stem: &str) -> Result<Made> {
        let (certificate, key) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
        new_file::check_free(&[&certificate, &key])?;
        let mut params = CertificateParams::new(subject.hosts.to_vec()).map_err(|error| broken(&error))?;
        describe(&mut params, subject.name, Some(subject.role));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.role == Role::Node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let wanted = now() + i64::from(subject.days) * DAY;
        let not_after = wanted.min(self.not_after);
        if not_after < wanted {
            eprintln!("note: valid only until {}, when the authority ends", moment(not_after));
        }
        (params.not_before, params.not_after) = (at(now() - LEEWAY)?, at(not_after)?);
        let pair = KeyPair::generate().map_err(|error| broken(&error))?;
        let made = params.signed_by(&pair, &self.issuer).map_err(|error| broken(&error))?;
        write_pair(&certificate, &made.pem(), &key, &pair.serialize_pem())?;
        let subject = format!("CN={}, OU={}", subject.name, subject.role.name());
        Ok(Made { certificate, key, subject, not_after })
    }
}

fn describe(params: &mut CertificateParams, name: &str, role: Option<Role>) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(role) = role {
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.name());
    }
}

fn at(unix: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix).map_err(|error| Failure::usage(format!("--days: {error}")))
}

fn broken(error: &rcgen::Error) -> Failure {
    Failure::new(Code::Internal, format!("cannot make a certificate: {error}"))
}

/// Both or none.
fn write_pair(certificate: &Path, certificate_pem: &str, key: &Path, key_pem: &str) -> Result {
    if let Some(dir) = key.parent() {
        fs::create_dir_all(dir).map_err(|error| Failure::io(format!("create {}", dir.display()), &error))?;
    }
    new_file::write(key, key_pem.as_bytes(), SECRET)?;
    new_file::write(certificate, certificate_pem.as_bytes(), PUBLIC).inspect_err(|_| {
        // It was made a moment ago, and is the key of nothing.
        let _ = fs::remove_file(key);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("nokv-cert-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn node(hosts: &[String]) -> Subject<'_> {
        Subject { name: "store-1", role: Role::Node, hosts, days: 365 }
    }

    fn code<T>(result: Result<T>) -> Code {
        result.map(|_| ()).unwrap_err().code()
    }

    #[test]
    fn what_is_made_can_be_used() {
        let dir = Dir::new("made");
        let ca = create(&dir.0.join("ca"), "Test CA", 10).unwrap();
        let authority = Authority::open(&dir.0.join("ca")).unwrap();
        let hosts = ["127.0.0.1".to_owned(), "::1".to_owned(), "*.example.net".to_owned()];
        let made = authority.issue(&node(&hosts), &dir.0.join("n"), "node").unwrap();
        let read = Certificate::read(&made.certificate).unwrap();
        assert_eq!((read[0].role, read[0].hosts.as_slice()), (Some(Role::Node), hosts.as_slice()));
        assert_eq!(
            (read[0].not_after, made.not_after),
            (ca.not_after, ca.not_after),
            "never longer than the authority"
        );
        for secret in [&ca.key, &made.key] {
            assert_eq!(fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let files =
            nokv_realenv::tls::TlsFiles { ca: ca.certificate, identity: Some((made.certificate, made.key)) };
        assert!(nokv_realenv::tls::Tls::load(files).is_ok());
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = Dir::new("twice");
        let ca = create(&dir.0, "Test CA", 10).unwrap();
        let before = fs::read(&ca.key).unwrap();
        assert_eq!(code(create(&dir.0, "Test CA", 10)), Code::FileExists);
        fs::remove_file(&ca.certificate).unwrap();
        assert_eq!(code(create(&dir.0, "Test CA", 10)), Code::FileExists, "the key is still there");
        assert_eq!(fs::read(&ca.key).unwrap(), before);
        assert_eq!(code(new_file::write(&ca.key, b"x", SECRET)), Code::FileExists, "also when two race");
        assert_eq!(fs::read(&ca.key).unwrap(), before);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "no drafts are left");
    }

    #[test]
    fn an_authority_must_be_whole() {
        let dir = Dir::new("whole");
        let (a, b) = (dir.0.join("a"), dir.0.join("b"));
        assert_eq!(code(Authority::open(&a)), Code::FileNotFound);
        let ca = create(&a, "A", 10).unwrap();
        let other = create(&b, "B", 10).unwrap();
        fs::copy(&other.key, &ca.key).unwrap();
        assert_eq!(code(Authority::open(&a)), Code::CertificateInvalid, "another's key");
        fs::write(&ca.key, "nonsense").unwrap();
        assert_eq!(code(Authority::open(&a)), Code::CertificateInvalid);
        let hosts = ["h".to_owned()];
        let made = Authority::open(&b).unwrap().issue(&node(&hosts), &dir.0, "node").unwrap();
        fs::copy(&made.certificate, &ca.certificate).unwrap();
        fs::copy(&made.key, &ca.key).unwrap();
        assert_eq!(code(Authority::open(&a)), Code::CertificateInvalid, "no authority");
    }
}
