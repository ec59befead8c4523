//! The filter as a source: what it dropped and what it counted.

use super::{Content, Source};
use crate::enforcer::{Enforcement, Enforcer, Refused};
use agent_kernel::filter::{CYCLE, Sighted};
use kctl_events::{Kind, Kinds};
use tokio::time::{MissedTickBehavior, interval};

/// Tells of packets for as long as there is a filter.
pub(super) async fn run(
    mut source: Source,
    enforcer: Enforcer,
    kinds: Kinds,
) -> Result<(), Refused> {
    let ring = enforcer.run(|it| it.filter().and_then(|filter| Ok(filter.ring_fd()?))).await?;
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
        let tell = move |it: &mut Enforcement| it.tell(is_cycle);
        let Some(mut told) = enforcer.run(tell).await?? else { return Ok(()) };
        told.retain(|event| Kind::of(event).is_some_and(|kind| kinds.contains(kind)));
        source.push(Content::Told(told));
        source.done(look);
    }
}
