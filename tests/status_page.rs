//! The status page in a real browser, over a sandbox under load.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use support::child::{ANY_PORT, Program, Running};
use support::chromium::Browser;
use support::http::{Connection, HttpRequest, get};

const DESK: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
const TAB: u32 = 9;
const ENTER: u32 = 13;

/// Collects what the page's policy has blocked, and its errors.
const WATCH: &str = "window.problems = [];
    addEventListener('securitypolicyviolation', (event) => problems.push(`${event.violatedDirective} ${event.blockedURI}`));
    addEventListener('error', (event) => problems.push(String(event.message)));
    addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));";

/// Texts whose contrast with what lies behind them is below that of WCAG 2.2, 1.4.3 (AA).
const FAINT: &str = "(() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const linear = (byte) => byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4;
        const [red, green, blue] = channels(color).map(linear);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
        && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
    const ratio = (element) => {
        const [one, other] = [light(getComputedStyle(element).color), light(behind(element))];
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
    return { texts: texts.length, faint: texts.filter((element) => ratio(element) < 4.5).map((element) => element.outerHTML) };
})()";

/// The elements that a screen reader would miss.
const UNNAMED: &str = "(() => {
    const one = (selector) => document.querySelectorAll(selector).length === 1 ? [] : [`not one ${selector}`];
    const named = (element) => element.getAttribute('aria-label')
        || document.getElementById(element.getAttribute('aria-labelledby'))?.textContent || element.labels?.length;
    const all = [...document.querySelectorAll('section, svg, input, [role=img], [role=meter], [role=region]')];
    return [...['h1', 'main', 'header', 'footer', 'html[lang]', 'head > title'].flatMap(one),
        ...all.filter((element) => !named(element)).map((element) => element.outerHTML)];
})()";

/// A sandbox, and a connection to it.
struct Test {
    _sandbox: Running,
    admin: SocketAddr,
    connection: Connection,
}

impl Test {
    async fn start(faults: &[&str]) -> Self {
        let addresses = ["sandbox", "--listen", ANY_PORT, "--admin-listen", ANY_PORT, "--courier-listen", ANY_PORT];
        let sandbox = Program::new(addresses).arguments(faults).start();
        let (address, admin) = sandbox.addresses();
        Self { _sandbox: sandbox, admin, connection: Connection::open(address).await }
    }

    /// The page's address: Chromium knows no host but this.
    fn url(&self) -> String {
        format!("http://localhost:{}/", self.admin.port())
    }

    /// Asks for a user's token that lasts for so many minutes.
    async fn ask(&mut self, user: &str, minutes: u32) -> u16 {
        let body = json!({"user_id": user, "profile": "inbox", "expires_in": format!("{minutes}m")});
        self.connection.ask(&HttpRequest::tokens(body.to_string()).key("sandbox")).await.status
    }
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn page_follows_the_broker_and_says_when_it_is_gone() {
    let mut test = Test::start(&[]).await;
    let mut browser = Browser::start().await;
    browser.prepare(WATCH).await;
    browser.open(&test.url(), DESK).await;
    browser.until("document.getElementById('connection').textContent === 'Live'").await;
    for _ in 0..4 {
        assert_eq!(test.ask("jane", 60).await, 200);
    }
    // Three of four requests are hits.
    browser.until("document.querySelector('#requests .main dd').textContent === '75%'").await;
    browser.until("document.querySelector('#ends dd').textContent === '1'").await;
    browser.until("document.getElementById('workspaces').textContent.includes('1 for users who wait')").await;
    let origins = "[...new Set(performance.getEntriesByType('resource').map((entry) => new URL(entry.name).origin))]";
    assert_eq!(browser.value(origins).await, json!([test.url().trim_end_matches('/')]));
    assert_eq!(browser.value("problems").await, json!([]));
    drop(test);
    browser.until("document.getElementById('connection').textContent.includes('has not answered since')").await;
    browser.until("document.title.startsWith('No answer')").await;
    // The last known values stay.
    assert_eq!(browser.value("document.querySelector('#requests .main dd').textContent").await, "75%");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn explain_works_by_the_keyboard_alone() {
    let mut test = Test::start(&[]).await;
    let user = "<img/src=x/onerror=problems.push(1)>";
    assert_eq!(test.ask(user, 60).await, 200);
    let mut browser = Browser::start().await;
    browser.prepare(WATCH).await;
    browser.open(&test.url(), DESK).await;
    browser.until("document.getElementById('connection').textContent === 'Live'").await;
    for _ in 0..10 {
        browser.press("Tab", TAB, None).await;
        if browser.value("document.activeElement.id").await == "user" {
            break;
        }
    }
    assert_eq!(browser.value("document.activeElement.id").await, "user");
    browser.call("Input.insertText", json!({"text": user})).await;
    browser.press("Enter", ENTER, Some("\r")).await;
    browser.until("document.getElementById('explained-summary').textContent.startsWith('1 token of ')").await;
    assert_eq!(browser.value("document.querySelector('#explained h3').textContent.split(',')[0]").await, user);
    let text = browser.value("document.getElementById('explained').textContent").await;
    for part in ["inbox:read:messages", "scheduled", "Lifetime1 h"] {
        assert!(text.as_str().is_some_and(|text| text.contains(part)), "{part} is not in {text}");
    }
    browser.call("Input.insertText", json!({"text": "2"})).await;
    browser.press("Enter", ENTER, Some("\r")).await;
    browser.until("document.getElementById('explained-summary').textContent.startsWith('Nothing is known of ')").await;
    assert_eq!(browser.value("problems").await, json!([]));
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn page_runs_no_script_but_its_own() {
    let test = Test::start(&[]).await;
    let mut status = get(test.admin, "/status").await.json();
    status["errors"] = json!([{"level": "x", "message": "x", "cause": "x", "workspace": "x", "client": "x", "count": 2,
                               "first_at": "2026-01-01T00:00:00Z", "last_at": "2026-01-01T00:00:00Z"}]);
    make_hostile(&mut status);
    let answer = format!("window.fetch = async () => new Response({:?});", status.to_string());
    let mut browser = Browser::start().await;
    browser.prepare(WATCH).await;
    browser.prepare(&answer).await;
    browser.open(&test.url(), DESK).await;
    browser.until("document.querySelectorAll('#errors li').length === 1").await;
    assert_eq!(browser.value("document.querySelectorAll('img').length").await, 0);
    assert_eq!(browser.value("problems").await, json!([]));
    let inline = "{ const script = document.createElement('script'); document.body.append(script);
        try { script.append('problems.push(1)'); } catch {} problems.filter((problem) => problem === 1).length }";
    assert_eq!(browser.value(inline).await, 0);
    browser.until("problems.some((problem) => /^(script-src|require-trusted-types-for)/.test(problem))").await;
}

/// Replaces all texts but times by markup.
fn make_hostile(value: &mut Value) {
    match value {
        Value::String(text) if !text.ends_with('Z') => "<img src=x onerror=problems.push(1)>".clone_into(text),
        Value::Array(list) => list.iter_mut().for_each(make_hostile),
        Value::Object(fields) => fields.values_mut().for_each(make_hostile),
        _ => {}
    }
}

/// With `PICTURE=docs/status.webp` it loads the sandbox for a minute, for the README's picture.
#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn page_is_legible_in_light_and_dark_and_on_a_phone() {
    let picture = std::env::var_os("PICTURE").map(PathBuf::from);
    let seconds = if picture.is_some() { 62 } else { 3 };
    let mut test = Test::start(&["--latency", "120ms", "--error-rate", "0.3", "--error-kind", "503"]).await;
    load(&mut test, seconds).await;
    let mut browser = Browser::start().await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, scheme, size) in [("light", "light", DESK), ("phone", "light", PHONE), ("dark", "dark", DESK)] {
        browser.prefer(scheme).await;
        browser.open(&test.url(), size).await;
        browser.until("document.querySelectorAll('#workspaces section').length === 2").await;
        let seen = browser.value(FAINT).await;
        assert!(seen["texts"].as_u64() > Some(50) && seen["faint"] == json!([]), "{name}: {seen:#}");
        assert_eq!(browser.value(UNNAMED).await, json!([]), "{name}");
        let width = browser.value("document.scrollingElement.scrollWidth").await;
        assert!(width.as_u64() <= Some(size.0.into()), "{name}: {width}");
        browser.picture(&folder.join(format!("status-{name}.png"))).await;
    }
    if let Some(file) = picture {
        browser.prefer("light").await;
        browser.picture(&file).await;
    }
}

/// Asks for tokens of many users for so long, of which most are cached after some seconds.
async fn load(test: &mut Test, seconds: u32) {
    let mut draw = fastrand::Rng::with_seed(1);
    let mut lives = fastrand::Rng::with_seed(2);
    // Some are so short that renewals begin at once.
    let life = |user: u32| if user % 12 == 11 { 1 } else { 60 + lives.u32(0..700) + lives.u32(0..700) };
    let lives: Vec<_> = (0..5000).map(life).collect();
    for tick in 0..seconds * 20 {
        let known = (tick / 4 + 20) as usize;
        for _ in 0..draw.u32(1..5) {
            // Few users ask often.
            let user = (draw.f64().powi(3) * known as f64) as usize;
            test.ask(&format!("user-{user}"), lives[user]).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
