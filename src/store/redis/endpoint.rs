//! Endpoints: where Redis is, who is master, and which node of a cluster has the members.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisResult,
    TlsCertificates, Value, from_redis_value,
};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::names::NAMES;
use super::settings::{RedisSettings, RedisSettingsError, Topology};
use super::user_connection::UserConnection;
use crate::secrets::Secret;

/// The longest time to connect, with TLS and a password.
const CONNECT: Duration = Duration::from_secs(1);

/// The longest time for a cluster's client to reach another node, and to wait for an answer.
const NODE: Duration = Duration::from_millis(250);

/// How often a cluster's client follows a command to another node.
const REDIRECTIONS: u32 = 3;

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
    /// Some nodes of a cluster, and the client that finds the others.
    Cluster { nodes: Vec<Client>, client: Box<ClusterClient> },
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
            Topology::Cluster => {
                let nodes: Vec<_> = servers.into_iter().map(|server| with_login(server, settings)).collect();
                let client = Box::new(cluster(nodes.clone(), settings.ca.as_deref())?);
                Ok(Self::Cluster { nodes: nodes.into_iter().map(open).collect::<Result<_, _>>()?, client })
            }
        }
    }

    /// The server that has the members, the budget and the events. The error says why it is not known.
    pub async fn find(&self) -> Result<Client, String> {
        match self {
            Self::Single(client) => Ok(client.clone()),
            Self::Sentinel { template, .. } => {
                let (host, port) = self.master(CONNECT).await?;
                open(moved(template, (host, port))).map_err(|error| error.to_string())
            }
            Self::Cluster { nodes, .. } => {
                let mut why = String::new();
                for node in nodes {
                    let owner = timeout(CONNECT, owner(node)).await.unwrap_or_else(|_| Err(timed_out()));
                    match owner {
                        Ok(owner) => return Ok(owner),
                        Err(error) => why = format!("{}: {}", node.get_connection_info().addr(), describe(&error)),
                    }
                }
                Err(why)
            }
        }
    }

    /// The masters of a cluster; none otherwise.
    pub async fn masters(&self, server: &Client, connection: &mut MultiplexedConnection) -> RedisResult<Vec<Client>> {
        let Self::Cluster { .. } = self else { return Ok(Vec::new()) };
        let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
        let mut addresses = BTreeSet::new();
        // Each range of slots has its first and last one, its master, and the replicas.
        for master in slots.into_iter().filter_map(|range| range.into_iter().nth(2)) {
            let mut master = from_redis_value::<Vec<Value>>(master)?.into_iter();
            let mut next = || master.next().unwrap_or(Value::Nil);
            addresses.insert((from_redis_value::<String>(next())?, from_redis_value::<u16>(next())?));
        }
        let info = server.get_connection_info();
        addresses.into_iter().map(|address| Client::open(moved(info, address))).collect()
    }

    /// Connects to what belongs to users, where that is not with the rest.
    pub async fn connect_users(&self, fleet: &MultiplexedConnection) -> RedisResult<UserConnection> {
        let Self::Cluster { client, .. } = self else { return Ok(UserConnection::Server(fleet.clone())) };
        let connection = timeout(CONNECT, client.get_async_connection()).await;
        Ok(UserConnection::Cluster(connection.unwrap_or_else(|_| Err(timed_out()))?))
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

/// The node that has the members, as this one says.
async fn owner(node: &Client) -> RedisResult<Client> {
    let mut connection = connect(node).await?;
    let asked = redis::cmd("GET").arg(NAMES).exec_async(&mut connection).await;
    let Err(error) = asked else { return Ok(node.clone()) };
    let Some((host, port)) = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':')) else {
        return Err(error);
    };
    let Ok(port) = port.parse() else { return Err(error) };
    Client::open(moved(node.get_connection_info(), (host.to_owned(), port)))
}

/// The node at another address.
fn moved(node: &ConnectionInfo, (host, port): (String, u16)) -> ConnectionInfo {
    let host = match node.addr() {
        // A node that does not know its own name leaves it out.
        ConnectionAddr::Tcp(same, _) | ConnectionAddr::TcpTls { host: same, .. } if host.is_empty() => same.clone(),
        _ => host,
    };
    node.clone().set_addr(at(node.addr(), host, port))
}

/// The client of a cluster. Its deadlines end what its callers have given up.
fn cluster(nodes: Vec<ConnectionInfo>, ca: Option<&[u8]>) -> Result<ClusterClient, RedisSettingsError> {
    if nodes.iter().any(|node| node.redis_settings().db() != 0) {
        return Err(RedisSettingsError::Cluster);
    }
    let mut builder = ClusterClient::builder(nodes).retries(REDIRECTIONS).min_retry_wait(5).max_retry_wait(50);
    builder = builder.connection_timeout(NODE).response_timeout(NODE);
    builder = builder.tcp_settings(TcpSettings::default().set_nodelay(true));
    if let Some(ca) = ca {
        builder = builder.certs(TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) });
    }
    builder.build().map_err(|_| RedisSettingsError::Cluster)
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
