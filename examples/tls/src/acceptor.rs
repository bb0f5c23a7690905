//! The TLS acceptor, which does the handshakes.

use std::{error::Error, path::Path, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    },
};

/// Makes an acceptor from PEM files: a certificate chain and its key.
pub(crate) fn from_files(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<TlsAcceptor, Box<dyn Error>> {
    let (cert, key) = (cert.as_ref(), key.as_ref());
    let certs = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let certs: Vec<_> = certs.map_err(|error| format!("{}: {error}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    acceptor(certs, key)
}

/// Makes an acceptor with a new self-signed certificate, to try the example.
pub(crate) fn self_signed() -> Result<TlsAcceptor, Box<dyn Error>> {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
    acceptor(vec![cert.der().clone()], PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into())
}

fn acceptor(certs: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<TlsAcceptor, Box<dyn Error>> {
    // The provider is named here, because a program that depends on two providers has no default.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, key)?;
    // The preferred protocol first. A client that offers neither protocol is served too, in the version that it uses.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
