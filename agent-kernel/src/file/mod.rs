//! Files below /proc and /sys: what the kernel shows there, and what can be set there. The kernel
//! itself keeps a path below those two; what is dangerous, secret or writable stands in `policy`. It
//! must not know who asks.

mod path;
mod policy;
mod read;
mod set;
mod values;

pub use path::Roots;
pub use policy::{DEFAULT_WRITABLE, Holds, Writable};
pub use read::{KernelFile, open};
pub use set::{Change, Setting, restore, set};
pub use values::{LONGEST_VALUE, Value, matching, value};
