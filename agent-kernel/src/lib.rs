//! The Linux kernel of one host: the XDP filter, netlink, processes, files of /proc and /sys, devices,
//! modules, and
//! facts of the system.
//!
//! It is the only crate that talks to the kernel. It knows prefixes, rules and interfaces; it must
//! not know gRPC, protocol buffers, the controller, or why something is blocked.

pub mod counters;
pub mod cpufreq;
mod error;
pub mod file;
pub mod filter;
pub mod netlink;
pub mod proc;
pub mod sys;
pub mod trace;

pub use error::{Error, ErrorKind};
