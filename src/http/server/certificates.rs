//! The broker's certificate and the authorities it trusts, read from files and checked.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::validity::Validity;
use crate::files::Input;
use crate::secrets;

/// The PEM files for TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key, unencrypted.
    pub private_key: PathBuf,
    /// The authorities of client certificates; `None` if none are requested.
    pub client_ca: Option<PathBuf>,
}

/// The certificate, its key and the trusted authorities, read and checked.
#[derive(Clone)]
pub struct Certificates {
    pub(super) config: Arc<ServerConfig>,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// The authorities of client certificates.
    pub(super) authorities: Arc<[CertificateDer<'static>]>,
    /// The check of client certificates by these authorities; `None` if none are requested.
    pub(super) client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The validity of each certificate, the broker's own first.
    periods: Arc<[Period]>,
}

/// The validity of one certificate in a file.
struct Period {
    setting: &'static str,
    path: PathBuf,
    /// Its position in the file, from 1.
    index: usize,
    validity: Validity,
}

impl Period {
    fn warning(&self, now: Duration) -> Option<CertificateError> {
        let why = format!("certificate {} {}", self.index, self.validity.warning(now)?);
        Some(CertificateError { setting: self.setting, path: self.path.clone(), why })
    }
}

/// Shows nothing: it holds a private key.
impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Certificates")
    }
}

/// An error in one of the TLS files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CertificateError {
    /// The setting that names the file: `certificate_file`, `private_key_file` or
    /// `client_ca_file`.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The reason. It repeats neither the path nor any content of the file.
    pub why: String,
}

const CERTIFICATE: &str = "certificate_file";
const PRIVATE_KEY: &str = "private_key_file";
const CLIENT_CA: &str = "client_ca_file";
/// Far more than a chain of certificates or a bundle of authorities needs.
const LARGEST_FILE: u64 = 4 << 20;

impl Certificates {
    /// The configuration for handshakes.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The end of the broker's own certificate, since 1970.
    pub fn expires(&self) -> Option<Duration> {
        self.periods.first().map(|own| own.validity.ends())
    }

    /// Fails if the broker's own certificate has expired at this time since 1970: no client would accept
    /// it.
    pub fn refuse_expired(&self, now: Duration) -> Result<(), CertificateError> {
        self.refuse(now, Validity::is_expired)
    }

    /// Also fails if it is not valid yet. A running broker does not check this: its machine may have
    /// started with a wrong clock.
    pub fn refuse_unusable(&self, now: Duration) -> Result<(), CertificateError> {
        self.refuse(now, |own, now| own.is_expired(now) || own.is_not_yet_valid(now))
    }

    fn refuse(&self, now: Duration, is_bad: fn(Validity, Duration) -> bool) -> Result<(), CertificateError> {
        let own = self.periods.first().filter(|own| is_bad(own.validity, now));
        own.and_then(|own| own.warning(now)).map_or(Ok(()), Err)
    }

    /// Warnings about certificates that have expired, expire soon, or are not valid yet, authorities
    /// included.
    pub fn warnings(&self, now: Duration) -> impl Iterator<Item = CertificateError> {
        self.periods.iter().filter_map(move |period| period.warning(now))
    }

    /// Logs the warnings.
    pub fn log_warnings(&self, now: Duration) {
        let is_expired = self.refuse_expired(now).is_err();
        for warning in self.warnings(now) {
            if is_expired {
                tracing::error!(setting = warning.setting, "{warning}");
            } else {
                tracing::warn!(setting = warning.setting, "{warning}");
            }
        }
    }

    /// Reads the files, and checks that certificate and key belong together.
    pub fn read(files: &TlsFiles) -> Result<Self, CertificateError> {
        let failed = |setting, path: &Path, why: String| CertificateError { setting, path: path.to_owned(), why };
        let chain = certificates(CERTIFICATE, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes(PRIVATE_KEY, &files.private_key)?).map_err(|error| {
            failed(PRIVATE_KEY, &files.private_key, unreadable(&error, "no private key without a passphrase"))
        })?;
        let authorities = match &files.client_ca {
            Some(path) => certificates(CLIENT_CA, path)?,
            None => Vec::new(),
        };
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(CERTIFICATE, &files.certificate, error.to_string()))?;
        let client_verifier = match &files.client_ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in &authorities {
                    roots.add(authority.clone()).map_err(|error| failed(CLIENT_CA, path, error.to_string()))?;
                }
                // A client without a certificate may still send a key.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| failed(CLIENT_CA, path, error.to_string()))?;
                Some(verifier)
            }
            None => None,
        };
        let builder = match &client_verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain.clone(), key).map_err(|error| {
            let key = |why| failed(PRIVATE_KEY, &files.private_key, why);
            match error {
                rustls::Error::InconsistentKeys(_) => {
                    key("is not the key of the certificate in certificate_file".to_owned())
                }
                rustls::Error::InvalidCertificate(_) => {
                    failed(CERTIFICATE, &files.certificate, "holds no certificate that can be read".to_owned())
                }
                error => key(format!("can't be used: {error}")),
            }
        })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        if files.client_ca.is_some() {
            // A resumed session presents no certificate, so it could outlive the first one.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            // Tickets: clients resume without a full handshake, and the broker stores nothing.
            config.ticketer =
                Ticketer::new().map_err(|error| failed(CERTIFICATE, &files.certificate, error.to_string()))?;
        }
        let own = periods(CERTIFICATE, &files.certificate, &chain);
        let theirs = files.client_ca.iter().flat_map(|path| periods(CLIENT_CA, path, &authorities));
        let periods: Arc<[_]> = own.chain(theirs).collect();
        if periods.first().is_none_or(|own| (own.setting, own.index) != (CERTIFICATE, 1)) {
            let why = "certificate 1 does not say when it is valid".to_owned();
            return Err(failed(CERTIFICATE, &files.certificate, why));
        }
        let (config, chain, authorities) = (Arc::new(config), chain.into(), authorities.into());
        Ok(Self { config, chain, authorities, client_verifier, periods })
    }
}

/// HTTP/2 in ALPN.
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let failed = |why| CertificateError { setting, path: path.to_owned(), why };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes(setting, path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(unreadable(&error, "no certificate")))?;
    if found.is_empty() { Err(failed("holds no certificate in PEM".to_owned())) } else { Ok(found) }
}

/// Skips certificates that can't be read: an authority's may lack these times.
fn periods(setting: &'static str, path: &Path, found: &[CertificateDer<'_>]) -> impl Iterator<Item = Period> {
    found.iter().zip(1..).filter_map(move |(certificate, index)| {
        Some(Period { setting, path: path.to_owned(), index, validity: Validity::of(certificate)? })
    })
}

fn bytes(setting: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let failed = |why| CertificateError { setting, path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let read = Input::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| failed(secrets::unreadable(error.kind())))?;
    if bytes.len() as u64 > LARGEST_FILE { Err(failed("is too large".to_owned())) } else { Ok(bytes) }
}

/// A fixed text: the library's own may repeat lines of the file.
fn unreadable(error: &pem::Error, nothing: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("holds {nothing} in PEM"),
        _ => "is not valid PEM".to_owned(),
    }
}
