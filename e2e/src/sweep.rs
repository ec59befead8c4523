//! Names of labs, and removal of what labs left behind whose process was killed.

use std::{
    fs,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    cgroup,
    namespace::{self, DIRECTORY},
    pins::{self, BPFFS},
};

const PREFIX: &str = "kctl-lab-";

/// A name that no other lab has: it carries the pid and a count.
pub(crate) fn unique_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes namespaces, pins and folders of labs whose process is gone. Best effort: several labs may
/// do so at once, and what fails here fails again, loudly, where it matters.
pub(crate) fn sweep() {
    for name in orphans(Path::new(DIRECTORY)) {
        let _ = namespace::remove(&name);
    }
    for name in orphans(Path::new(BPFFS)) {
        let _ = pins::remove(&Path::new(BPFFS).join(name));
    }
    if let Ok(root) = cgroup::root() {
        for name in orphans(&root) {
            let _ = cgroup::remove(&root.join(name));
        }
    }
    let temporary = std::env::temp_dir();
    for name in orphans(&temporary) {
        let _ = fs::remove_dir_all(temporary.join(name));
    }
}

fn orphans(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .collect()
}

/// The pid in a lab's name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_process() {
        assert_eq!(owner(&unique_id()), Some(process::id()));
        assert_eq!(owner("kctl-lab-12-0-web-1"), Some(12));
        assert_eq!(owner("kctl-lab-x-0"), None);
        assert_eq!(owner("somebody-else"), None);
    }
}
