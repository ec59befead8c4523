//! Logs of the daemons: text on a terminal, JSON lines otherwise, always on standard error.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Starts logging at level info, or as `KCTL_LOG` says (the directives of `tracing_subscriber`).
pub fn init_logging() {
    let filter = EnvFilter::try_from_env("KCTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}
