//! A real `redis-server` of a test's own; `REDIS_SERVER` names the program of another version, or of Valkey.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server that keeps nothing on disk and ends with the test.
pub struct RedisServer {
    pub port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// How long a busy machine may take for an answer. The default is half a second.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(url: String) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE));
    let config = config.set_response_timeout(Some(PATIENCE));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

impl RedisServer {
    /// Starts a server with these further arguments.
    pub async fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { port, folder: tempfile::tempdir().expect("a folder"), arguments, child: None };
        server.restart().await;
        server
    }

    /// Starts it again, empty, where it was.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(program);
        let config = self.folder.path().join("redis.conf");
        // Sentinel writes its state into its file.
        std::fs::write(&config, "").expect("written");
        command.arg(&config).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(self.folder.path()).args(&self.arguments).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed: see tests/run"));
        for _ in 0..1000 {
            match self.connect().await {
                Ok(_) => return,
                Err(error) if error.is_connection_refusal() => tokio::time::sleep(Duration::from_millis(10)).await,
                // It answers, if only that a password is missing.
                Err(_) => return,
            }
        }
        panic!("redis-server does not start");
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(self.url()).await
    }

    /// Runs a command.
    pub async fn run<T: FromRedisValue>(&self, command: &[&[u8]]) -> T {
        let (name, arguments) = command.split_first().expect("a command");
        let mut connection = self.connect().await.expect("a connection");
        redis::cmd(str::from_utf8(name).expect("text"))
            .arg(arguments)
            .query_async(&mut connection)
            .await
            .expect("an answer")
    }

    /// Runs a command that is written as one text.
    pub async fn say(&self, command: &str) {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        let _: redis::Value = self.run(&words).await;
    }

    /// The same, logged in with a password; the last word may be empty.
    pub async fn say_as(&self, password: &str, command: &str) {
        let url = format!("redis://:{password}@{}", self.address());
        let mut connection = connect(url).await.expect("a connection");
        let (name, arguments) = command.split_once(' ').expect("arguments");
        let mut run = redis::cmd(name);
        run.arg(arguments.split(' ').collect::<Vec<_>>());
        run.query_async::<redis::Value>(&mut connection).await.expect("an answer");
    }

    /// Waits until the answer to a command contains a text.
    pub async fn wait_for_text(&self, command: &str, text: &str) {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        for _ in 0..3000 {
            let answer: String = self.run(&words).await;
            if answer.contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{command} never answers {text}");
    }

    /// Waits until a replica has all that was written until now.
    pub async fn wait_for_replica(&self) {
        let number = |text: &str, name: &str| -> Option<u64> {
            let (_, rest) = text.split_once(name)?;
            rest.split(|end: char| !end.is_ascii_digit()).next()?.parse().ok()
        };
        let mut written = None;
        for _ in 0..3000 {
            let info: String = self.run(&[b"INFO", b"replication"]).await;
            let written = *written.get_or_insert(number(&info, "master_repl_offset:").expect("an offset"));
            let is_online = |line: &&str| line.starts_with("slave0:") && line.contains("state=online");
            let replica = info.lines().find(is_online).and_then(|line| number(line, ",offset="));
            if replica.is_some_and(|offset| offset >= written) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no replica follows");
    }

    /// Whether it knows `CLIENT SETINFO`, as Redis 7.2 and Valkey do: a user needs a right for it.
    pub async fn takes_client_info(&self) -> bool {
        let mut connection = self.connect().await.expect("a connection");
        let mut set = redis::cmd("CLIENT");
        set.arg("SETINFO").arg("LIB-NAME").arg("test");
        set.query_async::<()>(&mut connection).await.is_ok()
    }

    /// Waits until there is a key with such a name.
    pub async fn wait_for_key(&self, pattern: &str) {
        for _ in 0..3000 {
            if !self.keys(pattern).await.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there is no {pattern}");
    }

    /// The names of all keys that begin and end like this, in order.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.run(&[b"KEYS", pattern.as_bytes()]).await;
        keys.sort();
        keys
    }

    /// Puts a folder where the server would write a file of this name.
    pub fn block_file(&self, name: &str) {
        std::fs::create_dir_all(self.folder.path().join(name).join("occupied")).expect("a folder");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        let pid = Pid::from_raw(id.cast_signed()).expect("an id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Stops the process where it is; connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
