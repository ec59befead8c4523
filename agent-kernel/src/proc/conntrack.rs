//! How full the table of tracked connections is.

use crate::error::{Error, ErrorKind, named};
use std::io;
use std::path::Path;

/// How many connections are tracked in the reader's network namespace, and how many can be; `None` where
/// the kernel tracks none.
pub fn conntrack_room(root: &Path) -> Result<Option<(u64, u64)>, Error> {
    let value = |name: &str| -> Result<Option<u64>, Error> {
        let path = root.join("sys/net/netfilter").join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(named("file", path.display()), error)),
        };
        let unreadable =
            || Error::new(ErrorKind::Unsupported, named("file", path.display()), "it is no number");
        text.trim().parse().map(Some).map_err(|_| unreadable())
    };
    Ok(value("nf_conntrack_count")?.zip(value("nf_conntrack_max")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_are_read_and_a_kernel_without_them_is_no_error() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(conntrack_room(root.path()).expect("none"), None);
        let folder = root.path().join("sys/net/netfilter");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("nf_conntrack_count"), "12\n").expect("written");
        assert_eq!(conntrack_room(root.path()).expect("half"), None);
        std::fs::write(folder.join("nf_conntrack_max"), "262144\n").expect("written");
        assert_eq!(conntrack_room(root.path()).expect("room"), Some((12, 262_144)));
        std::fs::write(folder.join("nf_conntrack_max"), "many\n").expect("written");
        assert!(conntrack_room(root.path()).is_err());
    }
}
