//! One host as a whole.

use super::{hundredths, read::Record, size, some};
use crate::time::rfc3339;
use kctl_proto::agent::v1::{self as pb, system};
use serde::Serialize;

/// What `sysinfo` tells of a host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SystemView {
    kernel: String,
    kernel_version: String,
    boot_time: Option<String>,
    uptime_seconds: f64,
    cpu: CpuView,
    memory: MemoryView,
    swap: SwapView,
    load: LoadView,
    pressure: PressureView,
    taint: Option<Vec<TaintView>>,
}

/// Why a kernel or a module is tainted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TaintView {
    pub(crate) letter: String,
    meaning: String,
}

impl From<pb::Taint> for TaintView {
    fn from(taint: pb::Taint) -> Self {
        Self { letter: taint.letter, meaning: taint.meaning }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CpuView {
    count: u32,
    model: Option<String>,
    mhz: Option<f64>,
    user_percent: f64,
    system_percent: f64,
    idle_percent: f64,
    iowait_percent: f64,
    steal_percent: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct MemoryView {
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    free_bytes: u64,
    buffers_bytes: u64,
    cached_bytes: u64,
    shared_bytes: u64,
    slab_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct SwapView {
    total_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct LoadView {
    avg1: f64,
    avg5: f64,
    avg15: f64,
    running: u64,
    threads: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct PressureView {
    cpu: Option<StallsView>,
    memory: Option<StallsView>,
    io: Option<StallsView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct StallsView {
    some: Option<StallView>,
    full: Option<StallView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct StallView {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total_us: u64,
}

impl From<pb::System> for SystemView {
    fn from(system: pb::System) -> Self {
        let load = system.load.unwrap_or_default();
        let pressure = system.pressure.unwrap_or_default();
        let swap = system.swap.unwrap_or_default();
        Self {
            kernel: system.kernel,
            kernel_version: system.kernel_version,
            boot_time: rfc3339(system.boot_unix_ms),
            uptime_seconds: system.uptime_seconds,
            cpu: system.cpu.unwrap_or_default().into(),
            memory: system.memory.unwrap_or_default().into(),
            swap: SwapView {
                total_bytes: swap.total_bytes,
                used_bytes: swap.total_bytes.saturating_sub(swap.free_bytes),
                free_bytes: swap.free_bytes,
            },
            load: LoadView {
                avg1: load.avg1,
                avg5: load.avg5,
                avg15: load.avg15,
                running: load.running,
                threads: load.threads,
            },
            pressure: PressureView {
                cpu: pressure.cpu.map(StallsView::from),
                memory: pressure.memory.map(StallsView::from),
                io: pressure.io.map(StallsView::from),
            },
            taint: system
                .taint
                .map(|taint| taint.taints.into_iter().map(TaintView::from).collect()),
        }
    }
}

impl From<system::Cpu> for CpuView {
    fn from(cpu: system::Cpu) -> Self {
        Self {
            count: cpu.count,
            model: some(cpu.model),
            mhz: cpu.mhz.map(hundredths),
            user_percent: hundredths(cpu.user_percent),
            system_percent: hundredths(cpu.system_percent),
            idle_percent: hundredths(cpu.idle_percent),
            iowait_percent: hundredths(cpu.iowait_percent),
            steal_percent: hundredths(cpu.steal_percent),
        }
    }
}

impl From<system::Memory> for MemoryView {
    fn from(memory: system::Memory) -> Self {
        Self {
            total_bytes: memory.total_bytes,
            // As in free(1).
            used_bytes: memory.total_bytes.saturating_sub(memory.available_bytes),
            available_bytes: memory.available_bytes,
            free_bytes: memory.free_bytes,
            buffers_bytes: memory.buffers_bytes,
            cached_bytes: memory.cached_bytes,
            shared_bytes: memory.shared_bytes,
            slab_bytes: memory.slab_bytes,
        }
    }
}

impl From<system::Stalls> for StallsView {
    fn from(stalls: system::Stalls) -> Self {
        let view = |stall: system::Stall| StallView {
            avg10: stall.avg10,
            avg60: stall.avg60,
            avg300: stall.avg300,
            total_us: stall.total_us,
        };
        Self { some: stalls.some.map(view), full: stalls.full.map(view) }
    }
}

impl Record for SystemView {
    const NOUN: &'static str = "system";
    const COLUMNS: &'static [&'static str] =
        &["KERNEL", "UPTIME", "CPUS", "CPU%", "LOAD", "MEMORY", "SWAP"];
    const WIDE_COLUMNS: &'static [&'static str] =
        &["USER%", "SYSTEM%", "IOWAIT%", "STEAL%", "PRESSURE CPU/MEMORY/IO", "TAINT", "MODEL"];

    fn is_whole(&self) -> bool {
        true
    }

    fn cells(&self) -> Vec<String> {
        let cpu = &self.cpu;
        let busy = cpu.user_percent + cpu.system_percent + cpu.steal_percent;
        let percent = |value: f64| format!("{value:.1}");
        let of = |used: u64, total: u64| match total {
            0 => "none".to_owned(),
            _ => format!("{}/{}", size(used), size(total)),
        };
        let some = |stalls: &Option<StallsView>| {
            let stall = stalls.as_ref().and_then(|stalls| stalls.some.as_ref());
            stall.map_or_else(|| "-".to_owned(), |stall| percent(stall.avg10))
        };
        let pressure = &self.pressure;
        vec![
            self.kernel.clone(),
            uptime(self.uptime_seconds),
            cpu.count.to_string(),
            percent(busy),
            format!("{:.2} {:.2} {:.2}", self.load.avg1, self.load.avg5, self.load.avg15),
            of(self.memory.used_bytes, self.memory.total_bytes),
            of(self.swap.used_bytes, self.swap.total_bytes),
            percent(cpu.user_percent),
            percent(cpu.system_percent),
            percent(cpu.iowait_percent),
            percent(cpu.steal_percent),
            [&pressure.cpu, &pressure.memory, &pressure.io].map(some).join("/"),
            self.taint.iter().flatten().map(|taint| taint.letter.as_str()).collect(),
            cpu.model.clone().unwrap_or_default(),
        ]
    }
}

/// `5d`, `90m`
fn uptime(seconds: f64) -> String {
    std::time::Duration::try_from_secs_f64(seconds).map(crate::time::rough).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_system_is_json_and_a_line() {
        let stall = system::Stall { avg10: 1.5, ..system::Stall::default() };
        let system = pb::System {
            kernel: "6.18.44".to_owned(),
            uptime_seconds: 7_200.0,
            cpu: Some(system::Cpu { count: 2, user_percent: 12.345, ..system::Cpu::default() }),
            memory: Some(system::Memory {
                total_bytes: 4 << 30,
                available_bytes: 3 << 30,
                ..system::Memory::default()
            }),
            pressure: Some(system::Pressure {
                cpu: Some(system::Stalls { some: Some(stall), full: None }),
                ..system::Pressure::default()
            }),
            taint: Some(system::Taints {
                taints: vec![pb::Taint {
                    letter: "W".to_owned(),
                    meaning: "kernel warning".to_owned(),
                }],
            }),
            ..pb::System::default()
        };
        let view = SystemView::from(system);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["cpu"]["user_percent"], 12.35);
        assert_eq!(json["cpu"]["model"], Value::Null);
        assert_eq!(json["cpu"]["mhz"], Value::Null);
        assert_eq!(json["memory"]["used_bytes"], 1_u64 << 30);
        assert_eq!(json["pressure"]["cpu"]["some"]["avg10"], 1.5);
        assert_eq!(json["pressure"]["io"], Value::Null);
        let taint = serde_json::json!([{"letter": "W", "meaning": "kernel warning"}]);
        assert_eq!(json["taint"], taint);
        let cells = view.cells();
        assert_eq!(cells.len(), SystemView::COLUMNS.len() + SystemView::WIDE_COLUMNS.len());
        assert_eq!(cells[..4], ["6.18.44", "2h", "2", "12.3"]);
        assert_eq!(cells[5..7], ["1.0G/4.0G", "none"]);
        assert_eq!(cells[11..13], ["1.5/-/-", "W"]);
    }
}
