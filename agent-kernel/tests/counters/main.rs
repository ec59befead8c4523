//! The counters in the real kernel, beside what a program did, what it counted itself, and what procfs
//! counts. Each test's processes are in a cgroup of its own, which is the counters' scope. Needs root.

mod block;
mod calls;
mod host;
mod processes;
mod support;
mod tcp;
