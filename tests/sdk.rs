//! Courier's official server SDKs, unmodified, against the real programs: an SDK whose base URL is the broker, and a
//! broker whose Courier is the simulator. The scripts in `tests/sdk` make the assertions, because only an SDK's own
//! language sees which of its errors it raised. `tests/run` installs the pinned SDKs into `target/sdk`.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use courier_token_broker::policy::admission::retry::MOST_TRIES;
use support::child::{ANY_PORT, Program, Running};
use support::http::{Connection, HttpRequest};

/// The only key that the simulator accepts, so a broker that forwarded its caller's key would be refused.
const API_KEY: &str = "test-api-key";
const CLIENT_KEY: &str = "the-key-of-the-only-client-of-this-test";

#[test]
#[ignore = "needs Node.js and @trycourier/courier: tests/run installs them"]
fn official_node_sdk_is_served_unmodified() {
    Setup::start(&[]).runs(node("issue_token.mjs"));
}

#[test]
#[ignore = "needs Python and trycourier: tests/run installs them"]
fn official_python_sdk_is_served_unmodified() {
    Setup::start(&[]).runs(python("issue_token.py"));
}

#[tokio::test]
#[ignore = "needs Node.js and @trycourier/courier: tests/run installs them"]
async fn node_sdk_call_on_a_dead_courier_costs_only_the_brokers_own_tries() {
    costs_only_the_brokers_own_tries(|| node("dead_courier.mjs")).await;
}

#[tokio::test]
#[ignore = "needs Python and trycourier: tests/run installs them"]
async fn python_sdk_call_on_a_dead_courier_costs_only_the_brokers_own_tries() {
    costs_only_the_brokers_own_tries(|| python("dead_courier.py")).await;
}

/// Faults in which Courier fails at once, cuts off its answer, or does not answer.
async fn costs_only_the_brokers_own_tries(script: impl Fn() -> Command) {
    for kind in ["503", "reset", "hang"] {
        let setup = Setup::start(&["--error-rate", "1", "--error-kind", kind]);
        let said = setup.runs(script());
        let log = Connection::open(setup.courier_address).await.ask(&HttpRequest::get("/simulator/calls")).await.json();
        let calls = log["count"].as_u64().expect("a number");
        println!("{kind}: {calls} calls, {said:?}");
        assert!((1..=u64::from(MOST_TRIES)).contains(&calls), "{kind}: {calls} calls");
    }
}

/// A broker and a simulated Courier with these faults, each a process of its own.
struct Setup {
    broker: Running,
    courier_address: SocketAddr,
    _courier: Running,
}

impl Setup {
    fn start(faults: &[&str]) -> Self {
        let courier = Program::new(["simulate-courier", "--listen", ANY_PORT, "--api-key", API_KEY]);
        let courier = courier.arguments(faults).start();
        let courier_address = courier.address("Courier simulator on ");
        let broker = Program::serve()
            .keys(API_KEY, CLIENT_KEY)
            .courier(courier_address)
            .env("COURIER_TOKEN_BROKER_CLIENT_SCOPES", "inbox:* read:* write:preferences")
            .start();
        Self { broker, courier_address, _courier: courier }
    }

    /// Runs a script, which must succeed, and returns its output.
    fn runs(&self, script: Command) -> Vec<String> {
        let (address, _) = self.broker.addresses();
        let script = Program::of(script);
        let script = script.courier(address).env("CLIENT_KEY", CLIENT_KEY);
        let ended = script.run();
        let ok = ended.code == Some(0) && ended.stdout.last().is_some_and(|line| line == "ok");
        assert!(ok, "{ended:#?}\nthe broker said: {}", self.broker.stderr());
        ended.stdout
    }
}

fn node(name: &str) -> Command {
    let home = installed("node", "node_modules/@trycourier/courier");
    // Node looks for packages from the script's folder upwards, and nothing is installed in the source tree.
    let script = home.join(name);
    fs::copy(root().join("tests/sdk/node").join(name), &script).unwrap();
    let mut node = Command::new("node");
    node.arg(script);
    node
}

fn python(name: &str) -> Command {
    let home = installed("python", "bin/python");
    let mut python = Command::new(home.join("bin/python"));
    // Isolated mode ignores PYTHONPATH and the user's own packages.
    python.arg("-I").arg(root().join("tests/sdk/python").join(name));
    python
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder into which `tests/run` installs an SDK. `proof` is a file that exists only after that.
fn installed(language: &str, proof: &str) -> PathBuf {
    let home = root().join("target/sdk").join(language);
    assert!(home.join(proof).exists(), "{} has no SDK: tests/run installs it", home.display());
    home
}
