//! Loading the programs for the kernel that runs, and attaching them. It must not know what they tell.

use super::super::btf::Btf;
use super::super::cgroups::Mount;
use super::super::programs::verified;
use super::super::{RingBytes, Scope};
use super::{TcpConfig, calls};
use crate::error::{Error, ErrorKind, named};
use agent_records::tcp::{MEMBERS, Settings, kind};
use agent_records::trace::ABSENT;
use aya::programs::{CgroupAttachMode, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader};
use nix::libc;
use std::path::Path;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/tcp.bpf.o");
const NAME: &str = "TCP programs";
const CONNECTION: &str = "tcp_connection";
pub(super) const FAILED_AT_ONCE: &str = "connections that fail within connect(2)";
pub(super) const ACCEPTED_BY: &str = "process of accepted connections";
/// What can't be told without some members of the kernel's structs.
const NEEDS: [(&str, &[(&str, &str)]); 6] = [
    (
        "process of connections",
        &[
            ("task_struct", "flags"),
            ("task_struct", "tgid"),
            ("task_struct", "real_parent"),
            ("task_struct", "group_leader"),
            ("task_struct", "comm"),
            ("task_struct", "cred"),
            ("cred", "uid"),
        ],
    ),
    ("connections that fail later", &[("sock", "sk_err")]),
    ("bytes received", &[("sock_common", "skc_flags")]),
    ("bytes sent", &[("tcp_sock", "write_seq")]),
    (
        ACCEPTED_BY,
        &[
            ("task_struct", "files"),
            ("task_struct", "thread_info"),
            ("thread_info", "status"),
            ("files_struct", "fdt"),
            ("fdtable", "max_fds"),
            ("fdtable", "fd"),
            ("file", "private_data"),
            ("socket", "sk"),
            ("sock_common", "skc_cookie"),
            // Only x86-64 has such registers.
            ("pt_regs", "orig_ax"),
        ],
    ),
    (
        FAILED_AT_ONCE,
        &[
            ("task_struct", "files"),
            ("socket", "state"),
            ("sock", "sk_protocol"),
            ("pt_regs", "orig_ax"),
            ("pt_regs", "di"),
            ("pt_regs", "si"),
        ],
    ),
];

/// Something that can't be told here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What of TCP connections: `process of accepted connections`.
    pub what: &'static str,
    /// What this kernel has not, or refuses.
    pub why: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
}

/// Loads and attaches what `config` asks for.
pub(super) fn load(config: &TcpConfig) -> Result<(Ebpf, Vec<Missing>), Error> {
    let mount = Mount::find(&config.proc_root)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, NAME, "no cgroup2 is mounted")
            .with_remedy("mount -t cgroup2 none /sys/fs/cgroup/unified")
    })?;
    let btf = Btf::read(&config.sys_root)?;
    let layout: Vec<u32> =
        MEMBERS.iter().map(|(of, member)| btf.member(of, member).unwrap_or(ABSENT)).collect();
    let mut missing: Vec<Missing> = NEEDS.iter().filter_map(|need| lacking(need, &btf)).collect();
    let settings = settings(config, &mount, &missing)?;
    let ring_bytes = RingBytes::new(config.ring_bytes)?;
    let mut loader = EbpfLoader::new();
    ring_bytes.set(&mut loader);
    loader.override_global("LAYOUT", layout.as_slice(), true);
    loader.override_global("SETTINGS", &settings, true);
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped(NAME, error))?;
    // Before the sockets' own, so that no connection waits for an accept(2) that is not seen.
    calls::attach(&mut ebpf, &settings, &config.sys_root, &mut missing);
    let (folder, path) = match &config.scope {
        Scope::Host => mount.open(Path::new("/"))?,
        Scope::Cgroup(path) => mount.open(path)?,
    };
    attach(&mut ebpf, folder, &path)?;
    Ok((ebpf, missing))
}

fn lacking((what, members): &(&'static str, &[(&str, &str)]), btf: &Btf) -> Option<Missing> {
    let (of, member) = members.iter().find(|(of, member)| btf.member(of, member).is_none())?;
    let why = format!("this kernel's BTF has no {of}.{member}");
    Some(Missing { what, why, remedy: None })
}

fn settings(config: &TcpConfig, mount: &Mount, missing: &[Missing]) -> Result<Settings, Error> {
    let kinds = [
        (kind::CONNECT, config.connect),
        (kind::ACCEPT, config.accept),
        (kind::CLOSE, config.close),
    ];
    let kinds = kinds
        .into_iter()
        .filter(|(_, is_told)| *is_told)
        .fold(0, |bits, (kind, _)| bits | 1 << kind);
    let has = |what| missing.iter().all(|missing| missing.what != what);
    let sees_accept = (config.accept || config.close) && has(ACCEPTED_BY);
    let number = |is_wanted: bool, call: libc::c_long| match is_wanted {
        true => u32::try_from(call).unwrap_or(u32::MAX),
        false => u32::MAX,
    };
    let mut settings = Settings {
        kinds,
        sees_accept: sees_accept.into(),
        connect: number(config.connect && has(FAILED_AT_ONCE), libc::SYS_connect),
        accept: number(sees_accept, libc::SYS_accept),
        accept4: number(sees_accept, libc::SYS_accept4),
        ..Settings::EMPTY
    };
    if let Scope::Cgroup(path) = &config.scope {
        (settings.scope, settings.scope_level) = mount.scope(path)?;
    }
    Ok(settings)
}

fn attach(ebpf: &mut Ebpf, folder: impl std::os::fd::AsFd, path: &Path) -> Result<(), Error> {
    let program = ebpf.program_mut(CONNECTION).expect("the object has this program");
    let program: &mut SockOps = program.try_into().expect("it is for sockets");
    verified(|| program.load()).map_err(unsupported)?;
    // It becomes a link, which runs beside all others that let it.
    program.attach(folder, CgroupAttachMode::Single).map(|_| ()).map_err(|error| {
        let error = Error::wrapped(named("cgroup", path.display()), error);
        // The right to attach was there when the program was loaded.
        if error.kind() != ErrorKind::NoPermission {
            return error;
        }
        let why = "a sock_ops program is attached that shares it with no other";
        error.because(ErrorKind::Busy, why).with_remedy(
            "find it with `bpftool cgroup tree`, and attach it so that others can be beside it",
        )
    })
}

fn unsupported(error: ProgramError) -> Error {
    let error = Error::wrapped(NAME, error);
    if error.kind() == ErrorKind::NoPermission {
        return error;
    }
    let release = crate::sys::kernel_release().unwrap_or_default();
    let why = format!("kernel {release} refuses them: {}", error.why());
    error.because(ErrorKind::Unsupported, why).with_remedy("use Linux 6.1 or newer")
}
