//! `nokv cert`: makes authorities and certificates, and says what certificates say.
//!
//! Roles are the organizational unit (`OU`) of a certificate's subject: `node`, `admin`, `client`; see
//! `nokv_realenv::tls`. No file is ever overwritten; keys can be read by their owner only.
#![allow(clippy::disallowed_methods, reason = "makes files that no server is using")]

pub mod authority;
mod new_file;
mod show;

use crate::args::cert::{Cert, CreateCa, CreateClient, CreateNode, UserRole};
use crate::args::{Format, Global};
use crate::errors::Result;
use crate::output::Out;
use authority::{Authority, Made, Subject};
use nokv_realenv::tls::{Role, moment};
use serde_json::json;

/// Carries out the verb.
pub fn run(command: &Cert, global: &Global) -> Result<u8> {
    match command {
        Cert::CreateCa(args) => create_ca(args, global),
        Cert::CreateNode(args) => create_node(args, global),
        Cert::CreateClient(args) => create_client(args, global),
        Cert::Show(args) => show::run(args, global),
    }
}

fn create_ca(args: &CreateCa, global: &Global) -> Result<u8> {
    let made = authority::create(&args.dir, &args.name, args.days)?;
    tell(&made, "give this to everybody", "keep it safe: whoever has it can make certificates", global)
}

fn create_node(args: &CreateNode, global: &Global) -> Result<u8> {
    let name = args.name.clone().unwrap_or_else(|| short(&args.host[0]));
    let subject = Subject { name: &name, role: Role::Node, hosts: &args.host, days: args.days };
    let made = Authority::open(&args.ca_dir)?.issue(&subject, &args.out, "node")?;
    tell(&made, &format!("for {}", args.host.join(", ")), "for this process alone", global)
}

/// Names in certificates have at most 64 characters, host names may have more.
fn short(host: &str) -> String {
    host.chars().take(64).collect()
}

fn create_client(args: &CreateClient, global: &Global) -> Result<u8> {
    let role = match args.role {
        UserRole::Client => Role::Client,
        UserRole::Admin => Role::Admin,
    };
    let subject = Subject { name: &args.name, role, hosts: &[], days: args.days };
    let made = Authority::open(&args.ca_dir)?.issue(&subject, &args.out, &format!("client.{}", args.name))?;
    tell(&made, &format!("role {}", role.name()), "for its owner alone", global)
}

/// Says what was made.
fn tell(made: &Made, certificate: &str, key: &str, global: &Global) -> Result<u8> {
    let until = moment(made.not_after);
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            out.line(&format!("{}  {certificate}; valid until {until}", made.certificate.display()))?;
            out.line(&format!("{}  {key}", made.key.display()))?;
        }
        _ => out.json(&json!({
            "certificate": made.certificate.display().to_string(), "key": made.key.display().to_string(),
            "subject": made.subject, "not_after": until,
        }))?,
    }
    out.flush()?;
    Ok(0)
}
