//! CPU performance scaling (admin-guide/pm/cpufreq): governors and frequencies below
//! `devices/system/cpu` of sysfs. It must not know who may set them.

use crate::error::{Error, ErrorKind, named};
use crate::file::Writable;
use std::path::{Path, PathBuf};
use std::{fs, io};

const FOLDER: &str = "devices/system/cpu";
/// The governor that leaves the frequency to whoever sets it.
const USERSPACE: &str = "userspace";

/// One processor's scaling. Frequencies in hertz; 0 where the kernel does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpufreq {
    /// Its number.
    pub cpu: u32,
    /// Who scales.
    pub driver: String,
    /// Who decides.
    pub governor: String,
    /// Who else could.
    pub available_governors: Vec<String>,
    /// Now.
    pub frequency_hz: u64,
    /// The least that the governor may choose.
    pub min_hz: u64,
    /// The most.
    pub max_hz: u64,
    /// The least that the hardware can do.
    pub hardware_min_hz: u64,
    /// The most.
    pub hardware_max_hz: u64,
    /// Steps, where the driver has them.
    pub available_hz: Vec<u64>,
}

/// What to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A governor by name.
    Governor(String),
    /// A frequency in hertz.
    Frequency(u64),
}

/// What was there and what is there now. Frequencies are 0 where the governor decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpufreqChange {
    /// The processor.
    pub cpu: u32,
    /// Before.
    pub old_governor: String,
    /// Now.
    pub new_governor: String,
    /// Set before, hertz.
    pub old_hz: u64,
    /// Set now, hertz.
    pub new_hz: u64,
}

/// The scaling of these processors, or of all. Unsupported: the kernel scales none. NotFound: no such
/// processor.
pub fn cpufreq(sys_root: &Path, cpus: &[u32]) -> Result<Vec<Cpufreq>, Error> {
    let cpus = if cpus.is_empty() { scaled(sys_root)? } else { cpus.to_vec() };
    cpus.into_iter().map(|cpu| Cpu::find(sys_root, cpu)?.read()).collect()
}

/// Sets these processors, or all; all of them or none. Invalid: not a governor or frequency of that
/// processor, or not among what may be set.
pub fn set_cpufreq(
    sys_root: &Path,
    writable: &Writable,
    cpus: &[u32],
    target: &Target,
) -> Result<Vec<CpufreqChange>, Error> {
    let cpus = if cpus.is_empty() { scaled(sys_root)? } else { cpus.to_vec() };
    let cpus: Vec<_> =
        cpus.into_iter().map(|cpu| Cpu::find(sys_root, cpu)).collect::<Result<_, _>>()?;
    for cpu in &cpus {
        cpu.check(target)?;
        cpu.check_writable(writable, target)?;
    }
    let mut changes: Vec<CpufreqChange> = Vec::new();
    for (at, cpu) in cpus.iter().enumerate() {
        let before = (cpu.text("scaling_governor")?, cpu.set_speed());
        let result = cpu.set(target);
        let after = (cpu.text("scaling_governor")?, cpu.set_speed());
        changes.push(CpufreqChange {
            cpu: cpu.number,
            old_governor: before.0,
            new_governor: after.0,
            old_hz: before.1,
            new_hz: after.1,
        });
        if let Err(error) = result {
            for (cpu, change) in cpus[..=at].iter().zip(&changes).rev() {
                cpu.put_back(change);
            }
            return Err(error);
        }
    }
    Ok(changes)
}

/// Processors with a frequency to scale, in order.
fn scaled(sys_root: &Path) -> Result<Vec<u32>, Error> {
    let folder = sys_root.join(FOLDER);
    let failed = |error| Error::io(named("file", folder.display()), error);
    let mut cpus = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
        if let Some(number) = number
            && folder.join(&name).join("cpufreq").is_dir()
        {
            cpus.push(number);
        }
    }
    cpus.sort_unstable();
    match cpus.is_empty() {
        false => Ok(cpus),
        true => Err(none("cpufreq")),
    }
}

fn none(object: &str) -> Error {
    let why =
        "the kernel does not scale frequencies here: it has no driver, as in most virtual machines";
    Error::new(ErrorKind::Unsupported, object, why)
}

struct Cpu {
    number: u32,
    folder: PathBuf,
}

impl Cpu {
    fn find(sys_root: &Path, number: u32) -> Result<Self, Error> {
        let cpu = sys_root.join(FOLDER).join(format!("cpu{number}"));
        let object = format!("processor {number}");
        if !cpu.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, object, "there is no such processor"));
        }
        let folder = cpu.join("cpufreq");
        if folder.is_dir() { Ok(Self { number, folder }) } else { Err(none(&object)) }
    }

    fn failed(&self, name: &str, error: io::Error) -> Error {
        Error::io(format!("processor {}: {name}", self.number), error)
    }

    fn text(&self, name: &str) -> Result<String, Error> {
        let text = fs::read_to_string(self.folder.join(name));
        Ok(text.map_err(|error| self.failed(name, error))?.trim().to_owned())
    }

    fn words(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// The kernel counts in kilohertz.
    fn hz(&self, name: &str) -> u64 {
        self.text(name).ok().and_then(|khz| khz.parse::<u64>().ok()).unwrap_or(0) * 1_000
    }

    /// 0 under a governor that decides itself: then the file says `<unsupported>`.
    fn set_speed(&self) -> u64 {
        self.hz("scaling_setspeed")
    }

    fn read(&self) -> Result<Cpufreq, Error> {
        let steps = self.words("scaling_available_frequencies");
        let mut available_hz: Vec<u64> =
            steps.iter().filter_map(|khz| khz.parse::<u64>().ok()).map(|khz| khz * 1_000).collect();
        available_hz.sort_unstable();
        Ok(Cpufreq {
            cpu: self.number,
            driver: self.text("scaling_driver").unwrap_or_default(),
            governor: self.text("scaling_governor")?,
            available_governors: self.words("scaling_available_governors"),
            frequency_hz: self.hz("scaling_cur_freq"),
            min_hz: self.hz("scaling_min_freq"),
            max_hz: self.hz("scaling_max_freq"),
            hardware_min_hz: self.hz("cpuinfo_min_freq"),
            hardware_max_hz: self.hz("cpuinfo_max_freq"),
            available_hz,
        })
    }

    fn check(&self, target: &Target) -> Result<(), Error> {
        let object = format!("processor {}", self.number);
        let governors = self.words("scaling_available_governors");
        let known = governors.join(", ");
        match target {
            Target::Governor(name) if !governors.contains(name) => {
                let why = format!("has no governor {name:?}; it has {known}");
                Err(Error::new(ErrorKind::Invalid, object, why))
            }
            Target::Governor(_) => Ok(()),
            Target::Frequency(hz) => {
                let (min, max) = (self.hz("cpuinfo_min_freq"), self.hz("cpuinfo_max_freq"));
                if hz % 1_000 != 0 || !(min..=max).contains(hz) {
                    let why =
                        format!("can't do {hz} Hz; it can do {min} to {max} in steps of 1000");
                    return Err(Error::new(ErrorKind::Invalid, object, why));
                }
                if !governors.iter().any(|name| name == USERSPACE) {
                    let why = format!(
                        "its frequency can't be set: it has no governor \"userspace\", only {known}"
                    );
                    let error = Error::new(ErrorKind::Unsupported, object, why);
                    return Err(error.with_remedy("set one of these governors instead"));
                }
                Ok(())
            }
        }
    }

    fn check_writable(&self, writable: &Writable, target: &Target) -> Result<(), Error> {
        let files: &[_] = match target {
            Target::Governor(_) => &["scaling_governor"],
            Target::Frequency(_) => &["scaling_governor", "scaling_setspeed"],
        };
        let paths =
            files.iter().map(|name| format!("/sys/{FOLDER}/cpu{}/cpufreq/{name}", self.number));
        paths.into_iter().try_for_each(|path| writable.check(&path))
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        let written = fs::write(self.folder.join(name), value);
        written.map_err(|error| self.failed(name, error))
    }

    fn set(&self, target: &Target) -> Result<(), Error> {
        match target {
            Target::Governor(name) => self.write("scaling_governor", name),
            Target::Frequency(hz) => {
                if self.text("scaling_governor")? != USERSPACE {
                    self.write("scaling_governor", USERSPACE)?;
                }
                self.write("scaling_setspeed", &(hz / 1_000).to_string())
            }
        }
    }

    /// As well as it goes: the error that led here is the one to tell.
    fn put_back(&self, change: &CpufreqChange) {
        let _ = self.write("scaling_governor", &change.old_governor);
        if change.old_hz > 0 {
            let _ = self.write("scaling_setspeed", &(change.old_hz / 1_000).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs of two processors.
    fn fixture(governors: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for cpu in 0..2 {
            let folder = root.path().join(format!("{FOLDER}/cpu{cpu}/cpufreq"));
            fs::create_dir_all(&folder).expect("folders");
            for (name, text) in [
                ("scaling_driver", "acpi-cpufreq"),
                ("scaling_governor", "performance"),
                ("scaling_available_governors", governors),
                ("scaling_cur_freq", "2400000"),
                ("scaling_min_freq", "800000"),
                ("scaling_max_freq", "2400000"),
                ("cpuinfo_min_freq", "800000"),
                ("cpuinfo_max_freq", "3000000"),
                ("scaling_available_frequencies", "3000000 2400000 800000 "),
                ("scaling_setspeed", "<unsupported>"),
            ] {
                fs::write(folder.join(name), format!("{text}\n")).expect("a file");
            }
        }
        fs::create_dir_all(root.path().join(FOLDER).join("cpu2")).expect("a folder");
        fs::create_dir_all(root.path().join(FOLDER).join("cpuidle")).expect("a folder");
        root
    }

    fn all() -> Writable {
        Writable::new(crate::file::DEFAULT_WRITABLE.iter().copied()).expect("valid")
    }

    #[test]
    fn processors_tell_what_they_can_do() {
        let root = fixture("performance powersave userspace ");
        let all = cpufreq(root.path(), &[]).expect("a list");
        assert_eq!(all.iter().map(|it| it.cpu).collect::<Vec<_>>(), [0, 1]);
        let expected = Cpufreq {
            cpu: 1,
            driver: "acpi-cpufreq".to_owned(),
            governor: "performance".to_owned(),
            available_governors: ["performance", "powersave", "userspace"]
                .map(str::to_owned)
                .into(),
            frequency_hz: 2_400_000_000,
            min_hz: 800_000_000,
            max_hz: 2_400_000_000,
            hardware_min_hz: 800_000_000,
            hardware_max_hz: 3_000_000_000,
            available_hz: vec![800_000_000, 2_400_000_000, 3_000_000_000],
        };
        assert_eq!(cpufreq(root.path(), &[1]).expect("one"), [expected]);
        let error = cpufreq(root.path(), &[7]).expect_err("none");
        assert_eq!(error.to_string(), "processor 7: there is no such processor");
        assert_eq!(
            cpufreq(root.path(), &[2]).expect_err("no scaling").kind(),
            ErrorKind::Unsupported
        );
        let empty = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(empty.path().join(FOLDER).join("cpu0")).expect("a folder");
        assert_eq!(cpufreq(empty.path(), &[]).expect_err("none").kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn governors_and_frequencies_are_set_on_all_or_none() {
        let root = fixture("performance powersave userspace");
        let governor = Target::Governor("powersave".to_owned());
        let changes = set_cpufreq(root.path(), &all(), &[], &governor).expect("set");
        let told =
            |change: &CpufreqChange| (change.old_governor.clone(), change.new_governor.clone());
        let expected = ("performance".to_owned(), "powersave".to_owned());
        assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), [expected.clone(), expected]);

        let changes =
            set_cpufreq(root.path(), &all(), &[1], &Target::Frequency(800_000_000)).expect("set");
        let frequency = (changes[0].new_governor.as_str(), changes[0].old_hz, changes[0].new_hz);
        assert_eq!(frequency, ("userspace", 0, 800_000_000));
        for (target, why) in [
            (Target::Governor("turbo".to_owned()), "has no governor \"turbo\""),
            (Target::Frequency(5_000_000_000), "can't do 5000000000 Hz"),
            (Target::Frequency(800_000_001), "can't do 800000001 Hz"),
        ] {
            let error = set_cpufreq(root.path(), &all(), &[], &target).expect_err(why);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{error}");
        }
        let none = Writable::new([]).expect("valid");
        let error = set_cpufreq(root.path(), &none, &[], &governor).expect_err("not listed");
        assert!(error.to_string().contains("cpu0/cpufreq/scaling_governor"), "{error}");

        // The second processor refuses: the first is put back.
        let file = root.path().join(FOLDER).join("cpu1/cpufreq/scaling_setspeed");
        fs::remove_file(&file).expect("removed");
        fs::create_dir(&file).expect("in its place");
        let error = set_cpufreq(root.path(), &all(), &[], &Target::Frequency(2_400_000_000));
        assert!(error.expect_err("refused").to_string().starts_with("processor 1"));
        let governors = cpufreq(root.path(), &[]).expect("a list");
        assert_eq!(governors[0].governor, "powersave");
    }

    #[test]
    fn a_frequency_wants_the_userspace_governor() {
        let root = fixture("performance powersave");
        let error = set_cpufreq(root.path(), &all(), &[0], &Target::Frequency(800_000_000));
        let error = error.expect_err("no such governor");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("only performance, powersave"), "{error}");
    }
}
