//! What procfs tells: processes, mounts, inter-process communication, and the system as a whole.
//!
//! Readers take the folder where procfs is mounted, so that an agent in a container reads its host and
//! tests read fixtures. They must not know who asks, nor how an answer travels.

mod cgroup;
mod clock;
mod command;
mod conntrack;
mod cpu;
mod file;
mod holder;
mod ipc;
mod listing;
mod memory;
mod mount;
pub mod pid;
mod pressure;
mod process;
mod sample;
mod stat;
mod system;
mod taint;
mod user;

pub(crate) use cgroup::container_id;
pub use conntrack::conntrack_room;
pub use cpu::{CpuTimes, Utilisation, cpu_times};
pub(crate) use file::text;
pub use holder::{SocketHolder, SocketHolders, socket_holders};
pub use ipc::{Id, Ipc, IpcRoots, Kind, Msg, Owner, Sem, Shm, ipc};
pub use listing::{Processes, processes};
pub use memory::{Memory, Swap, memory};
pub use mount::{Mount, Mounts, Usage, Usages, mounts};
pub use pressure::{Pressure, Stall, Stalls, memory_pressure};
pub use process::{Order, Process, Query};
pub use sample::{CpuSample, cpu_sample};
pub use system::{Cpus, Load, System, load, system};
pub use taint::Taint;
pub(crate) use user::Names;
