//! Names of users: the host's passwd(5), then whatever else the C library asks.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Names by id; each id is looked up once.
#[derive(Debug)]
pub(crate) struct Users {
    known: HashMap<u32, Option<Arc<str>>>,
}

impl Users {
    /// Reads the file that the host's first process sees: an agent in a container has another.
    pub(crate) fn of_host(root: &Path) -> Self {
        // Without it (no privilege, a fixture) the C library alone is asked.
        let passwd = std::fs::read(root.join("1/root/etc/passwd")).unwrap_or_default();
        Self { known: parse(&String::from_utf8_lossy(&passwd)) }
    }

    /// `None` for an id without a name.
    pub(crate) fn name(&mut self, uid: u32) -> Option<Arc<str>> {
        let asked = || {
            let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
            user.map(|user| user.name.into())
        };
        self.known.entry(uid).or_insert_with(asked).clone()
    }
}

fn parse(passwd: &str) -> HashMap<u32, Option<Arc<str>>> {
    let mut known = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        if let Ok(uid) = uid.parse() {
            // The first of several names counts, as for getpwuid(3).
            known.entry(uid).or_insert_with(|| Some(name.into()));
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
        let mut users = Users::of_host(root.path());
        assert_eq!(users.name(0).as_deref(), Some("boss"));
        assert_eq!(users.name(4_000_000_001).as_deref(), Some("web"));
        assert_eq!(users.name(4_000_000_002), None);
        // Without the file the C library knows root.
        let mut users = Users::of_host(Path::new("/nonexistent"));
        assert_eq!(users.name(0).as_deref(), Some("root"));
    }
}
