//! Runs every shell example of the README and of `docs/`: the commands of a ```` ```console ```` block in order, whose
//! output must match the page. `...` in a page stands for any text.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::child::{ANY_PORT, Program, Running};
use tempfile::TempDir;

/// A command and the output that the page shows below it.
#[derive(Debug)]
struct Example {
    command: String,
    output: Vec<String>,
}

/// The environment of a page's examples: a folder with the files that they name, and the servers that they started.
struct Shell {
    folder: TempDir,
    servers: Vec<Running>,
    /// The `export` lines so far.
    exports: Vec<String>,
    /// Addresses on the page, each with the real one of a server.
    addresses: Vec<(&'static str, SocketAddr)>,
}

/// Addresses on the pages, in the order in which `sandbox` prints its own.
const SHOWN: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:9090", "127.0.0.1:8081"];
/// Commands that take minutes or would run this test.
const NOT_RUN: [&str; 4] = ["cargo build", "cargo bench", "cargo test", "tests/run"];

#[test]
fn shell_examples_do_what_their_page_shows() {
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let mut shell = Shell::new();
        for example in examples(&text) {
            shell.run(&page, &example);
        }
    }
}

#[test]
fn links_of_every_page_resolve() {
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            let found = fs::read(&target).unwrap_or_else(|error| panic!("{page:?}: {target:?}: {error}"));
            let found = String::from_utf8_lossy(&found);
            assert!(heading.is_empty() || headings(&found).any(|one| one == heading), "{page:?}: no #{heading}");
        }
    }
}

/// The anchors of a page's headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| line.strip_prefix('#')).map(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
        kept.collect::<String>().replace(' ', "-")
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)).into_iter().chain(docs).collect()
}

fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut is_console = false;
    let mut continues = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if !is_console {
        } else if let Some(command) = line.strip_prefix("$ ") {
            examples.push(Example { command: command.to_owned(), output: Vec::new() });
            continues = command.ends_with('\\');
        } else {
            let example = examples.last_mut().unwrap_or_else(|| panic!("output before a command: {line}"));
            if continues {
                example.command = format!("{}\n{line}", example.command);
                continues = line.ends_with('\\');
            } else {
                example.output.push(line.to_owned());
            }
        }
    }
    examples
}

impl Shell {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |n| {
            let (user, hour) = (n % 7, n / 10);
            format!(
                "192.0.2.{user} - - [01/Mar/2026:{hour:02}:00:00 +0000] \"POST /api/generate-courier-jwt HTTP/1.1\" 200 1\n"
            )
        };
        let log: String = (0..200).map(line).collect();
        fs::write(folder.path().join("access.log"), log).expect("it is written");
        let settings = format!(
            "[workspaces.default]\napi_key = \"pk\"\n[[clients]]\nname = \"web-backend\"\nkey_sha256 = \"{}\"\n",
            "8".repeat(64)
        );
        let mistakes =
            "[workspaces.default]\napi_key_file = \"key\"\n[tokens]\nfloor = 2.0\n[admin]\nlisten = \"0.0.0.0:9090\"\n";
        let mistakes = format!("{mistakes}{}", &settings[settings.find("[[").unwrap_or_default()..]);
        for (name, text) in [("settings.toml", settings), ("mistakes.toml", mistakes)] {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("it is written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
        }
        let packed = Command::new("gzip").arg("--keep").arg(folder.path().join("access.log")).status();
        assert!(packed.expect("gzip runs").success());
        Self { folder, servers: Vec::new(), exports: Vec::new(), addresses: Vec::new() }
    }

    fn run(&mut self, page: &Path, example: &Example) {
        // The program is already built, with other options.
        let command = example.command.replace("cargo run --release -- ", "courier-token-broker ");
        if NOT_RUN.iter().any(|other| command.starts_with(other)) {
            return;
        }
        let command = self.addresses.iter().fold(command, |text, (shown, is)| text.replace(shown, &is.to_string()));
        if let Some(flags) = command.strip_prefix("courier-token-broker sandbox") {
            let flags = flags.split_whitespace().chain(["--listen", ANY_PORT, "--admin-listen", ANY_PORT]);
            let sandbox = Program::new(["sandbox"]).arguments(flags).arguments(["--courier-listen", ANY_PORT]).start();
            let (address, admin) = sandbox.addresses();
            let courier = sandbox.address("Courier simulator on ");
            self.addresses = SHOWN.into_iter().zip([address, admin, courier]).collect();
            self.servers = vec![sandbox];
            return;
        }
        if command.starts_with("export ") {
            self.exports.push(command);
            return;
        }
        if command.starts_with("courier-token-broker serve") {
            let command = format!("exec {command} --listen {ANY_PORT} --admin-listen {ANY_PORT}");
            let broker = self.program(&command).start();
            broker.addresses();
            self.servers.push(broker);
            return;
        }
        let ended = self.program(&command).run();
        let shown = example.output.join("\n");
        let printed = ended.stdout.join("\n") + &ended.stderr;
        let printed = self.addresses.iter().fold(printed, |text, (shown, is)| text.replace(&is.to_string(), shown));
        assert!(is_like(&shown, printed.trim_end()), "{page:?}\n$ {command}\n{printed}\nis not like\n{shown}");
        assert!(ended.code == Some(0) || shown.contains("error: "), "{page:?}\n$ {command}\n{printed}");
    }

    fn program(&self, command: &str) -> Program {
        let programs = Path::new(env!("CARGO_BIN_EXE_courier-token-broker")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let script = format!("{}\n{command}", self.exports.join("\n"));
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &script]).current_dir(self.folder.path());
        shell.env("PATH", format!("{}:{path}", programs.display()));
        Program::of(shell)
    }
}

/// Tells whether the text matches the page. An empty output on the page matches any text.
fn is_like(shown: &str, text: &str) -> bool {
    let mut pieces = shown.split("...");
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    if shown.is_empty() {
        return true;
    }
    let mut pieces: Vec<_> = pieces.collect();
    let last = pieces.pop();
    for piece in pieces {
        match rest.find(piece) {
            Some(place) => rest = &rest[place + piece.len()..],
            None => return false,
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}
