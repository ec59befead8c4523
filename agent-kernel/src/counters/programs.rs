//! Loading the programs for the kernel that runs, and putting them on its tracepoints. It must not know
//! what they count.

use super::source::{Asked, NEEDS, PROBES, Probe, Source, settle};
use super::{CountersConfig, Maps};
use crate::error::{Error, ErrorKind, named};
use crate::filter::pin_folder;
use crate::trace::{Btf, Mount, Scope, verified};
use agent_records::counters::{Cpu, MEMBERS, Process, Settings};
use agent_records::trace::ABSENT;
use aya::maps::{Map, MapData, MapType, PerCpuArray};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use nix::libc;
use std::path::{Path, PathBuf};

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/counters.bpf.o");
const NAME: &str = "counting programs";
const PASS_ON: &str = "pass_on";
/// Maps, and what they are pinned as.
const COUNTERS: [&str; 2] = ["counters", "counters_cpu"];
const PROCESSES: [&str; 2] = ["processes", "counters_processes"];

/// Puts the programs at work; `None` when none is wanted or can be had.
pub(super) fn load(config: &CountersConfig, asked: &mut Asked) -> Result<Option<Maps>, Error> {
    settle(asked);
    let wanted = PROBES.iter().flat_map(|probe| probe.serves).any(|source| asked.wants(*source));
    if !wanted {
        return Ok(None);
    }
    match load_wanted(config, asked) {
        // The scope is what somebody asked for, and counting others instead would be wrong.
        Err(error) if error.object().starts_with("cgroup") => Err(error),
        Err(error) => {
            for source in PROBES.iter().flat_map(|probe| probe.serves).chain(&[Source::BySyscall]) {
                refused(asked, *source, &error);
            }
            Ok(None)
        }
        loaded => loaded.map(Some),
    }
}

fn load_wanted(config: &CountersConfig, asked: &mut Asked) -> Result<Maps, Error> {
    let btf = Btf::read(&config.sys_root)?;
    for probe in &PROBES {
        if let Err(why) = can_be_had(probe, &btf) {
            miss(asked, probe, &why);
        }
    }
    for (source, needs) in NEEDS {
        if let Some(why) = lacking(needs, &btf) {
            asked.miss(source, why, None);
        }
    }
    settle(asked);
    let settings = settings(config, asked, &btf)?;
    let layout: Vec<u32> =
        MEMBERS.iter().map(|(of, member)| btf.member(of, member).unwrap_or(ABSENT)).collect();
    let pins = Pins::new(config)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("LAYOUT", layout.as_slice(), true);
    loader.override_global("SETTINGS", &settings, true);
    loader.map_max_entries(PROCESSES[0], config.max_processes);
    if let Some(Pins { counters, processes }) = &pins {
        loader.map_pin_path(COUNTERS[0], counters.as_path());
        loader.map_pin_path(PROCESSES[0], processes.as_path());
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped(NAME, error))?;
    verified(|| program(&mut ebpf, PASS_ON).load())
        .map_err(|error| Error::wrapped(object(PASS_ON), error))?;
    for probe in PROBES.iter().filter(|probe| is_wanted(probe, asked)).collect::<Vec<_>>() {
        let program = program(&mut ebpf, probe.program);
        if let Err(error) = verified(|| program.load()) {
            let error = Error::wrapped(object(probe.program), error);
            probe.serves.iter().for_each(|source| refused(asked, *source, &error));
        }
    }
    let counters = PerCpuArray::try_from(take(&mut ebpf, COUNTERS[0]))
        .map_err(|error| Error::wrapped("map counters", error))?;
    let processes = take(&mut ebpf, PROCESSES[0]);
    for probe in PROBES.iter().filter(|probe| is_wanted(probe, asked)).collect::<Vec<_>>() {
        if let Err(error) = program(&mut ebpf, probe.program).attach(probe.tracepoint) {
            let error = Error::wrapped(object(probe.program), error);
            probe.serves.iter().for_each(|source| refused(asked, *source, &error));
        }
    }
    settle(asked);
    Ok(Maps { counters, processes, ebpf })
}

/// Whether anything that it serves is still wanted.
fn is_wanted(probe: &Probe, asked: &Asked) -> bool {
    probe.serves.iter().any(|source| asked.wants(*source))
}

fn miss(asked: &mut Asked, probe: &Probe, why: &str) {
    for source in probe.serves {
        asked.miss(*source, why.to_owned(), None);
    }
}

fn refused(asked: &mut Asked, source: Source, error: &Error) {
    asked.miss(source, error.to_string(), error.remedy().map(str::to_owned));
}

fn can_be_had(probe: &Probe, btf: &Btf) -> Result<(), String> {
    if btf.tracepoint(probe.tracepoint).is_none() {
        return Err(format!("this kernel has no tracepoint {}", probe.tracepoint));
    }
    lacking(probe.needs, btf).map_or(Ok(()), Err)
}

fn lacking(needs: &[(&str, &str)], btf: &Btf) -> Option<String> {
    let (of, member) = needs.iter().find(|(of, member)| btf.member(of, member).is_none())?;
    Some(format!("this kernel's BTF has no {of}.{member}"))
}

fn settings(config: &CountersConfig, asked: &Asked, btf: &Btf) -> Result<Settings, Error> {
    let wants = |source| u32::from(asked.wants(source));
    let exit = btf.tracepoint("sched_process_exit").unwrap_or_default();
    let mut settings = Settings {
        by_process: wants(Source::ByProcess),
        by_call: wants(Source::BySyscall),
        switches: wants(Source::Switches),
        run_queue: wants(Source::RunQueue),
        tells_last: u32::from(exit.len() > 1),
        ..Settings::default()
    };
    if let Scope::Cgroup(path) = &config.scope {
        let mount = Mount::find(&config.proc_root)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                named("cgroup", path.display()),
                "no cgroup2 is mounted",
            )
            .with_remedy("mount -t cgroup2 none /sys/fs/cgroup/unified")
        })?;
        (settings.scope, settings.scope_level) = mount.scope(path)?;
    }
    Ok(settings)
}

/// Where the maps are pinned, so that their values outlive the agent.
struct Pins {
    counters: PathBuf,
    processes: PathBuf,
}

impl Pins {
    /// `None` where there is no such folder.
    fn new(config: &CountersConfig) -> Result<Option<Self>, Error> {
        let Some(folder) = config.bpffs.as_deref().and_then(|bpffs| pin_folder(bpffs).ok()) else {
            return Ok(None);
        };
        let pins =
            Self { counters: folder.join(COUNTERS[1]), processes: folder.join(PROCESSES[1]) };
        // aya takes what is pinned without looking whether it fits.
        fits(&pins.counters, MapType::PerCpuArray, size_of::<Cpu>(), 1)?;
        fits(&pins.processes, MapType::LruHash, size_of::<Process>(), config.max_processes)?;
        Ok(Some(pins))
    }
}

/// Takes a pin away that is of another form: of another version, or another size of table.
fn fits(path: &Path, kind: MapType, value_bytes: usize, entries: u32) -> Result<(), Error> {
    let Ok(data) = MapData::from_pin(path) else { return Ok(()) };
    let is_ours = data.info().is_ok_and(|info| {
        info.map_type().is_ok_and(|it| it == kind)
            && usize::try_from(info.value_size()).is_ok_and(|bytes| bytes == value_bytes)
            && info.max_entries() == entries
    });
    if is_ours {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(|error| Error::io(named("pin", path.display()), error))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).expect("the object has this map, and it is taken once")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut RawTracePoint {
    let program = ebpf.program_mut(name).expect("the object has this program");
    program.try_into().expect("all are raw tracepoints")
}

/// What passes on a processor's counts.
pub(super) fn pass_on(ebpf: &Ebpf) -> &RawTracePoint {
    let program = ebpf.program(PASS_ON).expect("the object has this program");
    program.try_into().expect("all are raw tracepoints")
}

/// Whether a processor is not there any more.
pub(super) fn is_offline(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error() == Some(libc::ENXIO)
}

fn object(program: &str) -> String {
    named("program", program)
}
