//! `/proc/PID/cgroup`, as in cgroups(7), and the container that a cgroup's name tells.

/// The path of a process's cgroup: in the unified hierarchy; where that is not in use, in systemd's;
/// else in the first. `None` when there is none.
pub(super) fn path(text: &[u8]) -> Option<&[u8]> {
    let lines = || {
        text.split(|&byte| byte == b'\n').filter_map(|line| {
            // hierarchy-ID:controllers:path, and the path may hold colons.
            let mut parts = line.splitn(3, |&byte| byte == b':');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
    };
    let unified = lines().find(|(id, ..)| id == b"0").map(|(.., path)| path);
    let systemd = || lines().find(|(_, name, _)| name == b"name=systemd").map(|(.., path)| path);
    let first = || lines().next().map(|(.., path)| path);
    match unified {
        // On a hybrid system everybody is in the root of the unified hierarchy.
        Some(b"/") | None => systemd().or_else(first),
        path => path,
    }
}

/// The container's id: the innermost part of the path that holds one of 64 hexadecimal digits, bare or
/// as runtimes dress it up for systemd (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`).
pub(crate) fn container_id(path: &[u8]) -> Option<&str> {
    path.rsplit(|&byte| byte == b'/').find_map(|part| {
        let bare = part.strip_suffix(b".scope").unwrap_or(part);
        let id = bare.rsplit(|&byte| byte == b'-').next()?;
        let dress = &bare[..bare.len() - id.len()];
        // CRI-O's monitor of a container is not in the container.
        let is_monitor = dress.ends_with(b"conmon-");
        let is_id = id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit);
        if is_id && !is_monitor { std::str::from_utf8(id).ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_in_use_is_chosen() {
        for (text, expected) in [
            ("0::/system.slice/ssh.service\n", Some("/system.slice/ssh.service")),
            ("0::/a:b/c\n", Some("/a:b/c")),
            ("2:memory:/m\n1:name=systemd:/user.slice\n0::/\n", Some("/user.slice")),
            ("2:memory:/m\n1:name=systemd:/user.slice\n0::/own\n", Some("/own")),
            ("3:cpu,cpuacct:/c\n2:memory:/m\n", Some("/c")),
            ("0::/\n", Some("/")),
            ("", None),
        ] {
            assert_eq!(path(text.as_bytes()), expected.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn containers_are_known_by_the_names_that_runtimes_give() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/burstable/pod1/{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/system.slice/docker-{id}.scope/init.scope"),
        ] {
            assert_eq!(container_id(path.as_bytes()), Some(id.as_str()), "{path}");
        }
        for path in ["/", "/user.slice/user-0.slice", "/a/0123456789abcdef"] {
            assert_eq!(container_id(path.as_bytes()), None, "{path}");
        }
        let monitor = format!("/kubepods.slice/crio-conmon-{id}.scope");
        assert_eq!(container_id(monitor.as_bytes()), None);
    }
}
