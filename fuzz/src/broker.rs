//! A broker whose Courier writes the request into each token.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_token_broker::auth::{Client, ClientKeys, Digest};
use courier_token_broker::broker::{Background, Broker, BrokerSettings};
use courier_token_broker::clock::Clock;
use courier_token_broker::http::api::{Api, ApiSettings};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::policy::access::{Access, Pattern, SetBy};
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::policy::refresh::Mode;
use courier_token_broker::token::{Grant, INBOX, Lifetime, Profile, Token, TokenKey, WorkspaceName};
use courier_token_broker::upstream::{Cause, Dispatcher, DispatcherSettings, Failure, Issuer, Issuing, Permit};
use hyper::{Request, Response};
use serde_json::{Value, json};

use crate::keys::{APP, MALLORY, OTHER};
use crate::message::{Answer, Pieces};

pub const INBOX_SCOPES: [&str; 5] =
    ["inbox:read:messages", "inbox:write:events", "read:preferences", "write:preferences", "read:brands"];
pub const HOUR: u32 = 3600;
pub const DAY: u32 = 24 * HOUR;
/// The longest lifetime, in seconds.
pub const LONGEST: u32 = 30 * DAY;
pub const BODY_BYTES: usize = 2048;
/// The longest that an answer may take: reading the body, draining it after a refusal, and getting the token.
pub const LONGEST_ANSWER: Duration = Duration::from_secs(5 + 5 + 10);

/// The metrics of all inputs: making them takes longer than an answer, and no answer depends on them.
pub static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new().expect("their names are good")));

/// Runs one input in virtual time, in which waits take no real time.
pub fn run<T>(input: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO needs nothing of the system");
    runtime.block_on(input)
}

/// A broker with an empty cache.
pub struct TestBroker {
    api: Arc<Api>,
    clock: Clock,
    _background: Background,
}

impl TestBroker {
    /// Creates the broker. Must be called on a runtime.
    pub fn new(with: impl FnOnce(Api, Clock) -> Api) -> Self {
        let clock = Clock::tokio();
        let metrics = Arc::clone(&METRICS);
        let dispatchers = ["default", "other"].map(|name| {
            let name = workspace(name);
            // A small budget, so that inputs can use it up.
            let budget = Budget::new(2.0, 4).expect("a budget");
            let settings = DispatcherSettings { budget, max_wait: Duration::from_secs(1) };
            (name.clone(), Dispatcher::new(settings, Arc::new(Courier { clock }), clock, metrics.workspace(&name)))
        });
        let settings = BrokerSettings {
            floor: Floor::new(0.5, Duration::from_secs(30)).expect("a floor"),
            refresh: Mode::Learned,
            extra_calls: 0.15,
            capacity: 100,
            keys_per_user: 100,
            client_share: 1.0,
            timeout: Duration::from_secs(10),
        };
        let broker = Broker::new(settings, dispatchers, clock, Arc::clone(&metrics), tokio::runtime::Handle::current());
        let background = broker.start();
        let mut clients = ClientKeys::default();
        clients.add(client("app", "default", &["*"], &["*"], LONGEST), vec![Digest::of(APP)], Vec::new());
        let mallory = client("mallory", "default", &["inbox:*", "read:brands"], &["mallory", "mallory:*"], HOUR);
        clients.add(mallory, vec![Digest::of(MALLORY)], Vec::new());
        clients.add(client("other", "other", &["*"], &["*"], LONGEST), vec![Digest::of(OTHER)], Vec::new());
        let settings = ApiSettings {
            default_lifetime: seconds(DAY),
            max_lifetime: seconds(LONGEST),
            profiles: BTreeMap::from([
                (INBOX.to_owned(), profile(&INBOX_SCOPES)),
                ("brands".to_owned(), profile(&["read:brands"])),
            ]),
            body_bytes: BODY_BYTES,
            header_bytes: 4096,
            header_count: 16,
            body_timeout: Duration::from_secs(5),
            requests_in_flight: 1000,
            log_requests: 0.0,
        };
        let api = Api::new(settings, broker, clients, clock, metrics).expect("sound declarations");
        Self { api: Arc::new(with(api, clock)), clock, _background: background }
    }

    /// Answers a request within the time limit.
    pub async fn answer(&self, request: Request<Pieces>) -> Answer {
        let before = self.clock.now();
        let response: Response<_> = Arc::clone(&self.api).answer(request, None).await;
        let answer = Answer::read(response).await;
        let took = self.clock.now().since(before);
        assert!(took <= LONGEST_ANSWER, "it took {took:?}: {answer:?}");
        answer
    }
}

pub fn client(name: &str, workspace_name: &str, scopes: &[&str], users: &[&str], longest: u32) -> Client {
    let patterns = |texts: &[&str]| texts.iter().filter_map(|text| Pattern::new(text).ok()).collect();
    let access = Access {
        scopes: patterns(scopes),
        users: patterns(users),
        max_lifetime: seconds(longest),
        set_by: SetBy::Entry,
    };
    Client { name: name.to_owned(), workspace: workspace(workspace_name), access, rate: None }
}

pub fn profile(scopes: &[&'static str]) -> Profile {
    Profile::new(scopes.iter().copied()).expect("good scopes")
}

pub fn seconds(seconds: u32) -> Lifetime {
    Lifetime::from_seconds(seconds.into()).expect("a lifetime")
}

fn workspace(name: &str) -> WorkspaceName {
    WorkspaceName::new(name).expect("a name")
}

/// The contents of a token.
#[derive(Debug, PartialEq, Eq)]
pub struct Issued {
    pub workspace: String,
    pub claim: String,
    pub lifetime: u32,
}

impl Issued {
    /// Parses a token of this Courier.
    pub fn read(token: &str) -> Self {
        let part = token.strip_prefix("opaque_").or_else(|| token.split('.').nth(1)).expect("a token of this Courier");
        let json = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let claims: Value = serde_json::from_slice(&json).expect("JSON");
        Self {
            workspace: claims["workspace"].as_str().expect("a text").to_owned(),
            claim: claims["scope"].as_str().expect("a text").to_owned(),
            lifetime: claims["lifetime"].as_u64().and_then(|seconds| seconds.try_into().ok()).expect("seconds"),
        }
    }
}

/// A Courier whose faults depend on the name of the first user.
struct Courier {
    clock: Clock,
}

impl Issuer for Courier {
    fn issue<'a>(&'a self, key: &'a TokenKey, _: Permit) -> Issuing<'a> {
        Box::pin(async move {
            let sent = self.clock.now();
            let requested = key.lifetime().as_duration();
            let claims = json!({"workspace": key.workspace(), "scope": key.claim().to_string(), "lifetime": key.lifetime().as_secs()});
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let mut token = format!("{}.{}.c2ln", part(&json!({"alg": "HS256"})), part(&claims));
            let mut life = requested;
            match key.users().next().unwrap_or_default() {
                user if user.contains("opaque") => token = format!("opaque_{}", part(&claims)),
                user if user.contains("short") => life = requested / 10,
                user if user.contains("slow") => self.clock.sleep_until(sent + Duration::from_secs(3)).await,
                user if user.contains("never") => self.clock.sleep_until(sent + Duration::from_secs(60)).await,
                user if user.contains("gone") => return Err(Failure::Connect(Cause::Closed.into())),
                user if user.contains("full") => return Err(Failure::Throttled(Some(Duration::from_secs(70)))),
                user if user.contains("wrong") => return Err(Failure::Mismatch),
                user if user.contains("bad") => return Err(Failure::Refused("no".to_owned())),
                _ => {}
            }
            // The longest claims make longer tokens than Courier does.
            let token = Token::new(&token).map_err(|_| Failure::Malformed("the token is too long"))?;
            Ok(Grant::new(token, sent, life))
        })
    }
}
