//! The coordinator lease, and its formal end: seal, confirm, close, reattach.
//!
//! The state machine knows no time. A lease on record is *live* until it is released, sealed or taken over;
//! whether it has run out is judged by the root leader's own monotonic clock (`crate::lease`), which then
//! proposes a take-over. The take-over names the generation and the number of renewals that the leader saw
//! silent; if a renewal got into the log before it, it fails here, on every node alike.
//!
//! - ISSUE by the holder of a live lease is a renewal: same generation, `renewals` + 1.
//! - ISSUE by another is granted (generation + 1) when the lease was released, sealed or is taken over, else HELD.
//! - After a seal the successor must name the seal's digest and cover every frontier that was consumed.
//! - FenceAllocator may name holder and generation; then it counts only for the live lease. So a coordinator
//!   that lost its lease cannot raise a fence and hand out what lies below it.

use super::{Refusal, Reply, RootState};
use crate::digest;
use nokv_proto::meta::v1::root_command::{Closure, Fence, Lease};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    RootCoordinatorClosure, RootCoordinatorClosureCommand, RootCoordinatorClosureCommandKind as ClosureKind,
    RootCoordinatorClosureStage as Stage, RootCoordinatorLease, RootCoordinatorLeaseCommand,
    RootCoordinatorLeaseCommandKind as LeaseKind, RootCoordinatorSeal, RootCursor, RootDutyFrontier,
    RootEvent, RootEventKind,
};

/// Duty bit of ids.
const DUTY_IDS: u32 = 1;
/// Duty bit of timestamps.
const DUTY_TIMESTAMPS: u32 = 2;
/// Ids, timestamps and routes.
const DUTIES_DEFAULT: u32 = 7;
/// Nobody may hold the cluster for longer than this after falling silent.
const TTL_MILLIS_MAX: u64 = 60 * 60 * 1000;

/// Whether somebody holds this lease, as far as the log knows.
pub fn is_live(lease: &RootCoordinatorLease, seal: Option<&RootCoordinatorSeal>) -> bool {
    lease.ttl_millis > 0 && seal.is_none_or(|seal| seal.cert_generation != lease.cert_generation)
}

impl RootState {
    /// The seal of the current generation, if it is sealed.
    pub fn current_seal(&self) -> Option<&RootCoordinatorSeal> {
        let generation = self.lease.as_ref().map_or(0, |lease| lease.cert_generation);
        self.seal.as_ref().filter(|seal| seal.cert_generation == generation)
    }

    /// The lease, if somebody holds it.
    pub fn live_lease(&self) -> Option<&RootCoordinatorLease> {
        self.lease.as_ref().filter(|lease| is_live(lease, self.seal.as_ref()))
    }

    pub(super) fn lease_command(
        &mut self,
        at: RootCursor,
        request: &Lease,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        let command = request.command.as_ref().ok_or_else(|| Refusal::invalid("no lease command"))?;
        if command.holder_id.is_empty() {
            return Err(Refusal::invalid("lease holder id is empty"));
        }
        let granted = match command.kind() {
            LeaseKind::Issue => self.issue(at, request, command, events)?,
            LeaseKind::Release => self.release(command, events)?,
            LeaseKind::Unspecified => return Err(Refusal::invalid("unknown lease command")),
        };
        self.committed(at, events);
        Ok(Reply::Lease { protocol: Box::new(self.protocol()), granted })
    }

    fn issue(
        &mut self,
        at: RootCursor,
        request: &Lease,
        command: &RootCoordinatorLeaseCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<bool, Refusal> {
        let ttl_millis = ttl_millis(command)?;
        check_frontiers(&command.handoff_frontiers)?;
        let next = match &self.lease {
            None => fresh(1, at, command),
            Some(current) if self.current_seal().is_some() => {
                self.check_succession(command)?;
                fresh(current.cert_generation + 1, at, command)
            }
            Some(current) if current.ttl_millis == 0 => fresh(current.cert_generation + 1, at, command),
            Some(current) if current.holder_id == command.holder_id => renewed(current, command)?,
            Some(current) if is_takeover(request, current) => fresh(current.cert_generation + 1, at, command),
            Some(_) => return Ok(false),
        };
        let lease = RootCoordinatorLease {
            ttl_millis,
            expires_unix_nano: command.expires_unix_nano,
            address: command.address.clone(),
            ..next
        };
        self.record_lease(lease, &command.handoff_frontiers, events)?;
        Ok(true)
    }

    fn release(
        &mut self,
        command: &RootCoordinatorLeaseCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<bool, Refusal> {
        let lease = self.owned_lease(&command.holder_id)?;
        let (meant, current) = (command.cert_generation, lease.cert_generation);
        if meant != 0 && meant != current {
            return Err(Refusal::precondition(format!(
                "lease generation {meant} has passed: it is {current} now"
            )));
        }
        check_frontiers(&command.handoff_frontiers)?;
        if lease.ttl_millis > 0 {
            let lease = RootCoordinatorLease {
                ttl_millis: 0,
                expires_unix_nano: command.now_unix_nano,
                renewals: lease.renewals + 1,
                ..lease.clone()
            };
            self.record_lease(lease, &command.handoff_frontiers, events)?;
        }
        Ok(true)
    }

    fn record_lease(
        &mut self,
        lease: RootCoordinatorLease,
        frontiers: &[RootDutyFrontier],
        events: &mut Vec<RootEvent>,
    ) -> Result<(), Refusal> {
        use nokv_proto::meta::v1::RootAllocatorKind as Allocator;
        for (duty, allocator) in [(DUTY_IDS, Allocator::Id), (DUTY_TIMESTAMPS, Allocator::Tso)] {
            self.raise_fence(allocator, frontier(frontiers, duty))?;
        }
        self.lease = Some(lease.clone());
        events.push(RootEvent {
            kind: RootEventKind::CoordinatorLease as i32,
            payload: Some(Payload::CoordinatorLease(lease)),
        });
        Ok(())
    }

    /// After a seal: the successor must know what it succeeds, and go on above it.
    fn check_succession(&self, command: &RootCoordinatorLeaseCommand) -> Result<(), Refusal> {
        let Some(seal) = self.current_seal() else { return Ok(()) };
        if command.predecessor_digest != digest::seal(seal) {
            return Err(Refusal::precondition("predecessor digest is not that of the sealed generation"));
        }
        match uncovered(seal, &command.handoff_frontiers) {
            Some(why) => Err(Refusal::Precondition(why)),
            None => Ok(()),
        }
    }

    /// Fails unless the named coordinator may raise fences.
    pub(super) fn check_fence_owner(&self, fence: &Fence) -> Result<(), Refusal> {
        if fence.cert_generation == 0 && fence.holder_id.is_empty() {
            return Ok(());
        }
        let current = self.live_lease();
        let is_owner = current.is_some_and(|lease| {
            lease.cert_generation == fence.cert_generation
                && (fence.holder_id.is_empty() || lease.holder_id == fence.holder_id)
        });
        if is_owner {
            return Ok(());
        }
        let (holder, generation) =
            current.map_or(("nobody", 0), |lease| (&lease.holder_id, lease.cert_generation));
        Err(Refusal::precondition(format!(
            "coordinator lease not held: generation {} of {} is over, {holder} holds generation {generation}",
            fence.cert_generation, fence.holder_id
        )))
    }

    fn owned_lease(&self, holder: &str) -> Result<&RootCoordinatorLease, Refusal> {
        match &self.lease {
            Some(lease) if lease.holder_id == holder => Ok(lease),
            Some(lease) => {
                let owner = &lease.holder_id;
                Err(Refusal::precondition(format!(
                    "coordinator lease not held: {owner} owns it, not {holder}"
                )))
            }
            None => Err(Refusal::precondition("coordinator lease not held: nobody ever had it")),
        }
    }
}

/// Seal and closure.
impl RootState {
    pub(super) fn closure_command(
        &mut self,
        at: RootCursor,
        request: &Closure,
        events: &mut Vec<RootEvent>,
    ) -> Result<Reply, Refusal> {
        let command = request.command.as_ref().ok_or_else(|| Refusal::invalid("no closure command"))?;
        if command.holder_id.is_empty() {
            return Err(Refusal::invalid("lease holder id is empty"));
        }
        match command.kind() {
            ClosureKind::Seal => self.seal_lease(at, command, events)?,
            ClosureKind::Confirm => self.confirm(at, command, events)?,
            ClosureKind::Close => self.advance(at, command, Stage::Closed, events)?,
            ClosureKind::Reattach => self.advance(at, command, Stage::Reattached, events)?,
            ClosureKind::Unspecified => return Err(Refusal::invalid("unknown closure command")),
        }
        self.committed(at, events);
        Ok(Reply::Closure { protocol: Box::new(self.protocol()) })
    }

    fn seal_lease(
        &mut self,
        at: RootCursor,
        command: &RootCoordinatorClosureCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<(), Refusal> {
        let lease = self.owned_lease(&command.holder_id)?;
        if self.current_seal().is_some() {
            return Ok(());
        }
        check_frontiers(&command.frontiers)?;
        let seal = RootCoordinatorSeal {
            holder_id: lease.holder_id.clone(),
            cert_generation: lease.cert_generation,
            duty_mask: if lease.duty_mask == 0 { DUTIES_DEFAULT } else { lease.duty_mask },
            consumed_frontiers: command.frontiers.clone(),
            sealed_at_cursor: Some(at),
        };
        self.seal = Some(seal.clone());
        self.closure = None;
        let payload = Some(Payload::CoordinatorSeal(seal));
        events.push(RootEvent { kind: RootEventKind::CoordinatorSeal as i32, payload });
        Ok(())
    }

    /// The holder of a live later generation proves that it goes on above everything the sealed one consumed.
    fn confirm(
        &mut self,
        at: RootCursor,
        command: &RootCoordinatorClosureCommand,
        events: &mut Vec<RootEvent>,
    ) -> Result<(), Refusal> {
        let seal = self.seal.clone().ok_or_else(|| Refusal::precondition("no generation is sealed"))?;
        let lease = self.live_holder(&command.holder_id)?;
        if lease.cert_generation <= seal.cert_generation {
            return Err(Refusal::precondition("the sealed generation has no successor yet"));
        }
        let digest = digest::seal(&seal);
        if lease.predecessor_digest != digest {
            return Err(Refusal::invalid("the successor's predecessor digest is not that of the seal"));
        }
        if let Some(why) = uncovered(&seal, &lease.handoff_frontiers) {
            return Err(Refusal::Invalid(why));
        }
        let closure = RootCoordinatorClosure {
            holder_id: lease.holder_id.clone(),
            seal_generation: seal.cert_generation,
            successor_generation: lease.cert_generation,
            seal_digest: digest,
            stage: Stage::Confirmed as i32,
            confirmed_at_cursor: Some(at),
            ..Default::default()
        };
        let same = self.closure.as_ref().is_some_and(|known| {
            known.successor_generation == closure.successor_generation
                && known.seal_generation == closure.seal_generation
                && known.stage() != Stage::PendingConfirm
        });
        if !same {
            self.record_closure(closure, events);
        }
        Ok(())
    }

    /// CONFIRMED -> CLOSED -> REATTACHED, by the successor that confirmed.
    fn advance(
        &mut self,
        at: RootCursor,
        command: &RootCoordinatorClosureCommand,
        stage: Stage,
        events: &mut Vec<RootEvent>,
    ) -> Result<(), Refusal> {
        let generation = self.live_holder(&command.holder_id)?.cert_generation;
        let mut closure =
            self.closure.clone().ok_or_else(|| Refusal::precondition("no closure is confirmed"))?;
        if closure.holder_id != command.holder_id || closure.successor_generation != generation {
            return Err(Refusal::precondition("the closure belongs to another holder or generation"));
        }
        let before = if stage == Stage::Closed { Stage::Confirmed } else { Stage::Closed };
        if closure.stage >= stage as i32 {
            return Ok(());
        }
        if closure.stage() != before {
            let now = closure.stage().as_str_name();
            return Err(Refusal::precondition(format!(
                "closure is at {now}, not at {}",
                before.as_str_name()
            )));
        }
        closure.stage = stage as i32;
        match stage {
            Stage::Closed => closure.closed_at_cursor = Some(at),
            _ => closure.reattached_at_cursor = Some(at),
        }
        self.record_closure(closure, events);
        Ok(())
    }

    fn record_closure(&mut self, closure: RootCoordinatorClosure, events: &mut Vec<RootEvent>) {
        self.closure = Some(closure.clone());
        let payload = Some(Payload::CoordinatorClosure(closure));
        events.push(RootEvent { kind: RootEventKind::CoordinatorClosure as i32, payload });
    }

    fn live_holder(&self, holder: &str) -> Result<&RootCoordinatorLease, Refusal> {
        let lease = self.live_lease().filter(|lease| lease.holder_id == holder);
        lease.ok_or_else(|| {
            Refusal::precondition(format!("coordinator lease not held: {holder} has no live lease"))
        })
    }
}

/// Life without renewal; a caller that speaks in wall-clock times only means their difference.
fn ttl_millis(command: &RootCoordinatorLeaseCommand) -> Result<u64, Refusal> {
    let by_wall_clock = command.expires_unix_nano.saturating_sub(command.now_unix_nano) / 1_000_000;
    let ttl = match command.ttl_millis {
        0 => u64::try_from(by_wall_clock).unwrap_or(0),
        ttl => ttl,
    };
    match ttl {
        0 => Err(Refusal::invalid("a lease needs a time to live")),
        ttl if ttl > TTL_MILLIS_MAX => {
            Err(Refusal::invalid(format!("a lease of {ttl} ms is longer than {TTL_MILLIS_MAX} ms")))
        }
        ttl => Ok(ttl),
    }
}

/// A lease of a new generation.
fn fresh(generation: u64, at: RootCursor, command: &RootCoordinatorLeaseCommand) -> RootCoordinatorLease {
    RootCoordinatorLease {
        holder_id: command.holder_id.clone(),
        cert_generation: generation,
        issued_cursor: Some(at),
        duty_mask: DUTIES_DEFAULT,
        predecessor_digest: command.predecessor_digest.clone(),
        handoff_frontiers: command.handoff_frontiers.clone(),
        ..Default::default()
    }
}

/// The same lease with a new life.
fn renewed(
    current: &RootCoordinatorLease,
    command: &RootCoordinatorLeaseCommand,
) -> Result<RootCoordinatorLease, Refusal> {
    if !command.predecessor_digest.is_empty() && command.predecessor_digest != current.predecessor_digest {
        return Err(Refusal::precondition("a renewal cannot change the predecessor digest"));
    }
    Ok(RootCoordinatorLease { renewals: current.renewals + 1, ..current.clone() })
}

fn is_takeover(request: &Lease, current: &RootCoordinatorLease) -> bool {
    request.takeover_of_generation == current.cert_generation && request.observed_renewals == current.renewals
}

fn check_frontiers(frontiers: &[RootDutyFrontier]) -> Result<(), Refusal> {
    match frontiers.iter().find(|frontier| frontier.frontier > super::FENCE_MAX) {
        Some(frontier) => Err(Refusal::invalid(format!(
            "frontier {} of duty {} is too high",
            frontier.frontier, frontier.duty_mask
        ))),
        None => Ok(()),
    }
}

/// The frontier of one duty; zero when it is not mentioned.
fn frontier(frontiers: &[RootDutyFrontier], duty: u32) -> u64 {
    frontiers
        .iter()
        .filter(|frontier| frontier.duty_mask == duty)
        .map(|frontier| frontier.frontier)
        .max()
        .unwrap_or(0)
}

/// Which sealed frontier the successor does not reach, if any.
fn uncovered(seal: &RootCoordinatorSeal, successor: &[RootDutyFrontier]) -> Option<String> {
    digest::DUTIES.iter().filter(|duty| seal.duty_mask & **duty != 0).find_map(|&duty| {
        let (required, actual) = (frontier(&seal.consumed_frontiers, duty), frontier(successor, duty));
        (actual < required).then(|| format!("frontier {actual} of duty {duty} does not cover {required}"))
    })
}
