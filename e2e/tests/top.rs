//! `kctl top` as its user has it: in a terminal, over three hosts, whatever happens to them and to it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{Lab, Namespace, WORKSTATION, block_attacker, flood, until, with_lab};

const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Generous: debug builds, and a machine that may be busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// A terminal with a shell in it, of which tmux knows what it shows. Dropping it ends both.
struct Terminal<'lab> {
    namespace: &'lab Namespace,
    socket: String,
}

impl<'lab> Terminal<'lab> {
    fn open(lab: &'lab Lab) -> Result<Self> {
        let socket = lab.scratch().join("tmux.sock").display().to_string();
        let terminal = Self { namespace: &lab.place(WORKSTATION)?.namespace, socket };
        let config = format!("KCTL_CONFIG={}", lab.admin_config().display());
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("PATH={}:{path}", lab.binaries().display());
        let shell = ["env", "-u", "NO_COLOR", &config, &path, "PS1=ready> ", "sh"];
        let size = ["new-session", "-d", "-x", "80", "-y", "24"];
        terminal.tmux(&[&size[..], &shell].concat())?;
        terminal.wait_for("a shell", |screen| screen.contains("ready>"))?;
        Ok(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S", &self.socket]).args(args);
        Ok(self.namespace.output(command)?.code(0)?.stdout)
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as it should be.
    fn wait_for(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let mut screen = String::new();
        until(what, SOON, || {
            screen = self.screen()?;
            Ok(is(&screen))
        })
        .with_context(|| format!("the screen:\n{screen}"))?;
        Ok(screen)
    }

    /// Presses keys, by the names that tmux has for them.
    fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Types a line into the shell.
    fn line(&self, line: &str) -> Result<()> {
        self.press(&[line, "Enter"])
    }

    /// The terminal's settings as stty(1) tells them.
    fn settings(&self) -> Result<String> {
        self.line("clear; echo settings=$(stty -g).")?;
        let whole = |screen: &str| told(screen, "settings=").is_some_and(|it| it.ends_with('.'));
        let screen = self.wait_for("stty", whole)?;
        Ok(told(&screen, "settings=").unwrap_or_default().to_owned())
    }

    /// Starts it, with what stood on the screen before still to be known.
    fn top(&self, args: &str) -> Result<()> {
        self.line("clear; echo before")?;
        self.wait_for("a clean screen", |screen| screen.contains("\nready>"))?;
        self.line(&format!("kctl {args}; echo code=$?."))
    }

    /// It ended well, and the terminal is as it was.
    fn is_back(&self) -> Result<()> {
        let screen = self.wait_for("its end", |screen| told(screen, "code=").is_some())?;
        ensure!(told(&screen, "code=") == Some("0."), "{screen}");
        ensure!(screen.starts_with("before") && !screen.contains("CPU%"), "{screen}");
        let modes = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}";
        let modes = self.tmux(&["display-message", "-p", modes])?;
        ensure!(modes.trim() == "0 1 0", "{modes}");
        Ok(())
    }

    /// The process of kctl.
    fn pid(&self) -> Result<String> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let mut ps = Command::new("ps");
        ps.args(["-o", "pid=", "--ppid", shell.trim()]);
        Ok(self.namespace.output(ps)?.code(0)?.stdout.trim().to_owned())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// What stands behind a word at the beginning of a line.
fn told<'screen>(screen: &'screen str, word: &str) -> Option<&'screen str> {
    screen.lines().find_map(|line| line.strip_prefix(word)).map(str::trim_end)
}

/// The cells of a host's row.
fn row<'screen>(screen: &'screen str, host: &str) -> Vec<&'screen str> {
    let line = screen.lines().find(|line| line.starts_with(host)).unwrap_or_default();
    line.split_whitespace().collect()
}

/// Whether a host is connected, and every number of it is told.
fn is_well(screen: &str, host: &str) -> bool {
    let row = row(screen, host);
    row.get(1) == Some(&"connected") && row.len() >= 8 && !row.contains(&"-")
}

#[test]
fn three_hosts_are_watched_entered_filtered_and_lost() -> Result<()> {
    with_lab(3, |lab| {
        block_attacker(lab)?;
        let _pingers = flood(lab)?;
        let mut busy = Command::new("perl");
        busy.args(["-e", "while (1) { syscall(110) }"]);
        let busy = lab.spawn_on("web-2", &busy)?;
        let terminal = Terminal::open(lab)?;
        let settings = terminal.settings()?;
        terminal.top("top --interval 500ms")?;

        // Three hosts, every number, and they move.
        let moving = |screen: &str| {
            let drops = |host| row(screen, host).get(6).is_some_and(|it| *it != "0");
            HOSTS.iter().all(|host| is_well(screen, host) && drops(host))
        };
        let first = terminal.wait_for("three hosts", moving)?;
        ensure!(first.contains("3 hosts  every 500ms") && first.contains("q quit"), "{first}");
        ensure!(row(&first, "web-2")[7].ends_with(['k', 'M']), "{first}");
        let differ = |screen: &str| HOSTS.iter().all(|it| row(screen, it) != row(&first, it));
        terminal.wait_for("numbers that move", |screen| moving(screen) && differ(screen))?;

        // Only what is asked for, and the help.
        terminal.press(&["/", "WEB-2", "Enter"])?;
        let only = |screen: &str| is_well(screen, "web-2") && row(screen, "web-1").is_empty();
        terminal.wait_for("one host", only)?;
        terminal.press(&["?"])?;
        terminal.wait_for("the help", |screen| screen.contains("PgDn"))?;
        terminal.press(&["x"])?;

        // One host: what runs there, its interfaces, who is dropped, what happens.
        terminal.press(&["Enter"])?;
        let pid = busy.child.id().to_string();
        let process = |screen: &str| row(screen.trim_start(), "web-2").get(1) == Some(&"connected")
            && screen.lines().any(|line| line.split_whitespace().next() == Some(&pid) && line.contains("perl"));
        terminal.wait_for("the process", process)?;
        terminal.press(&["2"])?;
        terminal.wait_for("the interface", |screen| !row(screen, "eth0").is_empty())?;
        terminal.press(&["Tab"])?;
        let attacker = lab.place(kctl_e2e::ATTACKER)?.v4.to_string();
        terminal.wait_for("the source", |screen| !row(screen, &attacker).is_empty())?;
        terminal.press(&["4"])?;
        terminal.press(&["/", "true-to", "Enter"])?;
        until("an event of this moment", SOON, || {
            let mut run = Command::new("sh");
            run.args(["-c", "sleep 0; exec true true-to-life"]);
            lab.on_host("web-2", &run)?.code(0)?;
            Ok(terminal.screen()?.contains("true true-to-life"))
        })?;

        // Whatever size the terminal has.
        for (width, height) in [("60", "10"), ("12", "4"), ("3", "2"), ("120", "40"), ("80", "24")] {
            terminal.tmux(&["resize-window", "-x", width, "-y", height])?;
            if width != "3" {
                terminal.wait_for("the host", |screen| screen.contains("web-2"))?;
            }
        }
        terminal.press(&["Escape"])?;
        terminal.press(&["Escape"])?;
        terminal.press(&["Escape"])?;
        Ok(settings)
            .and_then(|settings| { terminal.wait_for("three hosts", |screen| HOSTS.iter().all(|it| is_well(screen, it)))?; Ok(settings) })
            .map(drop)
    })
}
