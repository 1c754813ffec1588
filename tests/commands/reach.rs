//! Reaching Courier: proxies, certificates, regions, and the errors where Courier cannot be reached.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Faults, Simulator};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::refusals::is_refused;
use crate::support::child::{Ended, Program, settings};
use crate::support::http::refusing_port;
use crate::support::pki::{Authority, Identity};

const KEY: &str = "pk_prod_never-to-be-seen";
const CLIENT_KEY: &str = "ctb_never-to-be-seen-either";
/// A host name that only the proxy resolves.
const COURIER: &str = "courier.internal";

/// Serves each connection to a local port.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A Courier that accepts the one key, without TLS.
async fn courier() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let simulator = Simulator::new(Some(KEY.to_owned()), Faults::default(), Clock::system());
    tokio::spawn(simulator.serve(listener, std::future::pending()));
    address
}

/// A Courier that accepts the one key, with TLS and this identity.
async fn courier_with_tls(identity: &Identity) -> SocketAddr {
    let (acceptor, plain) = (identity.acceptor(), courier().await);
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut inside) = acceptor.accept(stream).await else { return };
            let mut courier = TcpStream::connect(plain).await.expect("it listens");
            let _ = copy_bidirectional(&mut inside, &mut courier).await;
        }
    })
    .await
}

/// The head of a request.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(bytes).expect("text")
}

/// The traffic of a proxy: the heads of CONNECT requests, and the bytes that the broker sent through the tunnels.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(Vec<String>, Vec<u8>)>>);

impl Seen {
    /// Answers a CONNECT request, and if it is granted, connects to `target` whatever host was named.
    async fn tunnel(self, mut client: impl AsyncRead + AsyncWrite + Unpin, answer: &str, target: SocketAddr) {
        let head = head(&mut client).await;
        self.0.lock().0.push(head);
        client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.expect("sent");
        if !answer.starts_with("200") {
            return;
        }
        let mut target = TcpStream::connect(target).await.expect("it listens");
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_target, mut to_target) = target.split();
        let up = async {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                self.0.lock().1.extend_from_slice(&buffer[..count]);
                to_target.write_all(&buffer[..count]).await.expect("sent");
            }
        };
        tokio::select! {
            () = up => {}
            _ = tokio::io::copy(&mut from_target, &mut to_client) => {}
        }
    }

    fn heads(&self) -> Vec<String> {
        self.0.lock().0.clone()
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().1.clone()
    }
}

/// A proxy that gives this answer to each CONNECT request, and connects to `target`.
async fn proxy(answer: &'static str, target: SocketAddr) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let kept = seen.clone();
    (listen(move |stream| kept.clone().tunnel(stream, answer, target)).await, seen)
}

/// `check --probe` for a workspace with these settings and the certificates of this file.
async fn probe(workspace: &str, certificates: Option<PathBuf>) -> Ended {
    let file = settings(&format!("[workspaces.default]\n{workspace}\n"));
    let mut program = Program::new(["check", "--probe"]).config(file.path()).keys(KEY, CLIENT_KEY);
    if let Some(path) = certificates {
        program = program.env("SSL_CERT_FILE", path).env("SSL_CERT_DIR", "");
    }
    tokio::task::spawn_blocking(move || program.run()).await.expect("no panic")
}

/// The error of a failing probe, on one line without secrets.
async fn error_of(workspace: &str, certificates: Option<PathBuf>) -> String {
    let ended = probe(workspace, certificates).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap_or_default().to_owned();
    assert!(!line.contains('\n') && !line.contains("never-to-be-seen") && line.len() < 600, "{ended:?}");
    line
}

fn is_served(ended: &Ended) {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let [.., probe, summary] = &ended.stdout[..] else { panic!("{ended:?}") };
    assert!(probe.starts_with("# workspace default: token issued") && summary.starts_with("OK: "), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_through_the_proxy_which_sees_its_own_credentials_and_no_key() {
    let authority = Authority::new();
    let target = courier_with_tls(&authority.sign(&[COURIER])).await;
    let (address, seen) = proxy("200 OK", target).await;
    let credentials = authority.file("credentials", "jane:s:cret\n");
    let workspace = format!(
        "base_url = \"https://{COURIER}\"\nproxy = \"http://{address}\"\nproxy_credentials_file = \"{}\"",
        credentials.display()
    );
    is_served(&probe(&workspace, Some(authority.file("ca.pem", &authority.pem()))).await);
    let heads = seen.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].starts_with(&format!("CONNECT {COURIER}:443 HTTP/1.1\r\n")), "{heads:?}");
    // jane:s:cret
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic amfuztpzomnyzxq=\r\n"), "{heads:?}");
    assert!(!heads[0].contains(KEY) && !heads[0].to_lowercase().contains("\r\nauthorization:"), "{heads:?}");
    let bytes = seen.bytes();
    // A TLS record with a handshake in it.
    assert_eq!(bytes.first(), Some(&0x16));
    assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "the API key went through in clear");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_through_a_proxy_that_speaks_tls_itself() {
    let authority = Authority::new();
    let target = courier_with_tls(&authority.sign(&[COURIER])).await;
    let (acceptor, seen) = (authority.sign(&["localhost"]).acceptor(), Seen::default());
    let kept = seen.clone();
    let address = listen(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), kept.clone());
        async move { seen.tunnel(acceptor.accept(stream).await.expect("TLS"), "200 OK", target).await }
    })
    .await;
    let workspace = format!("base_url = \"https://{COURIER}\"\nproxy = \"https://localhost:{}\"", address.port());
    is_served(&probe(&workspace, Some(authority.file("ca.pem", &authority.pem()))).await);
    let heads = seen.heads();
    assert!(heads.len() == 1 && !heads[0].to_lowercase().contains("proxy-authorization"), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_proxy_is_named_as_the_cause() {
    let unused = courier().await;
    let (refusing, _) = proxy("407 Proxy Authentication Required", unused).await;
    let (_socket, gone) = refusing_port();
    for (address, detail) in [(refusing, "proxy authorization required"), (gone, "Connection refused")] {
        let line = error_of(&format!("base_url = \"https://{COURIER}\"\nproxy = \"http://{address}\""), None).await;
        let wanted = format!("workspace default: cannot reach https://{COURIER}: the proxy made no connection (");
        assert!(line.contains(&wanted) && line.contains(detail), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn region_is_couriers_host_there() {
    for (workspace, host) in
        [("", "api.courier.com"), ("region = \"us\"", "api.courier.com"), ("region = \"eu\"", "api.eu.courier.com")]
    {
        // The proxy refuses the tunnel and records the host.
        let (address, seen) = proxy("403 Forbidden", courier().await).await;
        let line = error_of(&format!("{workspace}\nproxy = \"http://{address}\""), None).await;
        assert!(line.contains(&format!("cannot reach https://{host}: ")), "{workspace}: {line}");
        let heads = seen.heads();
        assert!(heads[0].starts_with(&format!("CONNECT {host}:443 ")), "{workspace}: {heads:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn base_url_of_the_environment_overrides_the_region_of_a_file() {
    let file = settings("[workspaces.default]\nregion = \"eu\"\n");
    let program = Program::new(["check", "--probe"]).config(file.path()).keys(KEY, CLIENT_KEY).courier(courier().await);
    is_served(&tokio::task::spawn_blocking(move || program.run()).await.expect("no panic"));
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_names_host_and_cause_of_each_failure() {
    let authority = Authority::new();
    let ours = || Some(authority.file("ca.pem", &authority.pem()));
    let another = Authority::new();
    let theirs = Some(another.file("ca.pem", &another.pem()));
    let tls = courier_with_tls(&authority.sign(&["localhost"])).await.port();
    let misnamed = courier_with_tls(&authority.sign(&[COURIER])).await.port();
    let plain = courier().await.port();
    let closing = listen(async |stream| drop(stream)).await.port();
    let says = |answer: String| {
        listen(move |mut stream| {
            let answer = answer.clone();
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                // The connection stays open until the broker has read the answer.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
    };
    let mail = says("220 mail.example.com ESMTP\r\n".to_owned()).await.port();
    let many: String = (0..150).map(|number| format!("X-{number}: x\r\n")).collect();
    let many = says(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n")).await.port();
    let short = says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"token\":".to_owned()).await.port();
    let silent = listen(async |mut stream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let silent = silent.await.port();

    // The listener's backlog is full, so connections get no answer.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let full = socket.listen(1).expect("it listens");
    let busy = full.local_addr().expect("an address");
    let mut kept = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(busy)).await {
        kept.push(stream);
    }

    for (scheme, port, certificates, cause, detail) in [
        ("https", tls, theirs, "certificate not trusted", "invalid peer certificate"),
        ("https", misnamed, ours(), "certificate not trusted", "not valid for name"),
        ("https", plain, ours(), "the peer does not speak TLS", "InvalidContentType"),
        ("http", closing, None, "connection closed or reset", ""),
        ("http", mail, None, "the answer is not readable HTTP", "invalid HTTP version"),
        ("http", many, None, "the answer is not readable HTTP", "too large"),
        ("http", busy.port(), None, "connection timed out", ""),
    ] {
        let url = format!("{scheme}://localhost:{port}");
        let line = error_of(&format!("base_url = \"{url}\"\nconnect_timeout = \"500ms\""), certificates).await;
        let wanted = format!("workspace default: cannot reach {url}: {cause} (");
        assert!(line.contains(&wanted), "{wanted:?} is not in {line:?}");
        assert!(line.contains(detail), "{detail:?} is not in {line:?}");
        assert_eq!(line.matches(&url).count(), 1, "{line}");
    }
    for port in [silent, short] {
        let workspace = format!("base_url = \"http://localhost:{port}\"\ntimeout = \"1s\"");
        let line = error_of(&workspace, None).await;
        assert!(line.ends_with("workspace default: Courier did not answer in time"), "{line}");
    }
    let line = error_of("base_url = \"https://courier.invalid\"\nconnect_timeout = \"5s\"", None).await;
    // Without a name server that answers, the probe times out.
    let is_told = ["host name not resolved", "connection timed out", "did not answer in time"];
    assert!(is_told.iter().any(|cause| line.contains(cause)), "{line}");
    drop((kept, full));
}

#[test]
fn invalid_certificates_are_reported_at_start() {
    let authority = Authority::new();
    for path in [PathBuf::from("/does/not/exist.pem"), authority.file("ca.pem", "not a certificate")] {
        let program = Program::serve().keys(KEY, CLIENT_KEY);
        let ended = program.env("SSL_CERT_FILE", &path).env("SSL_CERT_DIR", "").run();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let line = ended.stderr.lines().last().unwrap_or_default();
        assert!(line.contains("SSL_CERT_FILE") && line.contains("No CA certificates"), "{ended:?}");
    }
}

/// The broker ignores the proxy variables that other programs use, and says so.
#[test]
fn unused_proxy_of_the_environment_is_reported_without_its_password() {
    let check = |workspace: &str, variable: &str| {
        let file = settings(&format!("[workspaces.default]\n{workspace}\n"));
        let program = Program::new(["check"]).config(file.path()).keys(KEY, CLIENT_KEY);
        let ended = program.env(variable, "http://jane:hunter2@127.0.0.1:1").run();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stderr
    };
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        for workspace in ["", "region = \"eu\"", "base_url = \"https://10.1.2.3\""] {
            let warning = check(workspace, variable);
            assert!(warning.starts_with(&format!("warning: {variable} is set, but not used")), "{warning}");
            assert!(warning.contains("workspaces.default.proxy") && !warning.contains("hunter2"), "{warning}");
        }
    }
    for workspace in ["proxy = \"http://127.0.0.1:1\"", "proxy = \"\"", "base_url = \"http://127.0.0.1:1\""] {
        assert_eq!(check(workspace, "HTTPS_PROXY"), "", "{workspace}");
    }
    assert_eq!(check("", "HTTP_PROXY"), "");

    let program = Program::serve().keys(KEY, CLIENT_KEY);
    let broker = program.env("HTTPS_PROXY", "http://jane:hunter2@127.0.0.1:1").start();
    broker.addresses();
    let log = broker.stderr();
    assert!(log.contains("HTTPS_PROXY is set, but not used") && !log.contains("hunter2"), "{log}");
}

#[test]
fn workspace_without_a_target_is_refused_by_name() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "hunter2\n").expect("written");
    let file = format!("proxy = \"http://p:1\"\nproxy_credentials_file = \"{}\"", secret.path().display());
    let listens = "base_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:1\", \"[::1]:8080\"]";
    for (workspace, parts) in [
        ("region = \"uk\"", &["workspaces.default.region", "\"us\" or \"eu\""][..]),
        ("region = \"eu\"\nbase_url = \"https://api.courier.com\"", &["workspaces.default.base_url", "not both"]),
        (
            "base_url = \"https://api.courier.com/auth/issue-token\"",
            &["base_url", "/auth/issue-token", "adds that path"],
        ),
        ("base_url = \"https://api.courier.com/auth/issue-token/\"", &["base_url", "adds that path"]),
        ("base_url = \"https://api.courier.com//auth//\"", &["base_url", "adds that path"]),
        ("base_url = \"https://api.courier.com/x/auth\"", &["base_url", "adds that path"]),
        ("base_url = \"http://127.0.0.1:8080\"", &["base_url", "own address 127.0.0.1:8080", "server.listen"]),
        ("base_url = \"http://localhost:9090/x\"", &["base_url", "own address 127.0.0.1:9090", "admin.listen"]),
        (listens, &["base_url", "own address [::1]:8080"]),
        ("proxy = \"hunter2\"", &["workspaces.default.proxy", "http or https"]),
        ("proxy = \"socks5://p:1\"", &["workspaces.default.proxy", "http or https"]),
        ("proxy = \"http://p:1/path\"", &["workspaces.default.proxy", "without a path"]),
        ("proxy = \"http://jane:hunter2@p:1\"", &["workspaces.default.proxy", "proxy_credentials_file"]),
        ("proxy = \"http://p:1\"\nbase_url = \"http://127.0.0.1:1\"", &["workspaces.default.proxy", "https"]),
        ("proxy_credentials_file = \"/x\"", &["workspaces.default.proxy_credentials_file", "without proxy"]),
        (
            "proxy = \"http://p:1\"\nproxy_credentials_file = \"/does/not/exist\"",
            &["workspaces.default.proxy_credentials_file", "no such file"],
        ),
        (&file, &["workspaces.default.proxy_credentials_file", "user:password"]),
    ] {
        let file = settings(&format!("[workspaces.default]\n{workspace}\n"));
        let ended = Program::new(["check"]).config(file.path()).keys(KEY, CLIENT_KEY).run();
        is_refused(workspace, &ended, parts);
    }
}
