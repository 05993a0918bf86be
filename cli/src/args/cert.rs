//! Flags of `nokv cert`.

use super::values::{address, common_name, hosts};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `nokv cert`.
#[derive(Debug, Clone, Subcommand)]
pub enum Cert {
    /// Make an authority: ca.crt for everybody, ca.key to be kept safe
    CreateCa(CreateCa),
    /// Make the certificate of a process of the cluster: node.crt and node.key
    CreateNode(CreateNode),
    /// Make the certificate of a user or a program: client.NAME.crt and client.NAME.key
    CreateClient(CreateClient),
    /// Say whose certificates these are, and how long they are valid
    Show(Show),
}

/// `nokv cert create-ca`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Existing files are never overwritten.")]
pub struct CreateCa {
    /// Directory of the authority; made when it is missing
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the authority
    #[arg(long, value_name = "NAME", default_value = "NoKV CA", value_parser = common_name)]
    pub name: String,
    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `nokv cert create-node`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  nokv cert create-node --ca-dir ca --out store-1 --host store-1.example.net,10.0.0.7,127.0.0.1\n\n\
    Existing files are never overwritten. To replace a certificate make the new one elsewhere and move both files over\n\
    the old ones: servers read them again without a restart."
)]
pub struct CreateNode {
    /// Directory with ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// Directory for node.crt and node.key; made when it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Every host name and IP address under which others dial this process
    #[arg(long, value_name = "NAME,IP,...", value_delimiter = ',', required = true, value_parser = hosts)]
    pub host: Vec<String>,
    /// Name in logs and errors [default: the first host]
    #[arg(long, value_name = "NAME", value_parser = common_name)]
    pub name: Option<String>,
    /// How long it is valid; never longer than the authority
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// What the holder of a certificate may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserRole {
    /// Read and write keys, look at the cluster
    Client,
    /// Change regions and stores, too
    Admin,
}

/// `nokv cert create-client`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Existing files are never overwritten.")]
pub struct CreateClient {
    /// Directory with ca.crt and ca.key
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// Directory for both files; made when it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the user or program; becomes part of the file names
    #[arg(long, value_name = "NAME", value_parser = super::values::file_name)]
    pub name: String,
    /// What the holder may do
    #[arg(long, value_enum, default_value = "client")]
    pub role: UserRole,
    /// How long it is valid; never longer than the authority
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `nokv cert show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit code: 7 when one of them has expired.")]
pub struct Show {
    /// Certificates in PEM form
    #[arg(value_name = "FILE", required_unless_present = "addr")]
    pub files: Vec<PathBuf>,
    /// Ask the server at this address for its certificates, whoever issued them
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: Option<String>,
}
