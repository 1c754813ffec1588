//! A real Redis Cluster of a test's own.

use std::net::TcpListener;
use std::process::Command;

use super::pki::{Authority, Identity};
use super::redis_server::RedisServer;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}

/// Three masters and their replicas.
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
    /// The URLs with TLS, if the cluster has it.
    pub tls_urls: Vec<String>,
}

impl RedisCluster {
    /// Starts a cluster whose masters have so many replicas each.
    pub async fn start(replicas: usize) -> Self {
        Self::start_with(replicas, None).await
    }

    /// Starts three masters with this certificate. They use TLS among themselves; the tests' own commands need none.
    pub async fn start_with_tls(authority: &Authority, identity: &Identity) -> Self {
        let [certificate, key, ca] =
            [("redis.crt", &identity.certificate), ("redis.key", &identity.key), ("ca.crt", &authority.pem())]
                .map(|(name, text)| authority.file(name, text).to_str().expect("text").to_owned());
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let tls = ["--tls-auth-clients", "no", "--tls-cluster", "yes", "--tls-replication", "yes"];
        Self::start_with(0, Some(&[files, tls].concat())).await
    }

    async fn start_with(replicas: usize, tls: Option<&[&str]>) -> Self {
        let (mut servers, mut tls_urls) = (Vec::new(), Vec::new());
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        for _ in 0..3 * (1 + replicas) {
            // By default it lies 10,000 above the other port, which may be too high.
            let bus = free_port();
            let port = bus.to_string();
            let mut arguments = [
                ["--cluster-enabled", "yes"],
                ["--cluster-port", &port],
                ["--cluster-node-timeout", "1000"],
                ["--cluster-require-full-coverage", "no"],
                ["--repl-diskless-sync-delay", "0"],
            ]
            .concat();
            let tls_port = free_port().to_string();
            if let Some(tls) = tls {
                arguments.extend(["--tls-port", &tls_port]);
                arguments.extend(tls);
                tls_urls.push(format!("rediss://127.0.0.1:{tls_port}"));
            }
            let server = RedisServer::start(&arguments).await;
            create.arg(format!("{}@{bus}", server.address()));
            servers.push(server);
        }
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let created = create.output().expect("redis-cli is installed: see tests/run");
        assert!(created.status.success(), "{created:?}");
        for server in &servers {
            server.wait_for_text("CLUSTER INFO", "cluster_state:ok").await;
        }
        Self { servers, tls_urls }
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    /// Kills the master that has such a key, once a replica has it too.
    pub async fn kill_master_of(&mut self, pattern: &str) {
        let mut owner = None;
        for (index, server) in self.servers.iter().enumerate() {
            if !server.keys(pattern).await.is_empty() {
                let info: String = server.run(&[b"INFO", b"replication"]).await;
                if info.contains("role:master") {
                    server.wait_for_replica().await;
                    owner = Some(index);
                }
            }
        }
        // Without it the others are still asked.
        self.servers.remove(owner.expect("a master has it")).kill();
    }
}
