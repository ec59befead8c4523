//! Building the eBPF objects, and comparing them with the committed ones.
//!
//! They are committed, so a plain build needs no eBPF toolchain. They come out the same, byte for
//! byte, wherever this compiler builds this source; with another compiler only the source is compared.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;
use object::build::elf::{Builder, SectionData};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cargo::project;

const TARGET: &str = "bpfel-unknown-none";
/// The programs: what the agent embeds, what the benchmarks compare with, and what tests send with. Beside
/// each object lies what it was built from.
const OBJECTS: [(&str, &str); 8] = [
    ("kctl", "agent-kernel/bpf/kctl.bpf"),
    ("trace", "agent-kernel/bpf/trace.bpf"),
    ("tcp", "agent-kernel/bpf/tcp.bpf"),
    ("counters", "agent-kernel/bpf/counters.bpf"),
    ("tasks", "agent-kernel/benches/reads/tasks.bpf"),
    ("opens", "agent-kernel/benches/events/opens.bpf"),
    ("bench", "agent-kernel/benches/filter/peers.bpf"),
    ("flood", "flood/flood.bpf"),
];
/// What the objects are made of.
const SOURCES: [&str; 5] = [
    "agent-ebpf/Cargo.lock",
    "agent-ebpf/Cargo.toml",
    "agent-ebpf/src",
    "agent-records/Cargo.toml",
    "agent-records/src",
];
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const LINKER_VERSION: &str = "0.13.0";
/// Where this task installs the linker.
const LINKER_ROOT: &str = "/opt/bpf";

/// Between cargo and the compiler. Cargo tells crates of one name apart by where they lie, and that comes
/// into the names of functions: ours get their own name instead, wherever the project lies.
const WRAPPER: &str = r#"#!/bin/sh
for arg do
  shift
  case "$CARGO_PKG_NAME $arg" in
    "agent-ebpf metadata="* | "agent-records metadata="*) arg="metadata=$CARGO_CRATE_NAME" ;;
  esac
  set -- "$@" "$arg"
done
exec "$@"
"#;

/// What the committed object was built from and with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Meta {
    source_sha256: String,
    rustc: String,
    sha256: String,
}

/// Builds the objects into their places; with `check`, builds and compares them with what is there.
pub(crate) fn build(check: bool) -> Result<()> {
    let toolchain = Toolchain::find()?;
    println!("ebpf: {} with {}", toolchain.version, toolchain.linker.display());
    let built = toolchain.build()?;
    let source_sha256 = source_sha256()?;
    for (program, place) in OBJECTS {
        let object = without_dwarf(&fs::read(built.join(program))?)?;
        let meta = Meta {
            source_sha256: source_sha256.clone(),
            rustc: toolchain.version.clone(),
            sha256: hex(&Sha256::digest(&object)),
        };
        let (object_file, meta_file) = (format!("{place}.o"), format!("{place}.json"));
        if check {
            compare(&meta, &object_file, &meta_file)?;
            continue;
        }
        fs::write(project().join(&object_file), &object)?;
        fs::write(project().join(&meta_file), serde_json::to_string_pretty(&meta)? + "\n")?;
        println!("ebpf: wrote {object_file} ({} bytes) and {meta_file}", object.len());
    }
    Ok(())
}

fn compare(built: &Meta, object_file: &str, meta_file: &str) -> Result<()> {
    let again = "run `cargo xtask ebpf` and commit what it writes";
    let committed =
        fs::read_to_string(project().join(meta_file)).with_context(|| meta_file.to_owned())?;
    let committed: Meta = serde_json::from_str(&committed).with_context(|| meta_file.to_owned())?;
    let object = fs::read(project().join(object_file)).with_context(|| object_file.to_owned())?;
    ensure!(
        committed.sha256 == hex(&Sha256::digest(&object)),
        "{object_file} is not the object that {meta_file} tells of; {again}"
    );
    ensure!(
        committed.source_sha256 == built.source_sha256,
        "{object_file} was built from other source; {again}"
    );
    if committed.rustc != built.rustc {
        println!(
            "ebpf: warning: {object_file} was built by {}; its source is the same and builds with \
             {} too, but the bytes were not compared",
            committed.rustc, built.rustc
        );
        return Ok(());
    }
    ensure!(
        committed.sha256 == built.sha256,
        "{object_file} is not what its source builds; {again}"
    );
    println!("ebpf: {object_file} is what its source builds");
    Ok(())
}

/// A compiler for the target, and a linker.
struct Toolchain {
    rustc: PathBuf,
    sysroot: PathBuf,
    /// `rustc --version`
    version: String,
    linker: PathBuf,
    /// Whether `core` comes as source and must be built.
    build_std: bool,
}

impl Toolchain {
    /// The first of an override, Debian's compiler, and nightly.
    fn find() -> Result<Self> {
        let candidates = || -> Vec<PathBuf> {
            match env::var_os("KCTL_EBPF_RUSTC") {
                Some(rustc) => vec![rustc.into()],
                None => Some("/usr/bin/rustc".into()).into_iter().chain(nightly()).collect(),
            }
        };
        if let Some(toolchain) = candidates().iter().find_map(|rustc| Self::with(rustc)) {
            return toolchain.linked();
        }
        let packages = PACKAGES.join(" ");
        let apt = format!("apt-get install -y --no-install-recommends {packages}");
        let manual = format!(
            "no compiler for {TARGET}; as root run: {apt}; or: rustup toolchain install nightly \
             --component rust-src; or set KCTL_EBPF_RUSTC"
        );
        ensure!(geteuid().is_root() && env::var_os("KCTL_EBPF_RUSTC").is_none(), manual);
        run(Command::new("sh").args(["-c", &format!("{apt} || (apt-get update && {apt})")]))?;
        let found = candidates().iter().find_map(|rustc| Self::with(rustc));
        found.context(manual)?.linked()
    }

    fn with(rustc: &Path) -> Option<Self> {
        let sysroot = PathBuf::from(output(Command::new(rustc).args(["--print", "sysroot"])).ok()?);
        let version = output(Command::new(rustc).arg("--version")).ok()?;
        let rustlib = sysroot.join("lib/rustlib");
        let prebuilt = rustlib.join(TARGET).join("lib").is_dir();
        let source = rustlib.join("src/rust/library/core").is_dir();
        (prebuilt || source).then(|| Self {
            rustc: rustc.to_owned(),
            sysroot,
            version,
            linker: PathBuf::new(),
            build_std: !prebuilt,
        })
    }

    /// The same with a linker.
    fn linked(mut self) -> Result<Self> {
        let installed = Path::new(LINKER_ROOT).join("bin/bpf-linker");
        self.linker = if let Some(linker) = env::var_os("KCTL_BPF_LINKER") {
            linker.into()
        } else if installed.is_file() {
            installed
        } else if let Some(linker) = on_path("bpf-linker") {
            linker
        } else {
            install_linker()?;
            installed
        };
        Ok(self)
    }

    /// Builds the programs; the folder of their objects, as the linker wrote them.
    fn build(&self) -> Result<PathBuf> {
        let folder = project().join("agent-ebpf");
        let target = project().join("target/ebpf");
        let cargo = || {
            let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            // Of the cargo that runs this task; they would choose its compiler and its flags.
            for variable in
                ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
            {
                command.env_remove(variable);
            }
            command.current_dir(&folder).env("CARGO_TARGET_DIR", &target).env("RUSTC", &self.rustc);
            command
        };
        // Only then every folder that ends up in the object is known.
        run(cargo().args(["fetch", "--locked"]))?;
        let home = env::var_os("CARGO_HOME").map_or_else(
            || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            PathBuf::from,
        );
        let mut flags: Vec<OsString> =
            ["-Cdebuginfo=2", "-Clink-arg=--btf", "--cfg=bpf_target_arch=\"x86_64\""]
                .map(OsString::from)
                .into();
        flags.push(joined("-Clinker=", &self.linker, ""));
        flags.push(joined("--remap-path-prefix=", project(), "=/kctl"));
        flags.push(joined("--remap-path-prefix=", &home, "=/cargo"));
        // A registry's folder carries its name, which differs where a mirror is used. The last prefix
        // that fits is the one that counts.
        for registry in fs::read_dir(Path::new(&home).join("registry/src"))? {
            flags.push(joined("--remap-path-prefix=", &registry?.path(), "=/crates"));
        }
        flags.push(joined("--remap-path-prefix=", &self.sysroot, "=/rust"));
        fs::create_dir_all(&target)?;
        let wrapper = target.join("rustc");
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let mut build = cargo();
        build
            .args(["build", "--release", "--locked", "--target", TARGET])
            .env("RUSTC_WRAPPER", &wrapper)
            // The target is unstable: assembly for it, in aya-ebpf and in our program.
            .env("RUSTC_BOOTSTRAP", "aya_ebpf,kctl,trace,tcp,counters,tasks,opens,bench,flood")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f")));
        if self.build_std {
            build.args(["-Z", "build-std=core"]).env("RUSTC_BOOTSTRAP", "1");
        }
        run(&mut build)?;
        Ok(target.join(TARGET).join("release"))
    }
}

/// Takes DWARF away: .BTF and .BTF.ext are what the kernel reads.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    let dwarf: Vec<_> = builder
        .sections
        .iter()
        .filter(|section| {
            let name = section.name.to_string();
            name.starts_with(".debug_") || name.starts_with(".rel.debug_")
        })
        .map(|section| section.id())
        .collect();
    for id in dwarf {
        builder.sections.get_mut(id).delete = true;
    }
    // Relocations of what stays must not name a symbol of what goes.
    let used: Vec<_> = builder
        .sections
        .iter()
        .filter(|section| !section.delete)
        .filter_map(|section| match &section.data {
            SectionData::Relocation(relocations) => Some(relocations.clone()),
            _ => None,
        })
        .flatten()
        .filter_map(|relocation| relocation.symbol)
        .collect();
    for symbol in builder.symbols.iter_mut() {
        let of_deleted = symbol.section.is_some_and(|id| builder.sections.get(id).delete);
        symbol.delete = of_deleted && !used.contains(&symbol.id());
    }
    builder.delete_orphans();
    // LLVM keeps section names among the symbols' names; this writer wants them apart.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

fn source_sha256() -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        list(&project().join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file)?;
        let name = file.strip_prefix(project())?.to_string_lossy();
        hash.update(format!("{name}\n{}\n", content.len()));
        hash.update(content);
    }
    Ok(hex(&hash.finalize()))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        list(&entry?.path(), files)?;
    }
    Ok(())
}

fn install_linker() -> Result<()> {
    let install = format!(
        "cargo install bpf-linker --version {LINKER_VERSION} --locked --no-default-features \
         --features llvm-22 --root {LINKER_ROOT}"
    );
    ensure!(geteuid().is_root(), "no bpf-linker; install it, or set KCTL_BPF_LINKER: {install}");
    // The compiler's own LLVM, under the name that the linker's build looks for.
    let folder = PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH));
    let llvm = folder.join("libLLVM.so.22.1");
    ensure!(llvm.is_file(), "{}: no such file; {install}", llvm.display());
    let prefix = Path::new(LINKER_ROOT).join("llvm");
    fs::create_dir_all(prefix.join("lib"))?;
    let link = prefix.join("lib/libLLVM.so");
    if !link.exists() {
        std::os::unix::fs::symlink(&llvm, &link)?;
    }
    run(Command::new("sh")
        .args(["-c", &install])
        .env_remove("RUSTFLAGS")
        .env("LLVM_PREFIX", &prefix)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"))
}

fn nightly() -> Option<PathBuf> {
    let which = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    which.ok().map(PathBuf::from)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let line = format!("{name} {}", arguments.join(" "));
    println!("$ {line}");
    ensure!(command.status().with_context(|| name)?.success(), "failed: {line}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let mut text = OsString::from(before);
    text.push(path);
    text.push(after);
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
