//! A look at everything that has a threshold: what the counters and procfs say, as values of one moment.

use super::cause::Evidence;
use super::flaps::Flaps;
use super::state::{Alerts, Look, Moment, Value};
use super::thresholds::Thresholds;
use crate::events::now_unix_ns;
use crate::text::text;
use agent_kernel::Error;
use agent_kernel::counters::{Counted, Reading};
use agent_kernel::netlink::links;
use agent_kernel::proc::{
    CpuSample, CpuTimes, Mount, Usages, conntrack_room, cpu_sample, cpu_times, memory,
    memory_pressure, mounts,
};
use kctl_events::alert::{COUNT, What};
use kctl_proto::agent::v1 as pb;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// More file systems are not looked at.
const MOST_MOUNTS: usize = 256;

/// Looks, and remembers what it takes to see a rate.
#[derive(Debug)]
pub(super) struct Looker {
    thresholds: Thresholds,
    proc_root: PathBuf,
    alerts: Alerts,
    /// The counters at the look before.
    before: Option<Reading>,
    cpu: Option<CpuTimes>,
    /// From when the processors were too busy.
    cpu_sample: Option<CpuSample>,
    flaps: Flaps,
    usages: Usages,
    /// A failure was logged; the same again says nothing new.
    failed: [bool; COUNT],
}

impl Looker {
    pub(super) fn new(thresholds: Thresholds, proc_root: PathBuf) -> Self {
        Self {
            alerts: Alerts::new(thresholds.clone()),
            flaps: Flaps::new(thresholds.link_window),
            thresholds,
            proc_root,
            before: None,
            cpu: None,
            cpu_sample: None,
            usages: Usages::default(),
            failed: [false; COUNT],
        }
    }

    /// Goes on with other thresholds. What fires and is not looked at any more is over with the next look.
    pub(super) fn set(&mut self, thresholds: Thresholds) {
        self.alerts.set(thresholds.clone());
        self.flaps.set(thresholds.link_window);
        self.thresholds = thresholds;
    }

    /// Whether nothing is too high.
    pub(super) fn is_silent(&self) -> bool {
        self.alerts.is_empty()
    }

    /// What fires now.
    pub(super) fn firing(&self) -> Vec<pb::AlertEvent> {
        self.alerts.firing()
    }

    /// Looks; what has begun or is over since the look before. It blocks.
    pub(super) fn look(&mut self, reading: Option<Reading>) -> Vec<pb::AlertEvent> {
        let now = Moment { at: Instant::now(), unix_ns: now_unix_ns() };
        let counted = self.counted(reading);
        let mut look = Look::default();
        for what in What::all() {
            if self.thresholds.of(what).is_none() {
                continue;
            }
            if what.is_counted() {
                match counted.as_ref().and_then(|(seconds, it)| rate(what, *seconds, it)) {
                    Some(rate) => look.values.push(of_host(what, Some(rate))),
                    None => look.unread.push(what),
                }
                continue;
            }
            let found = self.read(what, now.at);
            let failed = found.is_err();
            match found {
                Ok(values) => look.values.extend(values),
                Err(error) => {
                    if !self.failed[what as usize] {
                        tracing::warn!(alert = what.name(), %error, "a value can't be read");
                    }
                    look.unread.push(what);
                }
            }
            self.failed[what as usize] = failed;
        }
        let evidence = Evidence {
            proc_root: &self.proc_root,
            counted: counted.as_ref(),
            cpu_sample: self.cpu_sample.as_ref(),
        };
        let told = self.alerts.take(now, &look, |what| evidence.cause(what));
        self.sample();
        told
    }

    /// Who makes the processors busy is the difference from when they began to be: the one dear thing,
    /// and only read then.
    fn sample(&mut self) {
        if !self.alerts.has(What::Cpu) {
            self.cpu_sample = None;
        } else if self.cpu_sample.is_none() {
            self.cpu_sample = cpu_sample(&self.proc_root).ok();
        }
    }

    /// What came since the look before, and in how many seconds.
    fn counted(&mut self, reading: Option<Reading>) -> Option<(f64, Counted)> {
        let now = reading?;
        let since = self.before.as_ref().map(|before| now.since(before));
        self.before = Some(now);
        let (elapsed_ns, counted) = since.filter(|(elapsed_ns, _)| *elapsed_ns > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "an interval is far below 2^53 nanoseconds")]
        let seconds = elapsed_ns as f64 / 1e9;
        Some((seconds, counted))
    }

    fn read(&mut self, what: What, now: Instant) -> Result<Vec<Value>, Error> {
        let root = &self.proc_root;
        let percent = match what {
            What::Syscalls | What::Faults | What::Switches => None,
            What::Cpu => {
                let now = cpu_times(root)?;
                let before = self.cpu.replace(now);
                before.map(|before| {
                    let shares = now.since(&before);
                    shares.user_percent + shares.system_percent
                })
            }
            What::Memory => {
                let (memory, _) = memory(root)?;
                let used = memory.total_bytes.saturating_sub(memory.available_bytes);
                part(used, memory.total_bytes)
            }
            What::MemoryPressure => memory_pressure(root)?.map(|it| it.some.avg10_percent),
            What::Conntrack => conntrack_room(root)?.and_then(|(used, most)| part(used, most)),
            What::Disk => return self.disks(),
            What::Link => {
                let links = links(None)?.collect::<Result<Vec<_>, _>>()?;
                let flaps = self.flaps.take(now, &links);
                #[expect(clippy::cast_precision_loss, reason = "a window has few changes")]
                let value = |(object, changes): (String, u64)| Value {
                    what,
                    object,
                    number: Some(changes as f64),
                };
                return Ok(flaps.into_iter().map(value).collect());
            }
        };
        // What this kernel does not tell, or not yet.
        Ok(vec![of_host(what, percent)])
    }

    /// Each file system once, as df(1) has it.
    fn disks(&self) -> Result<Vec<Value>, Error> {
        let seen = mounts(&self.proc_root)?;
        let mut chosen: BTreeMap<_, &Mount> = BTreeMap::new();
        for mount in seen.mounts.iter().filter(|it| can_fill(it)) {
            let known = chosen.entry((mount.major, mount.minor)).or_insert(mount);
            // Rather the whole than a folder of it that is mounted elsewhere.
            if known.root != b"/" && mount.root == b"/" {
                *known = mount;
            }
        }
        let chosen: Vec<_> = chosen.into_values().take(MOST_MOUNTS).collect();
        let answers = self.usages.ask(&seen, chosen.iter().copied());
        let values = chosen.iter().zip(answers).map(|(mount, answer)| {
            let used = |it: agent_kernel::proc::Usage| {
                part(it.used_bytes, it.used_bytes.saturating_add(it.available_bytes))
            };
            // One that does not answer is not known to be empty.
            let number = answer.ok().and_then(used);
            Value { what: What::Disk, object: text(&mount.path), number }
        });
        Ok(values.collect())
    }
}

fn of_host(what: What, number: Option<f64>) -> Value {
    Value { what, object: String::new(), number }
}

/// Percent; `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "a percentage is no exact number")]
fn part(used: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| 100.0 * used as f64 / all as f64)
}

/// A second, whole host or scope.
#[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
fn rate(what: What, seconds: f64, counted: &Counted) -> Option<f64> {
    let count = match what {
        What::Syscalls => counted.syscalls,
        What::Switches => counted.switches,
        // Those of processes in scope, where they are counted by mode.
        What::Faults => counted.faults.map(|faults| {
            faults.user.zip(faults.kernel).map_or(faults.served, |(user, kernel)| user + kernel)
        }),
        _ => None,
    };
    Some(count? as f64 / seconds)
}

/// What can't be written to does not fill up, and an overlay is as full as what it lies on.
fn can_fill(mount: &Mount) -> bool {
    let is_read_only = mount.options.split(|byte| *byte == b',').any(|option| option == b"ro");
    let is_overlay = mount.fs_type == b"overlay" && mount.path != b"/";
    !mount.is_pseudo() && !is_read_only && !is_overlay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_layers_of_containers_are_no_disks_that_fill() {
        let mount = |fs_type: &str, path: &str, options: &str| Mount {
            fs_type: fs_type.into(),
            path: path.into(),
            options: options.into(),
            ..Mount::default()
        };
        for (fs_type, path, options, expected) in [
            ("ext4", "/", "rw,relatime", true),
            ("tmpfs", "/tmp", "rw", true),
            ("squashfs", "/snap/a", "ro,nodev", false),
            ("ext4", "/", "rw,errors=remount-ro", true),
            ("overlay", "/var/lib/containers/merged", "rw", false),
            ("overlay", "/", "rw", true),
            ("cgroup2", "/sys/fs/cgroup", "rw", false),
        ] {
            assert_eq!(can_fill(&mount(fs_type, path, options)), expected, "{fs_type} {path}");
        }
    }
}
