//! Real hosts in network namespaces: the lab that the demo and the end-to-end tests share.
//!
//! It lays hosts, an attacker, a bystander, a workstation and a controller around a bridge, runs the
//! real binaries in them, and offers oracles that are independent of kctl: `ping`, raw sockets,
//! frames on the wire. It knows the binaries' flags and files, never their code. Everything it makes
//! carries the lab's id in its name and goes away with the [`Lab`].

mod cgroup;
mod daemon;
mod events;
mod flood;
mod foreign;
mod frame;
mod kernel;
mod lab;
mod namespace;
mod network;
mod output;
mod ping;
mod pins;
mod programs;
mod scrape;
mod spawned;
mod storm;
mod sweep;
mod syn;
mod wait;

pub use daemon::Daemon;
pub use events::EventReader;
pub use flood::{block_attacker, flood, nothing_passed};
pub use foreign::Foreign;
pub use frame::{Capture, Datagram, FrameSender};
pub use kernel::{KernelRule, delete_rule, rules, xdp_programs};
pub use lab::{Agent, Kctl, Lab, Layout, with_arguments, with_lab};
pub use namespace::Namespace;
pub use network::{ATTACKER, BYSTANDER, CONTROLLER, Place, WORKSTATION};
pub use output::Output;
pub use ping::{Pinger, Tally, ping};
pub use scrape::{Answer, curl, metrics, metrics_url, sample};
pub use spawned::Spawned;
pub use storm::{STORM_BLOCKED, STORM_FREE, Storm, syn_storm};
pub use syn::SynSender;
pub use wait::until;
