//! The real controller binary on loopback, against agents that speak the real protocol without a
//! kernel.

mod converge;
mod events;
mod feeds;
mod history;
mod parts;
mod rate;
mod refusals;
mod signal;
mod support;
