//! The configuration file: contexts, each a controller and the credentials for it. It knows the file's
//! form and place, and makes no connection.

use crate::{args::env, exit::usage, output::note};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The whole file. The controller writes one of the same form as `DATA_DIR/admin.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of the context to use when none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One controller and who we are to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// HOST:PORT
    pub(crate) server: String,
    /// URI SAN of its certificate: `kctl://controller/NAME`.
    pub(crate) controller: String,
    /// PEM
    pub(crate) ca: String,
    /// PEM
    pub(crate) certificate: String,
    /// PEM
    pub(crate) key: String,
}

impl Config {
    /// Where the file is: `KCTL_CONFIG`, else `~/.config/kctl/config.toml`.
    pub(crate) fn path() -> anyhow::Result<PathBuf> {
        if let Some(path) = env("KCTL_CONFIG") {
            return Ok(path.into());
        }
        let home = env("HOME").context("neither KCTL_CONFIG nor HOME is set")?;
        Ok(Path::new(&home).join(".config/kctl/config.toml"))
    }

    /// Reads the file; `None` when there is none.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("{}: can't be read", path.display()));
            }
        };
        if let Ok(metadata) = fs::metadata(path)
            && metadata.is_file()
            && metadata.permissions().mode() & 0o077 != 0
        {
            let path = path.display();
            note(&format!("warning: {path}: others can read its keys; run \"chmod 600 {path}\""));
        }
        Self::parse(&text).map(Some).with_context(|| path.display().to_string())
    }

    /// Reads the text of a file.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        // The error's own text quotes the line, which could be one of a key.
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            anyhow::anyhow!("line {line}: {}", error.message())
        })
    }

    /// The file's text.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Writes the file, whole or not at all, readable by its owner alone.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let attempt = || -> anyhow::Result<()> {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // A new temporary file has mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(self.text()?.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        attempt().with_context(|| format!("{}: can't be written", path.display()))
    }

    /// The context of this name, or the current one.
    pub(crate) fn context(&self, name: Option<&str>) -> anyhow::Result<(&str, &Context)> {
        let name = match (name, &self.current) {
            (Some(name), _) => name,
            (None, Some(current)) => current,
            (None, None) if self.contexts.is_empty() => bail!(NO_CONFIG),
            (None, None) => {
                return Err(usage("no current context; run \"kctl context use NAME\""));
            }
        };
        match self.contexts.get_key_value(name) {
            Some((name, context)) => Ok((name, context)),
            None => bail!("context {name:?}: not in the configuration; see \"kctl context list\""),
        }
    }
}

/// What to do without a configuration.
pub(crate) const NO_CONFIG: &str = "no controller is configured; import the file that the controller \
    made: \"kctl context import DATA_DIR/admin.toml\" (or set KCTL_CONFIG to it), or use --agent \
    unix:///run/kctl/agent.sock";

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
current = "default"
[contexts.default]
server = "127.0.0.1:7443"
controller = "kctl://controller/c"
ca = """
CA"""
certificate = "CERT"
key = "KEY"
"#;

    #[test]
    fn a_file_survives_being_written() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a/b/config.toml");
        assert_eq!(Config::read(&path).expect("none"), None);
        let config = Config::parse(TEXT).expect("valid");
        config.write(&path).expect("writable");
        assert_eq!(Config::read(&path).expect("readable"), Some(config.clone()));
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let (name, context) = config.context(None).expect("current");
        assert_eq!((name, context.ca.as_str()), ("default", "CA"));
        assert!(config.context(Some("x")).expect_err("unknown").to_string().contains("\"x\""));
    }

    #[test]
    fn unknown_keys_are_named_and_keys_never_quoted() {
        let error = Config::parse(&TEXT.replace("server =", "sever =")).expect_err("unknown key");
        assert!(error.to_string().contains("sever"), "{error}");
        let error = Config::parse(&TEXT.replace("\"KEY\"", "\"SECRET")).expect_err("open string");
        assert!(!error.to_string().contains("SECRET"), "{error}");
        assert!(error.to_string().starts_with("line 9"), "{error}");
    }

    #[test]
    fn without_a_context_the_error_says_how_to_get_one() {
        let error = Config::default().context(None).expect_err("empty");
        assert!(error.to_string().contains("admin.toml"), "{error}");
    }
}
