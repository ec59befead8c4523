//! Loading the programs for the kernel that runs, and putting them on its tracepoints. It must not know
//! what they tell.

use super::btf::Btf;
use super::cgroups::Mount;
use super::ring::{KernelRing, RingBytes, RingPins};
use super::source::{self, CGROUP_PATHS, Missing, PROBES, PROCESS, SCOPE, Source, Sources};
use super::{Scope, TracerConfig, calls};
use crate::error::{Error, ErrorKind, named};
use crate::filter::{LOAD_ATTEMPTS, interrupted};
use agent_records::trace::{ABSENT, CGROUP_BYTES, MEMBERS, PREFIX_BYTES, Settings};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};

/// Built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/trace.bpf.o");
const NAME: &str = "tracing";
/// Prefixes of paths, at most.
const MAX_PREFIXES: usize = 1_024;
/// Keeps the paths of cgroups; serves no source of its own.
const CGROUP_MKDIR: &str = "cgroup_mkdir";

/// The programs at work.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) ring: KernelRing,
    pub(super) came: Option<HashMap<MapData, u64, [u8; CGROUP_BYTES]>>,
    pub(super) missing: Vec<Missing>,
}

pub(super) fn load(config: &TracerConfig, mount: Option<&Mount>) -> Result<Loaded, Error> {
    let prefixes = prefixes(&config.open_paths)?;
    let btf = Btf::read(&config.sys_root)?;
    let settings = settings(config, &btf, mount, !prefixes.is_empty())?;
    let layout: Vec<u32> =
        MEMBERS.iter().map(|(of, member)| btf.member(of, member).unwrap_or(ABSENT)).collect();
    let mut asked = Asked { sources: config.sources, missing: Vec::new() };
    for source in config.sources.iter() {
        if let Err(why) = can_be_had(source, &btf) {
            asked.miss(source, &why, None);
        }
    }
    let ring_bytes = RingBytes::new(config.ring_bytes)?;
    let calls = calls::table(asked.sources);
    let mut loader = EbpfLoader::new();
    ring_bytes.set(&mut loader);
    loader.map_max_entries("open_prefixes", u32::try_from(prefixes.len().max(1)).unwrap_or(1));
    loader.override_global("LAYOUT", layout.as_slice(), true);
    loader.override_global("SETTINGS", &settings, true);
    loader.override_global("SYSCALLS", calls.as_slice(), true);
    let mut ebpf = loader.load(OBJECT).map_err(|error| Error::wrapped(NAME, error))?;

    let keeps_cgroups = mount.is_some()
        && CGROUP_PATHS.iter().all(|(of, member)| btf.member(of, member).is_some())
        && btf.tracepoint(CGROUP_MKDIR).is_some();
    let programs = PROBES.iter().filter(|probe| asked.wants(probe.serves));
    for probe in programs.collect::<Vec<_>>() {
        let program = program(&mut ebpf, probe.program);
        if let Err(error) = verified(|| program.load()) {
            asked.refused(probe.serves, Error::wrapped(object(probe.program), error));
        }
    }
    let keeps_cgroups =
        keeps_cgroups && verified(|| program(&mut ebpf, CGROUP_MKDIR).load()).is_ok();
    fill(&mut ebpf, &prefixes)?;
    let pins = RingPins::new(config.bpffs.as_deref(), "trace");
    let ring = KernelRing::take(&mut ebpf, pins.as_ref())?;
    let came = keeps_cgroups
        .then(|| ebpf.take_map("cgroup_paths").and_then(|map| HashMap::try_from(map).ok()))
        .flatten();
    // What is kept of cgroups must be there before anything is told of one.
    if came.is_some() {
        program(&mut ebpf, CGROUP_MKDIR)
            .attach(CGROUP_MKDIR)
            .map_err(|error| Error::wrapped(object(CGROUP_MKDIR), error))?;
    }
    for probe in &PROBES {
        if asked.wants(probe.serves)
            && let Err(error) = program(&mut ebpf, probe.program).attach(probe.tracepoint)
        {
            asked.refused(probe.serves, Error::wrapped(object(probe.program), error));
        }
    }
    Ok(Loaded { ebpf, ring, came, missing: asked.missing })
}

/// What is still wanted, and what can't be had.
struct Asked {
    sources: Sources,
    missing: Vec<Missing>,
}

impl Asked {
    fn wants(&self, serves: &[Source]) -> bool {
        serves.iter().any(|source| self.sources.contains(*source))
    }

    fn miss(&mut self, source: Source, why: &str, remedy: Option<&str>) {
        if self.sources.contains(source) {
            self.sources.remove(source);
            let (why, remedy) = (why.to_owned(), remedy.map(str::to_owned));
            self.missing.push(Missing { source, why, remedy });
        }
    }

    fn refused(&mut self, serves: &[Source], error: Error) {
        for source in serves {
            self.miss(*source, &error.to_string(), error.remedy());
        }
    }
}

/// What a kernel must have for a source, else what it has not.
fn can_be_had(source: Source, btf: &Btf) -> Result<(), String> {
    for probe in PROBES.iter().filter(|probe| probe.serves.contains(&source)) {
        if btf.tracepoint(probe.tracepoint).is_none() {
            return Err(format!("this kernel has no tracepoint {}", probe.tracepoint));
        }
    }
    let needed = source::members(source).into_iter().flatten().chain(PROCESS);
    for (of, member) in needed {
        if btf.member(of, member).is_none() {
            return Err(format!("this kernel's BTF has no {of}.{member}"));
        }
    }
    Ok(())
}

fn settings(
    config: &TracerConfig,
    btf: &Btf,
    mount: Option<&Mount>,
    has_prefixes: bool,
) -> Result<Settings, Error> {
    let arguments = |tracepoint| btf.tracepoint(tracepoint).unwrap_or_default();
    // Before Linux 6.2 these counters were single words.
    let (rss_step, rss_first) = match btf.size("mm_rss_stat") {
        Some(_) => (8, 0),
        None => {
            btf.size("percpu_counter").zip(btf.member("percpu_counter", "count")).unwrap_or((0, 0))
        }
    };
    let mut settings = Settings {
        has_prefixes: has_prefixes.into(),
        tells_last: u32::from(arguments("sched_process_exit").len() > 1),
        tells_victim: u32::from(arguments("mark_victim").first() == Some(&true)),
        rss_step,
        rss_first,
        ..Settings::EMPTY
    };
    if let Scope::Cgroup(path) = &config.scope {
        let object = || named("cgroup", path.display());
        let Some(mount) = mount else {
            return Err(Error::new(ErrorKind::Unsupported, object(), "no cgroup2 is mounted")
                .with_remedy("mount -t cgroup2 none /sys/fs/cgroup/unified"));
        };
        if let Some((of, member)) = SCOPE.iter().find(|(of, it)| btf.member(of, it).is_none()) {
            let why = format!("this kernel's BTF has no {of}.{member}");
            return Err(Error::new(ErrorKind::Unsupported, object(), why));
        }
        (settings.scope, settings.scope_level) = mount.scope(path)?;
    }
    Ok(settings)
}

type Prefix = Key<[u8; PREFIX_BYTES]>;

fn prefixes(paths: &[Vec<u8>]) -> Result<Vec<Prefix>, Error> {
    let invalid = |why: String| Error::new(ErrorKind::Invalid, "paths of opened files", why);
    if paths.len() > MAX_PREFIXES {
        return Err(invalid(format!("{} are more than {MAX_PREFIXES}", paths.len())));
    }
    let prefix = |path: &Vec<u8>| {
        let mut data = [0; PREFIX_BYTES];
        let Some(start) = data.get_mut(..path.len()) else {
            return Err(invalid(format!("one of more than {PREFIX_BYTES} bytes")));
        };
        start.copy_from_slice(path);
        let bits = u32::try_from(8 * path.len()).expect("at most 2048");
        Ok(Key::new(bits, data))
    };
    paths.iter().map(prefix).collect()
}

fn fill(ebpf: &mut Ebpf, prefixes: &[Prefix]) -> Result<(), Error> {
    let failed = |error| Error::wrapped("map open_prefixes", error);
    let map = ebpf.map_mut("open_prefixes").expect("the object has this map");
    let mut trie = LpmTrie::<_, [u8; PREFIX_BYTES], u8>::try_from(map).map_err(failed)?;
    prefixes.iter().try_for_each(|prefix| trie.insert(prefix, 1, 0)).map_err(failed)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut RawTracePoint {
    let program = ebpf.program_mut(name).expect("the object has this program");
    program.try_into().expect("all are raw tracepoints")
}

/// Loads a program, again when a signal cut that short.
pub(crate) fn verified(
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    let mut attempts = 1;
    while let Err(error) = load() {
        if attempts == LOAD_ATTEMPTS || !interrupted(&error) {
            return Err(error);
        }
        attempts += 1;
    }
    Ok(())
}

fn object(program: &str) -> String {
    named("program", program)
}
