//! kctl as a process: standard output, standard error and exit code.

mod agent;
mod completion;
mod events;
mod feeds;
mod fixture;
mod fleet;
mod usage;
