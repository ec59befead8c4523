//! `kctl top` as its user has it: in a terminal, over three hosts, whatever happens to them and to it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use kctl_e2e::{ATTACKER, Lab, WORKSTATION, block_attacker, flood, until, with_lab};

const HOSTS: [&str; 3] = ["web-1", "web-2", "web-3"];
/// Generous: debug builds, and a machine that may be busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// A terminal with a shell in it, of which tmux knows what it shows. Dropping it ends both.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// On the workstation.
    fn open(lab: &Lab) -> Result<Self> {
        let terminal = Self { socket: lab.scratch().join("tmux.sock").display().to_string() };
        let config = format!("KCTL_CONFIG={}", lab.admin_config().display());
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("PATH={}:{path}", lab.binaries().display());
        let shell = ["env", "-u", "NO_COLOR", &config, &path, "PS1=ready> ", "sh"];
        let size = ["new-session", "-d", "-x", "80", "-y", "24"];
        let mut session = terminal.command();
        session.args(size).args(shell);
        lab.place(WORKSTATION)?.namespace.output(session)?.code(0)?;
        terminal.wait_for("a shell", |screen| screen.contains("ready>"))?;
        Ok(terminal)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S", &self.socket]);
        command
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        out(self.command().args(args))
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
        self.line("clear; echo settings=$(stty -g | cksum).")?;
        let whole = |screen: &str| told(screen, "settings=").is_some_and(|it| it.ends_with('.'));
        let screen = self.wait_for("stty", whole)?;
        Ok(told(&screen, "settings=").unwrap_or_default().to_owned())
    }

    /// Starts it, with what stood on the screen before still to be known.
    fn top(&self, args: &str) -> Result<()> {
        self.line("clear; echo before")?;
        self.wait_for("a clean screen", |screen| screen.starts_with("before\nready>"))?;
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
        Ok(out(&mut ps)?.trim().to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// What a program that must succeed prints.
fn out(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
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

/// Whether the three hosts are, and drop something.
fn are_well(screen: &str) -> bool {
    let drops = |host| row(screen, host).get(6).is_some_and(|it| *it != "0");
    HOSTS.iter().all(|host| is_well(screen, host) && drops(host))
}

fn the_fleet_moves_and_is_filtered(terminal: &Terminal) -> Result<()> {
    let first = terminal.wait_for("three hosts", are_well)?;
    ensure!(first.contains("3 hosts  every 500ms") && first.contains("q quit"), "{first}");
    let differ = |screen: &str| HOSTS.iter().all(|it| row(screen, it) != row(&first, it));
    terminal.wait_for("numbers that move", |screen| are_well(screen) && differ(screen))?;
    let busy =
        |screen: &str| row(screen, "web-2").get(7).is_some_and(|it| it.ends_with(['k', 'M']));
    terminal.wait_for("many system calls", busy)?;

    terminal.press(&["Space"])?;
    terminal.wait_for("a pause", |screen| screen.starts_with("PAUSED"))?;
    terminal.press(&["Space", "/", "WEB-2", "Enter"])?;
    let only = |screen: &str| is_well(screen, "web-2") && row(screen, "web-1").is_empty();
    terminal.wait_for("one host", only)?;
    terminal.press(&["?"])?;
    terminal.wait_for("the help", |screen| screen.contains("PgDn"))?;
    terminal.press(&["x"])?;
    terminal.wait_for("no help", |screen| !screen.contains("PgDn")).map(drop)
}

/// What runs on the host that is shown, its interfaces, who is dropped, what happens.
fn a_host_is_entered(lab: &Lab, terminal: &Terminal, pid: u32) -> Result<()> {
    terminal.press(&["Enter"])?;
    let pid = pid.to_string();
    terminal.wait_for("the busy process", |screen| {
        let mut lines = screen.lines();
        let line = lines.find(|it| it.split_whitespace().next() == Some(pid.as_str()));
        screen.starts_with("web-2  connected") && line.is_some_and(|it| it.contains("perl -e"))
    })?;
    terminal.press(&["2"])?;
    terminal.wait_for("the interface", |screen| !row(screen, "eth0").is_empty())?;
    terminal.press(&["Tab"])?;
    let attacker = lab.place(ATTACKER)?.v4.to_string();
    terminal.wait_for("the source", |screen| !row(screen, &attacker).is_empty())?;
    terminal.press(&["4", "/", "true-to", "Enter"])?;
    until("an event of this moment", SOON, || {
        let mut run = Command::new("sh");
        run.args(["-c", "exec true true-to-life"]);
        lab.on_host("web-2", &run)?.code(0)?;
        Ok(terminal.screen()?.contains("true true-to-life"))
    })?;
    Ok(())
}

fn every_size_is_drawn(terminal: &Terminal) -> Result<()> {
    let resize = |width: usize, height: usize| {
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["resize-window", "-x", &width, "-y", &height])
    };
    for (width, height) in [(60, 10), (12, 4), (3, 2), (120, 40)] {
        resize(width, height)?;
        let start = &"web-2  connected"[..width.min(16)];
        terminal.wait_for("a screen of this size", |screen| {
            // The keys are in the last line, where there are that many.
            let footer = screen.lines().nth(height - 1);
            let is_whole = height < 5 || footer.is_some_and(|it| it.starts_with("/true-to"));
            screen.starts_with(start) && is_whole && screen.lines().count() == height
        })?;
    }
    // Small and large again, at once: what was cut off is drawn again.
    resize(10, 3)?;
    resize(80, 24)?;
    let footer = |screen: &str| screen.lines().nth(23).is_some_and(|it| it.contains("? help"));
    let tabs = |screen: &str| screen.lines().nth(1).is_some_and(|it| it.contains("4 events"));
    let whole = |screen: &str| footer(screen) && tabs(screen);
    terminal.wait_for("a whole screen", whole).map(drop)
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
        the_fleet_moves_and_is_filtered(&terminal)?;
        a_host_is_entered(lab, &terminal, busy.child.id())?;
        every_size_is_drawn(&terminal)?;
        // Out of the filter, the host, and the filter of hosts.
        terminal.press(&["Escape"])?;
        terminal.wait_for("all events", |screen| !screen.contains("/true-to"))?;
        terminal.press(&["Escape"])?;
        terminal.wait_for("one host", |screen| screen.starts_with("kctl top"))?;
        terminal.press(&["Escape"])?;
        terminal.wait_for("three hosts", are_well)?;

        // A host dies: its row says so, and the others go on.
        lab.agent_mut("web-3")?.daemon.kill9()?;
        let is_dead = |screen: &str| row(screen, "web-3").get(1) == Some(&"disconnected");
        let then = terminal.wait_for("a dead host", is_dead)?;
        let goes_on = |screen: &str| {
            is_dead(screen)
                && ["web-1", "web-2"]
                    .iter()
                    .all(|it| is_well(screen, it) && row(screen, it) != row(&then, it))
        };
        terminal.wait_for("the others", goes_on)?;
        terminal.press(&["End"])?;
        let why = |screen: &str| screen.contains("web-3: host \"web-3\" is not connected");
        terminal.wait_for("the reason", why)?;
        lab.agent_mut("web-3")?.daemon.start()?;
        terminal.wait_for("all of them", are_well)?;

        // So does the controller.
        lab.controller().kill9()?;
        terminal.wait_for("a lost connection", |screen| screen.contains("controller"))?;
        lab.start_controller()?;
        let again = |screen: &str| are_well(screen) && !screen.contains("controller");
        terminal.wait_for("all of them", again)?;

        terminal.press(&["q"])?;
        terminal.is_back()?;
        assert_eq!(terminal.settings()?, settings);
        Ok(())
    })
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() -> Result<()> {
    with_lab(1, |lab| {
        let terminal = Terminal::open(lab)?;
        let settings = terminal.settings()?;
        let agent = format!("--agent unix://{} top", lab.agent("web-1")?.socket.display());
        for (args, end) in
            [("top", "C-c"), (agent.as_str(), "Escape"), ("top", "TERM"), ("top", "HUP")]
        {
            terminal.top(args)?;
            let there = |screen: &str| row(screen, "web-1").len() >= 8;
            terminal.wait_for("the host", there)?;
            match end {
                "TERM" | "HUP" => {
                    drop(out(Command::new("kill").args(["-s", end, &terminal.pid()?]))?)
                }
                key => terminal.press(&[key])?,
            }
            terminal.is_back().context(end)?;
            assert_eq!(terminal.settings()?, settings, "{end}");
        }

        // No terminal, one that can't be drawn on, no fleet.
        lab.kctl(&["top"])?.code(2)?.stderr_says("kctl perf -o jsonl")?;
        for (line, code, why) in
            [("TERM=dumb kctl top", "2.", "TERM=dumb"), ("kctl top --host web-9", "1.", "web-9")]
        {
            terminal.line(&format!("clear; {line}; echo code=$?."))?;
            let refused =
                |screen: &str| told(screen, "code=") == Some(code) && screen.contains(why);
            terminal.wait_for("an error", refused)?;
        }
        assert_eq!(terminal.settings()?, settings);
        Ok(())
    })
}

#[test]
fn colours_are_left_out_where_nobody_wants_them() -> Result<()> {
    with_lab(1, |lab| {
        let terminal = Terminal::open(lab)?;
        for (environment, coloured) in [("", true), ("NO_COLOR=1 ", false)] {
            terminal.line(&format!("clear; {environment}kctl top"))?;
            let there = |screen: &str| row(screen, "web-1").len() >= 8;
            terminal.wait_for("the host", there)?;
            // With the sequences that set colours and styles. Selecting one of 8 colours begins with a 3.
            let screen = terminal.tmux(&["capture-pane", "-p", "-e"])?;
            let sets_colour = screen.split("\u{1b}[").skip(1).any(|rest| {
                let (codes, _) = rest.split_once('m').unwrap_or_default();
                codes.split(';').any(|code| matches!(code.as_bytes(), [b'3' | b'4', b'0'..=b'8']))
            });
            assert_eq!(sets_colour, coloured, "{environment}{screen:?}");
            terminal.press(&["q"])?;
            terminal.wait_for("a shell", |screen| screen.contains("ready>"))?;
        }
        Ok(())
    })
}

#[test]
fn a_frozen_host_holds_nobody_up_and_a_terminal_that_is_gone_ends_it() -> Result<()> {
    with_lab(3, |lab| {
        let terminal = Terminal::open(lab)?;
        let mut busy = Command::new("perl");
        busy.args(["-e", "while (1) { syscall(110); select(undef, undef, undef, rand() / 100) }"]);
        let _busy = ["web-1", "web-2"].map(|host| lab.spawn_on(host, &busy));
        terminal.top("top --interval 500ms")?;
        let all = |screen: &str| HOSTS.iter().all(|host| is_well(screen, host));
        terminal.wait_for("three hosts", all)?;
        lab.agent("web-3")?.daemon.stop()?;
        // Silent first, and then nobody's any more; the others go on all the time.
        let silent = |screen: &str| row(screen, "web-3").get(1) != Some(&"connected");
        let seen = terminal.wait_for("a silent host", silent)?;
        let goes_on = |seen: &str, screen: &str| {
            ["web-1", "web-2"]
                .iter()
                .all(|it| is_well(screen, it) && row(screen, it) != row(seen, it))
        };
        terminal.wait_for("the others", |screen| silent(screen) && goes_on(&seen, screen))?;
        let away = |screen: &str| row(screen, "web-3").get(1) == Some(&"disconnected");
        let seen = terminal.wait_for("a lost host", away)?;
        terminal.wait_for("the others", |screen| away(screen) && goes_on(&seen, screen))?;
        lab.agent("web-3")?.daemon.cont()?;
        terminal.wait_for("three hosts again", all)?;

        let pid = terminal.pid()?;
        drop(terminal);
        let process = std::path::Path::new("/proc").join(&pid);
        until("the end of kctl", SOON, || Ok(!process.exists()))?;
        Ok(())
    })
}
