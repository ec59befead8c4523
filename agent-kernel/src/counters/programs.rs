//! Loading the programs for the kernel that runs, and putting them on its tracepoints. It must not know
//! what they count.

use super::links::{Links, end_others};
use super::source::{Asked, NEEDS, PROBES, Probe, Source, settle};
use super::{CountersConfig, Maps};
use crate::error::{Error, ErrorKind, named};
use crate::filter::{Pin, Pins};
use crate::trace::{Btf, Mount, Scope, verified};
use agent_records::counters::{Cpu, MEMBERS, Process, Settings};
use agent_records::trace::ABSENT;
use aya::maps::{Map, MapData, MapType, PerCpuArray};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use nix::libc;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/counters.bpf.o");
const NAME: &str = "counting programs";
const PASS_ON: &str = "pass_on";
/// Maps, and what they are pinned as.
const COUNTERS: [&str; 2] = ["counters", "counters_cpu"];
const PROCESSES: [&str; 2] = ["processes", "counters_processes"];

/// Puts the programs at work; `None` when none is wanted or can be had. Those that an agent before left at
/// work and nobody wants any more end.
pub(super) fn load(config: &CountersConfig, asked: &mut Asked) -> Result<Option<Maps>, Error> {
    settle(asked);
    let wanted = PROBES.iter().any(|probe| is_wanted(probe, asked));
    let loaded = if wanted { load_wanted(config, asked).map(Some) } else { Ok(None) };
    if let Some(bpffs) = &config.bpffs {
        let kept = loaded.iter().flatten().flat_map(|maps| maps.links.paths());
        end_others(bpffs, &kept.collect::<Vec<_>>())?;
    }
    match loaded {
        // The scope is what somebody asked for, and counting others instead would be wrong.
        Err(error) if error.object().starts_with("cgroup") => Err(error),
        Err(error) => {
            for source in PROBES.iter().flat_map(|probe| probe.serves).chain(&[Source::BySyscall]) {
                refused(asked, *source, &error);
            }
            Ok(None)
        }
        loaded => loaded,
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
    let pins = pins(config)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("LAYOUT", layout.as_slice(), true);
    loader.override_global("SETTINGS", &settings, true);
    loader.map_max_entries(PROCESSES[0], config.max_processes);
    let paths =
        pins.as_ref().map(|pins| [COUNTERS, PROCESSES].map(|map| (map[0], path(pins, map))));
    for (map, path) in paths.iter().flatten() {
        loader.map_pin_path(map, path.as_path());
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped(NAME, error))?;
    verified(|| program(&mut ebpf, PASS_ON).load())
        .map_err(|error| Error::wrapped(object(PASS_ON), error))?;
    let ids = [id(&ebpf, COUNTERS[0])?, id(&ebpf, PROCESSES[0])?];
    let counters = PerCpuArray::try_from(take(&mut ebpf, COUNTERS[0]))
        .map_err(|error| Error::wrapped("map counters", error))?;
    let processes = take(&mut ebpf, PROCESSES[0]);
    let mut links = Links::new(pins, version(&layout, &settings));
    attach(&mut ebpf, &mut links, ids, asked);
    settle(asked);
    Ok(Maps { counters, processes, links, ebpf })
}

/// Puts each program that is wanted onto its tracepoint, or takes over the one that is there.
fn attach(ebpf: &mut Ebpf, links: &mut Links, maps: [u32; 2], asked: &mut Asked) {
    let wanted = PROBES.iter().filter(|probe| is_wanted(probe, asked));
    let new: Vec<_> = wanted.filter(|probe| !links.adopt(probe, maps)).collect();
    for probe in &new {
        let program = program(ebpf, probe.program);
        if let Err(error) = verified(|| program.load()) {
            let error = Error::wrapped(object(probe.program), error);
            probe.serves.iter().for_each(|source| refused(asked, *source, &error));
        }
    }
    for probe in new {
        if is_wanted(probe, asked)
            && let Err(error) = links.attach(program(ebpf, probe.program), probe)
        {
            probe.serves.iter().for_each(|source| refused(asked, *source, &error));
        }
    }
}

/// The kernel's, of a map that was not taken yet.
fn id(ebpf: &Ebpf, name: &str) -> Result<u32, Error> {
    let Some(Map::PerCpuArray(data) | Map::LruHashMap(data)) = ebpf.map(name) else {
        unreachable!("the object has these maps, and they are of these kinds");
    };
    let info = data.info().map_err(|error| Error::wrapped(named("map", name), error))?;
    Ok(info.id())
}

/// Of what the programs do: with another object, another kernel or other wishes it is another one.
fn version(layout: &[u32], settings: &Settings) -> String {
    let mut hasher = DefaultHasher::new();
    (OBJECT, layout, format!("{settings:?}")).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
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
        ..Settings::EMPTY
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

/// Where everything is pinned, so that values outlive the agent; `None` where there is no such folder.
fn pins(config: &CountersConfig) -> Result<Option<Pins>, Error> {
    let Some(pins) = config.bpffs.as_deref().and_then(|bpffs| Pins::open(bpffs).ok()) else {
        return Ok(None);
    };
    // aya takes what is pinned without looking whether it fits.
    fits(&path(&pins, COUNTERS), MapType::PerCpuArray, size_of::<Cpu>(), 1)?;
    fits(&path(&pins, PROCESSES), MapType::LruHash, size_of::<Process>(), config.max_processes)?;
    Ok(Some(pins))
}

fn path(pins: &Pins, map: [&str; 2]) -> std::path::PathBuf {
    pins.path(&Pin::Map(map[1].to_owned()))
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
