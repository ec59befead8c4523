//! The crate in a real kernel, each test in namespaces of its own; ping(8), ip(8), bpftool(8) and
//! ps(1) are the witnesses. Needs root.

mod attach;
mod differential;
mod lists;
mod netlink;
mod proc;
mod support;
mod tables;
