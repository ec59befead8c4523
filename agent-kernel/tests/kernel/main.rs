//! The crate in a real kernel, each test in namespaces of its own; ping(8), ip(8) and bpftool(8) are
//! the witnesses. Needs root.

mod attach;
mod changes;
mod detect;
mod differential;
mod ip;
mod killed;
mod layouts;
mod lists;
mod named;
mod netlink;
mod support;
mod tables;
mod tcx;
mod tell;
