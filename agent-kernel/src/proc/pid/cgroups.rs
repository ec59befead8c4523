//! `/proc/PID/cgroup`, as in cgroups(7).

use super::{Handle, LONGEST_FILE, lines, number};
use crate::error::Error;
use std::path::Path;

/// A process's cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// 0 for the unified one.
    pub hierarchy: u32,
    /// None for the unified one; `name=systemd` for a named one.
    pub controllers: Vec<Vec<u8>>,
    /// Path in the hierarchy: any bytes.
    pub path: Vec<u8>,
}

/// Its cgroups in all hierarchies, as the kernel orders them.
pub fn cgroups(root: &Path, pid: u32) -> Result<Vec<Cgroup>, Error> {
    let handle = Handle::open(root, pid)?;
    let (text, _) = handle.read("cgroup", LONGEST_FILE)?;
    lines(&text).map(|line| parse(line).ok_or_else(|| handle.odd("cgroup"))).collect()
}

fn parse(line: &[u8]) -> Option<Cgroup> {
    let mut parts = line.splitn(3, |&byte| byte == b':');
    let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let controllers = controllers.split(|&byte| byte == b',').filter(|name| !name.is_empty());
    Some(Cgroup {
        hierarchy: number(hierarchy)?,
        controllers: controllers.map(<[u8]>::to_vec).collect(),
        path: path.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let text = b"9:name=systemd:/a:b\n3:cpu,cpuacct:/c\n0::/\n";
        let root = super::super::tests::fixture(&[("cgroup", text)]);
        let cgroups = cgroups(root.path(), 7).expect("cgroups");
        let cgroup = |hierarchy, controllers: &[&str], path: &str| Cgroup {
            hierarchy,
            controllers: controllers.iter().map(|name| name.as_bytes().to_vec()).collect(),
            path: path.into(),
        };
        let expected = [
            cgroup(9, &["name=systemd"], "/a:b"),
            cgroup(3, &["cpu", "cpuacct"], "/c"),
            cgroup(0, &[], "/"),
        ];
        assert_eq!(cgroups, expected);
    }
}
