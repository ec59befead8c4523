//! Events, from the kernels of three hosts to one `kctl events`.

mod follow;
mod ledger;
mod order;
mod packets;
mod past;
mod sources;
mod support;
