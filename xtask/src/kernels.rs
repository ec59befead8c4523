//! `cargo xtask kernels`: whether other kernels take the agent's eBPF programs, in virtual machines with
//! Debian's kernels and nothing but the agent. The verifier of each is another one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{cargo::target, images, packages};

/// Packages of the oldest kernel that the agent is for, and of a later one.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];
/// Without hardware to help, a kernel boots in some seconds.
const SECONDS: &str = "300";
/// The first process. The last line is how the agent's check ended.
const INIT: &str = "#!/busybox sh
/busybox mkdir -p /proc /sys /dev
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t devtmpfs dev /dev
/busybox mount -t bpf bpf /sys/fs/bpf
/busybox mount -t tracefs tracefs /sys/kernel/tracing
/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
/busybox ip link set lo up
/kctl-agent --name vm --controller 127.0.0.1:7443 check
echo \"check: $?\"
/busybox poweroff -f
";

/// Boots each; the last line is the total.
pub(crate) fn run() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the kernels are those of Debian's amd64");
    packages::ensure_machines()?;
    let binaries = images::static_binaries()?;
    let folder = target().join("kernels");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let initrd = initrd(&folder, &binaries)?;
    let mut failed = 0;
    for package in KERNELS {
        println!("=== {package}");
        let said = boot(&kernel(&folder, package)?, &initrd)?;
        println!("{}", said.trim());
        failed += usize::from(!said.contains("check: 0"));
    }
    println!("{} passed, {failed} failed", KERNELS.len() - failed);
    ensure!(failed == 0, "not every kernel takes the agent's programs");
    Ok(())
}

/// Loads a package and unpacks it into a folder of its own.
fn unpack(folder: &Path, package: &str) -> Result<PathBuf> {
    let unpacked = folder.join(package);
    fs::create_dir_all(&unpacked)?;
    done(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&unpacked))?;
    let loaded = fs::read_dir(&unpacked)?.next().context("apt-get loaded nothing")??.path();
    done(Command::new("dpkg-deb").arg("-x").args([&loaded, &unpacked]))?;
    Ok(unpacked)
}

/// The kernel that a package stands for.
fn kernel(folder: &Path, package: &str) -> Result<PathBuf> {
    let depends = Command::new("apt-cache").args(["depends", package]).output()?;
    let depends = String::from_utf8(depends.stdout)?;
    let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let image = image.with_context(|| format!("{package}: apt knows none; try apt-get update"))?;
    let boot = unpack(folder, image)?.join("boot");
    let mut files = fs::read_dir(&boot)?.filter_map(|file| Some(file.ok()?.path()));
    let is_kernel = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))
    };
    files.find(is_kernel).with_context(|| format!("{image} has no kernel"))
}

/// A file system with the agent, what mounts the kernel's own, and the first process.
fn initrd(folder: &Path, binaries: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    let busybox = unpack(folder, "busybox-static")?.join("bin/busybox");
    fs::copy(busybox, root.join("busybox"))?;
    fs::copy(binaries.join("kctl-agent"), root.join("kctl-agent"))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let initrd = folder.join("initrd");
    let pack = "find . | cpio --quiet --create --format newc";
    let mut pack_it = Command::new("sh");
    done(pack_it.args(["-c", pack]).current_dir(&root).stdout(fs::File::create(&initrd)?))?;
    Ok(initrd)
}

/// What a kernel with this file system says on its console.
fn boot(kernel: &Path, initrd: &Path) -> Result<String> {
    let mut machine = Command::new("timeout");
    machine.args([SECONDS, "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi"]);
    machine.args(["-cpu", "max", "-m", "2048", "-smp", "2", "-display", "none", "-nodefaults"]);
    machine.args(["-net", "none", "-no-reboot", "-serial", "stdio", "-kernel"]).arg(kernel);
    machine.args(["-append", "console=ttyS0 panic=-1 quiet", "-initrd"]).arg(initrd);
    let said = machine.stdin(Stdio::null()).output().context("qemu-system-x86_64")?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

fn done(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
