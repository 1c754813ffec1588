//! Chromium, driven over its debugging protocol.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::child::clean_environment;

/// A browser starts slowly on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The path of Debian's package, which `tests/run` installs.
const CHROMIUM: &str = "/usr/bin/chromium";
const ARGUMENTS: [&str; 11] = [
    "--headless",
    // Tests run as root in many containers, where Chromium's sandbox does not work.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    // Chromium calls only the pages and the broker.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP localhost 127.0.0.1, MAP * ~NOTFOUND",
];

/// Chromium with these arguments and a profile of its own, without a developer's settings or another test's cookies.
pub fn command(profile: &TempDir, arguments: &[&str]) -> std::process::Command {
    assert!(Path::new(CHROMIUM).exists(), "there is no {CHROMIUM}: tests/run installs it");
    // The debugging protocol has the descriptors 3 and 4.
    let mut chromium = std::process::Command::new("sh");
    clean_environment(&mut chromium);
    chromium.args(["-c", "exec \"$@\" 3<&0 4>&1", "sh", CHROMIUM]).args(ARGUMENTS).args(arguments);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    chromium
}

/// A running browser with one page, killed on drop.
pub struct Browser {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<Value>,
    calls: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut chromium = Command::from(command(&profile, &["--remote-debugging-pipe", "about:blank"]));
        chromium.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = chromium.spawn().expect("Chromium starts");
        let (input, output) = (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        let output = BufReader::new(output);
        let mut browser = Self { process, input, output, session: None, calls: 0, _profile: profile };
        let targets = browser.call("Target.getTargets", json!({})).await["targetInfos"].take();
        let page = targets.as_array().and_then(|all| all.iter().find(|target| target["type"] == "page"));
        let attached = json!({"targetId": page.expect("the page of the start")["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attached).await["sessionId"].clone();
        browser.session = Some(session);
        browser.call("Page.enable", json!({})).await;
        // A page without the focus would be hidden, and ask nothing.
        browser.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true})).await;
        browser
    }

    /// Calls a method of the protocol, of the page once there is one; events are left out.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.expect("Chromium runs");
        loop {
            let mut bytes = Vec::new();
            let read = timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
            read.unwrap_or_else(|_| panic!("no answer to {method} in {PATIENCE:?}")).expect("Chromium runs");
            assert_eq!(bytes.pop(), Some(0), "Chromium has ended: {:?}", self.process.try_wait());
            let mut answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// Opens a page in a window of this size.
    pub async fn open(&mut self, url: &str, (width, height): (u32, u32)) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.until("document.readyState === 'complete'").await;
    }

    /// Makes a script run before those of each page.
    pub async fn prepare(&mut self, script: &str) {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": script})).await;
    }

    /// Sets what pages find as `prefers-color-scheme`.
    pub async fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", ask).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        let holds = async {
            while self.value(expression).await != true {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let held = timeout(PATIENCE, holds).await;
        assert!(held.is_ok(), "{expression} is not so after {PATIENCE:?}");
    }

    /// Presses a key, which may enter a text.
    pub async fn press(&mut self, key: &str, code: u32, text: Option<&str>) {
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if let Some(text) = text {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down).await;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).await;
    }

    /// A picture of the whole page, in the format of the file's name.
    pub async fn picture(&mut self, file: &Path) {
        let format = file.extension().and_then(|format| format.to_str()).expect("png, jpeg or webp");
        let mut ask = json!({"format": format, "captureBeyondViewport": true});
        if format != "png" {
            ask["quality"] = 90.into();
        }
        let picture = self.call("Page.captureScreenshot", ask).await;
        let bytes = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, bytes).expect("written");
    }
}
