//! Each fault over real HTTP: the broker and the simulated Courier on a socket.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, UNIX_EPOCH};

use courier_token_broker::config::{Raw, RawWorkspace};
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::{Delivery, Fault};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::refusal::is_a_refusal;
use crate::support::broker::{API_KEY, Broker, CLIENT_KEY, Setup, claims, client};
use crate::support::http::{Answer, HttpRequest};
use crate::support::issuer::at;
use crate::support::pki::{Authority, HOST};

/// The longest that a caller waits, whatever Courier does.
const DEADLINE: Duration = Duration::from_secs(2);
/// The delay that a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);
/// The remaining life of Jane's token in seconds, of the hour that she asks for.
const LEFT: f64 = 1900.0;

fn impatient(raw: &mut Raw) {
    raw.server.timeout.0 = DEADLINE;
    for workspace in raw.workspaces.values_mut() {
        (workspace.timeout.0, workspace.connect_timeout.0) = (DEADLINE / 2, DEADLINE / 2);
    }
}

fn tokens(user: &str) -> HttpRequest {
    HttpRequest::tokens(json!({"user_id": user, "scopes": ["inbox:read:messages"], "expires_in": "1h"}).to_string())
}

/// A request with a higher `min_ttl` than Jane's token has left.
fn jane_with_min_ttl() -> HttpRequest {
    let scopes = ["inbox:read:messages"];
    HttpRequest::tokens(json!({"user_id": "jane", "scopes": scopes, "expires_in": "1h", "min_ttl": "50m"}).to_string())
}

/// Asks, and fails the test after the deadline.
async fn ask(broker: &Broker, ask: &HttpRequest) -> Answer {
    timeout(DEADLINE + SLACK, broker.ask(ask)).await.unwrap_or_else(|_| panic!("no answer in time to {ask:?}"))
}

async fn calls(broker: &Broker, outcome: &str, workspace: &str) -> f64 {
    let labels = format!("class=\"waiting\",outcome=\"{outcome}\",workspace=\"{workspace}\"");
    broker.metric(&format!("courier_token_broker_upstream_requests_total{{{labels}}}")).await
}

/// A broker with Jane's token in its cache.
struct World {
    broker: Broker,
    jane: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Raw)) -> Self {
        let broker = Setup::new().settings(change).settings(impatient).start().await;
        broker.courier.script([Some(Fault::Life(Some(LEFT)))]);
        let jane = broker.ask(&tokens("jane")).await.token();
        Self { broker, jane }
    }

    async fn jane_is_served(&self) {
        let answer = ask(&self.broker, &tokens("jane")).await;
        assert_eq!((answer.source().as_str(), answer.token()), ("hit", self.jane.clone()));
    }

    /// Asks for a new user while Jane is served.
    async fn ask_as_new_user(&self) -> Answer {
        let jane = async {
            loop {
                self.jane_is_served().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = jane => unreachable!("the loop never ends"),
            answer = async { ask(&self.broker, &tokens("new")).await } => answer,
        }
    }

    /// Applies the fault to every call and returns the answer to a new user.
    ///
    /// Jane is served all the while. Her request for a fresher token fails, and her cached token stays.
    async fn meets(&self, fault: Fault, outcome: &str) -> Answer {
        self.broker.courier.misbehave(Some(fault.clone()));
        let answer = self.ask_as_new_user().await;
        is_a_refusal(&answer, false);
        assert!(!answer.body.contains("\"token\"") && !answer.body.contains("eyJ"), "{fault:?}: {answer:?}");

        let fresher = ask(&self.broker, &jane_with_min_ttl()).await;
        is_a_refusal(&fresher, false);
        assert!(!fresher.body.contains("eyJ"), "{fault:?}: {fresher:?}");
        self.jane_is_served().await;

        assert!(calls(&self.broker, outcome, "default").await >= 1.0, "{fault:?}: no call was {outcome}");
        assert_eq!(calls(&self.broker, "issued", "default").await, 1.0, "{fault:?}");
        assert_eq!(self.broker.metric("courier_token_broker_cached_tokens").await, 1.0, "{fault:?}");
        answer
    }
}

/// Runs each fault against a broker of its own, concurrently, and returns the answers to a new user.
async fn each(faults: impl IntoIterator<Item = Fault>, outcome: &'static str) -> Vec<(Fault, World, Answer)> {
    let one = |fault: Fault| async move {
        let world = World::new().await;
        let answer = world.meets(fault.clone(), outcome).await;
        (fault, world, answer)
    };
    faults.into_iter().map(one).collect::<JoinSet<_>>().join_all().await
}

/// Checks faults that may pass. The caller's SDK must not repeat the broker's retries.
async fn pass(faults: impl IntoIterator<Item = Fault>, outcome: &'static str, status: u16) {
    for (fault, _, answer) in each(faults, outcome).await {
        assert_eq!(answer.status, status, "{fault:?}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
    }
}

/// Checks faults that are not worth a retry, by the broker or by its caller.
async fn stay(faults: impl IntoIterator<Item = Fault>, outcome: &'static str, status: u16) -> Vec<Answer> {
    let check = |(fault, world, answer): (Fault, World, Answer)| {
        assert_eq!(answer.status, status, "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        let new = world.broker.courier.calls().into_iter().filter(|call| call.scope.contains("user_id:new"));
        assert_eq!(new.count(), 1, "{fault:?}");
        answer
    };
    each(faults, outcome).await.into_iter().map(check).collect()
}

#[tokio::test]
async fn failing_courier_is_answered_with_503() {
    pass([500, 501, 502, 503, 504, 520, 599].map(Fault::status), "unavailable", 503).await;
}

#[tokio::test]
async fn refusal_by_courier_is_passed_on() {
    let answers = stay([Fault::status(400)], "refused", 400).await;
    assert!(answers[0].body.contains("Bad Request"), "{answers:?}");
}

#[tokio::test]
async fn operators_fault_is_not_retried() {
    stay([401, 402, 403].map(Fault::status), "credentials", 502).await;
}

#[tokio::test]
async fn unexpected_status_is_a_bad_gateway() {
    stay([404, 405, 410, 413, 422].map(Fault::status), "unavailable", 502).await;
}

#[tokio::test]
async fn no_answer_in_time_is_a_gateway_timeout() {
    pass([Delivery::Never, Delivery::Dripping].map(Fault::Delivery), "timeout", 504).await;
}

#[tokio::test]
async fn stalled_answer_leaves_time_for_a_retry() {
    // The first call may take nearly all of the time.
    let broker = Setup::new().settings(|raw| raw.server.timeout.0 = Duration::from_secs(5)).start().await;
    broker.courier.script([Some(Fault::Delivery(Delivery::Dripping))]);
    let answer = broker.ask(&tokens("new")).await;
    assert_eq!((answer.status, broker.courier.call_count()), (200, 2), "{answer:?}");
}

#[tokio::test]
async fn truncated_answer_counts_as_none() {
    pass([Fault::Delivery(Delivery::CutOff)], "connect", 503).await;
}

#[tokio::test]
async fn answer_without_end_is_not_read_to_its_end() {
    pass([Fault::Delivery(Delivery::Endless)], "malformed", 502).await;
}

#[tokio::test]
async fn answer_without_a_token_is_a_bad_gateway() {
    let json = |text| Fault::Body("application/json", text);
    let faults = [
        Fault::NOT_JSON,
        Fault::HTML,
        Fault::EMPTY_TOKEN,
        Fault::NO_TOKEN,
        Fault::EXPIRED,
        Fault::Life(Some(-1e99)),
        json(""),
        json("null"),
        json("[]"),
        json(r#""eyJhbGciOiJIUzI1NiJ9.e30.c2ln""#),
        json(r#"{"token":null}"#),
        json(r#"{"token":7}"#),
        json(r#"{"token":["a"]}"#),
        json(r#"{"token":"two words"}"#),
        json(r#"{"token":"a"} and more"#),
        json(r#"{"message":"Internal Server Error","type":"api_error"}"#),
    ];
    pass(faults, "malformed", 502).await;
}

#[tokio::test]
async fn token_of_another_user_is_never_served() {
    let scopes = [
        "user_id:alice inbox:read:messages",
        "user_id:new user_id:alice inbox:read:messages",
        "user_id:new inbox:read:messages read:brands",
        "user_id:new",
        "inbox:read:messages",
    ];
    for answer in stay(scopes.map(|scope| Fault::Scope(scope.to_owned())), "mismatch", 502).await {
        assert!(!answer.whole().contains("alice"), "{answer:?}");
    }
    let world = World::new().await;
    world.broker.courier.misbehave(Some(Fault::Scope("user_id:jane inbox:read:messages".to_owned())));
    let answer = world.ask_as_new_user().await;
    assert!(answer.status == 502 && !answer.whole().contains("jane"), "{answer:?}");
    world.jane_is_served().await;
}

#[tokio::test]
async fn token_without_a_usable_expiry_lives_as_long_as_was_asked() {
    for fault in [Fault::NO_EXP, Fault::ABSURD_EXP, Fault::Life(Some(7200.0))] {
        let world = World::new().await;
        world.broker.courier.misbehave(Some(fault.clone()));
        let answer = world.ask_as_new_user().await;
        assert_eq!(claims(&answer.token())["scope"], "user_id:new inbox:read:messages", "{fault:?}");
        let seconds = answer.json()["expires_in"].as_u64().expect("seconds");
        assert!((3590..=3600).contains(&seconds), "{fault:?}: {answer:?}");
        // Jane gets a fresher token of the same kind.
        let fresher = ask(&world.broker, &jane_with_min_ttl()).await;
        assert_eq!(claims(&fresher.token())["scope"], "user_id:jane inbox:read:messages", "{fault:?}");
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}/auth/issue-token", elsewhere.local_addr().expect("an address"));
    let redirect = |status| error(status, &[("location", &url)]);
    for answer in stay([301, 308].map(redirect), "unavailable", 502).await {
        assert!(!answer.whole().contains(&url), "{answer:?}");
    }
    // These statuses are temporary, so the call is retried, to the same host.
    pass([302, 303, 307].map(redirect), "unavailable", 503).await;
    pass([300, 304].map(Fault::status), "unavailable", 503).await;
    let nothing = elsewhere.accept().expect_err("a call arrived, with the API key");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

fn error(status: u16, headers: &[(&'static str, &str)]) -> Fault {
    let line = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    Fault::Status(status, headers.iter().map(line).collect(), Delivery::Whole)
}

/// An HTTP date so many seconds from now.
fn date(offset: i64) -> String {
    let unix = u64::try_from(at(offset)).expect("after 1970");
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix))
}

#[tokio::test]
async fn throttling_courier_is_answered_with_503() {
    let reset = at(30).to_string();
    let faults = [
        error(429, &[]),
        error(429, &[("retry-after", "0")]),
        error(429, &[("retry-after", "1")]),
        error(429, &[("retry-after", "0.5")]),
        error(429, &[("retry-after-ms", "250")]),
        error(429, &[("retry-after", &date(1))]),
        error(429, &[("retry-after", &date(-100))]),
        error(429, &[("retry-after", "soon")]),
        error(429, &[("retry-after", "")]),
        error(429, &[("retry-after", "-5")]),
        error(429, &[("retry-after", "1e9")]),
        error(429, &[("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)]),
    ];
    for (fault, _, answer) in each(faults, "throttled").await {
        // The request may wait for a pause that ends too late.
        assert!(matches!(answer.status, 503 | 504), "{fault:?}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
    }
}

#[tokio::test]
async fn long_pause_is_kept_and_callers_are_told() {
    let rows = [
        (error(429, &[("retry-after", "30")]), 30),
        (error(429, &[("retry-after", "29.5")]), 30),
        (error(429, &[("retry-after-ms", "29500"), ("retry-after", "1")]), 30),
        (error(429, &[("retry-after", &date(30))]), 31),
        (error(429, &[("retry-after", "3599")]), 59),
        (error(429, &[("retry-after", "99999999999999999999")]), 59),
        (error(429, &[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]), 59),
    ];
    for (fault, most) in rows {
        let world = World::new().await;
        let first = world.meets(fault.clone(), "throttled").await;
        assert_eq!(first.status, 503, "{fault:?}: {first:?}");
        world.broker.courier.misbehave(None);
        let calls = world.broker.courier.call_count();
        let second = ask(&world.broker, &tokens("another")).await;
        is_a_refusal(&second, false);
        assert_eq!(world.broker.courier.call_count(), calls, "{fault:?}: Courier was called during the pause");
        for answer in [first, second] {
            let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
            assert!((most - 4..=most).contains(&after), "{fault:?}: {answer:?}");
            // No SDK may block its caller for so long.
            assert_eq!(answer.header("x-should-retry"), Some("false"), "{fault:?}: {answer:?}");
        }
        world.jane_is_served().await;
    }
}

const OTHER_KEY: &str = "ctb_the-key-of-another-client";

/// Asks as a client of another workspace whose base URL is this one; Jane's workspace is healthy.
async fn another_courier_at(base_url: &str) -> (Answer, World) {
    let workspace = RawWorkspace {
        api_key: Secret::new(API_KEY).ok(),
        base_url: base_url.to_owned(),
        insecure: true,
        ..RawWorkspace::default()
    };
    let world = World::with(|raw| {
        raw.workspaces.insert("other".to_owned(), workspace);
        let mut other = client("other", OTHER_KEY, &["*"]);
        other.workspace = "other".to_owned();
        raw.clients.push(other);
    });
    let world = world.await;
    let answer = ask(&world.broker, &tokens("new").key(OTHER_KEY)).await;
    is_a_refusal(&answer, false);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    world.jane_is_served().await;
    assert_eq!(ask(&world.broker, &tokens("new").key(CLIENT_KEY)).await.status, 200);
    (answer, world)
}

#[tokio::test]
async fn courier_with_an_untrusted_certificate_gets_no_key() {
    let authority = Authority::new();
    let identity = authority.sign(&[HOST, "localhost"]);
    // The untrusted peer speaks HTTP over TLS as Courier does: it is another broker.
    let impostor = Setup::new().settings(|raw| raw.server.tls = Some(authority.settings(&identity))).start().await;
    let (answer, world) = another_courier_at(&format!("https://localhost:{}", impostor.address.port())).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["message"], "Courier cannot be reached: certificate not trusted");
    assert!(calls(&world.broker, "connect", "other").await >= 1.0);
    // No request arrived, not even one to refuse.
    let requests = impostor.admin("/metrics").await.body;
    let came = |line: &&str| line.starts_with("courier_token_broker_requests_total") && !line.ends_with(" 0");
    assert_eq!(requests.lines().find(came), None);
    let dropped = "courier_token_broker_connections_dropped_total{cause=\"handshake\"}";
    let noticed = async { while impostor.metric(dropped).await < 1.0 {} };
    timeout(SLACK, noticed).await.expect("a handshake that failed");
}

#[tokio::test]
async fn courier_without_tls_gets_no_key() {
    let plain = Broker::start().await;
    let (answer, world) = another_courier_at(&format!("https://{}", plain.address)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["message"], "Courier cannot be reached: the peer does not speak TLS");
    assert!(calls(&world.broker, "connect", "other").await >= 1.0);
}

#[tokio::test]
async fn unresolvable_courier_is_answered_with_503() {
    let (answer, world) = another_courier_at("https://courier.invalid").await;
    // Without a name server that answers, the call times out.
    let (status, outcome) = if answer.status == 504 { (504, "timeout") } else { (503, "connect") };
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(!answer.whole().contains("courier.invalid"), "{answer:?}");
    assert!(calls(&world.broker, outcome, "other").await >= 1.0);
}

/// An error answer whose body is broken.
fn broken(fault: Fault, delivery: Delivery) -> Fault {
    let Fault::Status(status, headers, _) = fault else { panic!("{fault:?} is no error") };
    Fault::Status(status, headers, delivery)
}

const BROKEN: [Delivery; 3] = [Delivery::CutOff, Delivery::Dripping, Delivery::Endless];

#[tokio::test]
async fn error_is_classified_by_its_head_whatever_its_body() {
    pass(BROKEN.map(|delivery| broken(Fault::status(503), delivery)), "unavailable", 503).await;
}

#[tokio::test]
async fn refusal_of_the_api_key_is_classified_by_its_head_whatever_its_body() {
    stay(BROKEN.map(|delivery| broken(Fault::status(401), delivery)), "credentials", 502).await;
}

#[tokio::test]
async fn pause_is_kept_whatever_its_body() {
    let faults = BROKEN.map(|delivery| broken(error(429, &[("retry-after", "30")]), delivery));
    for (fault, world, answer) in each(faults, "throttled").await {
        assert_eq!(answer.status, 503, "{fault:?}: {answer:?}");
        let calls = world.broker.courier.call_count();
        is_a_refusal(&ask(&world.broker, &tokens("another")).await, false);
        assert_eq!(world.broker.courier.call_count(), calls, "{fault:?}: Courier was called during the pause");
    }
}

#[tokio::test]
async fn request_that_outlasts_a_pause_is_refused_as_soon_as_that_is_known() {
    pass([error(429, &[("retry-after", "1")])], "throttled", 503).await;
}

#[tokio::test]
async fn retried_status_may_be_retried_by_callers_too() {
    pass([408, 409, 421, 423, 425].map(Fault::status), "unavailable", 503).await;
}

#[tokio::test]
async fn requests_that_courier_rejects_fail_no_other_request() {
    for status in [400, 404, 409, 413, 422] {
        let world = World::new().await;
        world.broker.courier.misbehave(Some(Fault::status(status)));
        for n in 0..20 {
            let answer = ask(&world.broker, &tokens(&format!("odd-{n}"))).await;
            assert!(matches!(answer.status, 400 | 502 | 503), "{status}, {n}: {answer:?}");
        }
        world.broker.courier.misbehave(None);
        assert_eq!(world.ask_as_new_user().await.status, 200, "{status}");
    }
}
