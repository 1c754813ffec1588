//! Endpoints: where Redis is, and who is master.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisResult,
    TlsCertificates,
};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::settings::{RedisSettings, RedisSettingsError, Topology};
use crate::secrets::Secret;

/// The longest time to connect, with TLS and a password.
const CONNECT: Duration = Duration::from_secs(1);

/// The longest wait for a Sentinel between two beats.
const ASK: Duration = Duration::from_millis(100);

/// The first line of a certificate in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The configured servers.
pub enum Endpoints {
    /// One server.
    Single(Client),
    /// Sentinels, the name of their master, and how to connect to it but for its address.
    Sentinel {
        sentinels: Vec<Client>,
        master: String,
        template: ConnectionInfo,
        /// To the Sentinel that answered last.
        connection: Mutex<Option<MultiplexedConnection>>,
    },
}

impl Endpoints {
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSettingsError> {
        let servers = settings.servers.iter().map(|url| parse(url, settings.ca.as_deref()));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = servers.first() else { return Err(RedisSettingsError::Count) };
        match &settings.topology {
            Topology::Single if servers.len() > 1 => Err(RedisSettingsError::Count),
            Topology::Single => Ok(Self::Single(open(with_login(first.clone(), settings))?)),
            Topology::Sentinel { master } => Ok(Self::Sentinel {
                template: with_login(first.clone(), settings),
                sentinels: servers.into_iter().map(open).collect::<Result<_, _>>()?,
                master: master.clone(),
                connection: Mutex::new(None),
            }),
        }
    }

    /// The server that holds the data. The error says why it is not known.
    pub async fn find(&self) -> Result<Client, String> {
        match self {
            Self::Single(client) => Ok(client.clone()),
            Self::Sentinel { template, .. } => {
                let (host, port) = self.master(CONNECT).await?;
                open(template.clone().set_addr(at(template.addr(), host, port))).map_err(|error| error.to_string())
            }
        }
    }

    /// Whether the Sentinels have named another master. While none answers, the present one is kept.
    pub async fn has_moved(&self, client: &Client) -> bool {
        match (self, client.get_connection_info().addr()) {
            (Self::Sentinel { .. }, ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) => {
                let master = self.master(ASK).await;
                master.is_ok_and(|(other, other_port)| (&other, other_port) != (host, *port))
            }
            _ => false,
        }
    }

    /// Asks the Sentinel that answered last, then the others one after the other, each for so long at most.
    async fn master(&self, limit: Duration) -> Result<(String, u16), String> {
        let Self::Sentinel { sentinels, master, connection, .. } = self else { return Err("no Sentinels".to_owned()) };
        let mut connection = connection.lock().await;
        // It stays only if it answers.
        if let Some(mut last) = connection.take()
            && let Ok(Ok(Some(address))) = timeout(limit, ask(&mut last, master)).await
        {
            *connection = Some(last);
            return Ok(address);
        }
        let mut why = String::new();
        for sentinel in sentinels {
            let first = async {
                let mut connection = connect(sentinel).await?;
                Ok((ask(&mut connection, master).await?, connection))
            };
            match timeout(limit, first).await.unwrap_or_else(|_| Err(timed_out())) {
                Ok((Some(address), answering)) => {
                    *connection = Some(answering);
                    return Ok(address);
                }
                Ok((None, _)) => why = format!("no Sentinel knows a master named `{master}`"),
                Err(error) => why = format!("Sentinel {}: {}", sentinel.get_connection_info().addr(), describe(&error)),
            }
        }
        Err(why)
    }
}

async fn ask(connection: &mut MultiplexedConnection, master: &str) -> RedisResult<Option<(String, u16)>> {
    redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(connection).await
}

/// Connects. The connection has no deadlines of its own: its users have.
pub async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The error for an answer that did not come in time.
pub fn timed_out() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// The error as Redis tells it. It never has a password.
pub fn describe(error: &redis::RedisError) -> String {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "it refused the user or the password (store.username, store.password_file)".to_owned();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

fn parse(url: &Secret, ca: Option<&[u8]>) -> Result<ConnectionInfo, RedisSettingsError> {
    // The error could show a part of the URL, and that a password.
    let info = url.expose().into_connection_info().map_err(|_| RedisSettingsError::Url)?;
    // A delay would gather commands into fewer packets, and each waits for its answer.
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    match (info.addr(), ca) {
        (ConnectionAddr::TcpTls { insecure: true, .. }, _) => Err(RedisSettingsError::Unchecked),
        (ConnectionAddr::TcpTls { .. }, Some(ca)) => {
            // Without one, the client would trust no server.
            if !ca.windows(CERTIFICATE.len()).any(|text| text == CERTIFICATE) {
                return Err(RedisSettingsError::Ca);
            }
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) };
            // The error could repeat a line of the file.
            let client = Client::build_with_tls(info, certificates).map_err(|_| RedisSettingsError::Ca)?;
            Ok(client.get_connection_info().clone())
        }
        _ => Ok(info),
    }
}

fn with_login(info: ConnectionInfo, settings: &RedisSettings) -> ConnectionInfo {
    let mut login = info.redis_settings().clone().set_lib_name("courier-token-broker", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password.expose());
    }
    info.set_redis_settings(login)
}

fn at(addr: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    match addr {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

fn open(info: ConnectionInfo) -> Result<Client, RedisSettingsError> {
    Client::open(info).map_err(|_| RedisSettingsError::Url)
}
