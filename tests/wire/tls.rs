//! TLS: server certificates, client certificates and refused handshakes.

use std::net::SocketAddr;
use std::time::Duration;

use courier_token_broker::config::{RawClient, RawTls};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::support::broker::{Broker, Setup, client};
use crate::support::http::{Answer, Connection, HttpRequest};
use crate::support::pki::{Authority, HOST, Identity, connect};
use crate::support::refusal::{GOOD, is_a_refusal};

const SECOND: Duration = Duration::from_secs(1);
const HTTP1: &[&str] = &["http/1.1"];

async fn broker() -> (Authority, Broker) {
    let authority = Authority::new();
    let broker = Setup::new().tls(authority.settings(&authority.sign(&[HOST]))).start().await;
    (authority, broker)
}

/// A broker that asks its clients for certificates of this authority; one client has no key.
async fn broker_with_named_clients(authority: &Authority) -> Broker {
    let tls = authority.settings_for_clients(&authority.sign(&[HOST]));
    let named = RawClient {
        key_sha256: RawClient::default().key_sha256,
        certificate_names: vec!["Web.internal".to_owned(), "spiffe://td/web".to_owned()],
        ..client("web", "unused", &["read:*"])
    };
    let settings = Setup::new().settings(|raw| {
        raw.server.tls = Some(tls);
        raw.clients.push(named);
    });
    settings.start().await
}

async fn ask(client: &TlsConnector, address: SocketAddr, ask: &HttpRequest) -> Answer {
    Connection::over(connect(client, address).await.expect("a handshake")).ask(ask).await
}

/// Sends these bytes and returns the answer. The connection must end within two seconds.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the listener accepts");
    stream.write_all(bytes).await.expect("it is open");
    let mut answer = Vec::new();
    let ended = timeout(2 * SECOND, stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "it is still open");
    answer
}

#[tokio::test]
async fn alpn_selects_the_protocol_and_http1_is_the_default() {
    let (authority, broker) = broker().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (HTTP1, Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(&authority.client(offered, None), broker.address).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
        if chosen != Some(b"h2") {
            let answer = Connection::over(stream).ask(&HttpRequest::issue(GOOD[0].1)).await;
            assert_eq!(answer.status, 200, "{offered:?}: {answer:?}");
        }
    }
    assert_eq!(broker.courier.call_count(), 1);
}

/// hyper answers a head that it cannot read itself, without a body.
#[tokio::test]
async fn unreadable_head_is_refused_over_tls_too() {
    let (authority, broker) = broker().await;
    let stream = connect(&authority.client(HTTP1, None), broker.address).await.expect("a handshake");
    let mut connection = Connection::over(stream);
    connection.send(b"this is not HTTP\r\n\r\n").await;
    assert_eq!(connection.answer().await.status, 400);
    assert!(connection.rest().await.is_empty());
}

#[tokio::test]
async fn outdated_tls_and_plain_text_are_refused_at_once() {
    let (_, broker) = broker().await;
    let plain = exchange(broker.address, &HttpRequest::issue(GOOD[0].1).bytes()).await;
    assert!(!plain.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&plain));
    // A ClientHello of TLS 1.1: version 3.2, with one cipher suite of that time.
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x00, 0x2f, 1, 0]);
    let mut hello = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    hello.extend(body);
    let alert = exchange(broker.address, &hello).await;
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    assert_eq!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"handshake\"}").await, 2.0);
}

#[tokio::test]
async fn silent_handshake_times_out_and_delays_no_other() {
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let setup = Setup::new().settings(|raw| {
        raw.server.tls = Some(tls);
        raw.server.limits.handshake_timeout.0 = SECOND;
    });
    let broker = setup.start().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Connection::open(broker.address).await);
    }
    let (client, good) = (authority.client(HTTP1, None), HttpRequest::issue(GOOD[0].1));
    let asked = timeout(SECOND, ask(&client, broker.address, &good));
    assert_eq!(asked.await.expect("not delayed").status, 200);
    for connection in silent {
        assert!(timeout(3 * SECOND, connection.rest()).await.expect("it was given up").is_empty());
    }
    assert_eq!(broker.metric("courier_token_broker_connections_dropped_total{cause=\"handshake\"}").await, 100.0);
}

#[tokio::test]
async fn new_certificate_applies_to_new_connections_and_old_ones_go_on() {
    let (authority, broker) = broker().await;
    let shown = async || {
        let stream = connect(&authority.client(HTTP1, None), broker.address).await.expect("a handshake");
        let certificate = stream.get_ref().1.peer_certificates().expect("certificates")[0].clone();
        (Connection::over(stream), certificate)
    };
    let (mut old, before) = shown().await;
    assert_eq!(old.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    replace(&broker, &authority, &authority.sign(&[HOST, "other.internal"]), &[]).await;
    let (mut new, after) = shown().await;
    assert_ne!(before, after);
    for connection in [&mut old, &mut new] {
        assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.status, 200);
    }
}

/// Replaces the broker's certificate, and the authorities of its clients.
async fn replace(broker: &Broker, authority: &Authority, identity: &Identity, clients: &[&Authority]) {
    let bundle: String = clients.iter().map(|clients| clients.pem()).collect();
    let tls = RawTls {
        certificate_file: Some(authority.file("new.crt", &identity.certificate)),
        private_key_file: Some(authority.file("new.key", &identity.key)),
        client_ca_file: (!clients.is_empty()).then(|| authority.file("ca.crt", &bundle)),
    };
    assert!(broker.reload(|raw| raw.server.tls = Some(tls)).await, "they are good");
}

/// The kind of a connection's handshake.
async fn kind(client: &TlsConnector, broker: &Broker) -> std::io::Result<Option<HandshakeKind>> {
    let mut connection = connect(client, broker.address).await?;
    // The tickets come with the answer.
    connection.write_all(&HttpRequest::get("/").bytes()).await?;
    let mut answer = [0; 1024];
    let count = connection.read(&mut answer).await?;
    assert!(answer[..count].starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    Ok(connection.get_ref().1.handshake_kind())
}

#[tokio::test]
async fn sessions_outlive_a_new_certificate() {
    let (authority, broker) = broker().await;
    let client = authority.client(HTTP1, None);
    assert_eq!(kind(&client, &broker).await.expect("good"), Some(HandshakeKind::Full));
    assert_eq!(kind(&client, &broker).await.expect("good"), Some(HandshakeKind::Resumed));
    replace(&broker, &authority, &authority.sign(&[HOST]), &[]).await;
    assert_eq!(kind(&client, &broker).await.expect("good"), Some(HandshakeKind::Resumed));
}

/// A resumed session shows no certificate, so access would outlive the certificate and its authority.
#[tokio::test]
async fn mutual_tls_disables_session_resumption() {
    let (authority, other_authority) = (Authority::new(), Authority::new());
    let broker = broker_with_named_clients(&authority).await;
    let client = authority.client(HTTP1, Some(&authority.sign(&["web.internal"])));
    assert_eq!(kind(&client, &broker).await.expect("good"), Some(HandshakeKind::Full));
    assert_eq!(kind(&client, &broker).await.expect("good"), Some(HandshakeKind::Full));
    replace(&broker, &authority, &authority.sign(&[HOST]), &[&other_authority]).await;
    assert!(kind(&client, &broker).await.is_err());
}

#[tokio::test]
async fn removed_authority_voids_the_names_of_open_connections() {
    let (authority, other_authority) = (Authority::new(), Authority::new());
    let broker = broker_with_named_clients(&authority).await;
    let client = authority.client(HTTP1, Some(&authority.sign(&["web.internal"])));
    let mut connection = Connection::over(connect(&client, broker.address).await.expect("a handshake"));
    let ask =
        HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).without("Authorization");
    assert_eq!(connection.ask(&ask).await.status, 200);
    replace(&broker, &authority, &authority.sign(&[HOST]), &[&authority]).await;
    assert_eq!(connection.ask(&ask).await.status, 200);
    replace(&broker, &authority, &authority.sign(&[HOST]), &[&other_authority]).await;
    assert_eq!(connection.ask(&ask).await.status, 401);
}

/// A rotation of the authority: the new one is added, clients get new certificates, the old one is removed.
#[tokio::test]
async fn open_connection_is_believed_while_its_own_authority_is_listed() {
    let [old, new, third] = [Authority::new(), Authority::new(), Authority::new()];
    let broker = broker_with_named_clients(&old).await;
    let client = old.client(HTTP1, Some(&old.sign(&["web.internal"])));
    let mut connection = Connection::over(connect(&client, broker.address).await.expect("a handshake"));
    let ask =
        HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).without("Authorization");
    let identity = old.sign(&[HOST]);
    for (authorities, status) in [
        (&[&old, &new][..], 200),
        (&[&new, &old], 200),
        (&[&third, &new, &old], 200),
        (&[&new], 401),
        (&[&third, &new], 401),
        (&[&old], 200),
        (&[&new, &old], 200),
    ] {
        replace(&broker, &old, &identity, authorities).await;
        assert_eq!(connection.ask(&ask).await.status, status, "{} authorities", authorities.len());
    }
}

#[tokio::test]
async fn client_is_identified_by_its_certificate() {
    let authority = Authority::new();
    let broker = broker_with_named_clients(&authority).await;
    let good =
        HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "1h"}"#).without("Authorization");
    for (names, status) in [
        (&["WEB.internal"][..], 200),
        (&["other.internal", "spiffe://td/web"], 200),
        (&["spiffe://td/web/x"], 401),
        (&["internal", "*.internal"], 401),
        (&[], 401),
    ] {
        let client = authority.client(HTTP1, Some(&authority.sign(names)));
        let answer = ask(&client, broker.address, &good).await;
        assert_eq!(answer.status, status, "{names:?}: {answer:?}");
        if status != 200 {
            is_a_refusal(&answer, false);
        }
    }
    let client = authority.client(HTTP1, Some(&authority.sign(&["web.internal"])));
    let everything = HttpRequest::issue(r#"{"scope": "user_id:jane write:all", "expires_in": "1h"}"#);
    // The client has its entry's permissions; a key in the request takes precedence, valid or not.
    for (ask_for, status) in [
        (everything.clone().without("Authorization"), 403),
        (everything, 200),
        (good.clone().key("wrong"), 401),
        (good.clone().header("Authorization", "Basic x"), 401),
    ] {
        assert_eq!(ask(&client, broker.address, &ask_for).await.status, status, "{ask_for:?}");
    }
    // Without a certificate no client is identified, but a key is still accepted.
    let anonymous = authority.client(HTTP1, None);
    assert_eq!(ask(&anonymous, broker.address, &good).await.status, 401);
    assert_eq!(ask(&anonymous, broker.address, &HttpRequest::issue(GOOD[0].1)).await.status, 200);
}

#[tokio::test]
async fn certificate_of_another_authority_ends_the_connection() {
    let (authority, other_authority) = (Authority::new(), Authority::new());
    let broker = broker_with_named_clients(&authority).await;
    let client = authority.client(HTTP1, Some(&other_authority.sign(&["web.internal"])));
    let answered = async {
        // In TLS 1.3 the client's handshake ends before the server refuses it.
        let mut stream = connect(&client, broker.address).await?;
        stream.write_all(&HttpRequest::issue(GOOD[0].1).bytes()).await?;
        stream.read_u8().await
    };
    assert!(answered.await.is_err());
    assert_eq!(broker.courier.call_count(), 0);
}
