//! The lines of the table: which server gets which requests.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;

use super::connection::Request;
use super::cores::{CLIENTS, SERVERS, pin};
use super::generator::{Generator, Target};
use super::issuer::RSA;
use super::nginx::Nginx;
use super::pki::{Authority, HOST};
use super::support::{CLIENT_KEY, issue_token_body};
use super::wire::Server;
use super::{FOLDER, SIZE, Scale, tls};

/// A server and the requests that it gets.
pub struct Line {
    pub name: String,
    /// The line that its cost is compared with.
    pub baseline: &'static str,
    /// The server's process.
    pub process: u32,
    pub target: Target,
    requests: Rc<Vec<Request>>,
    users: usize,
}

impl Line {
    pub fn requests(&self) -> &[Request] {
        &self.requests[..self.users]
    }
}

/// All servers. They end with this value.
pub struct Servers {
    broker: Server,
    tls_broker: Server,
    hyper: Server,
    epoll: Server,
    nginx: Option<Nginx>,
    _certificates: Authority,
    tls: [Arc<ClientConfig>; 2],
}

pub const NGINX: &str = "nginx, return 200";
pub const NGINX_TLS: &str = "nginx, return 200, TLS";
pub const NGINX_HTTP2: &str = "nginx, return 200, HTTP/2";
pub const PROXY_CACHE: &str = "nginx, proxy_cache";

impl Servers {
    /// Starts them on their core, with answers of the broker's size.
    pub fn start() -> Self {
        let authority = Authority::new();
        let file = authority.file("ca.crt", &authority.pem());
        authority.settings(&authority.sign(&[HOST]));
        authority.file("session.pem", &RSA.pem());
        let folder = file.parent().expect("a folder");
        pin(SERVERS);
        let [broker, tls_broker] = ["broker", "TLS broker"].map(|role| Server::start(role, (FOLDER, folder.display())));
        pin(CLIENTS);
        let size = answer_size(&broker);
        pin(SERVERS);
        let [hyper, epoll] = ["hyper", "epoll"].map(|role| Server::start(role, (SIZE, size)));
        let nginx = Nginx::start(size, hyper.address, folder);
        pin(CLIENTS);
        if nginx.is_none() {
            println!("nginx is missing (apt-get install nginx): the ratios are to hyper, and some lines have none");
        }
        println!("answers with {size} bytes of body");
        let tls = ["http/1.1", "h2"].map(|protocol| tls::client(folder, protocol));
        Self { broker, tls_broker, hyper, epoll, nginx, _certificates: authority, tls }
    }

    /// The lines whose name has one of these words; all lines without words.
    pub fn lines(&self, scale: &Scale, words: &[&str]) -> Vec<Line> {
        let Scale { some, many, .. } = *scale;
        let plain = |server: &Server| Target { address: server.address, tls: None, is_http2: false };
        let by_app: Rc<Vec<_>> =
            Rc::new((0..many).map(|user| request("/auth/issue-token", CLIENT_KEY, &issue_token_body(user))).collect());
        let tokens = Rc::new(of_users(some, |user| {
            request("/v1/tokens", CLIENT_KEY, &format!(r#"{{"user_id":"{user}","profile":"inbox"}}"#))
        }));
        let body = |user: &str| format!(r#"{{"userId":"{user}"}}"#);
        let frontend = Rc::new(of_users(some, |user| request("/api/generate-courier-jwt", CLIENT_KEY, &body(user))));
        let sessions =
            Rc::new(of_users(some, |user| request("/api/generate-courier-jwt", &RSA.session("1", user), &body(user))));
        let with_tls = |address, is_http2: bool| Target {
            address,
            tls: Some(Arc::clone(&self.tls[usize::from(is_http2)])),
            is_http2,
        };
        let lines = RefCell::new(Vec::new());
        let add = |name: &str, baseline, process, target: Target, requests: &Rc<Vec<Request>>, users| {
            let (name, requests) = (name.to_owned(), Rc::clone(requests));
            lines.borrow_mut().push(Line { name, baseline, process, target, requests, users });
        };
        let Self { broker, tls_broker, hyper, epoll, .. } = self;
        if let Some(nginx) = &self.nginx {
            let at = |address| Target { address, tls: None, is_http2: false };
            add(NGINX, NGINX, nginx.id(), at(nginx.ready_answer), &by_app, some);
            add(PROXY_CACHE, NGINX, nginx.id(), at(nginx.proxy_cache), &by_app, some);
            add(NGINX_TLS, NGINX_TLS, nginx.id(), with_tls(nginx.tls, false), &by_app, some);
            add(NGINX_HTTP2, NGINX_HTTP2, nginx.id(), with_tls(nginx.tls, true), &by_app, some);
        }
        add("epoll, fixed answer", NGINX, epoll.id(), plain(epoll), &by_app, some);
        add("hyper, fixed answer", NGINX, hyper.id(), plain(hyper), &by_app, some);
        for users in [1, some, many] {
            let name = if users == 1 { "broker, 1 user".to_owned() } else { format!("broker, {users} users") };
            add(&name, NGINX, broker.id(), plain(broker), &by_app, users);
        }
        add("broker, /v1/tokens", NGINX, broker.id(), plain(broker), &tokens, some);
        add("broker, /api/generate-courier-jwt", NGINX, broker.id(), plain(broker), &frontend, some);
        add("broker, session", NGINX, broker.id(), plain(broker), &sessions, some);
        let (id, address) = (tls_broker.id(), tls_broker.address);
        add("broker, TLS", NGINX_TLS, id, with_tls(address, false), &by_app, some);
        add("broker, HTTP/2", NGINX_HTTP2, id, with_tls(address, true), &by_app, some);
        let is_wanted = |line: &Line| words.is_empty() || words.iter().any(|word| line.name.contains(word));
        lines.into_inner().into_iter().filter(is_wanted).collect()
    }
}

/// One request for each of so many users.
fn of_users(users: usize, request: impl Fn(&str) -> Request) -> Vec<Request> {
    (0..users).map(|user| request(&format!("user-{user:06}"))).collect()
}

fn request(path: &str, bearer: &str, body: &str) -> Request {
    Request::new(path, bearer, body)
}

/// The size of the body of the broker's answers.
fn answer_size(broker: &Server) -> usize {
    let target = Target { address: broker.address, tls: None, is_http2: false };
    let mut generator = Generator::open(&target, 1);
    generator.send_all(&[request("/auth/issue-token", CLIENT_KEY, &issue_token_body(0))]);
    generator.body_size()
}
