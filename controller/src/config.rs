//! What the controller was told: flags over environment over file.

mod detect;

pub(crate) use detect::Escalation;

use crate::alerts::FleetAlerts;
use crate::args::{Args, Options};
use crate::events::{SMALLEST_BYTES, kept_kinds};
use crate::limits::Limits;
use anyhow::{Context as _, bail};
use detect::{DetectFile, escalation};
use kctl_events::{Kind, Kinds, alert};
use kctl_rpc::{
    metrics::{MetricsConfig, MetricsListen},
    valid_name,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

/// Agents and API clients expect the controller here.
pub(crate) const PORT: u16 = 7443;
const METRICS: MetricsListen =
    MetricsListen::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480));
const CONFIG_FILE: &str = "/etc/kctl/controller.toml";
const DATA_DIR: &str = "/var/lib/kctl/controller";
const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Agents renew at two thirds of it.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);
const LONGEST_LIFE: Duration = Duration::from_secs(3_650 * 86_400);
const HISTORY_BYTES: u64 = 256 << 20;
const HISTORY_AGE: Duration = Duration::from_secs(7 * 86_400);

/// The file. Unknown keys are errors: a misspelt setting must not be silently ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    ca_file: Option<PathBuf>,
    ca_key_file: Option<PathBuf>,
    join_token_file: Option<PathBuf>,
    #[serde(default)]
    advertise: Vec<String>,
    name: Option<String>,
    store: Option<String>,
    certificate_life: Option<String>,
    #[serde(default)]
    events: EventsFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    detect: DetectFile,
    #[serde(default)]
    metrics: MetricsFile,
    /// Keys as in agent.toml.
    #[serde(default)]
    alerts: BTreeMap<String, alert::Said>,
}

/// `[metrics]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsFile {
    listen: Option<MetricsListen>,
    token_file: Option<PathBuf>,
}

/// `[limits]`, each of one user.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    requests_per_second: Option<NonZeroU32>,
    streams: Option<NonZeroU32>,
    connections: Option<NonZeroU32>,
}

/// `[events]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsFile {
    history_bytes: Option<String>,
    history_age: Option<String>,
    #[serde(default)]
    history_types: Vec<String>,
}

/// What is kept of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HistoryConfig {
    /// 0 switches it off.
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
    pub(crate) kinds: Kinds,
}

/// A CA that somebody else keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) ca: Option<CaFiles>,
    pub(crate) join_token_file: Option<PathBuf>,
    /// `HOST:PORT`, each with its port.
    pub(crate) advertise: Vec<String>,
    pub(crate) name: String,
    /// Of certificates.
    pub(crate) life: Duration,
    /// Of one user.
    pub(crate) limits: Limits,
    pub(crate) history: HistoryConfig,
    /// What a host's detection blocks becomes an entry of every host; absent for not at all.
    pub(crate) escalation: Option<Escalation>,
    pub(crate) metrics: MetricsConfig,
    pub(crate) alerts: FleetAlerts,
}

impl Config {
    /// Puts command line, environment and file together.
    pub(crate) fn load(args: Args) -> anyhow::Result<Self> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => match read(Path::new(CONFIG_FILE)) {
                Err(error) if is_missing(&error) => File::default(),
                other => other?,
            },
        };
        Self::merge(args.options, file)
    }

    fn merge(options: Options, file: File) -> anyhow::Result<Self> {
        let limits = limits(&options, &file.limits);
        let escalation = escalation(&options, &file.detect)?;
        let store = options.store.or(file.store).unwrap_or_else(|| "embedded".to_owned());
        if store != "embedded" {
            bail!("store {store:?}: unknown; only \"embedded\" is there");
        }
        let name = match options.name.or(file.name) {
            Some(name) => name,
            None => nix::unistd::gethostname()
                .context("host name")?
                .into_string()
                .map_err(|name| anyhow::anyhow!("host name {name:?}: not text; use --name"))?,
        }
        .to_ascii_lowercase();
        if !valid_name(&name) {
            bail!("name {name:?}: must be 1 to 253 of a-z, 0-9, \"-\", \".\"; use --name");
        }
        let listen = options
            .listen
            .or(file.listen)
            .unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
        let advertise =
            if options.advertise.is_empty() { file.advertise } else { options.advertise };
        Ok(Self {
            data_dir: options.data_dir.or(file.data_dir).unwrap_or_else(|| DATA_DIR.into()),
            listen,
            ca: match (options.ca_file.or(file.ca_file), options.ca_key_file.or(file.ca_key_file)) {
                (Some(certificate), Some(key)) => Some(CaFiles { certificate, key }),
                (None, None) => None,
                (Some(_), None) => bail!("ca-file: wants --ca-key-file beside it"),
                (None, Some(_)) => bail!("ca-key-file: wants --ca-file beside it"),
            },
            join_token_file: options.join_token_file.or(file.join_token_file),
            advertise: advertise
                .iter()
                .map(|text| with_port(text, listen.port()))
                .collect::<Result<_, _>>()?,
            name,
            limits,
            escalation,
            metrics: MetricsConfig::new(
                options.metrics_listen.or(file.metrics.listen).unwrap_or(METRICS),
                options.metrics_token_file.or(file.metrics.token_file),
            )?,
            alerts: FleetAlerts::new(&options.alerts, &file.alerts)?,
            life: life(options.certificate_life.or(file.certificate_life))?,
            history: history(
                options.history_bytes.or(file.events.history_bytes),
                options.history_age.or(file.events.history_age),
                if options.history_types.is_empty() {
                    file.events.history_types
                } else {
                    options.history_types
                },
            )?,
        })
    }

    /// The address for admin.toml, given the one that is really listened on.
    pub(crate) fn server(&self, bound: SocketAddr) -> String {
        self.advertise.first().cloned().unwrap_or_else(|| from_here(bound).to_string())
    }
}

fn limits(options: &Options, file: &LimitsFile) -> Limits {
    let usual = Limits::default();
    let count = |given: Option<NonZeroU32>, usual: usize| {
        given.map_or(usual, |it| usize::try_from(it.get()).unwrap_or(usize::MAX))
    };
    Limits {
        requests_per_second: options
            .user_requests_per_second
            .or(file.requests_per_second)
            .unwrap_or(usual.requests_per_second),
        streams: count(options.user_streams.or(file.streams), usual.streams),
        connections: count(options.user_connections.or(file.connections), usual.connections),
    }
}

/// How long certificates live.
fn life(text: Option<String>) -> anyhow::Result<Duration> {
    let life = text.as_deref().map_or(Ok(LIFE), |text| parse_age("certificate-life", text))?;
    if !(SHORTEST_LIFE..=LONGEST_LIFE).contains(&life) {
        bail!("certificate-life {}: must be from 5s to 3650d", text.unwrap_or_default());
    }
    Ok(life)
}

/// Where this machine reaches an address that is listened on.
pub(crate) fn from_here(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn history(
    bytes: Option<String>,
    age: Option<String>,
    types: Vec<String>,
) -> anyhow::Result<HistoryConfig> {
    let bytes = bytes.as_deref().map_or(Ok(HISTORY_BYTES), parse_bytes)?;
    if (1..SMALLEST_BYTES).contains(&bytes) {
        bail!("history-bytes {bytes}: must be 0 or at least {}MiB", SMALLEST_BYTES >> 20);
    }
    let age = age.as_deref().map_or(Ok(HISTORY_AGE), |age| parse_age("history-age", age))?;
    let kinds: Vec<Kind> = types
        .iter()
        .map(|name| name.parse().with_context(|| format!("history-types {name:?}")))
        .collect::<Result<_, _>>()?;
    let kinds = if kinds.is_empty() { Kinds::all() } else { kept_kinds(kinds.into_iter()) };
    Ok(HistoryConfig { bytes, age, kinds })
}

/// `0`, `1000000`, `64KiB`, `256MiB`, `2GiB`.
fn parse_bytes(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => bail!("history-bytes {text:?}: must be a number with KiB, MiB, GiB or TiB, or 0"),
    };
    let number: u64 = digits.parse().with_context(|| format!("history-bytes {text:?}"))?;
    number.checked_mul(1 << shift).with_context(|| format!("history-bytes {text:?}: too many"))
}

/// `7d`, `12h`, `1d 12h`.
fn parse_age(what: &str, text: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("{what} {text:?}: must be an age like 7d, 12h or 30m");
    let span: jiff::Span = text.parse().with_context(wrong)?;
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let age = span.to_duration(relative).with_context(wrong)?;
    let age = Duration::try_from(age).ok().filter(|age| !age.is_zero());
    age.with_context(wrong)
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = fs::read_to_string(path).with_context(|| format!("configuration {path:?}"))?;
    toml::from_str(&text).with_context(|| format!("configuration {path:?}"))
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`.
fn with_port(text: &str, port: u16) -> anyhow::Result<String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    match text.rsplit_once(':') {
        None if !text.is_empty() => Ok(format!("{text}:{port}")),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) => {
            Ok(text.to_owned())
        }
        _ => bail!("advertise {text:?}: must be HOST or HOST:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file: File = toml::from_str(
            "name = \"File\"\nlisten = \"127.0.0.1:1\"\nadvertise = [\"c.example\"]\n[events]\nhistory_bytes = \"32MiB\"",
        )
        .expect("valid");
        let options = Options { name: Some("flag".to_owned()), ..Options::default() };
        let config = Config::merge(options, file).expect("valid");
        assert_eq!(config.name, "flag");
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.advertise, ["c.example:1"]);
        assert_eq!(config.data_dir, Path::new(DATA_DIR));
        assert_eq!(config.history.bytes, 32 << 20);
    }

    #[test]
    fn the_history_has_a_size_an_age_and_types() {
        let read = |bytes: &str, age: &str, types: &[&str]| {
            let types = types.iter().map(|name| (*name).to_owned()).collect();
            history(Some(bytes.to_owned()), Some(age.to_owned()), types)
                .map_err(|error| format!("{error:#}"))
        };
        let config = read("64MiB", "12h", &["drop"]).expect("valid");
        assert_eq!((config.bytes, config.age), (64 << 20, Duration::from_secs(43_200)));
        let kinds: Vec<_> = config.kinds.iter().map(Kind::name).collect();
        assert_eq!(kinds, ["drop", "host", "lost"]);
        let default = history(None, None, Vec::new()).expect("valid");
        assert_eq!((default.bytes, default.kinds), (256 << 20, Kinds::all()));
        assert_eq!(default.age, Duration::from_secs(7 * 86_400));
        assert_eq!(read("0", "7d", &[]).map(|config| config.bytes), Ok(0));
        for (bytes, age, types, named) in [
            ("1MiB", "7d", &[][..], "at least 16MiB"),
            ("64MB", "7d", &[], "64MB"),
            ("99999999TiB", "7d", &[], "too many"),
            ("0", "week", &[], "week"),
            ("0", "0s", &[], "0s"),
            ("0", "7d", &["dorp"], "dorp"),
        ] {
            let error = read(bytes, age, types).expect_err("invalid");
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_ca_is_given_whole_or_not_at_all() {
        let merge = |text: &str| {
            let file = toml::from_str(&format!("name = \"c\"\n{text}")).expect("valid");
            Config::merge(Options::default(), file).map_err(|error| error.to_string())
        };
        let whole = merge("ca_file = \"/c\"\nca_key_file = \"/k\"").expect("valid");
        let files = CaFiles { certificate: "/c".into(), key: "/k".into() };
        assert_eq!(whole.ca, Some(files));
        assert_eq!(merge("").map(|config| config.ca), Ok(None));
        for (text, named) in
            [("ca_file = \"/c\"", "--ca-key-file"), ("ca_key_file = \"/k\"", "--ca-file")]
        {
            let error = merge(text).expect_err("half");
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<File>("listne = 1").expect_err("unknown").to_string();
        assert!(error.contains("listne"), "{error}");
    }

    #[test]
    fn advertised_addresses_get_a_port() {
        let read = |text| with_port(text, 7443).ok();
        assert_eq!(read("10.0.0.1").as_deref(), Some("10.0.0.1:7443"));
        assert_eq!(read("2001:db8::1").as_deref(), Some("[2001:db8::1]:7443"));
        assert_eq!(read("[2001:db8::1]:1").as_deref(), Some("[2001:db8::1]:1"));
        assert_eq!(read("c.example:443").as_deref(), Some("c.example:443"));
        for text in ["", ":1", "c:", "c:x", "c:0"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_context_names_an_address_that_can_be_dialed() {
        let config = Config::merge(
            Options { name: Some("c".to_owned()), ..Options::default() },
            File::default(),
        )
        .expect("valid");
        let bound = |text: &str| config.server(text.parse().expect("valid"));
        assert_eq!(bound("0.0.0.0:7443"), "127.0.0.1:7443");
        assert_eq!(bound("[::]:7443"), "[::1]:7443");
        assert_eq!(bound("10.0.0.1:7443"), "10.0.0.1:7443");
    }
}
