//! What turns the kernel's ticks and pages into times and bytes.

use super::cpu::boot_unix;
use super::file::text;
use super::stat::Stat;
use super::system::uptime_seconds;
use crate::error::Error;
use std::path::Path;

/// What turns ticks and pages into times and bytes.
#[derive(Debug)]
pub(super) struct Clock {
    ticks_per_second: u64,
    pub(super) page_bytes: u64,
    /// Ticks since boot when the listing began.
    now_ticks: u64,
    /// Seconds since 1970.
    boot_unix: i64,
}

impl Clock {
    pub(super) fn read(root: &Path) -> Result<Self, Error> {
        let ticks_per_second = sysconf(nix::unistd::SysconfVar::CLK_TCK, 100);
        let uptime = uptime_seconds(&text(root, "uptime")?)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an uptime in ticks is far below 2^53"
        )]
        let now_ticks = (uptime * ticks_per_second as f64).ceil() as u64;
        Ok(Self {
            ticks_per_second,
            page_bytes: sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4_096),
            now_ticks,
            boot_unix: boot_unix(&text(root, "stat")?)?,
        })
    }

    pub(super) fn cpu_percent(&self, stat: &Stat) -> f64 {
        // One of this very tick has no share yet.
        match self.now_ticks.saturating_sub(stat.start_ticks) {
            0 => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^53")]
            age => 100.0 * stat.cpu_ticks as f64 / age as f64,
        }
    }

    pub(super) fn start_unix_ms(&self, stat: &Stat) -> i64 {
        let after_ms = stat.start_ticks.saturating_mul(1_000) / self.ticks_per_second;
        self.boot_unix.saturating_mul(1_000).saturating_add_unsigned(after_ms)
    }
}

pub(super) fn sysconf(name: nix::unistd::SysconfVar, usual: u64) -> u64 {
    let value = nix::unistd::sysconf(name).ok().flatten();
    value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(usual)
}
