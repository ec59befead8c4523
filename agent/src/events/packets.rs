//! The filter as two sources: what it dropped and counted, and what its detection found.

use super::{Content, Source};
use crate::enforcer::{Enforcement, Enforcer, Refused};
use agent_kernel::Error;
use agent_kernel::filter::{CYCLE, Filter, Sighted};
use kctl_events::{Kind, Kinds};
use kctl_proto::agent::v1 as pb;
use std::os::fd::OwnedFd;
use tokio::time::{MissedTickBehavior, interval};

/// What there is to tell; `None` without a filter.
type Told = Result<Option<Vec<pb::Event>>, Refused>;

/// What of the filter tells, and how it is asked.
pub(super) struct Teller {
    /// Readable when there is something to tell at once.
    pub(super) ring: fn(&Filter) -> Result<OwnedFd, Error>,
    /// Asks for it, with `true` once a cycle.
    pub(super) tell: fn(&mut Enforcement, bool) -> Told,
}

/// What it dropped and what it counted.
pub(super) const PACKETS: Teller = Teller { ring: Filter::ring_fd, tell: Enforcement::tell };
/// What its detection found.
pub(super) const FINDINGS: Teller = Teller { ring: Filter::alarm_fd, tell: Enforcement::detect };

/// Tells for as long as there is a filter.
pub(super) async fn run(
    mut source: Source,
    enforcer: Enforcer,
    kinds: Kinds,
    Teller { ring, tell }: Teller,
) -> Result<(), Refused> {
    let ring = enforcer.run(move |it| it.filter().and_then(|filter| Ok(ring(filter)?))).await?;
    // Why there is no filter is in the host's status already.
    let Ok(ring) = ring else { return Ok(()) };
    let mut sighted = Sighted::new(ring)?;
    let mut cycle = interval(CYCLE);
    cycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_cycle = tokio::select! {
            sighted = sighted.readable() => sighted.map(|()| false)?,
            () = source.asked() => false,
            _ = cycle.tick() => true,
        };
        let look = source.look();
        let told = enforcer.run(move |it: &mut Enforcement| tell(it, is_cycle)).await?;
        let Some(mut told) = told? else { return Ok(()) };
        told.retain(|event| {
            Kind::of(event).is_some_and(|kind| kinds.contains(kind) || kind == Kind::Lost)
        });
        source.push(Content::Told(told));
        source.done(look);
    }
}
