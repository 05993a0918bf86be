//! Flags of the commands around the cluster: demo, configuration, help.

use super::Scope;
use super::values::{id, positive_duration};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `nokv demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Where the data lives; running again with the same directory goes on with the same data
    #[arg(long, value_name = "DIR", default_value = "./nokv-demo")]
    pub dir: PathBuf,
    /// Added to every port
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=40_000))]
    pub port_offset: u16,
    /// Make an authority and certificates in DIR/tls, and use them for every connection
    #[arg(long)]
    pub tls: bool,
    /// How long the cluster may take to become ready
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub ready_timeout: Duration,
}

/// The file that all `nokv config` commands read.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// Cluster description (raft_config.json)
    #[arg(long, env = "NOKV_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
}

/// `nokv config`.
#[derive(Debug, Clone, Subcommand)]
pub enum Config {
    /// Report every problem of the file in one run
    Check(ConfigFile),
    /// List stores: id listen_addr addr docker_listen_addr docker_addr work_dir docker_work_dir
    Stores(ConfigFile),
    /// List regions: id start end version conf_version store:peer,... leader_store
    Regions(ConfigFile),
    /// List coordinators, one address a line
    Coordinators {
        /// The file.
        #[command(flatten)]
        file: ConfigFile,
        /// Which addresses of the file to use
        #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
        scope: Scope,
    },
    /// List meta-roots: node_id addr transport_addr work_dir
    MetaRoots {
        /// The file.
        #[command(flatten)]
        file: ConfigFile,
        /// Which addresses of the file to use
        #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
        scope: Scope,
    },
    /// Write the file's regions into the fresh directory of one store
    Seed(Seed),
    /// Print the settings that a server would start with
    Show(ConfigShow),
    /// Print an example of the file, with comments
    Init {
        /// Leave the comments out, for programs that read strict JSON only
        #[arg(long)]
        no_comments: bool,
    },
}

/// `nokv config show`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  nokv config show --origin serve --store-id 1 --config ./raft_config.example.json"
)]
pub struct ConfigShow {
    /// Say where each value comes from: a flag, a variable, the file, or the default
    #[arg(long)]
    pub origin: bool,
    /// The server, with the flags it would be started with.
    #[command(subcommand)]
    pub role: Role,
}

/// The servers.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// A store
    Serve(Box<super::servers::Serve>),
    /// A coordinator
    Coordinator(Box<super::servers::Coordinator>),
    /// A meta-root
    MetaRoot(Box<super::servers::MetaRoot>),
}

/// `nokv config seed`.
#[derive(Debug, Clone, Args)]
pub struct Seed {
    /// The file.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Which directories of the file to use
    #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
    pub scope: Scope,
    /// The store whose directory is seeded
    #[arg(long, env = "NOKV_STORE_ID", value_name = "N", value_parser = id)]
    pub store_id: u64,
    /// The directory [default: from the file]
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: Option<PathBuf>,
}

/// `nokv help`.
#[derive(Debug, Clone, Args)]
pub struct Help {
    /// A command, or `errors`, or `markdown`
    #[arg(value_name = "COMMAND")]
    pub topic: Vec<String>,
}
