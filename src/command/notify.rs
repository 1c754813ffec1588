//! Notifications for the service manager, by the protocol of systemd (`sd_notify`).
//!
//! The crate `sd-notify` 0.5 knows no abstract sockets, and the protocol is one datagram.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use courier_token_broker::app::{App, ReloadEvent};
use courier_token_broker::clock::Clock;
use tokio::runtime::Handle;

/// Tells the service manager how the broker is. Without `NOTIFY_SOCKET` it does nothing; it never fails.
#[derive(Clone)]
pub struct Notifier {
    address: Option<Arc<SocketAddr>>,
    /// The longest time between two signs of life.
    watchdog: Option<Duration>,
    /// The status while it is ready.
    serving: Arc<str>,
}

/// The longest that a message waits for a service manager that does not read.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Notifier {
    /// Reads the variables of the service manager.
    pub fn new(app: &App) -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let address = socket.map(|name| parse_address(&name)).and_then(|address| {
            address.inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET is not the address of a socket")).ok()
        });
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros);
        let serving = format!("serving on {}", app.display_addresses().join(", "));
        Self { address: address.map(Arc::new), watchdog, serving: serving.into() }
    }

    /// Reports that requests are served.
    pub fn ready(&self) {
        self.send("READY=1", &self.serving);
    }

    /// Reports the beginning or the end of a reload.
    pub fn reload(&self, event: ReloadEvent) {
        match event {
            // The time tells the service manager that this reload began after its signal.
            ReloadEvent::Begun => {
                self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", Clock::monotonic().as_micros()), "reloading");
            }
            ReloadEvent::Applied => self.send("READY=1", &self.serving),
            ReloadEvent::Rejected => self.send("READY=1", &format!("{}; reload rejected: see the log", self.serving)),
        }
    }

    /// Reports that the broker stops.
    pub fn stopping(&self) {
        self.send("STOPPING=1", "stopping: finishing open requests");
    }

    /// Gives signs of life, if the service manager wants them, while both runtimes answer: this one by running the
    /// task, `upstream` by running another.
    pub async fn beat(self, upstream: Handle) {
        let (Some(watchdog), Some(_)) = (self.watchdog, &self.address) else { return };
        loop {
            // An error means that the runtime has ended.
            if upstream.spawn(async {}).await.is_err() {
                return;
            }
            self.send_lines("WATCHDOG=1\n");
            tokio::time::sleep(watchdog / 2).await;
        }
    }

    fn send(&self, state: &str, status: &str) {
        // A status is one line.
        self.send_lines(&format!("{state}\nSTATUS={}\n", status.replace('\n', " ")));
    }

    fn send_lines(&self, lines: &str) {
        let Some(address) = &self.address else { return };
        // A new socket each time: the service manager may have made its own anew.
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(LONGEST_WAIT))?;
            socket.send_to_addr(lines.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "cannot notify the service manager (NOTIFY_SOCKET)");
        }
    }
}

/// The address of a path, or of an abstract socket, whose name begins with `@`.
fn parse_address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
