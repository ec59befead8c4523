//! A process of the test that makes and takes connections as it is told, line by line. It is this test
//! program again, running only [`actor`].

use super::support::Test;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Tells the child what it is. Its user, so that a wrong one is seen.
const UID: &str = "KCTL_TEST_ACTOR_UID";
/// Begins an answer: the test harness writes to stdout too.
const ANSWER: &str = "answer ";

/// The test's side.
pub(crate) struct Actor {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) uid: u32,
}

impl Actor {
    /// Starts one in a cgroup, as a user of its own.
    pub(crate) fn start(test: &Test, uid: u32) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["actor::actor", "--exact", "--ignored", "--nocapture"])
            .env(UID, uid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        test.put_into_cgroup(child.id());
        let mut actor = Self { child, stdin, stdout, uid };
        // By then it is the user.
        actor.tell("ready");
        actor
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its name as /proc has it, without the newline.
    pub(crate) fn comm(&self) -> Vec<u8> {
        std::fs::read(format!("/proc/{}/comm", self.pid())).expect("alive").trim_ascii().to_vec()
    }

    /// Tells it something, and what it answers.
    pub(crate) fn tell(&mut self, line: &str) -> String {
        self.ask(line);
        self.answer()
    }

    /// Without waiting for the answer.
    pub(crate) fn ask(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.buffer().is_empty() {
                let mut fds = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
                let answers = poll(&mut fds, PollTimeout::from(30_000_u16)).expect("polled");
                assert_eq!(answers, 1, "the actor does not answer");
            }
            assert_ne!(self.stdout.read_line(&mut line).expect("text"), 0, "the actor ended");
            if let Some(answer) = line.trim_end_matches('\n').strip_prefix(ANSWER) {
                return answer.to_owned();
            }
        }
    }

    /// The port that it listens at.
    pub(crate) fn listen(&mut self, address: &str) -> u16 {
        self.tell(&format!("listen {address}")).parse().expect("a port")
    }

    /// Connects, and from where.
    pub(crate) fn connect(&mut self, address: &str, port: u16) -> SocketAddr {
        self.tell(&format!("connect {address} {port}")).parse().expect("connected")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side: what is open at the moment.
#[derive(Default)]
struct Sockets {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    /// A connection that is being made.
    begun: Option<OwnedFd>,
}

#[test]
#[ignore = "the body of the tests' own children"]
fn actor() {
    let Ok(uid) = std::env::var(UID) else { return };
    let uid = uid.parse::<u32>().expect("a number");
    nix::unistd::setuid(uid.into()).expect("root");
    let mut sockets = Sockets::default();
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<_> = line.split(' ').collect();
        let answer = sockets.obey(&words);
        println!("\n{ANSWER}{answer}");
    }
}

impl Sockets {
    fn obey(&mut self, words: &[&str]) -> String {
        let done = String::new();
        match *words {
            ["ready"] => done,
            ["listen", address] => {
                let listener = TcpListener::bind((ip(address), 0)).expect("bound");
                let port = listener.local_addr().expect("an address").port();
                self.listener = Some(listener);
                port.to_string()
            }
            ["unlisten"] => {
                self.listener = None;
                done
            }
            ["accept"] => {
                let listener = self.listener.as_ref().expect("listening");
                let (stream, peer) = listener.accept().expect("accepted");
                self.stream = Some(stream);
                peer.to_string()
            }
            ["connect", address, port] => {
                match TcpStream::connect((ip(address), port.parse().expect("a port"))) {
                    Ok(stream) => {
                        let local = stream.local_addr().expect("an address");
                        self.stream = Some(stream);
                        local.to_string()
                    }
                    Err(error) => format!("error {}", error.raw_os_error().expect("a number")),
                }
            }
            ["begin", address, port] => self.begin(ip(address), port.parse().expect("a port")),
            ["end"] => self.end(),
            ["patience", ms] => self.patience(ms.parse().expect("milliseconds")),
            ["give-up"] => {
                self.begun = None;
                done
            }
            ["fork-accept"] => {
                let listener = self.listener.as_ref().expect("listening");
                fork(|| drop(listener.accept()))
            }
            ["serve", count] => {
                let listener = self.listener.as_ref().expect("listening");
                for _ in 0..count.parse().expect("a number") {
                    drop(listener.accept().expect("accepted"));
                }
                done
            }
            ["visit", address, port, count] => {
                let target = (ip(address), port.parse().expect("a port"));
                for _ in 0..count.parse().expect("a number") {
                    let mut stream = TcpStream::connect(target).expect("connected");
                    // The other end closes first, so that no port is used up here.
                    assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
                }
                done
            }
            [verb, ref more @ ..] => self.stream(verb, more),
            [] => panic!("an empty line"),
        }
    }

    /// What is done with the connection that is open.
    fn stream(&mut self, verb: &str, words: &[&str]) -> String {
        let stream = self.stream.as_mut().expect("connected");
        match (verb, words) {
            ("send", [count]) => {
                let count = count.parse::<usize>().expect("a number");
                stream.write_all(&vec![7; count]).expect("sent");
                String::new()
            }
            ("receive", [count]) => {
                let count = count.parse::<usize>().expect("a number");
                stream.read_exact(&mut vec![0; count]).expect("received");
                String::new()
            }
            ("receive-all", []) => {
                std::io::copy(stream, &mut std::io::sink()).expect("its end").to_string()
            }
            ("finish", []) => {
                stream.shutdown(Shutdown::Write).expect("shut down");
                String::new()
            }
            ("fork", []) => fork(|| ()),
            ("reset", []) => {
                let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                socket::setsockopt(stream, socket::sockopt::Linger, &at_once).expect("set");
                self.stream = None;
                String::new()
            }
            ("close", []) => {
                self.stream = None;
                String::new()
            }
            _ => panic!("what is {verb} {words:?}?"),
        }
    }

    /// Connects without waiting.
    fn begin(&mut self, ip: IpAddr, port: u16) -> String {
        let socket = self.begun.take().unwrap_or_else(|| made(ip));
        let connected = match SocketAddr::new(ip, port) {
            SocketAddr::V4(to) => socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)),
            SocketAddr::V6(to) => socket::connect(socket.as_raw_fd(), &SockaddrIn6::from(to)),
        };
        self.begun = Some(socket);
        connected.map_or_else(|error| format!("error {}", error as i32), |()| String::new())
    }

    /// A socket for the next connection, which gives up after so long.
    fn patience(&mut self, ms: u32) -> String {
        let socket = made(IpAddr::from([127, 0, 0, 1]));
        socket::setsockopt(&socket, socket::sockopt::TcpUserTimeout, &ms).expect("set");
        self.begun = Some(socket);
        String::new()
    }

    /// Waits until the connection is made, or is not.
    fn end(&mut self) -> String {
        let socket = self.begun.take().expect("begun");
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::NONE).expect("polled");
        let stream = TcpStream::from(socket);
        match stream.take_error().expect("asked") {
            Some(error) => format!("error {}", error.raw_os_error().expect("a number")),
            None => {
                stream.set_nonblocking(false).expect("set");
                let local = stream.local_addr().expect("an address");
                self.stream = Some(stream);
                local.to_string()
            }
        }
    }
}

fn made(ip: IpAddr) -> OwnedFd {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket::socket(family, SockType::Stream, flags, None).expect("a socket")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Another process that has everything open too, does something and then waits to be killed. Its pid.
#[expect(unsafe_code, reason = "the child of a process with threads may call little")]
fn fork(act: impl FnOnce()) -> String {
    // SAFETY: the child makes plain system calls, and takes no lock.
    match unsafe { nix::unistd::fork() }.expect("forked") {
        nix::unistd::ForkResult::Parent { child } => child.to_string(),
        nix::unistd::ForkResult::Child => {
            // It must not outlive the test whatever happens.
            // SAFETY: a plain system call.
            unsafe { libc::alarm(60) };
            act();
            loop {
                nix::unistd::pause();
            }
        }
    }
}
