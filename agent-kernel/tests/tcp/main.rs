//! TCP connections as events, between processes of the test, in a network namespace and a cgroup of the
//! test's own. What the sockets themselves say, `ss`, `bpftool` and /proc are the oracles.

mod actor;
mod ends;
mod failures;
mod flood;
mod life;
mod support;
mod taken;
