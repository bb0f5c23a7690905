//! Tests the program as a process, over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs, io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

#[allow(dead_code, reason = "cargo has built this program already")]
#[path = "../../../tests/support/example.rs"]
mod example;
use example::Server;

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("the step takes too long")
}

/// The program, and the certificates that its clients trust.
struct TestServer {
    server: Server,
    trusted: CertificateDer<'static>,
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tls"));
    command.args(arguments).env("PORT", "0").env("TICK_MS", "20").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A file of this test, in a directory of cargo.
fn file(name: &str, content: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}-{name}", std::process::id()));
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

impl TestServer {
    /// Starts the program with a certificate for `localhost` from files. `name`: the name of the test.
    async fn open(name: &str) -> Self {
        Self::open_with(name, &[]).await
    }

    async fn open_with(name: &str, environment: &[(&str, &str)]) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files =
            [file(&format!("{name}-cert"), &cert.pem()), file(&format!("{name}-key"), &signing_key.serialize_pem())];
        let mut program = program(&["--cert", &files[0], "--key", &files[1]]);
        let server = within(Server::start(program.envs(environment.iter().copied()))).await;
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
        Self { server, trusted: cert.der().clone() }
    }

    fn address(&self) -> &str {
        self.server.url.strip_prefix("https://").expect("the program uses TLS")
    }

    async fn connect(&self, protocols: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let config = config().with_root_certificates(roots).with_no_client_auth();
        shake_hands(self.address(), config, protocols).await
    }

    async fn client(&self, version: Version) -> Client {
        let protocol: &[u8] = if version == Version::HTTP_2 { b"h2" } else { b"http/1.1" };
        let socket = self.connect(&[protocol]).await.unwrap();
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(protocol));
        Client::on(socket, version).await
    }
}

fn config() -> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier> {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}

async fn shake_hands(address: &str, mut config: ClientConfig, protocols: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, socket)).await
}

enum Client {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn on(socket: TlsStream<TcpStream>, version: Version) -> Self {
        let socket = TokioIo::new(socket);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn get(&mut self, path: &str, last_event_id: Option<&str>) -> Response<Incoming> {
        let mut request = Request::builder();
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        match self {
            Self::Http1(sender) => {
                let request = request.uri(path).header("host", "localhost").body(Empty::new()).unwrap();
                within(sender.send_request(request)).await.unwrap()
            }
            Self::Http2(sender) => {
                let request = request.uri(format!("https://localhost{path}")).body(Empty::new()).unwrap();
                within(sender.send_request(request)).await.unwrap()
            }
        }
    }
}

/// The next ticks with their ids, at least this many, without the position event. No tick is missing.
async fn ticks(stream: &mut Response<Incoming>, count: usize) -> Vec<(u64, String)> {
    let mut text = String::new();
    let begins = |text: &str| text.starts_with("event: position\n");
    while text.matches("\n\n").count() < count + usize::from(begins(&text)) || !text.ends_with("\n\n") {
        let frame = within(stream.frame()).await.unwrap_or_else(|| panic!("the stream ends after {text:?}")).unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    let block = |block: &str| {
        let (number, id) = block.strip_prefix("data: ")?.split_once("\nid: ")?;
        Some((number.parse().ok()?, id.to_owned()))
    };
    let blocks = text.trim_end().split("\n\n").filter(|block| !begins(block));
    let ticks: Vec<(u64, String)> = blocks.map(|text| block(text).unwrap_or_else(|| panic!("{text:?}"))).collect();
    assert!(ticks.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{ticks:?}");
    ticks
}

#[tokio::test]
async fn a_stream_has_its_events_and_the_headers_of_its_http_version() {
    let test_server = TestServer::open("events").await;
    for version in VERSIONS {
        let mut stream = test_server.client(version).await.get("/ticks", None).await;
        assert_eq!((stream.status(), stream.version()), (StatusCode::OK, version));
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["cache-control"], "no-cache, no-transform");
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        let connection = stream.headers().get("connection").map(|value| value.to_str().unwrap());
        assert_eq!(connection, (version == Version::HTTP_11).then_some("keep-alive"));
        let first = within(stream.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"event: position\ndata: \nid: "), "{first:?}");
        assert!(ticks(&mut stream, 10).await.len() >= 10);
    }
}

#[tokio::test]
async fn a_cut_stream_resumes_in_either_http_version() {
    let test_server = TestServer::open("resume").await;
    let mut id: Option<String> = None;
    let mut expected = None;
    for version in [VERSIONS, VERSIONS].concat() {
        let mut stream = test_server.client(version).await.get("/ticks", id.as_deref()).await;
        let ticks = ticks(&mut stream, 5).await;
        assert!(expected.is_none_or(|expected| expected == ticks[0].0), "{expected:?} {ticks:?}");
        let (number, last) = ticks.into_iter().next_back().unwrap();
        (expected, id) = (Some(number + 1), Some(last));
    }
}

#[tokio::test]
async fn many_streams_share_an_http_2_connection() {
    let test_server = TestServer::open("many").await;
    let mut client = test_server.client(Version::HTTP_2).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(client.get("/ticks", None).await);
    }
    for stream in &mut streams {
        ticks(stream, 3).await;
    }
    let page = client.get("/", None).await;
    assert_eq!(page.into_body().collect().await.unwrap().to_bytes(), "GET /ticks is an event stream.\n");
}

#[tokio::test]
async fn the_preferred_protocol_is_chosen_and_alpn_is_optional() {
    let test_server = TestServer::open("alpn").await;
    let both = test_server.connect(&[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let none = test_server.connect(&[]).await.unwrap();
    assert_eq!(none.get_ref().1.alpn_protocol(), None);
    ticks(&mut Client::on(none, Version::HTTP_11).await.get("/ticks", None).await, 1).await;
    assert!(test_server.connect(&[b"spdy/3"]).await.is_err());
}

#[tokio::test]
async fn peers_without_tls_and_silent_peers_delay_no_other_client() {
    let test_server = TestServer::open("others").await;
    let _silent = TcpStream::connect(test_server.address()).await.unwrap();
    let mut plain = TcpStream::connect(test_server.address()).await.unwrap();
    plain.write_all(b"GET /ticks HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The connection may be reset.
    let _ = within(plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    ticks(&mut test_server.client(Version::HTTP_2).await.get("/ticks", None).await, 1).await;
}

#[tokio::test]
async fn only_a_client_without_a_request_is_disconnected_after_the_handshake() {
    const HEAD: Duration = Duration::from_millis(500);
    let test_server = TestServer::open_with("heads", &[("HEAD_MS", "500")]).await;
    let mut streams = Vec::new();
    for version in VERSIONS {
        streams.push(test_server.client(version).await.get("/ticks", None).await);
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (protocol, opening) in [
        (&b"http/1.1"[..], &b""[..]),
        (b"http/1.1", b"G"),
        (b"http/1.1", b"GET /ticks HTTP/1.1\r\nhost: loc"),
        (b"h2", b""),
        (b"h2", &preface[..10]),
        (b"h2", preface),
        (b"h2", &[&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()),
    ] {
        let mut socket = test_server.connect(&[protocol]).await.unwrap();
        let begun = Instant::now();
        socket.write_all(opening).await.unwrap();
        // The server closes the connection without sending TLS.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
        let time = begun.elapsed();
        assert!((HEAD * 9 / 10..HEAD * 6).contains(&time), "{time:?} after {opening:?}");
    }
    for stream in &mut streams {
        // All ticks of that time, and further ticks.
        ticks(stream, 200).await;
    }
}

/// Trusts every certificate, and stores it.
#[derive(Debug)]
struct Credulous(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn without_files_it_makes_a_certificate_for_localhost() {
    let server = within(Server::start(&mut program(&[]))).await;
    let address = server.url.strip_prefix("https://").unwrap().to_owned();
    let credulous = Arc::new(Credulous(Mutex::new(None)));
    let config = config().dangerous().with_custom_certificate_verifier(credulous.clone()).with_no_client_auth();
    shake_hands(&address, config, &[]).await.unwrap();
    let trusted = credulous.0.lock().unwrap().take().unwrap();
    // A client that trusts only this certificate accepts it.
    let test_server = TestServer { server, trusted };
    ticks(&mut test_server.client(Version::HTTP_2).await.get("/ticks", None).await, 3).await;
    // A client that trusts another certificate refuses it.
    let other = TestServer::open("other").await;
    let stranger = TestServer { server: test_server.server, trusted: other.trusted };
    assert!(stranger.connect(&[]).await.is_err());
}

#[tokio::test]
async fn errors_name_the_wrong_file() {
    let nonsense = file("nonsense", "nonsense");
    for (arguments, said, code) in [
        (&["--cert", "/nowhere", "--key", "/nowhere"][..], "/nowhere", 1),
        (&["--cert", &nonsense, "--key", &nonsense], "nonsense", 1),
        (&["--cert", &nonsense], "usage: ", 2),
    ] {
        let output = within(program(arguments).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(code));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(said), "{stderr:?}");
    }
    fs::remove_file(nonsense).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_the_streams_cleanly() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        let mut test_server = TestServer::open(&format!("end-{signal}")).await;
        let mut streams = Vec::new();
        for version in VERSIONS {
            let mut stream = test_server.client(version).await.get("/ticks", None).await;
            ticks(&mut stream, 1).await;
            streams.push(stream);
        }
        example::signal(&test_server.server.process, signal);
        for stream in streams {
            let text = within(stream.into_body().collect()).await.expect("a clean end").to_bytes();
            let text = std::str::from_utf8(&text).unwrap();
            let (_, retry) = text.rsplit_once("retry: ").expect(text);
            retry.strip_suffix("\n\n").unwrap().parse::<u64>().unwrap();
        }
        assert_eq!(within(test_server.server.process.wait()).await.unwrap().code(), Some(0));
    }
}
