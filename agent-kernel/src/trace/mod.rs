//! What processes do, told by eBPF programs on the kernel's tracepoints.
//!
//! It owns the programs, their ring, and what a record means. It knows neither events on the wire nor
//! who reads them.

mod pages;
mod ring;
pub mod tcp;

pub use ring::{KernelRing, Records, RingBytes};
