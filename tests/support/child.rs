//! The program as a child process.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::http::PATIENCE;

pub const ANY_PORT: &str = "127.0.0.1:0";

/// A program with its arguments, before its start.
pub struct Program(Command);

impl Program {
    /// The broker's program, without variables that would change its settings.
    pub fn new<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_courier-token-broker"));
        command.args(arguments);
        Self::of(command)
    }

    /// Any other program.
    pub fn of(mut command: Command) -> Self {
        clean_environment(&mut command);
        Self(command)
    }

    /// `serve` on ports that the system chooses, without a shutdown delay.
    pub fn serve() -> Self {
        let serve = Self::new(["serve", "--listen", ANY_PORT, "--admin-listen", ANY_PORT]);
        serve.env("COURIER_TOKEN_BROKER__SERVER__SHUTDOWN_DELAY", "0s")
    }

    /// `serve` with a listening socket of the service manager, which is to be its standard input.
    pub fn serve_passed() -> Self {
        let mut shell = Command::new("sh");
        let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
        let program = ["sh", env!("CARGO_BIN_EXE_courier-token-broker")];
        shell.args(["-c", script]).args(program).args(["serve", "--admin-listen", ANY_PORT, "--listen", "systemd"]);
        Self::of(shell).env("COURIER_TOKEN_BROKER__SERVER__SHUTDOWN_DELAY", "0s")
    }

    pub fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.0.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Sets Courier's API key and the key of the one client.
    pub fn keys(self, api_key: &str, client_key: &str) -> Self {
        self.env("COURIER_API_KEY", api_key).env("COURIER_TOKEN_BROKER_CLIENT_KEY", client_key)
    }

    pub fn config(self, path: impl AsRef<Path>) -> Self {
        self.arguments(["--config".as_ref(), path.as_ref().as_os_str()])
    }

    pub fn courier(self, address: SocketAddr) -> Self {
        self.env("COURIER_BASE_URL", format!("http://{address}"))
    }

    pub fn start(self) -> Running {
        self.start_with(Stdio::null())
    }

    /// Sets its standard input.
    pub fn start_with(self, stdin: Stdio) -> Running {
        let errors = NamedTempFile::new().expect("a file");
        let stderr = errors.reopen().expect("a file");
        self.spawn(stdin, stderr.into(), errors)
    }

    /// Sends standard error elsewhere, so that [`Running::stderr`] stays empty.
    pub fn start_logging_to(self, stderr: impl Into<Stdio>) -> Running {
        self.spawn(Stdio::null(), stderr.into(), NamedTempFile::new().expect("a file"))
    }

    fn spawn(mut self, stdin: Stdio, stderr: Stdio, errors: NamedTempFile) -> Running {
        let mut child = self.0.stdin(stdin).stdout(Stdio::piped()).stderr(stderr).spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The pipe must be read even if the test needs no more lines.
                let _ = sender.send(line);
            }
        });
        Running { child, lines, errors }
    }

    /// Runs the program to its end.
    pub fn run(self) -> Ended {
        self.start().end()
    }
}

/// Removes the variables that would lead a process to the real Courier, to other settings or through a proxy.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if upper.starts_with("COURIER_") || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
}

/// A running process, killed on drop.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: NamedTempFile,
}

/// The exit code and the output of a process.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    pub stdout: Vec<String>,
    pub stderr: String,
}

impl Running {
    /// The next line of standard output; `None` at its end.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("neither a line nor its end in {PATIENCE:?}: {}", self.stderr()),
        }
    }

    /// The address after `before` in the next line.
    pub fn address(&self, before: &str) -> SocketAddr {
        let Some(line) = self.line() else { panic!("it ended: {}", self.stderr()) };
        let address = line.strip_prefix(before).and_then(|rest| rest.split(' ').next()?.strip_prefix("http://"));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{line:?} is not {before:?}..."))
    }

    /// The addresses of the listener for apps and of the admin listener.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.address("courier-token-broker on "), self.address("admin on "))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it still runs");
    }

    /// The standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.errors.path()).expect("text")
    }

    /// Asks the process to stop, and waits for its end.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits for the end of the process.
    pub fn end(mut self) -> Ended {
        let stdout = std::iter::from_fn(|| self.line()).collect();
        // The output has ended, and so has the process.
        let code = self.child.wait().expect("it has ended").code();
        Ended { code, stdout, stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Courier simulator with these arguments, and its address.
pub fn simulator(arguments: &[&str]) -> (Running, SocketAddr) {
    let simulator = Program::new(["simulate-courier", "--listen", ANY_PORT]).arguments(arguments).start();
    let address = simulator.address("Courier simulator on ");
    (simulator, address)
}

/// A file that exists as long as the test runs.
pub fn file(bytes: impl AsRef<[u8]>) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("it is written");
    file
}

/// A settings file.
pub fn settings(text: &str) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    fs::write(file.path(), text).expect("it is written");
    file
}
