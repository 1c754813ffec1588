//! The front-end route in a real browser: pages call it with their users' sessions, and browser and broker together
//! enforce CORS. A page writes its result into its document, which Chromium prints.

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use courier_token_broker::config::RawSessions;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, SET_COOKIE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use support::broker::{Broker, Setup, claims};
use support::chromium::{self, PATIENCE};
use support::issuer::{AUDIENCE, ISSUER, Signer};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

const SECRET: &[u8] = b"a secret of the app with more than 32 bytes";

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn listed_page_gets_the_token_of_its_session() {
    let test = BrowserTest::start("authorization").await;
    let seen = test.open(&test.listed, "jane", r#"{"userId": "jane"}"#).await;
    test.is_for(&seen, "jane");
    assert_eq!(test.broker.courier.call_count(), 1);
    // The page may read `Cache-Status`, which CORS hides unless it is exposed.
    assert!(seen["cacheStatus"].as_str().is_some_and(|how| how.contains("fwd=miss")), "{seen}");
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn unlisted_page_gets_nothing() {
    let test = BrowserTest::start("authorization").await;
    let seen = test.open(&test.unlisted, "jane", "").await;
    assert_eq!(seen["thrown"], "TypeError", "{seen}");
    assert_eq!(test.broker.courier.call_count(), 0);
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn page_that_names_another_user_gets_nothing() {
    let test = BrowserTest::start("authorization").await;
    let seen = test.open(&test.listed, "jane", r#"{"userId": "bob"}"#).await;
    assert_eq!((&seen["status"], &seen["answer"]["error"]), (&401.into(), &"Unauthorized".into()), "{seen}");
    assert_eq!(test.broker.courier.call_count(), 0);
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run installs it"]
async fn cookie_is_accepted_from_a_listed_page_alone() {
    let test = BrowserTest::start("cookie:session").await;
    // The browser sends the cookie from both pages, since the ports of a host are one site.
    let seen = test.open(&test.unlisted, "jane", "").await;
    assert_eq!(seen["thrown"], "TypeError", "{seen}");
    assert_eq!(test.broker.courier.call_count(), 0);
    // The browser sends this without a preflight, so the broker alone can refuse it.
    let refused = r#"courier_token_broker_requests_total{outcome="denied",route="/api/generate-courier-jwt"}"#;
    assert_eq!(test.broker.metric(refused).await, 1.0);
    let seen = test.open(&test.listed, "jane", "").await;
    test.is_for(&seen, "jane");
    assert_eq!(test.broker.courier.call_count(), 1);
}

/// A broker and two origins, one of them listed.
struct BrowserTest {
    broker: Broker,
    signer: Signer,
    listed: Pages,
    unlisted: Pages,
    source: &'static str,
}

impl BrowserTest {
    async fn start(source: &'static str) -> Self {
        let (listed, unlisted) = (Pages::bind().await, Pages::bind().await);
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), SECRET).expect("written");
        let sessions = RawSessions {
            hs256_secret_file: Some(secret.path().to_owned()),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            source: source.to_owned(),
            allowed_origins: vec![listed.origin()],
            ..RawSessions::default()
        };
        let broker = Setup::new().settings(|raw| raw.sessions = Some(sessions)).start().await;
        Self { broker, signer: Signer::Hmac(SECRET.to_vec()), listed, unlisted, source }
    }

    /// Opens a page of this origin that calls with this user's session; returns the page's result.
    async fn open(&self, pages: &Pages, user: &str, body: &str) -> Value {
        let session = self.signer.session("any", user);
        let page = page(self.broker.address, (self.source == "authorization").then_some(&*session), body);
        let cookie =
            (self.source != "authorization").then(|| format!("session={session}; Path=/; HttpOnly; SameSite=Lax"));
        pages.serve(page, cookie);
        let dom = dom(&format!("{}/", pages.origin())).await;
        let seen = dom.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
        let seen = seen.unwrap_or_else(|| panic!("the page wrote nothing: {dom}")).0;
        serde_json::from_str(&seen.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")).expect("JSON")
    }

    #[track_caller]
    fn is_for(&self, seen: &Value, user: &str) {
        assert_eq!(seen["status"], 200, "{seen}");
        let scope = claims(seen["answer"]["token"].as_str().expect("a token"))["scope"].clone();
        let scope = scope.as_str().expect("a text");
        let users: Vec<_> = scope.split(' ').filter_map(|part| part.strip_prefix("user_id:")).collect();
        assert_eq!(users, [user], "{scope}");
    }
}

/// A page that calls the broker once, as in the README.
fn page(broker: SocketAddr, session: Option<&str>, body: &str) -> String {
    // The host name and not the address: cookies of `localhost` are sent to no other host.
    let url = format!("http://localhost:{}/api/generate-courier-jwt", broker.port());
    let mut headers = serde_json::Map::new();
    if let Some(session) = session {
        headers.insert("Authorization".to_owned(), format!("Bearer {session}").into());
        // Headers that monitoring adds, for which the browser sends a preflight.
        let trace = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        headers.insert("traceparent".to_owned(), format!("00-{trace}-01").into());
        headers.insert("sentry-trace".to_owned(), format!("{trace}-1").into());
        headers.insert("X-Requested-With".to_owned(), "XMLHttpRequest".into());
    }
    let mut options = serde_json::json!({"method": "POST"});
    if session.is_none() {
        options["credentials"] = "include".into();
    }
    if !body.is_empty() {
        headers.insert("Content-Type".to_owned(), "application/json".into());
        options["body"] = body.into();
    }
    options["headers"] = headers.into();
    format!(
        "<!doctype html><meta charset=utf-8><body><script>
        const write = (seen) => {{
          const place = document.createElement('pre');
          place.textContent = JSON.stringify(seen);
          document.body.append(place);
        }};
        (async () => {{
          try {{
            const answer = await fetch('{url}', {options});
            write({{status: answer.status, cacheStatus: answer.headers.get('Cache-Status'), answer: await answer.json()}});
          }} catch (error) {{
            write({{thrown: error.name}});
          }}
        }})();
        </script>"
    )
}

/// A server whose port makes it an origin of its own.
struct Pages {
    address: SocketAddr,
    page: tokio::sync::watch::Sender<(String, Option<String>)>,
}

impl Pages {
    async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (page, current) = tokio::sync::watch::channel((String::new(), None));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let current = current.clone();
                let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                    let (page, cookie) = current.borrow().clone();
                    async move {
                        let mut response = Response::builder().header(CONTENT_TYPE, "text/html");
                        if let Some(cookie) = cookie {
                            response = response.header(SET_COOKIE, cookie);
                        }
                        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(page))).expect("a response"))
                    }
                });
                // The test ignores a browser that hangs up.
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, page }
    }

    fn origin(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    fn serve(&self, page: String, cookie: Option<String>) {
        self.page.send_replace((page, cookie));
    }
}

/// The document at this address after its scripts have run.
async fn dom(url: &str) -> String {
    let profile = tempfile::tempdir().expect("a folder");
    // The limit of Chromium's virtual time, which stops while a fetch is in flight.
    let mut chromium = chromium::command(&profile, &["--virtual-time-budget=30000", "--dump-dom", url]);
    chromium.stdin(Stdio::null());
    let ended = timeout(PATIENCE, Command::from(chromium).kill_on_drop(true).output()).await;
    let ended = ended.unwrap_or_else(|_| panic!("Chromium has not ended in {PATIENCE:?}")).expect("Chromium starts");
    assert!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("text")
}
