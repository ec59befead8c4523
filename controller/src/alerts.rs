//! Thresholds of alerts for the fleet: what the configuration says, and every host hears when it connects.
//! What they mean is the hosts' business.

use anyhow::Context as _;
use kctl_events::alert::{Said, Settings};
use kctl_proto::agent::v1 as pb;
use std::collections::BTreeMap;

/// By key, as they were said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FleetAlerts(BTreeMap<String, String>);

impl FleetAlerts {
    /// Of `KEY=VALUE`s, which win, and the file's table.
    pub(crate) fn new(given: &[String], file: &BTreeMap<String, Said>) -> anyhow::Result<Self> {
        let mut all: BTreeMap<_, _> =
            file.iter().map(|(key, said)| (key.clone(), said.to_string())).collect();
        for text in given {
            let (key, said) = text
                .split_once('=')
                .with_context(|| format!("alert {text:?}: must be KEY=VALUE"))?;
            all.insert(key.to_owned(), said.to_owned());
        }
        let mut settings = Settings::default();
        all.iter().try_for_each(|(key, said)| settings.set(key, said))?;
        Ok(Self(all))
    }

    /// What a host is told, also when there is nothing: it may have been told something before.
    pub(crate) fn told(&self) -> pb::SessionRequest {
        let settings = self.0.clone().into_iter().collect();
        let alerts = Some(pb::AlertSettings { settings });
        pb::SessionRequest { alerts, ..pb::SessionRequest::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_by_key_and_nonsense_is_refused() {
        let merged = |given: &[&str], file: &str| {
            let given: Vec<_> = given.iter().map(|it| (*it).to_owned()).collect();
            let file = toml::from_str(file).map_err(|error| error.to_string())?;
            FleetAlerts::new(&given, &file).map_err(|error| format!("{error:#}"))
        };
        let file = "disk = \"95 clear 90\"\nsyscalls = 20000\ncpu = \"off\"\n";
        let settings = merged(&["cpu=99", "for=10s"], file).expect("valid").told().alerts;
        let settings = settings.expect("told").settings;
        let settings: BTreeMap<_, _> = settings.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        let expected =
            [("disk", "95 clear 90"), ("syscalls", "20000"), ("cpu", "99"), ("for", "10s")];
        assert_eq!(settings, expected.into());
        assert_eq!(merged(&[], ""), Ok(FleetAlerts::default()));
        for (given, file, named) in [
            (&["disk"][..], "", "KEY=VALUE"),
            (&["disk=full"], "", "disk"),
            (&[], "colour = 1", "colour"),
            (&[], "cpu = true", "cpu"),
        ] {
            let error = merged(given, file).expect_err("invalid");
            assert!(error.contains(named), "{error}");
        }
    }
}
