//! Flags about certificates: of everything that dials or listens.

use clap::Args;
use std::path::PathBuf;

/// Whom to trust, and who we are.
#[derive(Debug, Clone, Default, Args)]
pub struct Certificates {
    /// Authorities to trust, PEM; with it every connection is TLS [default: from the configuration file]
    #[arg(long, env = "NOKV_TLS_CA", value_name = "FILE", help_heading = "Security")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate to show to the other side, PEM [default: from the configuration file]
    #[arg(long, env = "NOKV_TLS_CERT", value_name = "FILE", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM [default: from the configuration file]
    #[arg(long, env = "NOKV_TLS_KEY", value_name = "FILE", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,
}

/// Security of a command that dials.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientSecurity {
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub certificates: Certificates,
    /// Do without TLS although the configuration file names certificates
    #[arg(long, help_heading = "Security")]
    pub insecure: bool,
}

/// Security of a server.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerSecurity {
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub certificates: Certificates,
    /// Listen without TLS also where other machines can reach it (metrics never have TLS)
    #[arg(long, env = "NOKV_INSECURE", help_heading = "Security")]
    pub insecure: bool,
}
