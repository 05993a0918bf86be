//! The world comes in by one door: clock, disk, network, randomness and tasks as small traits.
//!
//! Every other crate is ordinary async Rust written against these traits. `realenv` implements them with
//! the operating system, tokio and tonic; `sim` implements them inside one seeded, deterministic world.
//! A component takes an [`Env`] (or only the part it needs) when it starts and never reaches around it.
//!
//! Start at [`Env`]. Then: [`clock`] time, [`disk`] files and what a crash leaves of them, [`net`] gRPC
//! over any transport, [`rng`] one seed split into streams, [`task`] spawning, [`probe`] the hooks through
//! which a simulation watches the product and forces its rare branches, [`histogram`] durations in buckets.

pub mod clock;
pub mod cluster;
pub mod disk;
pub mod histogram;
pub mod mem_disk;
pub mod net;
pub mod probe;
pub mod rng;
pub mod task;

use std::sync::Arc;

pub use clock::{Clock, ClockExt, Elapsed, Instant};
pub use cluster::OfCluster;
pub use disk::{Disk, File, OpenMode};
pub use histogram::{Durations, Histogram};
pub use mem_disk::MemDisk;
pub use net::{Channel, Net, ServerHandle};
pub use probe::{Authority, Duty, Fact, Hooks, NoHooks, Peer, Promise, Region};
pub use rng::RngSource;
pub use task::{Tasks, TasksExt};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a component may touch of the world around it. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Monotonic and wall time of this node.
    pub clock: Arc<dyn Clock>,
    /// This node's disk.
    pub disk: Arc<dyn Disk>,
    /// Serving and calling gRPC.
    pub net: Arc<dyn Net>,
    /// Randomness, one stream a purpose.
    pub rng: RngSource,
    /// Spawning work.
    pub tasks: Arc<dyn Tasks>,
    /// Simulation hooks; [`NoHooks`] in production.
    pub hooks: Arc<dyn Hooks>,
}

impl Env {
    /// Whether the simulator wants the rare branch called `name` here. Always false in production.
    pub fn chance(&self, name: &'static str, probability: f64) -> bool {
        self.hooks.chance(name, probability)
    }

    /// Marks a state worth reaching in simulations. Free in production.
    pub fn probe(&self, name: &'static str) {
        self.hooks.probe(name);
    }

    /// Reports a protocol fact to whoever checks invariants. Free in production.
    pub fn fact(&self, fact: Fact) {
        self.hooks.fact(fact);
    }

    /// Whether anybody listens to facts; false in production. For facts that cost work.
    pub fn watching(&self) -> bool {
        self.hooks.watching()
    }
}
