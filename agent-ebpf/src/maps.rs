//! The maps. All are pinned, so rules and counters outlive the agent. User space sets the sizes of
//! those with one element here, and writes those of the lookup through its own memory.

use agent_records::detect::{
    ALARM_BYTES, Port, SERVICE_ORDER, SOURCE_ORDER, ServiceSet, Settings, SourceSet,
};
use agent_records::lookup::{Bucket, EXACT_WORDS, Homes4, Homes6, Lookup, MAX_INTERFACES, Record};
use agent_records::{
    Crowd, Cycle, InterfaceName, MAX_TALKERS, MAX_UPLINKS, Pace, RING_BYTES, Range, Retired,
    Talker, TalkerKey, Tally, Told, Totals, Uplink,
};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};

/// What is where in the maps below.
#[map(name = "lookup")]
pub static LOOKUP: Array<Lookup> = Array::pinned(1, BPF_F_MMAPABLE);
/// Words that say whether an IPv4 rule is near.
#[map(name = "filter4")]
pub static FILTER4: Array<u64> = Array::pinned(1, BPF_F_MMAPABLE);
/// Words that say whether an IPv6 rule is near.
#[map(name = "filter6")]
pub static FILTER6: Array<u64> = Array::pinned(1, BPF_F_MMAPABLE);
/// First 24 bits of IPv4 addresses that a short prefix has.
#[map(name = "exact4")]
pub static EXACT4: Array<u64> = Array::pinned(EXACT_WORDS, BPF_F_MMAPABLE);
/// Where the records of keys are.
#[map(name = "index")]
pub static INDEX: Array<Bucket> = Array::pinned(1, BPF_F_MMAPABLE);
/// The rules.
#[map(name = "records")]
pub static RECORDS: Array<Record> = Array::pinned(1, BPF_F_MMAPABLE);
/// What there is to know of rules that drop every packet of one IPv4 address.
#[map(name = "homes4")]
pub static HOMES4: Array<Homes4> = Array::pinned(1, BPF_F_MMAPABLE);
/// The same of IPv6.
#[map(name = "homes6")]
pub static HOMES6: Array<Homes6> = Array::pinned(1, BPF_F_MMAPABLE);
/// What rules met, by slot.
#[map(name = "hits")]
pub static HITS: Array<Tally> = Array::pinned(1, 0);
/// By verdict and by IP protocol number.
#[map(name = "totals")]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::pinned(2, 0);
/// Passed TCP connection attempts by destination port.
#[map(name = "connections")]
pub static CONNECTIONS: Array<u64> = Array::pinned(65_536, 0);
/// Sources that wide prefixes meet.
#[map(name = "talkers")]
pub static TALKERS: LruHashMap<TalkerKey, Talker> = LruHashMap::pinned(MAX_TALKERS, 0);
/// How much is told, by slot.
#[map(name = "paces")]
pub static PACES: Array<Pace> = Array::pinned(1, 0);
/// The cycle of telling. For user space alone; the program has the cycle's number in the lookup.
#[map(name = "cycle")]
pub static CYCLE: Array<Cycle> = Array::pinned(1, 0);
/// What is told at once.
#[map(name = "sightings")]
pub static SIGHTINGS: RingBuf = RingBuf::pinned(RING_BYTES, 0);
/// Where that had no room, and what was not tried for it.
#[map(name = "crowds")]
pub static CROWDS: PerCpuArray<Crowd> = PerCpuArray::pinned(1, 0);
/// What is told, by slot. For user space alone, as the next.
#[map(name = "told")]
pub static TOLD: Array<Told> = Array::pinned(1, BPF_F_MMAPABLE);
/// Rules that are gone and not told to the end, by slot.
#[map(name = "retired")]
pub static RETIRED: HashMap<u32, Retired> = HashMap::pinned(1, BPF_F_NO_PREALLOC);
/// Rules of several ports, by slot. For user space alone.
#[map(name = "ranges")]
pub static RANGES: HashMap<u32, Range> = HashMap::pinned(1, BPF_F_NO_PREALLOC);
/// Numbers of interfaces that rules name, by index of the interface.
#[map(name = "interfaces")]
pub static INTERFACES: HashMap<u32, u32> = HashMap::pinned(MAX_INTERFACES + 1, BPF_F_NO_PREALLOC);
/// Their names, by number. For user space alone.
#[map(name = "interface_names")]
pub static INTERFACE_NAMES: Array<InterfaceName> = Array::pinned(MAX_INTERFACES + 1, 0);
/// TCP peers that always pass.
#[map(name = "uplinks")]
pub static UPLINKS: HashMap<Uplink, u8> = HashMap::pinned(MAX_UPLINKS, 0);
/// What is detected, and how.
#[map(name = "detect")]
pub static DETECT: Array<Settings> = Array::pinned(1, BPF_F_MMAPABLE);
/// Connection attempts by destination port.
#[map(name = "detect_ports")]
pub static DETECT_PORTS: Array<Port> = Array::pinned(65_536, BPF_F_MMAPABLE);
/// By source.
#[map(name = "detect_sources")]
pub static DETECT_SOURCES: Array<SourceSet> = Array::pinned(1 << SOURCE_ORDER, BPF_F_MMAPABLE);
/// By source and destination port.
#[map(name = "detect_services")]
pub static DETECT_SERVICES: Array<ServiceSet> = Array::pinned(1 << SERVICE_ORDER, 0);
/// What detection tells at once.
#[map(name = "alarms")]
pub static ALARMS: RingBuf = RingBuf::pinned(ALARM_BYTES, 0);
/// How often that had no room.
#[map(name = "unalarmed")]
pub static UNALARMED: Array<u64> = Array::pinned(1, 0);
