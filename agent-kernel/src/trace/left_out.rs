//! Signals that nobody sees: a program that is interrupted is not run for what the interrupt does. Of all
//! programs only that of signals can meet this, because timers send signals from interrupts.

use super::{Scope, Source, TracerConfig};
use crate::filter::fdinfo;
use aya::Ebpf;
use std::os::fd::AsFd as _;

const PROGRAM: &str = "signal";

/// How often the kernel left the program out.
#[derive(Debug)]
pub(super) struct LeftOut {
    /// Whose signal it was is not known, so only where all are told.
    tells: bool,
    told: u64,
}

impl LeftOut {
    pub(super) fn new(config: &TracerConfig) -> Self {
        let tells = config.scope == Scope::Host && config.sources.contains(Source::Signal);
        Self { tells, told: 0 }
    }

    /// Since the last call. Kernels before Linux 5.12 don't say.
    pub(super) fn since(&mut self, programs: &Ebpf) -> u64 {
        if !self.tells {
            return 0;
        }
        let fd = programs.program(PROGRAM).and_then(|program| program.fd().ok());
        let misses = fd.and_then(|fd| fdinfo(fd.as_fd(), "recursion_misses").ok().flatten());
        let misses = misses.unwrap_or(self.told);
        misses.saturating_sub(std::mem::replace(&mut self.told, misses))
    }
}
