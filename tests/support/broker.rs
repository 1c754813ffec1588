//! A broker and a Courier simulator in the test's process.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_token_broker::app::{App, Files, Loaded, Reloader};
use courier_token_broker::auth::{Digest, KeySource};
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Layers, Raw, RawClient, RawSessions, RawTls, RawWorkspace, Settings};
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::{Faults, Simulator};
use courier_token_broker::upstream::CourierSettings;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

pub use super::http::CLIENT_KEY;
use super::http::{self, Answer, HttpRequest};

/// The only API key that the simulator accepts.
pub const API_KEY: &str = "pk_test_the-api-key-of-the-workspace";

/// A broker before its start.
pub struct Setup {
    raw: Raw,
    faults: Faults,
    api_key: Option<&'static str>,
    courier: TcpListener,
    pause: Option<Duration>,
    change_courier: Box<dyn Fn(&mut CourierSettings) + Send>,
}

impl Setup {
    pub fn new() -> Self {
        let courier = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut raw = Raw::default();
        raw.server.listen.0 = vec!["127.0.0.1:0".to_owned()];
        raw.admin.listen = "127.0.0.1:0".to_owned();
        let workspace = RawWorkspace {
            api_key: Secret::new(API_KEY).ok(),
            base_url: format!("http://{}", courier.local_addr().expect("an address")),
            ..RawWorkspace::default()
        };
        raw.workspaces = BTreeMap::from([("default".to_owned(), workspace)]);
        raw.clients = vec![RawClient { max_lifetime: raw.tokens.max_lifetime, ..client("app", CLIENT_KEY, &["*"]) }];
        let change_courier = Box::new(|_: &mut CourierSettings| {});
        Self { raw, faults: Faults::default(), api_key: Some(API_KEY), courier, pause: None, change_courier }
    }

    pub fn faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Makes the simulator accept this key alone.
    pub fn courier_wants(self, api_key: &'static str) -> Self {
        Self { api_key: Some(api_key), ..self }
    }

    /// Makes the simulator accept every key.
    pub fn courier_takes_any_key(self) -> Self {
        Self { api_key: None, ..self }
    }

    pub fn settings(mut self, change: impl FnOnce(&mut Raw)) -> Self {
        change(&mut self.raw);
        self
    }

    /// Adds a client.
    pub fn client(self, client: RawClient) -> Self {
        self.settings(|raw| raw.clients.push(client))
    }

    pub fn sessions(self, sessions: RawSessions) -> Self {
        self.settings(|raw| raw.sessions = Some(sessions))
    }

    pub fn tls(self, tls: RawTls) -> Self {
        self.settings(|raw| raw.server.tls = Some(tls))
    }

    /// Sets the least time between two fetches of session keys.
    pub fn fetch_pause(self, pause: Duration) -> Self {
        Self { pause: Some(pause), ..self }
    }

    /// Changes what no settings file can, for each workspace.
    pub fn courier_settings(self, change: impl Fn(&mut CourierSettings) + Send + 'static) -> Self {
        Self { change_courier: Box::new(change), ..self }
    }

    /// The address of the simulator.
    pub fn courier_address(&self) -> SocketAddr {
        self.courier.local_addr().expect("an address")
    }

    pub async fn start(self) -> Broker {
        let Self { raw, faults, api_key, courier, pause, change_courier } = self;
        let clock = Clock::system();
        let simulator = Simulator::new(api_key.map(str::to_owned), faults, clock);
        courier.set_nonblocking(true).expect("a socket");
        let courier = tokio::net::TcpListener::from_std(courier).expect("a runtime");
        let (stop_courier, stopped) = oneshot::channel::<()>();
        tokio::spawn(simulator.clone().serve(courier, async {
            let _ = stopped.await;
        }));
        let Loaded { outcome, files } = load(&raw);
        let (mut settings, shown) = outcome.expect("good settings");
        if let (Some(pause), Some(sessions)) = (pause, &mut settings.sessions)
            && let KeySource::Jwks(jwks) = &mut sessions.check.keys
        {
            jwks.pause = pause;
        }
        settings.workspaces.iter_mut().for_each(|workspace| change_courier(&mut workspace.courier));
        let app = App::bind(settings, clock).await.expect("free ports");
        // A test with Unix sockets alone knows their paths.
        let address = app.addresses().first().copied().unwrap_or(([127, 0, 0, 1], 1).into());
        let admin = app.admin_address().expect("an address");
        let raw = Arc::new(Mutex::new(raw));
        let reread = Arc::clone(&raw);
        let reloader = app.reloader(shown, files, Box::new(move || load(&reread.lock())));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        let reloader = Arc::new(Mutex::new(reloader));
        Broker { address, admin, courier: simulator, raw, reloader, _stop: (stop, stop_courier) }
    }
}

fn load(raw: &Raw) -> Loaded {
    let mut files = Files::default();
    raw.files().for_each(|path| files.add(path));
    let shown = toml::Table::try_from(raw).expect("TOML");
    Loaded { outcome: Settings::resolve(raw, &Layers::default()).map(|settings| (settings, shown)), files }
}

/// A client of the workspace `default`.
pub fn client(name: &str, key: &str, scopes: &[&str]) -> RawClient {
    RawClient {
        name: name.to_owned(),
        key_sha256: Digest::of(key).to_string().into(),
        scopes: Some(scopes.iter().map(|&scope| scope.to_owned()).collect()),
        ..RawClient::default()
    }
}

/// A client of the workspace `default` for these users alone.
pub fn client_for(name: &str, key: &str, scopes: &[&str], users: &[&str]) -> RawClient {
    RawClient { users: users.iter().map(|&user| user.to_owned()).collect(), ..client(name, key, scopes) }
}

/// A broker that runs until it is dropped.
pub struct Broker {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub courier: Simulator,
    raw: Arc<Mutex<Raw>>,
    reloader: Arc<Mutex<Reloader>>,
    // Dropping these stops both servers.
    _stop: (oneshot::Sender<()>, oneshot::Sender<()>),
}

impl Broker {
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Changes the settings and reloads; returns whether the reload succeeded.
    pub async fn reload(&self, change: impl FnOnce(&mut Raw)) -> bool {
        change(&mut self.raw.lock());
        let reloader = Arc::clone(&self.reloader);
        let reload = move || reloader.lock().reload();
        tokio::task::spawn_blocking(reload).await.expect("no panic")
    }

    /// Asks on a connection of its own.
    pub async fn ask(&self, ask: &HttpRequest) -> Answer {
        http::ask(self.address, ask).await
    }

    /// Asks the admin listener.
    pub async fn admin(&self, target: &str) -> Answer {
        http::get(self.admin, target).await
    }

    /// The value of one series of the metrics, named as Prometheus writes it.
    pub async fn metric(&self, series: &str) -> f64 {
        http::metric(self.admin, series).await
    }
}

/// The claims of a JWT.
#[track_caller]
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_else(|| panic!("{token} is no JWT"));
    let json = URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}
