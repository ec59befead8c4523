//! Processes against ps(1), and against /proc read by the test. Only processes that the
//! test started are looked at: the machine has others. Apart from the other kernel tests, because the
//! end of many children is a signal, and the kernel gives up to verify a program when one comes.

mod crowd;
mod listing;
mod nouns;
mod signal;
mod support;
