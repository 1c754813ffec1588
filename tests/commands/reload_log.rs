//! Reloads of the log level and of the times of a stop.

use std::fs;

use rustix::process::Signal;

use crate::support::child::{ANY_PORT, Program, settings};
use crate::support::http::until;

const CLIENT: &str = "[workspaces.default]\napi_key = \"pk\"\n[[clients]]\nname = \"a\"\nkey_sha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";

#[tokio::test]
async fn log_level_changes_while_the_broker_runs() {
    let file = settings(&format!("[log]\nlevel = \"warn\"\n{CLIENT}"));
    let broker = Program::serve().config(file.path()).start();
    broker.addresses();
    let reload = async |level: &str, line: &str| {
        let before = broker.stderr().matches(line).count();
        fs::write(file.path(), format!("[log]\nlevel = \"{level}\"\n{CLIENT}")).expect("written");
        broker.signal(Signal::HUP);
        until(async || broker.stderr().matches(line).count() > before).await;
    };
    // The audit log has a line at every level.
    reload("warn", "\"changed\":\"nothing\"").await;
    assert!(!broker.stderr().contains("INFO\",\"message\":\"broker started"), "{}", broker.stderr());
    assert!(!broker.stderr().contains("reloaded settings"), "{}", broker.stderr());
    reload("info", "reloaded settings").await;
    reload("error", "\"outcome\":\"applied\"").await;
    let text = broker.stderr();
    broker.signal(Signal::HUP);
    until(async || broker.stderr().len() > text.len()).await;
    let log = broker.stop().stderr;
    assert_eq!(log.matches("reloaded settings").count(), 1, "{log}");
    assert!(!log.contains("stopping"), "{log}");
}

#[tokio::test]
async fn stop_keeps_to_the_reloaded_delay() {
    let file = settings(&format!("[server]\nshutdown_delay = \"1h\"\n{CLIENT}"));
    let serve = Program::new(["serve", "--listen", ANY_PORT, "--admin-listen", ANY_PORT]);
    let broker = serve.config(file.path()).start();
    broker.addresses();
    fs::write(file.path(), format!("[server]\nshutdown_delay = \"0s\"\n{CLIENT}")).expect("written");
    broker.signal(Signal::HUP);
    until(async || broker.stderr().contains("\"changed\":\"server.shutdown_delay\"")).await;
    // It would not end within the test's patience.
    assert_eq!(broker.stop().code, Some(0));
}
