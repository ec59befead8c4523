//! A process loaded a BPF program. All that is told is the kernel's own knowledge of the program.

use crate::kernel::{Address, layout};
use crate::or_zero::{follow, read};
use crate::ring;
use crate::syscall::Call;
use crate::task::{Task, current_process, header};
use agent_records::trace::{Bpf, kind};

/// bpf(2)
const BPF_PROG_LOAD: u64 = 5;

/// Tells what a bpf(2) did.
#[inline(always)]
pub fn tell(of: &Call) {
    if of.first() & 0xffff_ffff != BPF_PROG_LOAD || of.result < 0 {
        return;
    }
    let program = program(of.result as u32);
    let aux = follow(program, layout!(prog_aux));
    // Another thread may have put another file in its place since: a program knows itself.
    let is_one = !aux.is_null() && follow(aux, layout!(aux_prog)) == program;
    ring::submit(&Bpf {
        header: header(kind::BPF),
        process: current_process(),
        id: if is_one { read(aux, layout!(aux_id)) } else { 0 },
        program_type: if is_one { read(program, layout!(prog_type)) } else { 0 },
        name: if is_one { read(aux, layout!(aux_name)) } else { [0; 16] },
    });
}

/// Behind a descriptor of the current task.
#[inline(always)]
fn program(fd: u32) -> Address {
    let table = follow(follow(Task::current().0, layout!(task_files)), layout!(files_fdt));
    if fd >= read::<u32>(table, layout!(fdtable_max_fds)) {
        return core::ptr::null();
    }
    let files = follow(table, layout!(fdtable_fd));
    let file = follow(files.wrapping_add(8 * fd as usize), 0);
    follow(file, layout!(file_private_data))
}
