//! TLS of a running broker, and the names in client certificates.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificates::Certificates;
use crate::clock::Clock;

/// The TLS configuration of a running broker. New connections use the current one.
pub struct Tls(ArcSwap<Certificates>);

impl Tls {
    /// Starts with these certificates.
    pub fn new(certificates: Certificates) -> Self {
        Self(ArcSwap::from_pointee(certificates))
    }

    /// Whether these certificates differ from the current ones.
    pub fn differs_from(&self, certificates: &Certificates) -> bool {
        let now = self.0.load();
        certificates.chain != now.chain || certificates.authorities != now.authorities
    }

    /// Logs once a day which certificates expire, until it is dropped.
    pub async fn log_warnings_daily(&self, clock: Clock) {
        const DAY: Duration = Duration::from_secs(86_400);
        loop {
            clock.sleep_until(clock.now() + DAY).await;
            self.current().log_warnings(clock.unix());
        }
    }

    /// Replaces the certificates for new connections; open ones keep theirs. Clients without a
    /// certificate may still resume their sessions. Returns whether anything changed.
    pub fn replace(&self, certificates: Certificates) -> bool {
        if !self.differs_from(&certificates) {
            return false;
        }
        let before = self.0.load();
        let mut certificates = certificates;
        if certificates.authorities.is_empty() && before.authorities.is_empty() {
            let mut config = ServerConfig::clone(&certificates.config);
            config.ticketer = Arc::clone(&before.config.ticketer);
            config.session_storage = Arc::clone(&before.config.session_storage);
            certificates.config = Arc::new(config);
        }
        self.0.store(Arc::new(certificates));
        true
    }

    /// The current certificates.
    pub fn current(&self) -> Arc<Certificates> {
        self.0.load_full()
    }
}

/// The client certificate of a connection, with the intermediate ones that the peer sent.
///
/// It is believed as long as one of the trusted authorities verifies it: adding an authority, the first
/// step of a rotation, changes nothing for open connections, and removing one's own ends the belief.
pub struct PeerCertificate {
    names: PeerNames,
    chain: Box<[CertificateDer<'static>]>,
    /// When the handshake verified it. Its expiry ends no open connection, whatever authorities come.
    verified: UnixTime,
    /// The authorities of the last check, and its outcome. No lock that connections share.
    checked: Mutex<(Arc<[CertificateDer<'static>]>, bool)>,
}

impl PeerCertificate {
    /// The first of a peer's certificates is its own; the handshake must have verified it by these.
    /// `None` if it has no names. `now` is the time since 1970.
    pub fn of(certificates: Option<&[CertificateDer<'static>]>, by: &Certificates, now: Duration) -> Option<Self> {
        let chain: Box<[_]> = certificates?.into();
        let names = PeerNames::of(chain.first()?)?;
        let checked = Mutex::new((Arc::clone(&by.authorities), true));
        Some(Self { names, chain, verified: UnixTime::since_unix_epoch(now), checked })
    }

    /// The names, if an authority that is trusted now verifies the certificate.
    pub fn names(&self, tls: &Tls) -> Option<&PeerNames> {
        let current = tls.0.load();
        let mut checked = self.checked.lock();
        if !Arc::ptr_eq(&checked.0, &current.authorities) {
            let is_same = checked.0 == current.authorities;
            let is_trusted = if is_same { checked.1 } else { self.is_verified_by(&current) };
            *checked = (Arc::clone(&current.authorities), is_trusted);
        }
        checked.1.then_some(&self.names)
    }

    fn is_verified_by(&self, certificates: &Certificates) -> bool {
        let (Some(verifier), Some((own, others))) = (&certificates.client_verifier, self.chain.split_first()) else {
            return false;
        };
        verifier.verify_client_cert(own, others, self.verified).is_ok()
    }
}

/// The names in a verified client certificate: DNS names in lower case, and URIs. Each request of
/// the connection carries them.
#[derive(Clone, Debug)]
pub struct PeerNames(Arc<[String]>);

impl PeerNames {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let hosts = certificate.valid_dns_names().map(str::to_ascii_lowercase);
        // A URI without a scheme could be mistaken for a DNS name.
        let uris = certificate.valid_uri_names().filter(|uri| uri.contains(':')).map(str::to_owned);
        let names: Arc<[String]> = hosts.chain(uris).collect();
        (!names.is_empty()).then_some(Self(names))
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::TlsFiles;
    use std::io::Write;
    use std::sync::Mutex as StdMutex;

    const DAY: Duration = Duration::from_secs(86_400);

    /// Captures the log as text.
    #[derive(Clone, Default)]
    struct Lines(Arc<StdMutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn key() -> rcgen::KeyPair {
        rcgen::KeyPair::generate().expect("a key")
    }

    fn authority() -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(params, key()).expect("a certificate")
    }

    /// Its expiry ends no open connection, so a rotation of the authorities must not either.
    #[test]
    fn open_connection_is_judged_as_of_its_handshake() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let [old, new] = [authority(), authority()];
        let own = key();
        let certificate = rcgen::CertificateParams::new(Vec::new()).expect("no names").self_signed(&own);
        let certificate = write("crt", certificate.expect("a certificate").pem());
        let private_key = write("key", own.serialize_pem());
        let trusting = |bundle: String| {
            let client_ca = Some(write("ca", bundle));
            let files = TlsFiles { certificate: certificate.clone(), private_key: private_key.clone(), client_ca };
            Certificates::read(&files).expect("good files")
        };
        let mut params = rcgen::CertificateParams::new(vec!["web.internal".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(1999, 1, 1), rcgen::date_time_ymd(2000, 1, 1));
        let chain = [params.signed_by(&key(), &old).expect("signed").der().clone()];
        let first = trusting(old.pem());
        let peer = PeerCertificate::of(Some(&chain), &first, 29 * 365 * DAY + 30 * DAY).expect("a name");
        let tls = Tls::new(first);
        let is_believed = |bundle: String| {
            tls.replace(trusting(bundle));
            peer.names(&tls).is_some()
        };
        assert!(is_believed(old.pem() + &new.pem()));
        assert!(!is_believed(new.pem()));
        assert!(is_believed(new.pem() + &old.pem()));
    }

    #[tokio::test(start_paused = true)]
    async fn certificate_that_expires_soon_is_warned_of_each_day() {
        let clock = Clock::tokio();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.not_after = (std::time::UNIX_EPOCH + clock.unix() + 13 * DAY).into();
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let files = TlsFiles {
            certificate: file("crt", certificate),
            private_key: file("key", key.serialize_pem()),
            client_ca: None,
        };
        let tls = Tls::new(Certificates::read(&files).expect("a certificate"));
        // One subscriber that is always there: without any, the library turns a line's place off for all threads.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let three_days = tokio::time::timeout(3 * DAY + DAY / 2, tls.log_warnings_daily(clock));
        assert!(three_days.await.is_err(), "it never ends");
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        let warned = text.lines().filter(|line| line.contains("WARN") && line.contains("expires at 2"));
        assert_eq!(warned.count(), 3, "{text}");
    }
}
