//! Events as data: what kinds there are, which of them a reader wants, their JSON form, the thresholds of
//! alerts, and the bounded ring that readers follow.
//!
//! It owns the rules that agent, controller and CLI must agree on. It does no I/O and knows neither
//! kernel nor store.

pub mod alert;
mod expression;
mod filter;
mod kind;
mod ledger;
mod ring;
mod schema;
pub mod view;

pub use filter::{Filter, InvalidFilter};
pub use kind::{Kind, Kinds, UnknownKind};
pub use ledger::{Ledger, Sums};
pub use ring::{Entry, Place, Read, Reader, Ring};
pub use schema::schema;
