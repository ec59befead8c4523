//! Files that arguments name.

use anyhow::Context as _;
use std::{
    fs,
    io::{self, Read as _},
};

/// What messages call the file.
pub(crate) fn name(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

/// Reads a file whole; `-` is standard input. On a thread of its own, so that Ctrl-C ends the wait for
/// a terminal or a pipe.
pub(crate) async fn read(file: &str) -> anyhow::Result<Vec<u8>> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || -> io::Result<Vec<u8>> {
        if path != "-" {
            return fs::read(path);
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    read.await?.with_context(|| format!("{}: can't be read", name(file)))
}
