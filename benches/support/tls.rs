//! TLS with the certificates of a folder, at both ends.

use std::path::Path;
use std::sync::Arc;

use courier_token_broker::config::RawTls;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The settings of a broker with the certificate of this folder.
pub fn server(folder: &Path) -> RawTls {
    let [certificate_file, private_key_file] = ["tls.crt", "tls.key"].map(|name| Some(folder.join(name)));
    RawTls { certificate_file, private_key_file, client_ca_file: None }
}

/// A client that trusts the authority of this folder and speaks this protocol.
pub fn client(folder: &Path, protocol: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt")).expect("PEM")).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    Arc::new(config)
}
