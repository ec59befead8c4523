//! Attaching to connect(2) and accept(2). It must not know what is told of them.
//!
//! The tracepoints of single calls cost any other call a third of what those of all calls cost, and need
//! tracefs, which a container may not have. So they are taken where they are there.

use super::super::programs::verified;
use super::program::{ACCEPTED_BY, FAILED_AT_ONCE, Missing};
use crate::error::{Error, named};
use agent_records::tcp::Settings;
use aya::Ebpf;
use aya::programs::{Program, ProgramError, RawTracePoint, TracePoint};
use std::path::Path;

/// Where aya looks for tracefs.
const TRACEFS: [&str; 2] = ["kernel/tracing", "kernel/debug/tracing"];
const CATEGORY: &str = "syscalls";

/// A program and its tracepoint.
type Place = (&'static str, &'static str);

/// Ends first: what has begun must end.
const CONNECT: [Place; 2] =
    [("tcp_connect_exit", "sys_exit_connect"), ("tcp_connect_enter", "sys_enter_connect")];
const ACCEPT: [Place; 2] =
    [("tcp_accept_exit", "sys_exit_accept4"), ("tcp_accept_exit", "sys_exit_accept")];
const EVERY_EXIT: Place = ("tcp_sys_exit", "sys_exit");
const EVERY_ENTER: Place = ("tcp_sys_enter", "sys_enter");

/// Attaches what `settings` ask for, and says what is missing then.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    settings: &Settings,
    sys_root: &Path,
    missing: &mut Vec<Missing>,
) {
    let single =
        TRACEFS.iter().any(|tracefs| sys_root.join(tracefs).join("events/syscalls").is_dir());
    let every = [EVERY_EXIT, EVERY_ENTER];
    let mut both = |what, places: &[Place]| {
        if let Err(error) = places.iter().try_for_each(|place| put(ebpf, *place)) {
            let remedy = error.remedy().map(str::to_owned);
            missing.push(Missing { what, why: error.to_string(), remedy });
        }
    };
    if settings.sees_accept != 0 {
        both(ACCEPTED_BY, if single { &ACCEPT } else { &every[..1] });
    }
    if settings.connect != u32::MAX {
        both(FAILED_AT_ONCE, if single { &CONNECT } else { &every });
    }
}

/// Loads a program and attaches it, unless it is at that place already.
fn put(ebpf: &mut Ebpf, (name, tracepoint): Place) -> Result<(), Error> {
    let program = ebpf.program_mut(name).expect("the object has this program");
    let put = match program {
        Program::TracePoint(program) => on_one(program, tracepoint),
        Program::RawTracePoint(program) => on_all(program, tracepoint),
        _ => unreachable!("they are for tracepoints"),
    };
    put.map_err(|error| Error::wrapped(named("program", name), error))
}

fn on_one(program: &mut TracePoint, tracepoint: &str) -> Result<(), ProgramError> {
    if program.fd().is_err() {
        verified(|| program.load())?;
    }
    program.attach(CATEGORY, tracepoint).map(|_| ())
}

fn on_all(program: &mut RawTracePoint, tracepoint: &str) -> Result<(), ProgramError> {
    // It serves accept(2) and connect(2).
    if program.fd().is_ok() {
        return Ok(());
    }
    verified(|| program.load())?;
    program.attach(tracepoint).map(|_| ())
}
