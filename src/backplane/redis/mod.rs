//! A stream of Redis or Valkey.

mod address;
mod config_error;
mod connect;
mod entry;
mod failure;
mod tail;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Client, ClientTlsConfig, TlsCertificates};

pub use self::config_error::RedisConfigError;
use self::{connect::Target, writer::Writer};
use super::{AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Place};

/// A stream in Redis, from version 6.2, or in Valkey.
///
/// All nodes that have the same stream of the same server share a log. A node uses two connections: one appends, and one waits for entries.
/// It connects when it is first used, and again when a connection was lost. Host names are resolved each time.
///
/// ```
/// use tower_sse::backplane::Redis;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Redis::at("redis://cache:6379")?.stream("shop/events");
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
///
/// # The server
///
/// - **Eviction.** A server with an `allkeys` policy of `maxmemory-policy` is refused, because it evicts the whole stream when its memory is
///   full. With `noeviction` or a `volatile` policy, appending fails with [`AppendError::Full`] until there is room.
/// - **Durability.** Redis acknowledges a block before it is on the disk, and before replicas have it. With `appendonly yes`, a killed server
///   loses nothing, unless its disk was so slow that writes were put off (for up to two seconds, with the default `appendfsync everysec`), and a
///   crash of the machine loses up to about two seconds. `appendfsync always` narrows both, and `min-replicas-to-write` narrows what a failover
///   loses. Lost blocks are found, and clients are told of a gap.
/// - **Permissions.** A user needs the commands `xadd`, `xread`, `xrange`, `xlen` and `xtrim` on the key of the stream. With `info`, the
///   eviction policy is checked, with `config|get` how large a block may be, and with `xinfo|stream` whether another program has trimmed blocks
///   that were not read (from Redis 7 on). For example:
///   `ACL SETUSER shop on >password ~shop/events +xadd +xread +xrange +xlen +xtrim +info +config|get +xinfo|stream`.
/// - **Sentinel.** See [`sentinels`](Self::sentinels).
/// - **Cluster.** Give the address of any node. If another node has the stream, the connection goes there. A stream is in one slot, so it
///   needs the room of one master.
/// - **Proxies.** A proxy on the way must pass `HELLO 3` and blocking commands. Not all proxies for Redis do.
///
/// # Entries
///
/// An entry is a block, in the field `block`, as [`Block::encode`] gives it. Redis gives it its id, and the [`Place`] is that id. The clock of
/// the server may step: an id is always greater than the one before.
///
/// An entry with the fields `topic` and `data`, and optionally `event`, all of them UTF-8, is an event of a publisher in another language:
///
/// ```text
/// XADD shop/events * topic orders/17 event paid data '{"by":"card"}'
/// ```
///
/// An event with an invalid topic or event type reaches nobody. All other entries are skipped and [counted](Self::skipped). Two kinds of
/// entries stop a node with [`FollowError::Refused`], because all that follows them could be lost otherwise: a block of a newer version of this
/// crate, and an id from 2^48 milliseconds on.
///
/// # Limits and cost
///
/// A block may have 64 MiB: see [`largest_block`](Self::largest_block). Redis itself takes 512 MiB (`proto-max-bulk-len`), and holds each block several
/// times while it is sent to nodes and replicas. Each block wakes each node: the server's work grows with blocks times nodes.
///
/// A node reads about 1 MiB at a time, but at least one block, and waits for a second. A connection counts as lost when an answer is late by
/// two seconds, or by the [response timeout](Self::response_timeout).
///
/// # TLS
///
/// With `rediss://`, the certificate of the server is checked against the system's certificates, or against
/// [a certificate of your own](Self::root_certificate). The first connection installs ring as the process's default
/// [`CryptoProvider`](https://docs.rs/rustls/latest/rustls/crypto/struct.CryptoProvider.html) of rustls, unless the program has installed one.
#[must_use = "an engine does nothing until a registry has it"]
pub struct Redis {
    target: Arc<Target>,
    writer: Writer,
    skipped: Arc<AtomicU64>,
    largest_block: usize,
}

impl Redis {
    const DEFAULT_STREAM: &str = "tower-sse";
    const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Names the server. It does not connect yet.
    ///
    /// The URL is `redis://user:password@host:port/database`, or `rediss://` for TLS. User, password, port and database can be left out: the
    /// default port is 6379, and the default database is 0. Percent-encode special characters of a password. `valkey://`, `valkeys://` and
    /// `unix:///path?user=user&pass=password&db=0` are accepted, too.
    ///
    /// # Errors
    ///
    /// [`RedisConfigError::Url`] if the URL is invalid. Its text has no password.
    pub fn at(url: &str) -> Result<Self, RedisConfigError> {
        let target = Target {
            server: address::parse(url)?,
            sentinels: Vec::new(),
            certificates: TlsCertificates { client_tls: None, root_cert: None },
            stream: Self::DEFAULT_STREAM.to_owned(),
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
        };
        Ok(Self {
            target: Arc::new(target),
            writer: Writer::default(),
            skipped: Arc::default(),
            largest_block: 64 << 20,
        })
    }

    /// Sets the key of the stream. Default: `tower-sse`.
    ///
    /// Registries with different events need different streams.
    pub fn stream(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.with(|target| target.stream = name)
    }

    /// Finds the master through Sentinels. Default: the server of [`at`](Self::at).
    ///
    /// Put the name of the master in place of the host of the URL in [`at`](Self::at), whose user, password, database and TLS are those of the
    /// master. The URLs of the Sentinels have their own, and the default port 6379: Sentinels usually have 26379. The Sentinels are asked in
    /// this order, each for two seconds at most, until one knows the master.
    ///
    /// ```
    /// use tower_sse::backplane::Redis;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Redis::at("redis://:password@shop-master")?
    ///     .sentinels(["redis://sentinel-1:26379", "redis://sentinel-2:26379", "redis://sentinel-3:26379"])?;
    /// # let _ = engine;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RedisConfigError`] if a URL is invalid, or if there is none.
    pub fn sentinels<U: AsRef<str>>(self, urls: impl IntoIterator<Item = U>) -> Result<Self, RedisConfigError> {
        let sentinels = urls.into_iter().map(|url| address::parse(url.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if sentinels.is_empty() {
            return Err(RedisConfigError::NoSentinel);
        }
        Ok(self.with(|target| target.sentinels = sentinels))
    }

    /// Sets the certificates that may sign those of the servers, in PEM. Default: the system's certificates.
    ///
    /// It is used for URLs with `rediss://` or `valkeys://`.
    ///
    /// # Errors
    ///
    /// [`RedisConfigError::Certificate`] if the text has no certificate, or one that cannot be read.
    pub fn root_certificate(self, pem: impl Into<Vec<u8>>) -> Result<Self, RedisConfigError> {
        let pem = pem.into();
        let certificates = TlsCertificates { root_cert: Some(pem), ..self.target.certificates.clone() };
        self.with_certificates(certificates)
    }

    /// Sets the certificate chain and the key that this program shows to the servers, in PEM. Default: none.
    ///
    /// # Errors
    ///
    /// [`RedisConfigError::Certificate`] if one of them cannot be read.
    pub fn client_certificate(
        self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Result<Self, RedisConfigError> {
        let client_tls = Some(ClientTlsConfig { client_cert: chain.into(), client_key: key.into() });
        let certificates = TlsCertificates { client_tls, ..self.target.certificates.clone() };
        self.with_certificates(certificates)
    }

    /// Sets how long an answer of the server may take. Default: 5 seconds.
    ///
    /// A longer time suits large blocks and slow networks. A shorter time finds a server sooner that does not answer. A read that waits for a
    /// block is answered after a second, and fails after three, whatever this is; the node then connects again, and reads with this time.
    pub fn response_timeout(self, timeout: Duration) -> Self {
        self.with(|target| target.response_timeout = timeout)
    }

    /// Sets the largest block, in bytes. Default: 64 MiB.
    ///
    /// A larger event is refused with [`PublishError::TooLarge`](crate::PublishError::TooLarge) when it is published. If the server takes less,
    /// the receipt says so, and what is behind the event goes on. A server tells that only to a user who may use `config|get`. Without that
    /// permission, and with a provider or a proxy that takes less than the server says, set this below what they take: otherwise the node
    /// would append a larger event again and again, and everything behind it would wait. Small events share blocks of up to 256 KiB,
    /// or of this size if it is less.
    pub fn largest_block(self, bytes: usize) -> Self {
        Self { largest_block: bytes, ..self }
    }

    /// Returns how many entries this node has skipped, because they are neither blocks nor events.
    ///
    /// To ask it later, give the registry a clone of an `Arc` of the engine.
    ///
    /// An entry that is read twice counts twice.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    fn with_certificates(self, certificates: TlsCertificates) -> Result<Self, RedisConfigError> {
        let invalid = |reason: String| RedisConfigError::Certificate { reason };
        let pems = [certificates.root_cert.as_ref(), certificates.client_tls.as_ref().map(|tls| &tls.client_cert)];
        if pems.into_iter().flatten().any(|pem| !pem.windows(10).any(|window| window == b"-----BEGIN")) {
            return Err(invalid("there is no certificate in PEM".to_owned()));
        }
        // It parses, and does not connect.
        Client::build_with_tls("rediss://localhost", certificates.clone())
            .map_err(|error| invalid(error.to_string()))?;
        Ok(self.with(|target| target.certificates = certificates))
    }

    fn with(mut self, change: impl FnOnce(&mut Target)) -> Self {
        change(Arc::make_mut(&mut self.target));
        self
    }
}

impl Backplane for Redis {
    /// Returns the largest block, or what the server takes if that is less and known.
    fn max_block(&self) -> usize {
        self.largest_block.min(self.writer.limit())
    }

    /// Returns 10 seconds for a connection, and twice the response timeout.
    fn longest_call(&self) -> Duration {
        Duration::from_secs(10) + self.target.response_timeout * 2
    }

    /// Appends the block with `XADD`.
    ///
    /// `READONLY`, `LOADING` and the like are [`AppendError::Away`]. `OOM` is [`AppendError::Full`], and so is `MISCONF`: Redis takes no writes
    /// after it could not write a snapshot, for which the usual reason is a full disk.
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(self.writer.append(&self.target, block))
    }

    /// Reads the stream with `XREAD`, on a connection of its own.
    ///
    /// The next [`append`](Self::append) connects anew, too: whoever calls this may have found that the server is no longer the right one.
    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        self.writer.reconnect();
        Box::pin(tail::follow(Arc::clone(&self.target), after.copied(), Arc::clone(&self.skipped)))
    }

    /// Appends the block with the id after `place`, or with one of the server if the stream is above `place` already.
    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(self.writer.append_above(&self.target, place, block))
    }

    /// Lets the next appends remove the blocks before this place, with `MINID ~`. The server removes only whole nodes of a stream, which are
    /// up to 4 KiB or 100 entries, so that a few more stay.
    fn trim(&self, before: Place) {
        self.writer.trim(before);
    }
}

impl fmt::Debug for Redis {
    /// Without passwords and certificates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinels = self.target.sentinels.iter().map(|sentinel| sentinel.addr().to_string());
        f.debug_struct("Redis")
            .field("server", &self.target.server.addr().to_string())
            .field("sentinels", &sentinels.collect::<Vec<_>>())
            .field("stream", &self.target.stream)
            .field("response_timeout", &self.target.response_timeout)
            .field("skipped", &self.skipped())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_errors_show_no_secret() {
        let engine = Redis::at("rediss://user:secret@cache")
            .unwrap()
            .sentinels(["redis://:secret@one", "redis://two:26379"])
            .unwrap();
        let debug = format!("{engine:?}");
        assert!(debug.contains("cache:6379") && debug.contains("two:26379") && debug.contains("tower-sse"), "{debug}");
        assert!(!debug.contains("secret"), "{debug}");

        let error = Redis::at("redis://user:secret@cache:port").unwrap_err();
        assert!(error.to_string().contains("redis://user:..@cache:port"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        let error = Redis::at("redis://cache").unwrap().client_certificate("-----BEGIN", "secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn settings_that_cannot_work_are_errors() {
        let engine = || Redis::at("rediss://cache").unwrap();
        assert_eq!(engine().sentinels(Vec::<String>::new()).unwrap_err(), RedisConfigError::NoSentinel);
        assert!(matches!(engine().sentinels(["one:26379"]), Err(RedisConfigError::Url { .. })));
        assert!(matches!(engine().root_certificate("no certificate"), Err(RedisConfigError::Certificate { .. })));
        assert!(matches!(engine().client_certificate("", ""), Err(RedisConfigError::Certificate { .. })));
    }
}
