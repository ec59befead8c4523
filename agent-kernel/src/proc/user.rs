//! Names of users and groups: the host's passwd(5) and group(5), then whatever else the C library asks.

use nix::unistd::{Group, User};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Names by id; each id is looked up once.
#[derive(Debug)]
pub(crate) struct Names {
    known: HashMap<u32, Option<Arc<str>>>,
    ask: fn(u32) -> Option<String>,
}

impl Names {
    /// Of users.
    pub(crate) fn of_users(root: &Path) -> Self {
        let ask = |uid: u32| User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
        Self { known: host_file(root, "passwd"), ask }
    }

    /// Of groups.
    pub(crate) fn of_groups(root: &Path) -> Self {
        let ask = |gid: u32| Group::from_gid(gid.into()).ok().flatten().map(|group| group.name);
        Self { known: host_file(root, "group"), ask }
    }

    /// `None` for an id without a name.
    pub(crate) fn name(&mut self, id: u32) -> Option<Arc<str>> {
        let asked = || (self.ask)(id).map(Arc::from);
        self.known.entry(id).or_insert_with(asked).clone()
    }
}

/// Reads the file that the host's first process sees: an agent in a container has another.
fn host_file(root: &Path, name: &str) -> HashMap<u32, Option<Arc<str>>> {
    // Without it (no privilege, a fixture) the C library alone is asked.
    let file = std::fs::read(root.join("1/root/etc").join(name)).unwrap_or_default();
    parse(&String::from_utf8_lossy(&file))
}

fn parse(file: &str) -> HashMap<u32, Option<Arc<str>>> {
    let mut known = HashMap::new();
    for line in file.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        if let Ok(id) = id.parse() {
            // The first of several names counts, as for getpwuid(3).
            known.entry(id).or_insert_with(|| Some(name.into()));
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_names_come_first() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("1/root/etc");
        std::fs::create_dir_all(&folder).expect("a folder");
        let passwd =
            "boss:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n\n+nis\nweb:x:4000000001:33::/:\n";
        std::fs::write(folder.join("passwd"), passwd).expect("written");
        let mut users = Names::of_users(root.path());
        assert_eq!(users.name(0).as_deref(), Some("boss"));
        assert_eq!(users.name(4_000_000_001).as_deref(), Some("web"));
        assert_eq!(users.name(4_000_000_002), None);
        // Without the file the C library knows root.
        let groups = Names::of_groups(root.path()).name(0);
        assert_eq!(groups.as_deref(), Some("root"));
        let mut users = Names::of_users(Path::new("/nonexistent"));
        assert_eq!(users.name(0).as_deref(), Some("root"));
    }
}
