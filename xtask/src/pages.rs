//! Manual pages and completions of kctl, for its Debian package: kctl itself writes them.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::cargo::project;

/// Shells, and what their packages call a file of completions.
const SHELLS: [(&str, &str); 3] = [("bash", "kctl"), ("zsh", "_kctl"), ("fish", "kctl.fish")];

/// Has the kctl of this folder write them into `target/pages`, where cli/Cargo.toml has them from.
pub(crate) fn write(binaries: &Path) -> Result<()> {
    let kctl = binaries.join("kctl");
    let folder = project().join("target/pages");
    // Pages of commands that are gone would stay.
    let _ = fs::remove_dir_all(&folder);
    let run = |args: &[&str]| -> Result<Vec<u8>> {
        let done = std::process::Command::new(&kctl).args(args).output().context("kctl")?;
        ensure!(done.status.success(), "kctl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(done.stdout)
    };
    run(&["man", &folder.join("man1").display().to_string()])?;
    for (shell, file) in SHELLS {
        let script = run(&["completion", shell])?;
        let folder = folder.join(shell);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(file), script)?;
    }
    Ok(())
}
