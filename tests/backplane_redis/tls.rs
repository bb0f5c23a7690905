//! TLS, with certificates of an authority of its own.

use std::{fs, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair};
use tower_sse::backplane::{AppendError, Backplane, FollowError, Redis};

use crate::{
    reader::{Reader, block},
    server::{Server, new_folder},
};

#[tokio::test]
async fn with_tls_only_the_authority_that_was_given_is_trusted() {
    let authority = authority();
    let folder = new_folder();
    let write = |name: &str, pem: &str| {
        let path = folder.join(name);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = signed(&authority);
    let files = (write("certificate", &certificate), write("key", &key), write("authority", &authority.pem()));
    let port = Server::free_port().to_string();
    let server = Server::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &files.0,
        "--tls-key-file",
        &files.1,
        "--tls-ca-cert-file",
        &files.2,
        "--tls-auth-clients",
        "yes",
    ]);

    let engine = || Redis::at(&format!("rediss://localhost:{port}")).unwrap().response_timeout(Duration::from_secs(1));
    let (certificate, key) = signed(&authority);
    let trusted = engine().root_certificate(authority.pem()).unwrap();
    let with_both = trusted.client_certificate(certificate, key).unwrap();
    with_both.append(&block(1)).await.unwrap();
    let mut reader = Reader::follow(&with_both, None).await;
    assert_eq!(reader.numbers(1).await, [1]);

    let other = engine().root_certificate(self::authority().pem()).unwrap();
    for untrusting in [engine(), other] {
        let error = untrusting.append(&block(2)).await.unwrap_err();
        assert!(matches!(error, AppendError::Refused(_)), "{error:?}");
        let error = untrusting.follow(None).await.unwrap_err();
        assert!(matches!(error, FollowError::Refused(_)), "{error:?}");
    }
    // The server closes connections without a certificate.
    let without = engine().root_certificate(authority.pem()).unwrap();
    let error = without.append(&block(2)).await.unwrap_err();
    assert!(matches!(error, AppendError::Away(_) | AppendError::Refused(_)), "{error:?}");
    drop(server);
    fs::remove_dir_all(folder).unwrap();
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for localhost, and its key.
fn signed(authority: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}
