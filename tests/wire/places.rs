//! One caller's requests under way leave room for everybody else's. The attacker is one client or one user.

use std::time::Duration;

use bytes::Bytes;
use courier_token_broker::config::{Raw, RawSessions};
use courier_token_broker::simulator::Faults;
use h2::SendStream;
use h2::client::ResponseFuture;

use crate::http2::{Peer, start};
use crate::sessions::{call, ed25519_broker, settings};
use crate::support::broker::{Broker, Setup, client};
use crate::support::child::file;
use crate::support::http::{Connection, HttpRequest, inbox, until};
use crate::support::issuer::Signer;
use crate::support::pki::{Authority, connect};
use crate::support::refusal::{FRONTEND, GOOD, ISSUE, TOKENS, is_a_refusal};

const SECOND: Duration = Duration::from_secs(1);
/// The key of the client that attacks; the other one has the default key.
const OTHER_KEY: &str = "ctb_the-key-of-another-client";
/// Requests under way, so few that a test can fill them.
const PLACES: u32 = 64;

fn few_places(raw: &mut Raw) {
    raw.server.limits.requests_in_flight = PLACES;
    raw.clients.push(client("other", OTHER_KEY, &["*"]));
}

/// A connection of the well-behaved client, whose token for Jane is cached.
struct Calm {
    connection: Connection<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>,
    users: u32,
}

impl Calm {
    async fn start(authority: &Authority, broker: &Broker) -> Self {
        let stream = connect(&authority.client(&["http/1.1"], None), broker.address).await.expect("a handshake");
        let mut calm = Self { connection: Connection::over(stream), users: 0 };
        assert_eq!(calm.connection.ask(&inbox("jane")).await.source(), "fwd=miss; stored");
        calm
    }

    /// Asks for a cached token and for one of a new user.
    async fn is_served(&mut self, during: &str) {
        for _ in 0..20 {
            let answer = self.connection.ask(&inbox("jane")).await;
            assert_eq!(answer.status, 200, "{during}: {answer:?}");
            assert_eq!(answer.source(), "hit", "{during}");
        }
        self.users += 1;
        let answer = self.connection.ask(&inbox(&format!("new-{}", self.users))).await;
        assert_eq!(answer.status, 200, "{during}: {answer:?}");
    }
}

/// A connection and the requests whose heads it has sent.
type Begun = (Peer, Vec<(ResponseFuture, SendStream<Bytes>)>);

/// Opens connections with more requests than there are places.
async fn heads(authority: &Authority, broker: &Broker, request: (&str, &str, &str)) -> Vec<Begun> {
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(begin(authority, broker, request, 100).await);
    }
    peers
}

/// Opens a connection with so many requests.
async fn begin(
    authority: &Authority,
    broker: &Broker,
    (method, path, bearer): (&str, &str, &str),
    requests: usize,
) -> Begun {
    let mut peer = Peer::open(authority, broker).await;
    let mut begun = Vec::new();
    for _ in 0..requests {
        begun.push(peer.begin_with(method, path, bearer).await.expect("it is open"));
    }
    // The last request has been received when this one is answered.
    assert_eq!(peer.ask("jane").await.status(), 200);
    (peer, begun)
}

#[tokio::test]
async fn heads_without_bodies_leave_the_hits_of_other_clients_alone() {
    for (method, path) in [("POST", ISSUE), ("POST", FRONTEND), ("POST", TOKENS), ("DELETE", TOKENS), ("GET", FRONTEND)]
    {
        let (authority, broker) = start(Faults::default(), few_places).await;
        let mut calm = Calm::start(&authority, &broker).await;
        let mut attack = heads(&authority, &broker, (method, path, OTHER_KEY)).await;
        calm.is_served(&format!("{method} {path}")).await;
        // Bodies that come byte by byte hold no more.
        for byte in ["{", "\"", "a"] {
            for (_, begun) in &mut attack {
                for (_, body) in begun {
                    let _ = body.send_data(byte.into(), false);
                }
            }
            calm.is_served(&format!("{method} {path} byte by byte")).await;
        }
    }
}

/// As many as 130 connections may have with the default settings. One stream of each is for the request that ends.
#[tokio::test]
async fn sixteen_thousand_heads_without_bodies_leave_other_clients_alone() {
    let other = |raw: &mut Raw| raw.clients.push(client("other", OTHER_KEY, &["*"]));
    let (authority, broker) = start(Faults::default(), other).await;
    let mut calm = Calm::start(&authority, &broker).await;
    let mut attack = Vec::new();
    for connection in 0..130 {
        attack.push(begin(&authority, &broker, ("POST", ISSUE, OTHER_KEY), 127).await);
        if connection % 10 == 9 {
            calm.is_served(&format!("{connection} connections")).await;
        }
    }
}

#[tokio::test]
async fn chunked_bodies_that_never_end_leave_other_clients_alone() {
    let broker = Setup::new().settings(few_places).start().await;
    let mut calm = Connection::open(broker.address).await;
    assert_eq!(calm.ask(&inbox("jane")).await.source(), "fwd=miss; stored");
    let mut open = Vec::new();
    for _ in 0..2 * PLACES {
        let mut connection = Connection::open(broker.address).await;
        let head = HttpRequest::tokens("").key(OTHER_KEY).chunked().head();
        connection.send(&[&head[..], b"1\r\n{\r\n"].concat()).await;
        open.push(connection);
    }
    for _ in 0..20 {
        assert_eq!(calm.ask(&inbox("jane")).await.source(), "hit");
    }
    assert_eq!(calm.ask(&inbox("joe")).await.status, 200);
}

/// A chunked body may be as large as the limit, but it is weighed as it comes.
#[tokio::test]
async fn late_chunk_of_a_small_body_needs_few_places() {
    let large = |raw: &mut Raw| raw.server.limits.body_bytes = 262_144;
    let broker = Setup::new().settings(few_places).settings(large).start().await;
    let mut late = Connection::open(broker.address).await;
    late.send(&[&HttpRequest::tokens("").chunked().head()[..], b"1\r\n{\r\n"].concat()).await;
    let mut other = Connection::open(broker.address).await;
    assert_eq!(other.ask(&inbox("jane")).await.status, 200);
    let rest = r#""user_id": "jane", "profile": "inbox"}"#;
    late.send(format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len()).as_bytes()).await;
    assert_eq!(late.answer().await.source(), "hit");
}

/// Sends each request on a connection of its own, all before the first is answered.
async fn send_all(broker: &Broker, asks: impl Iterator<Item = HttpRequest>) -> Vec<Connection> {
    let mut open = Vec::new();
    for ask in asks {
        let mut connection = Connection::open(broker.address).await;
        connection.send(&ask.bytes()).await;
        open.push(connection);
    }
    open
}

#[tokio::test]
async fn waiting_misses_of_a_client_leave_places_for_another() {
    let slow = Faults { latency: 2 * SECOND, ..Faults::default() };
    let budget = |raw: &mut Raw| raw.workspaces.values_mut().for_each(|workspace| workspace.budget.burst = 1000);
    let broker = Setup::new().faults(slow).settings(few_places).settings(budget).start().await;
    let mut calm = Connection::open(broker.address).await;
    assert_eq!(calm.ask(&inbox("jane")).await.source(), "fwd=miss; stored");
    let attack = send_all(&broker, (0..2 * PLACES).map(|user| inbox(&format!("other-{user}")).key(OTHER_KEY))).await;
    // One that gets no place is answered at once.
    let mut last = Connection::open(broker.address).await;
    let answer = last.ask(&inbox("other-last").key(OTHER_KEY)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    is_a_refusal(&answer, false);
    for _ in 0..20 {
        assert_eq!(calm.ask(&inbox("jane")).await.source(), "hit");
    }
    let new = send_all(&broker, (0..8).map(|user| inbox(&format!("new-{user}")))).await;
    for mut connection in new {
        assert_eq!(connection.answer().await.status, 200);
    }
    let mut served = 0;
    for mut connection in attack {
        served += u32::from(connection.answer().await.status == 200);
    }
    assert!((1..=PLACES / 2).contains(&served), "{served}");
}

fn sessions_of(signer: &Signer) -> (RawSessions, tempfile::NamedTempFile) {
    let key = file(signer.pem());
    (RawSessions { public_key_file: Some(key.path().to_owned()), ..settings() }, key)
}

#[tokio::test]
async fn heads_of_users_leave_the_other_users_alone() {
    let signer = Signer::ed25519();
    let (sessions, _key) = sessions_of(&signer);
    let (authority, broker) = start(Faults::default(), |raw| {
        few_places(raw);
        raw.sessions = Some(RawSessions { requests_per_second: 1000.0, ..sessions });
    })
    .await;
    let mut calm = Calm::start(&authority, &broker).await;
    let mut attack = Vec::new();
    // Each of these users takes all that they can at once, before the next one comes.
    for mallory in 0..8 {
        let session = signer.session("k", &format!("mallory-{mallory}"));
        attack.push(heads(&authority, &broker, ("POST", FRONTEND, &session)).await);
        calm.is_served("heads of users").await;
        // Another user's body comes late, too.
        let user = format!("user-{mallory}");
        let mut peer = Peer::open(&authority, &broker).await;
        let (response, mut body) =
            peer.begin_with("POST", FRONTEND, &signer.session("k", &user)).await.expect("it is open");
        calm.is_served("a late body").await;
        body.send_data("{}".into(), true).expect("it is open");
        assert_eq!(response.await.expect("an answer").status(), 200, "{user}");
    }
}

#[tokio::test]
async fn user_beyond_the_rate_is_refused_and_no_other_user_is() {
    let signer = Signer::ed25519();
    let (sessions, _key) = sessions_of(&signer);
    let broker = Setup::new().sessions(RawSessions { requests_per_second: 0.1, ..sessions }).start().await;
    let session = signer.session("k", "mallory");
    let mut statuses = Vec::new();
    let mut connection = Connection::open(broker.address).await;
    for _ in 0..30 {
        let answer = connection.ask(&call(&session)).await;
        if answer.status == 429 {
            is_a_refusal(&answer, true);
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..4], [200; 4], "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 429).count() >= 10, "{statuses:?}");
    for user in ["jane", "joe"] {
        assert_eq!(connection.ask(&call(&signer.session("k", user))).await.status, 200);
    }
    // Nor a client that acts for the same user.
    for _ in 0..30 {
        assert_eq!(connection.ask(&HttpRequest::frontend(r#"{"userId": "mallory"}"#)).await.status, 200);
    }
    // A reload does not forgive.
    assert!(broker.reload(|raw| raw.tokens.max_lifetime.0 = 2 * 86_400 * SECOND).await);
    assert_eq!(connection.ask(&call(&session)).await.status, 429);
}

#[tokio::test]
async fn default_rate_of_users_lets_pages_with_many_tabs_through_and_no_flood() {
    let (broker, signer) = ed25519_broker(|_| {}).await;
    let session = signer.session("k", "jane");
    let mut connection = Connection::open(broker.address).await;
    for _ in 0..40 {
        assert_eq!(connection.ask(&call(&session)).await.status, 200);
    }
    until(async || broker.ask(&call(&session)).await.status == 429).await;
    assert_eq!(connection.ask(&call(&signer.session("k", "joe"))).await.status, 200);
}

/// Tokens of new users that are not read: the peer's window is empty.
#[tokio::test]
async fn unread_answers_hold_no_places() {
    let (authority, broker) = start(Faults::default(), |raw| {
        few_places(raw);
        raw.workspaces.values_mut().for_each(|workspace| workspace.budget.burst = 1000);
    })
    .await;
    let mut window = h2::client::Builder::new();
    window.initial_window_size(0);
    let mut peer = Peer::open_with(&authority, &broker, &window).await;
    let mut answers = Vec::new();
    for user in 0..2 * PLACES {
        let (answer, mut body) = peer.begin_with("POST", TOKENS, OTHER_KEY).await.expect("it is open");
        let ask = format!(r#"{{"user_id": "new-{user}", "profile": "inbox"}}"#);
        body.send_data(ask.into(), true).expect("it is open");
        answers.push(answer.await.expect("a head"));
        assert_eq!(answers[user as usize].status(), 200, "{user}");
    }
}

/// Requests that are cancelled give their places back.
#[tokio::test]
async fn cancelled_requests_give_their_places_back() {
    let (authority, broker) = start(Faults::default(), few_places).await;
    for _ in 0..3 {
        let attack = heads(&authority, &broker, ("POST", ISSUE, OTHER_KEY)).await;
        drop(attack);
    }
    let mut peer = Peer::open(&authority, &broker).await;
    until(async || {
        let mut peer = Peer::open(&authority, &broker).await;
        let (response, mut body) = peer.begin_with("POST", ISSUE, OTHER_KEY).await.expect("it is open");
        tokio::time::sleep(SECOND / 100).await;
        body.send_data(GOOD[0].1.into(), true).is_ok() && response.await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    assert_eq!(peer.ask("jane").await.status(), 200);
}
