//! The command line, as clap sees it: one struct a command.
//!
//! Sub-commands and flags are never guessed from a prefix; a near miss is suggested, not run (`usage` words the
//! error). Flags win over `NOKV_*` variables, these over the file of `--config`, the file over defaults; so flags
//! that a file may also give are `Option`s here, and their defaults live where the three are merged.

pub mod cert;
pub mod client;
pub mod daily;
pub mod inspect;
pub mod migrate;
pub mod security;
pub mod servers;
pub mod sim;
pub mod tools;
pub mod values;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A distributed, transactional key-value database that is developed inside its own simulator.
#[derive(Debug, Parser)]
#[command(
    name = "nokv",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_help = "Start with: nokv demo\nEvery failure has a code: nokv help errors"
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results and failures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Plain,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// How rows are laid out, by the commands that list some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Columns that line up, under a header.
    Table,
    /// RFC 4180, with a header.
    Csv,
}

/// What `-o` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people
    #[value(alias = "text")]
    Plain,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Columns under a header, from commands that list rows
    Table,
    /// Comma-separated values (RFC 4180) under a header, from commands that list rows
    Csv,
}

impl Output {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Output::Plain => "plain",
            Output::Json => "json",
            Output::Jsonl => "jsonl",
            Output::Table => "table",
            Output::Csv => "csv",
        }
    }
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// JSON results and errors; the same as -o json
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// How results and errors are printed [default: plain]
    #[arg(
        short = 'o',
        long = "output",
        global = true,
        value_enum,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub output: Option<Output>,
}

impl Global {
    /// The format in force. Rows that are laid out are text for everything around them: notes, and failures.
    pub fn format(&self) -> Format {
        match self.output {
            Some(Output::Json) => Format::Json,
            Some(Output::Jsonl) => Format::Jsonl,
            None if self.json => Format::Json,
            Some(Output::Plain | Output::Table | Output::Csv) | None => Format::Plain,
        }
    }

    /// How rows are to be laid out, if that was asked for.
    pub fn layout(&self) -> Option<Layout> {
        match self.output? {
            Output::Table => Some(Layout::Table),
            Output::Csv => Some(Layout::Csv),
            Output::Plain | Output::Json | Output::Jsonl => None,
        }
    }
}

/// Addresses inside or outside of containers, for files that list both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Scope {
    /// The plain members of the configuration file
    #[default]
    Host,
    /// The docker_* members, where given
    Docker,
}

impl Command {
    /// Whether it lists rows, which `-o table` and `-o csv` lay out.
    pub fn lists_rows(&self) -> bool {
        match self {
            Command::Status(args) => args.hot.is_some(),
            Command::Scan(_) | Command::Regions(_) | Command::Operators(_) | Command::Transitions(_) => true,
            Command::Store(client::Store::List(_)) => true,
            _ => false,
        }
    }
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine: 3 meta-roots, 3 coordinators, 3 stores
    Demo(tools::Demo),
    /// Print the value of a key
    Get(client::Get),
    /// Write a key
    Put(client::Put),
    /// Delete a key
    #[command(visible_alias = "delete")]
    Del(client::Del),
    /// Print the keys and values of a range
    Scan(client::Scan),
    /// Run several reads and writes as one transaction
    Txn(client::Txn),
    /// Load a file of keys and values; may be interrupted and run again
    Import(client::Import),
    /// Write a range, as of one timestamp, to a file that `import` reads
    Export(daily::Export),
    /// Save all data as of one timestamp, check what was saved, bring it back
    #[command(subcommand)]
    Backup(daily::Backup),
    /// Read and write at a prompt, or as a script from standard input
    Shell(daily::Shell),
    /// Measure a live cluster
    Bench(client::Bench),
    /// Say whether the cluster is healthy, and what is not
    Status(client::Status),
    /// Show a store in numbers: of its directory, or of the running process
    Stats(inspect::Stats),
    /// Show which tables a directory's manifest says are live
    Manifest(inspect::Manifest),
    /// Show the value log of a directory; live segments and what of them is garbage
    Vlog(inspect::Vlog),
    /// Read everything in a directory and list what is damaged, changing nothing
    Check(inspect::Check),
    /// List regions: of a store directory, or of a live cluster
    Regions(client::Regions),
    /// Split a region, or move its leader
    #[command(subcommand)]
    Region(client::Region),
    /// Show what replicas hold of a key: versions, lock, rollback records
    #[command(subcommand)]
    Mvcc(client::Mvcc),
    /// List what the scheduler does and why, and what it cannot do
    Operators(client::Operators),
    /// List changes of regions that are under way
    Transitions(client::Transitions),
    /// Show what a store did last and what became of changes to its regions
    Execution(client::Execution),
    /// Empty a store that is to go
    #[command(subcommand)]
    Store(client::Store),
    /// Turn a stand-alone database into a cluster, step by step
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Run a store
    Serve(servers::Serve),
    /// Run a coordinator
    Coordinator(servers::Coordinator),
    /// Run one of the three meta-roots
    MetaRoot(servers::MetaRoot),
    /// Make and show the certificates with which processes and clients trust each other
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Check a configuration file, list what it says, seed store directories
    #[command(subcommand)]
    Config(tools::Config),
    /// Gather what helps to find out what is wrong
    #[command(subcommand)]
    Debug(daily::Debug),
    /// Run the whole cluster inside the simulator
    #[command(subcommand)]
    Sim(sim::Sim),
    /// Print what a shell needs to complete commands
    Completions(daily::Completions),
    /// Print the manual page, or write those of all commands
    Man(daily::Man),
    /// Print the version
    Version,
    /// Print help on a command, or `errors` for all error codes, or `markdown` for all commands
    Help(tools::Help),
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn prefixes_are_not_guessed() {
        assert!(Cli::try_parse_from(["nokv", "stat"]).is_err());
        assert!(Cli::try_parse_from(["nokv", "get", "--coordinator", "a:1", "k"]).is_err());
        assert!(Cli::try_parse_from(["nokv", "get", "--coordinator-addr", "a:1", "k"]).is_ok());
    }

    #[test]
    fn three_peers_parse_and_durations_need_units() {
        let root = ["nokv", "meta-root", "--workdir", "/d", "--node-id", "1", "--transport-addr", "h:1"];
        let peers = ["--peer", "1=h:1", "--peer", "2=h:2", "--peer", "3=h:3"];
        assert!(Cli::try_parse_from(root.iter().chain(&peers)).is_ok());
        let ticks = ["--tick-interval", "100"];
        assert!(Cli::try_parse_from(root.iter().chain(&peers).chain(&ticks)).is_err());
    }
}
