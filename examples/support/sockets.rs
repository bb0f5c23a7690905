//! Socket options that detect a vanished or frozen peer. A body cannot do that.
//!
//! A body is polled when there is room for more bytes. A peer that vanished (a pulled cable, a sleeping laptop) or
//! froze (its process is stopped, and its kernel still acknowledges packets) accepts no more bytes. Then the body is
//! not polled, no timer in it fires, and its end is not sent. `RegistryConfig::stalled_client_timeout` drops such a
//! client from its topics, but its connection stays, with the file descriptor, the memory and the permit. Only the
//! owner of the socket can end the connection:
//!
//! ```text
//! let patience = Patience::default();
//! patience.set_on(&socket);                                            // each one that is accepted
//! patience.ping(&mut server);                                          // the auto::Builder that serves it
//!
//! let listener = listener.tap_io(move |socket| patience.set_on(socket));   // the first of them, with axum::serve
//! ```
//!
//! # Which option detects which peer
//!
//! - `TCP_USER_TIMEOUT` (Linux, Android): a peer that accepts none of the bytes that are pending for it. Either they
//!   are not acknowledged (the peer vanished), or they wait for a TCP window that stays closed (the peer froze, over
//!   HTTP/1.1). It does not detect a peer for which no bytes are pending.
//! - TCP keep-alive: a peer that vanished while no bytes were pending, as between two requests, or in a stream without
//!   heartbeats. It sends no probes while bytes are unacknowledged, so it cannot replace the first option. A kernel
//!   answers the probes of its frozen process, so keep-alive does not detect a frozen peer.
//! - HTTP/2 PING: a peer that vanished or froze, as its program answers and not its kernel. No other option detects a
//!   frozen peer whose flow-control window is full: its kernel acknowledged all bytes that HTTP/2 sent. The streams end
//!   at once. The connection ends after a last frame is written; if that finds no room, `TCP_USER_TIMEOUT` ends it.
//!
//! # How long it takes
//!
//! | | time until detection | 1 s, heartbeat 0.1 s | 30 s, heartbeat 15 s |
//! |---|---|---|---|
//! | HTTP/1.1, froze, bytes are pending | patience | 1.2 to 1.5 s | 30.4 to 30.5 s |
//! | HTTP/1.1, vanished, with heartbeats | at most heartbeat interval + patience | 1.3 to 1.4 s | 39.2 to 42.5 s |
//! | HTTP/1.1, vanished, without heartbeats | patience, in whole seconds | 1.7 to 2.1 s | 30.2 to 30.6 s |
//! | HTTP/2, froze or vanished | patience since its last frame | 0.7 to 1.0 s | 29.7 to 30.0 s |
//!
//! The kernel may take half a second more. Measured on Linux 6.18 over loopback, and for vanished peers also over a
//! link that was taken down. Without any of the options, no peer was detected after 20 s. With pings alone, the
//! connection of a frozen HTTP/2 peer with large windows was not closed.
//!
//! # What it costs
//!
//! A peer that reads too slowly is disconnected too, and so is a download that is paused for that long: a closed TCP
//! window opens again only when a good part of the receive buffer is free. With a patience of 30 s, a reader with bytes
//! pending all the time stayed for two minutes when it read 10 KB/s, and was cut off when it read 7 KB/s (loopback with
//! an MTU of 1,500). So a shorter patience needs faster readers, and networks with shorter outages. A client of a
//! stream reconnects and resumes.
//!
//! # What it does not do
//!
//! - `axum::serve` offers no pings, so behind it a frozen HTTP/2 peer stays. Serve the `Router` with
//!   `examples/support/connections.rs` instead.
//! - It does not disconnect a live peer that sends nothing, or half of a request. `examples/support/connections.rs`
//!   does.
//! - It does not detect a frozen HTTP/1.1 peer of a quiet stream before heartbeats have filled the peer's kernel
//!   buffer.
//! - Behind a proxy, the proxy is the peer. It has to detect the vanished clients behind it.
//! - On systems other than Linux and Android, pending bytes wait for as long as the system decides.
#![allow(dead_code, reason = "no example uses all of it")]

use std::time::Duration;

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioTimer, server::conn::auto};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long a peer may leave unanswered what it is sent. Default: 30 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Duration);

impl Default for Patience {
    /// Twice the default interval of heartbeats, and half of the default `RegistryConfig::stalled_client_timeout`. So
    /// the socket closes first, and the client is `ClientDisconnected`, not `Stalled`.
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl Patience {
    /// How often a silent peer is probed before it is disconnected.
    const PROBES: u32 = 3;

    /// The time is limited to between a second, the unit of keep-alive, and an hour.
    pub(crate) fn of(time: Duration) -> Self {
        Self(time.clamp(Duration::from_secs(1), Duration::from_secs(3600)))
    }

    pub(crate) fn time(self) -> Duration {
        self.0
    }

    /// Sets the options on an accepted connection.
    ///
    /// Errors are ignored. The peer may have left already, and a system that lacks an option should still serve
    /// clients.
    pub(crate) fn set_on(self, socket: &TcpStream) {
        let socket = SockRef::from(socket);
        // Not about vanished peers: events are small writes that clients wait for.
        let _ = socket.set_tcp_nodelay(true);
        let keep_alive = TcpKeepalive::new().with_time(self.idle());
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        let keep_alive = keep_alive.with_interval(self.probe_interval()).with_retries(Self::PROBES);
        let _ = socket.set_tcp_keepalive(&keep_alive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket.set_tcp_user_timeout(Some(self.0));
    }

    /// Makes an HTTP/2 server ping its peers.
    ///
    /// The answer comes after all bytes that are on their way to the peer. So it may take as long as the silence before
    /// the ping.
    pub(crate) fn ping<E>(self, server: &mut auto::Builder<E>) {
        let half = self.0 / 2;
        server.http2().timer(TokioTimer::new()).keep_alive_interval(half).keep_alive_timeout(half);
    }

    /// Sets the options for connections to an upstream. Otherwise heartbeats would hide from a client for ever that the
    /// upstream vanished.
    pub(crate) fn set_on_upstreams(self, connector: &mut HttpConnector) {
        connector.set_nodelay(true);
        connector.set_keepalive(Some(self.idle()));
        connector.set_keepalive_interval(Some(self.probe_interval()));
        connector.set_keepalive_retries(Some(Self::PROBES));
        #[cfg(any(target_os = "android", target_os = "linux"))]
        connector.set_tcp_user_timeout(Some(self.0));
    }

    /// How long a connection is silent before it is probed.
    fn idle(self) -> Duration {
        (self.0 / 2).max(Duration::from_secs(1))
    }

    /// The silence and all probes together take `patience`.
    fn probe_interval(self) -> Duration {
        (self.0 / 2 / Self::PROBES).max(Duration::from_secs(1))
    }
}
