//! Connections to the master that has the stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, PushInfo, PushKind, RedisError,
    RedisResult, ServerErrorKind, TlsCertificates, Value, aio::MultiplexedConnection, cmd,
};
use tokio::time::timeout;

use super::failure::{Failure, Problem};

/// How long it may take until a connection is open and logged in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a Sentinel may take, so that the others are asked before the caller gives up.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a node of a cluster may name another node.
const MOST_HOPS: usize = 3;

/// The oldest version with `XADD .. MINID`.
const OLDEST: (u32, u32) = (6, 2);

/// Where the stream is, and how to reach it.
#[derive(Clone)]
pub(super) struct Target {
    /// With Sentinels, the host is the name of the master.
    pub(super) server: ConnectionInfo,
    pub(super) sentinels: Vec<ConnectionInfo>,
    pub(super) certificates: TlsCertificates,
    /// The key of the stream.
    pub(super) stream: String,
    /// How long an answer may take.
    pub(super) response_timeout: Duration,
}

/// A connection that is checked: the server is new enough, is a master, and serves the stream.
#[derive(Clone)]
pub(super) struct Connection {
    redis: MultiplexedConnection,
    pub(super) address: String,
    is_closed: Arc<AtomicBool>,
}

impl Connection {
    /// Whether the server or something on the way has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Sends a command. After [`Failure::Lost`] the connection must be dropped, because the answer may still come.
    pub(super) async fn ask(&mut self, command: &Cmd, within: Duration) -> Result<Value, Failure> {
        match timeout(within, command.query_async::<Value>(&mut self.redis)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::from_redis(&self.address, &error)),
            Err(_) => Err(self.is_late(within)),
        }
    }

    /// Sends two commands at once. The second is answered after the first, also if that waits.
    pub(super) async fn ask_both(
        &mut self,
        first: &Cmd,
        second: &Cmd,
        within: Duration,
    ) -> Result<(Value, Value), Failure> {
        let mut both = redis::pipe();
        both.add_command(first.clone()).add_command(second.clone()).ignore_errors();
        let failure = |error| Failure::from_redis(&self.address, &error);
        match timeout(within, both.query_async(&mut self.redis)).await {
            Ok(Ok((first, second))) => {
                let value = |answer: RedisResult<Value>| answer.map_err(failure);
                Ok((value(first)?, value(second)?))
            }
            Ok(Err(error)) => Err(failure(error)),
            Err(_) => Err(self.is_late(within)),
        }
    }

    fn is_late(&self, within: Duration) -> Failure {
        Failure::Lost(Problem::new(&self.address, format!("no answer within {within:?}")))
    }

    /// Checks that the server is a master. One that was demoted still answers, and gets nothing new if its master is away.
    pub(super) async fn check_role(&mut self, within: Duration) -> Result<(), Failure> {
        let server = Server::read(&self.ask(&hello(), within).await?);
        self.check_is_master(&server)
    }

    fn check_is_master(&self, server: &Server) -> Result<(), Failure> {
        match server.role.as_deref() {
            None | Some("master") => Ok(()),
            Some(role) => {
                Err(Failure::Away(Problem::new(&self.address, format!("the server is a {role}, not a master"))))
            }
        }
    }

    fn check_version(&self, server: &Server) -> Result<(), Failure> {
        let Some(version) = &server.version else { return Ok(()) };
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(Failure::Refused(Problem::new(
                &self.address,
                format!("the server has version {version}, and {}.{} or newer is needed", OLDEST.0, OLDEST.1),
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the most bytes of one argument that the server takes. `None`: it does not tell.
    pub(super) async fn largest_argument(&mut self, within: Duration) -> Result<Option<usize>, Failure> {
        let answer = self.ask(cmd("CONFIG").arg("GET").arg("proto-max-bulk-len"), within).await;
        let pairs = match &answer {
            Ok(pairs) => pairs,
            Err(Failure::Lost(_)) => return answer.map(|_| None),
            Err(_) => return Ok(None),
        };
        Ok(pairs.as_map_iter().into_iter().flatten().find_map(|(_, limit)| text(limit)?.parse().ok()))
    }

    /// Checks that the server does not evict the stream when its memory is full. A server that does not tell is trusted.
    async fn check_eviction(&mut self, within: Duration) -> Result<(), Failure> {
        let info = match self.ask(cmd("INFO").arg("memory"), within).await {
            Ok(info) => text(&info).unwrap_or_default(),
            Err(Failure::Refused(_)) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        match info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")) {
            Some(policy) if policy.starts_with("allkeys-") => Err(Failure::Refused(Problem::new(
                &self.address,
                format!(
                    "maxmemory-policy is {policy}, which evicts the whole stream when the memory is full; set noeviction, or a volatile policy"
                ),
            ))),
            _ => Ok(()),
        }
    }
}

/// Opens a connection to the master that has the stream. Names are resolved anew.
pub(super) async fn connect(target: &Target) -> Result<Connection, Failure> {
    let within = target.response_timeout;
    let mut server = match target.sentinels.is_empty() {
        true => target.server.clone(),
        false => ask_sentinels(target).await?,
    };
    for _ in 0..=MOST_HOPS {
        let mut connection = open(&server, &target.certificates).await?;
        let greeting = Server::read(&connection.ask(&hello(), within).await?);
        connection.check_version(&greeting)?;
        // A replica in a cluster names its master here.
        if let Some(address) = connection.moved(&target.stream, within).await? {
            server = with_address(&server, &address, &connection)?;
            continue;
        }
        connection.check_is_master(&greeting)?;
        connection.check_eviction(within).await?;
        return Ok(connection);
    }
    Err(Failure::Away(Problem::new(
        &server.addr().to_string(),
        "the nodes of the cluster do not agree on who has the stream",
    )))
}

impl Connection {
    /// Asks for the stream's length, to see whether the stream can be read here. Returns the address of the node of a cluster that has it.
    async fn moved(&mut self, stream: &str, within: Duration) -> Result<Option<String>, Failure> {
        let command = cmd("XLEN").arg(stream).to_owned();
        let answer = timeout(within, command.query_async::<Value>(&mut self.redis)).await;
        match answer {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) => match moved_to(&error) {
                Some(address) => Ok(Some(address)),
                None => Err(Failure::from_redis(&self.address, &error)),
            },
            Err(_) => Err(Failure::Lost(Problem::new(&self.address, format!("no answer within {within:?}")))),
        }
    }
}

fn moved_to(error: &RedisError) -> Option<String> {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => Some(error.redirect_node()?.0.to_owned()),
        _ => None,
    }
}

/// The same login at another address. An address without a host means the host that was asked.
fn with_address(server: &ConnectionInfo, address: &str, asked: &Connection) -> Result<ConnectionInfo, Failure> {
    let invalid = || Failure::Away(Problem::new(&asked.address, format!("the server named {address:?} as an address")));
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let host = match (host, server.addr()) {
        ("" | "?", ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host,
        _ => host.trim_matches(['[', ']']),
    };
    Ok(at(server, host, port))
}

fn at(server: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match server.addr().clone() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure, tls_params }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    server.clone().set_addr(address)
}

/// Asks one Sentinel after the other where the master is.
async fn ask_sentinels(target: &Target) -> Result<ConnectionInfo, Failure> {
    let name = match target.server.addr() {
        ConnectionAddr::Tcp(name, _) | ConnectionAddr::TcpTls { host: name, .. } => name.as_str(),
        _ => "",
    };
    let mut command = cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let mut last = None;
    for sentinel in &target.sentinels {
        let answer = async {
            let mut connection = open(sentinel, &target.certificates).await?;
            let answer = connection.ask(&command, target.response_timeout).await?;
            match &answer {
                Value::Array(parts) => match (parts.first().and_then(text), parts.get(1).and_then(text)) {
                    (Some(host), Some(port)) => with_address(&target.server, &format!("{host}:{port}"), &connection),
                    _ => Err(Failure::Away(Problem::new(&connection.address, "the Sentinel's answer is no address"))),
                },
                _ => Err(Failure::Refused(Problem::new(
                    &connection.address,
                    format!("the Sentinel does not know a master of the name {name:?}"),
                ))),
            }
        };
        let late = || {
            Problem::new(
                &sentinel.addr().to_string(),
                format!("the Sentinel did not answer within {SENTINEL_TIMEOUT:?}"),
            )
        };
        match timeout(SENTINEL_TIMEOUT, answer).await {
            Ok(Ok(master)) => return Ok(master),
            Ok(Err(failure)) => last = Some(failure),
            Err(_) => last = Some(Failure::Away(late())),
        }
    }
    // The list is not empty.
    Err(last.unwrap_or_else(|| Failure::Refused(Problem::new(name, "there is no Sentinel"))))
}

/// Opens a connection and logs in.
async fn open(server: &ConnectionInfo, certificates: &TlsCertificates) -> Result<Connection, Failure> {
    let address = server.addr().to_string();
    let failure = |error: RedisError| Failure::from_redis(&address, &error);
    let client = match server.addr() {
        ConnectionAddr::TcpTls { .. } => {
            install_crypto_provider();
            match certificates.root_cert.is_some() || certificates.client_tls.is_some() {
                true => Client::build_with_tls(server.clone(), certificates.clone()),
                false => Client::open(server.clone()),
            }
        }
        _ => Client::open(server.clone()),
    }
    .map_err(failure)?;
    let is_closed = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&is_closed);
    let on_push = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            closed.store(true, Ordering::Release);
        }
        Ok::<_, redis::aio::SendError>(())
    };
    // The response timeout would end a blocked XREAD: each command has its own.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(None)
        .set_push_sender(on_push);
    let redis = client.get_multiplexed_async_connection_with_config(&config).await.map_err(failure)?;
    Ok(Connection { redis, address, is_closed })
}

/// `redis` asks rustls for the process's provider, and rustls panics if there is none and the program has been built with several.
fn install_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // If it fails, another thread has just installed one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn hello() -> Cmd {
    let mut command = cmd("HELLO");
    command.arg(3);
    command
}

/// What a server says about itself.
#[derive(Debug, Default)]
struct Server {
    version: Option<String>,
    role: Option<String>,
}

impl Server {
    fn read(hello: &Value) -> Self {
        let mut server = Self::default();
        for (key, value) in hello.as_map_iter().into_iter().flatten() {
            match text(key).as_deref() {
                Some("version") => server.version = text(value),
                Some("role") => server.role = text(value),
                _ => {}
            }
        }
        server
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}
