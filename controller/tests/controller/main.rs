//! The real controller binary on loopback, against agents that speak the real protocol without a
//! kernel.

mod audit;
mod converge;
mod escalation;
mod events;
mod feeds;
mod fleet;
mod history;
mod limits;
mod parts;
mod rate;
mod refusals;
mod revocation;
mod roles;
mod signal;
mod skew;
mod support;
