//! The real controller binary on loopback, against agents that speak the real protocol without a
//! kernel.

mod converge;
mod feeds;
mod parts;
mod refusals;
mod signal;
mod support;
