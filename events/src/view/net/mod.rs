//! What netlink tells of a host's network: the rows of `kctl net`, and the events of their changes.

mod addr;
mod link;
mod neigh;
mod route;

pub use addr::AddrView;
pub use link::{LinkView, StatisticsView, XdpView};
pub use neigh::NeighView;
pub use route::{NextHopView, RouteView};

use kctl_proto::agent::v1::{Family, NetChange};
use schemars::JsonSchema;
use serde::Serialize;

/// An object and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Changed{T}")]
pub struct ChangedView<T> {
    /// "added", "changed" or "removed"; "unknown" for a change of a later version.
    pub change: &'static str,
    /// As it is, or was when it was removed.
    #[serde(flatten)]
    pub object: Option<T>,
}

impl<T> ChangedView<T> {
    pub(super) fn new<P: Clone>(change: NetChange, object: Option<&P>) -> Self
    where
        T: From<P>,
    {
        let change = match change {
            NetChange::Unspecified => "unknown",
            NetChange::Added => "added",
            NetChange::Changed => "changed",
            NetChange::Removed => "removed",
        };
        Self { change, object: object.cloned().map(T::from) }
    }
}

/// As in ip(8).
fn family_name(family: Family) -> &'static str {
    match family {
        Family::Unspecified => "unknown",
        Family::Inet => "inet",
        Family::Inet6 => "inet6",
    }
}

/// Empty means unknown on the wire.
fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
