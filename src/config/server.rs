//! Checks `[server]` and `[admin]`: addresses, TLS, limits.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::checker::{Checker, HOUR, SECOND};
use super::error::SettingsError;
use super::log::Audit;
use super::raw;
use crate::http::server::{Address, Certificates, ListenerLimits, TlsFiles};

impl Checker<'_> {
    /// The address of the admin listener, where any connection may purge all tokens.
    pub(super) fn admin(&self, admin: &raw::Admin, apps: &[Address]) -> Result<SocketAddr, SettingsError> {
        const KEY: &str = "admin.listen";
        let message = "must be an IP address and port such as \"127.0.0.1:9090\"";
        let address: SocketAddr = admin.listen.parse().map_err(|_| self.error(KEY, message))?;
        if !address.ip().to_canonical().is_loopback() && !admin.insecure && admin.key_sha256.0.is_empty() {
            let message = "anyone who reaches this address could read the metrics, users and the times of their tokens, \
                and purge all tokens, without a key: listen on a loopback address, or set admin.key_sha256 (`courier-token-broker \
                client-key --admin` makes one), or set admin.insecure = true where a firewall or a network policy lets only \
                operators connect";
            return Err(self.error(KEY, message));
        }
        // On most systems `[::]` includes all of IPv4.
        let any = |app: SocketAddr| [app, address].iter().any(|one| one.ip() == Ipv6Addr::UNSPECIFIED);
        let shared =
            |app: SocketAddr| overlap(app, address) || address.port() != 0 && app.port() == address.port() && any(app);
        if apps.iter().any(|app| matches!(app, Address::Tcp(app) if shared(*app))) {
            return Err(self.error(KEY, "must not be an address of server.listen: apps must not reach it"));
        }
        Ok(address)
    }

    /// Checks the audit log's folder: the file is created at the start.
    pub(super) fn audit(&self, audit: &Audit) -> Result<(), SettingsError> {
        let Audit::File(path) = audit else { return Ok(()) };
        let why = match path.parent() {
            Some(folder) if !folder.is_dir() => "its folder does not exist",
            _ if path.is_dir() => "it is a folder",
            _ => return Ok(()),
        };
        Err(self.error("log.audit", format!("cannot write the file: {why}")))
    }

    pub(super) fn listen(&self, server: &raw::Server) -> Result<Vec<Address>, SettingsError> {
        const KEY: &str = "server.listen";
        let address = |text: &String| {
            let message = "must be an IP address and port such as \"127.0.0.1:8080\", a path such as \
                \"unix:/run/courier-token-broker.sock\", or \"systemd\"";
            Address::parse(text).ok_or_else(|| self.error(KEY, message))
        };
        let addresses = server.listen.0.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(self.error(KEY, "must have at least one address"));
        }
        let exposed = |address: &Address| matches!(address, Address::Tcp(address) if !address.ip().is_loopback());
        if server.tls.is_none() && !server.insecure && addresses.iter().any(exposed) {
            let message = "tokens and client keys would cross the network unencrypted: set [server.tls], or listen on a \
                loopback address behind a proxy that does TLS, or set server.insecure = true";
            return Err(self.error(KEY, message));
        }
        if addresses.iter().filter(|address| **address == Address::Systemd).count() > 1 {
            return Err(self.error(KEY, "must have \"systemd\" at most once: it covers all passed sockets"));
        }
        let twice = |one: &Address, other: &Address| match (one, other) {
            (Address::Tcp(one), Address::Tcp(other)) => overlap(*one, *other),
            (one, other) => one == other,
        };
        if addresses.iter().enumerate().any(|(index, one)| addresses[..index].iter().any(|other| twice(one, other))) {
            return Err(self.error(KEY, "has an address twice: 0.0.0.0 and [::] include every address of their kind"));
        }
        Ok(addresses)
    }

    /// Parses a file mode, as `chmod` takes it.
    pub(super) fn unix_mode(&self, text: &str) -> Result<u32, SettingsError> {
        let digits = text.len() <= 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.ok_or_else(|| self.error("server.unix_mode", "must be a file's mode such as \"0660\", at most \"0777\""))
    }

    pub(super) fn tls(&self, server: &raw::Server) -> Result<Option<Certificates>, SettingsError> {
        let Some(tls) = &server.tls else { return Ok(None) };
        let key = |field: &str| format!("server.tls.{field}");
        let file = |field: &str, path: &Option<PathBuf>| {
            path.clone().ok_or_else(|| self.error("server.tls", format!("needs {field}, the path of a file in PEM")))
        };
        let files = TlsFiles {
            certificate: file("certificate_file", &tls.certificate_file)?,
            private_key: file("private_key_file", &tls.private_key_file)?,
            client_ca: tls.client_ca_file.clone(),
        };
        let certificates = Certificates::read(&files);
        // Without the path: a key written here by mistake would be shown.
        certificates.map(Some).map_err(|error| self.error(&key(error.setting), error.why))
    }

    pub(super) fn limits(&self, server: &raw::Server) -> Option<ListenerLimits> {
        const SIZES: u64 = 1_000_000;
        let raw = &server.limits;
        for (name, value, least, most) in [
            ("connections", raw.connections, 1, SIZES),
            ("connections_per_ip", raw.connections_per_ip, 0, SIZES),
            ("requests_in_flight", raw.requests_in_flight, 1, SIZES),
            ("body_bytes", raw.body_bytes, 256, 1 << 20),
            ("header_bytes", raw.header_bytes, 1024, 128 << 10),
            ("header_count", raw.header_count, 8, 100),
            ("streams", raw.streams, 1, 10_000),
            ("resets_per_second", raw.resets_per_second, 1, SIZES),
        ] {
            self.keep(self.range(&format!("server.limits.{name}"), value.into(), least, most));
        }
        let span =
            |name: &str, value, least, most| self.keep(self.span(&format!("server.limits.{name}"), value, least, most));
        let idle_timeout = self.keep(self.span("server.idle_timeout", server.idle_timeout, SECOND, HOUR));
        let header_timeout = span("header_timeout", raw.header_timeout, SECOND, HOUR);
        let handshake_timeout = span("handshake_timeout", raw.handshake_timeout, SECOND / 10, SECOND * 60);
        Some(ListenerLimits {
            connections: raw.connections as usize,
            connections_per_ip: raw.connections_per_ip,
            header_bytes: raw.header_bytes as usize,
            header_timeout: header_timeout?,
            idle_timeout: idle_timeout?,
            handshake_timeout: handshake_timeout?,
            streams: raw.streams,
            resets_per_second: raw.resets_per_second,
        })
    }
}

/// Whether both can't be listened on at once. How `[::]` covers IPv4 depends on the system.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let [a, b] = [one, other].map(|address| address.ip().to_canonical());
    let any = (a.is_unspecified() || b.is_unspecified()) && a.is_ipv4() == b.is_ipv4();
    one.port() != 0 && one.port() == other.port() && (a == b || any)
}
