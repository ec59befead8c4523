//! Facts of the host that are about no process, and what sysfs tells: block devices and modules.
//!
//! Readers take the folder where sysfs or procfs is mounted, so that an agent in a container reads its
//! host and tests read fixtures. It must not know the filter.

mod disk;
mod file;
mod host;
mod module;

pub use disk::{Counters, Disk, DiskQuery, DiskRates, Disks, Operations, Sample, disks, sample};
pub use host::{boot_id, boottime_ns, hostname, kernel_release, resolvers};
pub use module::{Module, ModuleQuery, Parameter, modules};
