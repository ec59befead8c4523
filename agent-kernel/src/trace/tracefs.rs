//! The file system of tracepoints. It must not know which of them are used.

use crate::error::{Error, named};
use nix::mount::{MsFlags, mount};
use std::path::Path;

/// Mounts tracefs where it belongs, unless it is there: a fresh machine may have none. With it a single
/// call is watched at its own tracepoint; without it at those of all calls, which costs every call.
pub fn mount_tracefs(sys_root: &Path) -> Result<(), Error> {
    let place = sys_root.join("kernel/tracing");
    if place.join("events").is_dir() || sys_root.join("kernel/debug/tracing/events").is_dir() {
        return Ok(());
    }
    mount(Some("tracefs"), &place, Some("tracefs"), MsFlags::empty(), None::<&str>)
        .map_err(|error| Error::io(named("tracefs", place.display()), error.into()))
}
