//! What procfs tells: processes, and the system as a whole.
//!
//! Readers take the folder where procfs is mounted, so that an agent in a container reads its host and
//! tests read fixtures. They must not know who asks, nor how an answer travels.

mod cgroup;
mod clock;
mod command;
mod cpu;
mod file;
mod listing;
mod memory;
pub mod pid;
mod pressure;
mod process;
mod sample;
mod stat;
mod system;
mod user;

pub use cpu::{CpuTimes, Utilisation, cpu_times};
pub use listing::{Processes, processes};
pub use memory::{Memory, Swap};
pub use pressure::{Pressure, Stall, Stalls};
pub use process::{Order, Process, Query};
pub use sample::{CpuSample, cpu_sample};
pub use system::{Cpus, Load, System, system};
