//! Handing out ids and timestamps: a [`Window`] each, extended at the root when it runs dry.
//!
//! The order of steps is what makes it safe. Numbers come only from below a fence that the root committed for
//! our generation; the lease is looked at *after* every wait and right before numbers are taken, with no
//! await between the look and the answer. A paused coordinator that wakes up late therefore either sees its
//! lease gone, or answers a request that was already under way while nobody else served.

use crate::lease::Lease;
use crate::pace::Pace;
use crate::root::RootClient;
use crate::window::Window;
use crate::{Config, Error};
use nokv_env::{ClockExt, Duty, Env, Fact, Instant};
use nokv_proto::id::PHYSICAL_SHIFT;
use nokv_proto::limits::FIRST_ALLOCATED_ID;
use nokv_proto::meta::v1::{MetadataRootFenceAllocatorRequest, RootAllocatorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stretch of numbers that belongs to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Lease generation under which it was given.
    pub generation: u64,
}

impl Grant {
    /// Last number of the stretch.
    pub fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// One of the two allocators.
pub struct Allocator {
    env: Env,
    root: Arc<RootClient>,
    lease: Arc<Mutex<Lease>>,
    config: Config,
    kind: RootAllocatorKind,
    window: Mutex<Window>,
    /// Of timestamps only.
    pace: Mutex<Pace>,
    /// Held while the root is asked, so that many waiters cost one round trip.
    refill: tokio::sync::Mutex<()>,
    /// Numbers given since the start.
    given: AtomicU64,
}

impl Allocator {
    /// An allocator of `kind` with nothing to give yet.
    pub fn new(
        env: &Env,
        root: Arc<RootClient>,
        lease: Arc<Mutex<Lease>>,
        config: &Config,
        kind: RootAllocatorKind,
    ) -> Self {
        Self {
            env: env.clone(),
            root,
            lease,
            config: config.clone(),
            kind,
            window: Mutex::new(Window::default()),
            pace: Mutex::default(),
            refill: tokio::sync::Mutex::new(()),
            given: AtomicU64::new(0),
        }
    }

    /// Takes `count` consecutive numbers (0 counts as 1).
    pub async fn take(&self, count: u64) -> Result<Grant, Error> {
        let count = count.max(1);
        if count > self.count_max() {
            return Err(Error::InvalidRequest(format!(
                "asked for {count} at once; the most is {}",
                self.count_max()
            )));
        }
        if let Some(grant) = self.try_take(count)? {
            return Ok(grant);
        }
        let deadline = self.env.clock.now() + self.config.request_timeout;
        let refill = self.env.clock.timeout_at(deadline, self.refill.lock()).await;
        let _refill = refill.map_err(|_| Error::RootUnavailable("fence not extended in time".into()))?;
        loop {
            if let Some(grant) = self.try_take(count)? {
                return Ok(grant);
            }
            self.extend(count, deadline).await?;
        }
    }

    /// Extends the window in the background before it runs dry.
    pub async fn top_up(&self, deadline: Instant) -> Result<(), Error> {
        if !self.runs_low() || self.env.chance("coordinator.top_up.skip", 0.1) {
            return Ok(());
        }
        let Ok(_refill) = self.refill.try_lock() else { return Ok(()) };
        self.env.probe("coordinator.window.topped_up");
        self.extend(1, deadline).await
    }

    /// Hands out nothing under `generation` from here on. Gives the last number that was; `None` when only the root knows.
    pub fn close(&self, generation: u64) -> Option<u64> {
        self.lock().close(generation)
    }

    /// How many numbers were given since the start.
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// (last handed out, fence), for people.
    pub fn window(&self) -> (u64, u64) {
        let window = self.lock();
        (window.last(), window.fence())
    }

    fn try_take(&self, count: u64) -> Result<Option<Grant>, Error> {
        let generation = self.generation()?;
        let mut window = self.lock();
        if !window.is_open(generation) {
            return Ok(None);
        }
        let first = match self.kind {
            RootAllocatorKind::Tso => window.take_timestamps(self.physical(), count),
            _ => window.take(count),
        };
        drop(window);
        let Some(first) = first else { return Ok(None) };
        self.given.fetch_add(count, Ordering::Relaxed);
        let duty = if self.kind == RootAllocatorKind::Tso { Duty::Timestamps } else { Duty::Ids };
        self.env.fact(Fact::Granted { duty, generation, first, count });
        Ok(Some(Grant { first, count, generation }))
    }

    /// Opens the window for the current generation if need be, then raises its fence at the root.
    async fn extend(&self, count: u64, deadline: Instant) -> Result<(), Error> {
        let generation = self.generation()?;
        if !self.lock().is_open(generation) {
            // Everything up to the committed fence may have been handed out by somebody before us.
            let floor = self.fence(generation, 0, deadline).await?;
            let floor = floor.max(self.start().saturating_sub(1));
            self.lock().open(generation, floor);
            self.lock_pace().restart(self.env.clock.now(), floor >> PHYSICAL_SHIFT);
            self.env.probe("coordinator.window.opened");
        }
        let (floor, ahead) = match self.kind {
            RootAllocatorKind::Tso => (
                self.physical() << PHYSICAL_SHIFT,
                (self.config.tso_ahead.as_millis() as u64) << PHYSICAL_SHIFT,
            ),
            _ => (0, self.config.id_window),
        };
        let ahead = if self.env.chance("coordinator.window.small", 0.1) { 0 } else { ahead };
        let wanted = self.lock().wanted(floor, count, ahead);
        let fence = self.fence(generation, wanted, deadline).await?;
        self.lock().extend(generation, fence);
        Ok(())
    }

    async fn fence(&self, generation: u64, minimum: u64, deadline: Instant) -> Result<u64, Error> {
        self.fence_of(self.kind, generation, minimum, deadline).await
    }

    /// Raises the root's fence of any kind, for the holder of `generation`; gives where it is.
    pub async fn fence_of(
        &self,
        kind: RootAllocatorKind,
        generation: u64,
        minimum: u64,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let request = MetadataRootFenceAllocatorRequest {
            kind: kind as i32,
            minimum,
            holder_id: self.config.coordinator_id.clone(),
            cert_generation: generation,
        };
        self.root.fence(deadline, request).await
    }

    fn generation(&self) -> Result<u64, Error> {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.generation(self.env.clock.now()).ok_or_else(|| Error::LeaseNotHeld(lease.reason()))
    }

    fn runs_low(&self) -> bool {
        let Ok(generation) = self.generation() else { return false };
        let window = self.lock();
        if !window.is_open(generation) {
            return true;
        }
        match self.kind {
            RootAllocatorKind::Tso => {
                let half = self.config.tso_ahead.as_millis() as u64 / 2;
                let soon = self.physical().saturating_add(half) << PHYSICAL_SHIFT;
                soon.max(window.last()) >= window.fence()
            }
            _ => window.last() + self.config.id_window / 2 >= window.fence(),
        }
    }

    fn start(&self) -> u64 {
        match self.kind {
            RootAllocatorKind::Tso => self.config.ts_start,
            _ => self.config.id_start.max(FIRST_ALLOCATED_ID),
        }
    }

    fn count_max(&self) -> u64 {
        match self.kind {
            RootAllocatorKind::Tso => 1 << PHYSICAL_SHIFT,
            _ => 1 << 32,
        }
    }

    /// Physical part of a timestamp taken now.
    fn physical(&self) -> u64 {
        let clock = &self.env.clock;
        self.lock_pace().millis(clock.now(), clock.unix_millis())
    }

    fn lock_pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
