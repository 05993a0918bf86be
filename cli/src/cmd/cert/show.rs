//! `nokv cert show`.

use crate::args::cert::Show;
use crate::args::values::show_duration;
use crate::args::{Format, Global};
use crate::cmd::security::unusable;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_env::{ClockExt, Env};
use nokv_realenv::tls::{Certificate, moment, now, shown_by};
use serde_json::{Value, json};
use std::time::Duration;

/// Patience with a server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A certificate, and where it was found.
type Found = (String, Certificate);

/// Prints what certificates say.
pub fn run(args: &Show, global: &Global) -> Result<u8> {
    let mut found: Vec<Found> = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        let read = Certificate::read(file).map_err(|error| unusable(&error))?;
        found.extend(read.into_iter().map(|certificate| (name.clone(), certificate)));
    }
    if let Some(addr) = &args.addr {
        let ask = async |env| {
            let shown = shown(&env, addr).await?;
            found.extend(shown.into_iter().map(|certificate| (addr.clone(), certificate)));
            Ok(0)
        };
        crate::cmd::client(crate::cmd::security::Dial::nobody(), ask)?;
    }
    let now = now();
    let mut out = Out::new();
    match global.format() {
        Format::Plain => found.iter().try_for_each(|one| out.write(text(one, now).as_bytes()))?,
        Format::Jsonl => found.iter().try_for_each(|one| out.line(&to_json(one, now).to_string()))?,
        Format::Json => {
            let rows: Vec<Value> = found.iter().map(|one| to_json(one, now)).collect();
            out.json(&json!({ "certificates": rows }))?;
        }
    }
    out.flush()?;
    match found.iter().find(|(_, certificate)| certificate.not_after < now) {
        Some((place, certificate)) => {
            let text =
                format!("{place}: {} expired on {}", certificate.subject, moment(certificate.not_after));
            Err(Failure::new(Code::CertificateExpired, text).next("make a new one with nokv cert"))
        }
        None => Ok(0),
    }
}

async fn shown(env: &Env, addr: &str) -> Result<Vec<Certificate>> {
    let unreachable =
        |why: String| Failure::new(Code::Unavailable, format!("{addr}: {why}")).detail("addr", addr);
    match env.clock.timeout(PATIENCE, shown_by(addr)).await {
        Ok(Ok(shown)) => Ok(shown),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Failure::new(Code::TlsUnexpected, format!("{addr}: the server does not speak TLS"))
                .why(error)
                .detail("addr", addr))
        }
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable(format!("no answer within {}", show_duration(PATIENCE)))),
    }
}

fn role(certificate: &Certificate) -> &'static str {
    match (certificate.role, certificate.is_ca) {
        (_, true) => "authority",
        (Some(role), false) => role.name(),
        (None, false) => "none",
    }
}

fn text((place, certificate): &Found, now: i64) -> String {
    let days = certificate.days_left(now);
    let left = if certificate.not_after < now {
        "EXPIRED".to_owned()
    } else if certificate.not_before > now {
        "not valid yet".to_owned()
    } else {
        format!("{days} days left")
    };
    let hosts = if certificate.hosts.is_empty() { "-".to_owned() } else { certificate.hosts.join(", ") };
    let (from, until) = (moment(certificate.not_before), moment(certificate.not_after));
    format!(
        "{place}\n  subject  {}\n  role     {}\n  hosts    {hosts}\n  issuer   {}\n  serial   {}\n  valid    {from} to \
         {until} ({left})\n",
        certificate.subject,
        role(certificate),
        certificate.issuer,
        certificate.serial
    )
}

fn to_json((place, certificate): &Found, now: i64) -> Value {
    json!({
        "place": place, "subject": certificate.subject, "name": certificate.name, "role": role(certificate),
        "hosts": certificate.hosts, "issuer": certificate.issuer, "serial": certificate.serial,
        "not_before": moment(certificate.not_before), "not_after": moment(certificate.not_after),
        "days_left": certificate.days_left(now), "expired": certificate.not_after < now,
    })
}
