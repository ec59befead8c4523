//! What procfs tells: processes, and the system as a whole.
//!
//! Readers take the folder where procfs is mounted, so that an agent in a container reads its host and
//! tests read fixtures. They must not know who asks, nor how an answer travels.

mod cgroup;
mod clock;
mod cpu;
mod file;
mod holder;
mod listing;
mod memory;
mod pressure;
mod process;
mod stat;
mod system;
mod user;

pub use cpu::{CpuTimes, Utilisation, cpu_times};
pub use holder::{SocketHolder, SocketHolders, socket_holders};
pub use listing::{Processes, processes};
pub use memory::{Memory, Swap};
pub use pressure::{Pressure, Stall, Stalls};
pub use process::{Order, Process, Query};
pub use system::{Cpus, Load, System, system};
pub(crate) use user::Users;
