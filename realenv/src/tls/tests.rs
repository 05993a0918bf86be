use super::testing::{Authority, CLIENT, NODE, Wanted};
use super::*;

fn told(files: &TlsFiles) -> String {
    Tls::load(files.clone()).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_certificate_says_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path(), "a");
    let own = authority.tls("n", Wanted { host: "127.0.0.1,::1,store-1", ..NODE }).own().unwrap();
    assert_eq!((own.role, own.is_ca, own.name.as_str()), (Some(Role::Node), false, "test"));
    assert_eq!(own.hosts, ["127.0.0.1", "::1", "store-1"]);
    assert!(own.issuer.contains("CN=a"), "{}", own.issuer);
    // Ninety days, less the moment since it was made.
    assert!((89..=90).contains(&own.days_left(now())));
    assert_eq!(own.days_left(own.not_after + 1), -1);
    assert_eq!(authority.tls("c", CLIENT).own().unwrap().role, Some(Role::Client));
    assert_eq!(authority.tls("x", Wanted { unit: "", ..CLIENT }).own().unwrap().role, None);
    let ca = Certificate::read(&authority.ca()).unwrap();
    assert!(ca[0].is_ca && ca[0].role.is_none());
    assert_eq!(moment(0), "1970-01-01T00:00:00Z");
    assert_eq!(moment(1_776_844_801), "2026-04-22T08:00:01Z");
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(dir.path(), "a"), Authority::new(dir.path(), "b"));
    let good = authority.files("n", NODE);
    let (certificate, key) = good.identity.clone().unwrap();
    assert!(Tls::load(good.clone()).is_ok());
    let with = |certificate: &Path, key: &Path| TlsFiles {
        identity: Some((certificate.to_owned(), key.to_owned())),
        ..good.clone()
    };
    let missing = dir.path().join("missing");
    assert!(told(&with(&missing, &key)).starts_with("cannot read "));
    assert!(told(&with(&key, &key)).ends_with("n.key is a private key, not a certificate"));
    assert!(told(&with(&certificate, &certificate)).ends_with("n.crt has no private key in it"));
    let second = authority.files("m", NODE).identity.unwrap();
    assert!(told(&with(&certificate, &second.1)).contains("m.key is not the key of "));
    let strange = other.files("s", NODE).identity.unwrap();
    assert!(told(&with(&strange.0, &strange.1)).contains("is not issued by an authority in "));
    assert!(told(&TlsFiles { ca: certificate.clone(), ..good.clone() }).contains("is no authority"));
    let old = authority.files("o", Wanted { life: -1, ..NODE });
    assert!(told(&old).contains("o.crt expired on 20"), "{}", told(&old));
    for (text, what) in
        [("", "has no certificate in it"), ("-----BEGIN CERTIFICATE-----\nAAA", "is no PEM file")]
    {
        fs::write(&missing, text).unwrap();
        assert!(told(&with(&missing, &key)).contains(what), "{text}");
    }
    fs::write(&missing, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(told(&with(&missing, &key)).contains("cannot be used"));
}

#[test]
fn a_server_is_asked_by_the_host_it_was_dialled_by() {
    for (addr, host) in [("127.0.0.1:1", "127.0.0.1"), ("[::1]:1", "::1"), ("store-1:20160", "store-1")] {
        assert_eq!(server_name(addr).unwrap().to_str(), host);
    }
    assert!(server_name("a b:1").is_err());
}
