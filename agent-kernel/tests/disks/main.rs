//! Block devices and mounts against lsblk(8), findmnt(8), df(1) and /proc/diskstats. Loop devices and
//! mounts are the test's own; the machine has others.

mod devices;
mod mounts;
mod support;
