//! The tracing programs in the real kernel. Each test's processes are in a cgroup of its own, which is
//! the tracer's scope; what is told is compared with what the test did, wait(2) and /proc. Needs root.

mod calls;
mod cred;
mod kill;
mod process;
mod ring;
mod support;
