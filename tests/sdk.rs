//! Courier's official server SDKs, unmodified, against the real programs: an
//! SDK whose base URL is the broker, and a broker whose Courier is the
//! simulator. What holds is checked by the scripts in `tests/sdk`, because only
//! an SDK's own language sees which of its errors it raised. `tests/run`
//! installs the pinned SDKs into `target/sdk`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::child::{ANY_PORT, Program};

/// The simulator insists on it: a broker that passed its caller's key on would
/// be refused.
const API_KEY: &str = "test-api-key";
const CLIENT_KEY: &str = "the-key-of-the-only-client-of-this-test";

#[test]
#[ignore = "needs Node.js and @trycourier/courier: tests/run installs them"]
fn the_official_node_sdk_is_served_unmodified() {
    let home = installed("node", "node_modules/@trycourier/courier");
    // Node looks for packages from the script's own folder upwards, and nothing
    // is installed in the source tree.
    let script = home.join("issue_token.mjs");
    fs::copy(root().join("tests/sdk/node/issue_token.mjs"), &script).unwrap();
    let mut node = Command::new("node");
    node.arg(script);
    is_served(node);
}

#[test]
#[ignore = "needs Python and trycourier: tests/run installs them"]
fn the_official_python_sdk_is_served_unmodified() {
    let home = installed("python", "bin/python");
    let mut python = Command::new(home.join("bin/python"));
    // Isolated: PYTHONPATH and the packages of whoever runs this stay out.
    python.arg("-I").arg(root().join("tests/sdk/python/issue_token.py"));
    is_served(python);
}

fn is_served(script: Command) {
    let courier = Program::new(["simulate-courier", "--listen", ANY_PORT, "--api-key", API_KEY]).start();
    let courier_address = courier.address("Courier simulator on ");
    let broker = Program::serve()
        .env("COURIER_API_KEY", API_KEY)
        .env("COURIER_BASE_URL", format!("http://{courier_address}"))
        .env("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY)
        .env("COURIER_TOKEN_BROKER_CLIENT_SCOPES", "inbox:* read:* write:preferences")
        .start();
    let (address, _) = broker.addresses();
    let script = Program::of(script).env("COURIER_BASE_URL", format!("http://{address}")).env("CLIENT_KEY", CLIENT_KEY);
    let ended = script.run();
    let ok = ended.code == Some(0) && ended.stdout.last().is_some_and(|line| line == "ok");
    assert!(ok, "{ended:#?}\nthe broker said: {}", broker.stderr());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/run` put an SDK. `proof` is there only if it did.
fn installed(language: &str, proof: &str) -> PathBuf {
    let home = root().join("target/sdk").join(language);
    assert!(home.join(proof).exists(), "{} has no SDK: tests/run installs it", home.display());
    home
}
