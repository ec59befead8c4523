//! One network namespace: made, entered, removed.

use std::{
    fs::File,
    io,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::output::Output;

/// Where iproute2 keeps named namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace that goes away with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    pub(crate) fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let handle = File::open(format!("{DIRECTORY}/{name}"))
            .with_context(|| format!("namespace {name:?}"))?;
        Ok(Self { name, handle })
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, for `nsenter --net=`.
    pub fn path(&self) -> String {
        format!("{DIRECTORY}/{}", self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets and processes that it makes
    /// stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a program to its end inside the namespace. It is started straight from a thread in the
    /// namespace, so that `elapsed` is the program's own time.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        let shown = typed(&command);
        self.within(|| {
            command.stdin(Stdio::null());
            let start = Instant::now();
            let output = command.output()?;
            Ok(Output::new(shown.clone(), output, start.elapsed()))
        })?
        .map_err(|error: io::Error| anyhow::anyhow!("{shown}: {error}"))
    }

    /// Feeds lines to `ip -batch` inside the namespace.
    pub(crate) fn ip(&self, lines: &[String]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch", "-"]);
        batch(&mut command, lines)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("namespace {:?} stays behind: {error:#}", self.name);
        }
    }
}

pub(crate) fn remove(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "delete", name]))
}

/// Runs a program and turns a failure into an error that shows what it said.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{:?}", typed(command)))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        typed(command),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn batch(command: &mut Command, lines: &[String]) -> Result<()> {
    use std::io::Write as _;

    let text = lines.join("\n");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| typed(command))?;
    child.stdin.take().expect("stdin is piped").write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}\n{text}", typed(command), said.trim());
    Ok(())
}

/// The command line as a person would type it: the program without its folder.
pub(crate) fn typed(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
