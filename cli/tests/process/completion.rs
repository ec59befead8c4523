//! Completion as its user has it: a real shell in a terminal, Tab pressed in it, and a controller that knows
//! the names.

use crate::fixture::{Answers, Fleet, kctl};
use kctl_proto::controller::v1::{Host, list_feeds_response::Feed};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(60);

/// A shell, how it is started with nothing of its user's, and what makes it complete.
type Shell = (&'static str, &'static [&'static str], &'static str);

const BASH: Shell = ("bash", &["--norc", "--noprofile", "-i"], "source <(kctl completion bash)");
const ZSH: Shell =
    ("zsh", &["-f", "-i"], "autoload -U compinit; compinit -u -D; source <(kctl completion zsh)");
/// As a package brings it: in a folder of functions.
const ZSH_OF_PACKAGE: Shell = (
    "zsh",
    &["-f", "-i"],
    "mkdir f; kctl completion zsh > f/_kctl; fpath=($PWD/f $fpath); autoload -U compinit; compinit -u -D",
);
const FISH: Shell = (
    "fish",
    &["--private", "--no-config", "-i"],
    "function fish_prompt; echo 'ready> '; end; kctl completion fish | source",
);

/// A terminal with a shell in it, of which tmux knows what it shows. Dropping it ends both.
struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    async fn open(config: &Path, (program, args, prepare): Shell) -> Self {
        let terminal = Self { folder: tempfile::tempdir().expect("temp dir") };
        let kctl = Path::new(env!("CARGO_BIN_EXE_kctl")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = [
            format!("KCTL_CONFIG={}", config.display()),
            format!("PATH={}:{path}", kctl.display()),
            format!("HOME={}", terminal.folder.path().display()),
            "TERM=screen".to_owned(),
            "LC_ALL=C.UTF-8".to_owned(),
            // A busy machine may take longer than a person would wait.
            "KCTL_TIMEOUT=30s".to_owned(),
            "PS1=ready> ".to_owned(),
        ];
        let mut session = terminal.command();
        session.current_dir(terminal.folder.path());
        session.args(["new-session", "-d", "-x", "200", "-y", "50", "env", "-i"]);
        session.args(environment).arg(program).args(args);
        let started = session.output().expect("tmux: install the package tmux");
        assert!(started.status.success(), "{started:?}");
        terminal.line(&format!("{prepare}; echo pre''pared"));
        let prepared = async |screen: &str| screen.lines().any(|line| line == "prepared");
        terminal.wait_for(&format!("{program}: install its package"), prepared).await;
        terminal
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(self.folder.path().join("tmux.sock"));
        command
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("tmux");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Types text, as it is.
    fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    fn line(&self, text: &str) {
        self.types(text);
        self.tmux(&["send-keys", "Enter"]);
    }

    async fn wait_for(&self, what: &str, is: impl AsyncFn(&str) -> bool) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if is(&screen).await {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what}; the screen:\n{screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Types the beginning of a line and Tab, and waits until the screen shows all of this. What was typed
    /// is given up then.
    async fn completes(&self, typed: &str, shown: &[&str]) {
        self.clean().await;
        self.types(typed);
        self.types("\t");
        let there = async |screen: &str| shown.iter().all(|text| screen.contains(text));
        let screen = self.wait_for(&format!("{typed:?} becomes {shown:?}"), there).await;
        assert!(!screen.contains("error:") && !screen.contains("warning:"), "{screen}");
    }

    /// Gives up what was typed, and clears the screen. A shell that is still busy with a Tab may swallow keys,
    /// so it is told again.
    async fn clean(&self) {
        let begun = Instant::now();
        loop {
            self.tmux(&["send-keys", "C-c"]);
            self.line("clear");
            let again = Instant::now() + Duration::from_secs(2);
            while Instant::now() < again {
                if self.tmux(&["capture-pane", "-p"]).trim() == "ready>" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let screen = self.tmux(&["capture-pane", "-p"]);
            assert!(begun.elapsed() < SOON, "the screen does not get clean:\n{screen}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done where that fails; the shell ends with its terminal.
        let _ = self.command().arg("kill-server").output();
    }
}

fn fleet() -> Answers {
    let host = |name: &str| Host { name: name.to_owned(), ..Host::default() };
    let feed = kctl_proto::agent::v1::FeedHead {
        name: "spamhaus".to_owned(),
        ..kctl_proto::agent::v1::FeedHead::default()
    };
    Answers {
        hosts: ["web-1", "web-22", "db-1", "$(touch gone)"].map(host).into(),
        feeds: vec![Feed { head: Some(feed), ..Feed::default() }],
        ..Answers::default()
    }
}

async fn completes(shell: Shell) {
    let fleet = Fleet::start(fleet()).await;
    let terminal = Terminal::open(&fleet.config(), shell).await;
    // Commands and flags; names of hosts, also behind a comma and after other hosts.
    terminal.completes("kctl hosts descr", &["kctl hosts describe"]).await;
    terminal.completes("kctl ps --inter", &["kctl ps --interval"]).await;
    terminal.completes("kctl hosts describe d", &["kctl hosts describe db-1"]).await;
    terminal.completes("kctl block 10.0.0.5 --host db-1,web-2", &["--host db-1,web-22"]).await;
    // bash lists them at the second time only.
    terminal.completes("kctl hosts remove web-\t", &["web-1", "web-22"]).await;
    // Of other nouns.
    terminal.completes("kctl blocklist export --name s", &["--name spamhaus"]).await;
    terminal.completes("kctl --context d", &["kctl --context default"]).await;
    terminal.completes("kctl user create ann --role op", &["--role operator"]).await;
}

#[tokio::test]
async fn bash_completes_what_there_is() {
    completes(BASH).await;
}

#[tokio::test]
async fn zsh_completes_what_there_is() {
    completes(ZSH).await;
}

#[tokio::test]
async fn zsh_completes_what_a_package_brought() {
    completes(ZSH_OF_PACKAGE).await;
}

#[tokio::test]
async fn fish_completes_what_there_is() {
    completes(FISH).await;
}

/// What bash is told when it asks, and how long it waited; nothing on standard error.
async fn asked(config: &Path, timeout: &str, words: &[&str]) -> (String, Duration) {
    let mut command = crate::fixture::command(config);
    command.env("KCTL_COMPLETE", "bash").env("KCTL_TIMEOUT", timeout);
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).arg("--").args(words);
    let asked = Instant::now();
    let output = command.output().await.expect("kctl runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    (String::from_utf8(output.stdout).expect("UTF-8"), asked.elapsed())
}

#[tokio::test]
async fn only_words_are_told_and_of_the_context_that_is_named() {
    let fleet = Fleet::start(fleet()).await;
    let (hosts, _) = asked(&fleet.config(), "30s", &["kctl", "hosts", "describe", ""]).await;
    for name in ["web-1", "web-22", "db-1"] {
        assert!(hosts.lines().any(|line| line == name), "{hosts}");
    }
    assert!(!hosts.contains("touch"), "{hosts}");
    let elsewhere = ["kctl", "--context", "nope", "hosts", "describe", "w"];
    let (none, _) = asked(&fleet.config(), "30s", &elsewhere).await;
    assert_eq!(none, "");
}

#[tokio::test]
async fn whatever_goes_wrong_is_silent_and_soon_over() {
    let words = ["kctl", "hosts", "describe", "w"];
    let (none, _) = asked(Path::new("/nonexistent/kctl/config.toml"), "", &words).await;
    assert_eq!(none, "");

    // Somebody who takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback port");
    let address = silent.local_addr().expect("bound").to_string();
    let fleet = Fleet::start(fleet()).await;
    let config = std::fs::read_to_string(fleet.config()).expect("the configuration");
    let config = config.replace(&fleet.address.to_string(), &address);
    // As others can read it, there would be a warning.
    let path = fleet.config().with_extension("silent");
    std::fs::write(&path, config).expect("writes");
    let (none, waited) = asked(&path, "", &words).await;
    assert_eq!(none, "");
    // Less than a second, on a machine that does nothing else.
    assert!(waited < Duration::from_secs(30), "{waited:?}");
}

#[tokio::test]
async fn every_command_has_a_page_that_man_can_show() {
    let folder = tempfile::tempdir().expect("temp dir");
    let pages = folder.path().join("man1");
    let ran = kctl(Path::new("/nonexistent"), &format!("man {}", pages.display()), "").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    for page in ["kctl.1", "kctl-hosts.1", "kctl-hosts-describe.1", "kctl-block.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    let text = std::fs::read_to_string(pages.join("kctl-block.1")).expect("a page");
    assert!(text.contains("Drop traffic from these sources"), "{text}");
    for page in std::fs::read_dir(&pages).expect("pages") {
        let page = page.expect("a page").path();
        let shown = Command::new("groff")
            .args(["-K", "utf8", "-T", "utf8", "-man", "-ww"])
            .arg(&page)
            .output()
            .expect("groff: install the package groff-base");
        assert!(shown.status.success() && shown.stderr.is_empty(), "{page:?}: {shown:?}");
        assert!(!shown.stdout.is_empty(), "{page:?}");
    }
}
