//! What a body cannot do: find a peer that is gone and did not say so.
//!
//! A body is polled when there is room for more. A peer that vanished (a cable pulled, a laptop asleep) or froze (its
//! process is stopped, and its kernel acknowledges on) takes nothing any more. Then the body is not polled, no timer in it
//! fires, and its end does not get out. `RegistryConfig::stalled_client_timeout` counts such a client out, but its connection stays,
//! with the file descriptor, the memory and the permit. Only who has the socket can end that:
//!
//! ```text
//! let patience = Patience::default();
//! patience.set_on(&socket);                                            // each one that is accepted
//! patience.ping(&mut server);                                          // the auto::Builder that serves it
//!
//! let listener = listener.tap_io(move |socket| patience.set_on(socket));   // the first of them, with axum::serve
//! ```
//!
//! # What finds whom
//!
//! - `TCP_USER_TIMEOUT` (Linux, Android): a peer that is owed bytes and takes none of them. Either they are not acknowledged
//!   (it vanished), or they wait before a window that stays shut (it froze, over HTTP/1.1). It does not find a peer that is
//!   owed nothing.
//! - TCP keep-alive: a peer that vanished while it was owed nothing, as between two requests, or where a stream has no
//!   heartbeats. Nothing is probed while bytes are unacknowledged, so it cannot stand in for the first. And a kernel answers
//!   for its frozen process, so it finds none of those.
//! - HTTP/2 PING: a peer that vanished or froze, as its program answers, not its kernel. Without it nothing finds a frozen
//!   one whose flow-control window is full: its kernel acknowledged all that HTTP/2 let out. It ends the streams at once.
//!   The connection goes after a last frame is written; where that finds no room, `TCP_USER_TIMEOUT` ends it.
//!
//! # How long a peer stays that is gone
//!
//! | | until it is found | 1 s, heartbeat 0.1 s | 30 s, heartbeat 15 s |
//! |---|---|---|---|
//! | HTTP/1.1, froze, is owed bytes | patience | 1.2 to 1.5 s | 30.4 to 30.5 s |
//! | HTTP/1.1, vanished, with heartbeats | at most heartbeat interval + patience | 1.3 to 1.4 s | 39.2 to 42.5 s |
//! | HTTP/1.1, vanished, without heartbeats | patience, in whole seconds | 1.7 to 2.1 s | 30.2 to 30.6 s |
//! | HTTP/2, froze or vanished | patience since its last frame | 0.7 to 1.0 s | 29.7 to 30.0 s |
//!
//! The kernel may take half a second more. Measured on Linux 6.18 over loopback, and, for those that vanished, over a link
//! that was taken down too. With none of the options none was gone after 20 s. With pings alone, the connection of a frozen
//! HTTP/2 peer with large windows was not.
//!
//! # What it costs
//!
//! Who reads too slowly is gone too, and so is a download that somebody pauses for so long: a window that was shut opens
//! again only when a good part of the receive buffer is free. With a patience of 30 s, a reader that was owed more all the
//! while stayed for two minutes when it took 10 KB/s, and was cut off when it took 7 (loopback with an MTU of 1,500). So a
//! shorter patience asks for faster readers, and for networks with shorter outages. A client of a stream comes back and
//! resumes.
//!
//! # What it does not do
//!
//! - `axum::serve` offers no pings, so behind it a frozen HTTP/2 peer stays. Serve the `Router` with
//!   `examples/support/connections.rs` instead.
//! - A peer that is there and sends nothing, or half of a request, is not gone. `examples/support/connections.rs` finds it.
//! - A frozen HTTP/1.1 peer of a quiet stream is not found before heartbeats have filled its kernel's buffer.
//! - Behind a proxy, the proxy is the peer. It has to find those behind it.
//! - Elsewhere than on Linux and Android, bytes that are not taken wait for as long as that system sees fit.
#![allow(dead_code, reason = "axum::serve has no pings, and the dashboard asks no other server")]

use std::time::Duration;

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioTimer, server::conn::auto};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long a peer may leave unanswered what it is sent. Default: 30 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Duration);

impl Default for Patience {
    /// Twice the default interval of heartbeats, and half of what `RegistryConfig::stalled_client_timeout` is by default: the socket
    /// goes first, and then the client is `ClientDisconnected`, not `Stalled`.
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl Patience {
    /// How often a silent peer is probed before it counts as gone.
    const PROBES: u32 = 3;

    /// Between a second, which is what keep-alive counts in, and an hour.
    pub(crate) fn of(time: Duration) -> Self {
        Self(time.clamp(Duration::from_secs(1), Duration::from_secs(3600)))
    }

    pub(crate) fn time(self) -> Duration {
        self.0
    }

    /// For a connection that was accepted.
    ///
    /// What fails is left as it is. A peer that has left already is no news, and a system that lacks an option is no reason
    /// to turn clients away.
    pub(crate) fn set_on(self, socket: &TcpStream) {
        let socket = SockRef::from(socket);
        // Not about peers that are gone: events are small writes that somebody waits for.
        let _ = socket.set_tcp_nodelay(true);
        let keep_alive = TcpKeepalive::new().with_time(self.idle());
        #[cfg(not(any(target_os = "openbsd", target_os = "solaris")))]
        let keep_alive = keep_alive.with_interval(self.probe_interval()).with_retries(Self::PROBES);
        let _ = socket.set_tcp_keepalive(&keep_alive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket.set_tcp_user_timeout(Some(self.0));
    }

    /// For a server of accepted connections: HTTP/2 asks the peer itself.
    ///
    /// Its answer comes behind all that is under way to it, so it gets as much time as there was silence before.
    pub(crate) fn ping<E>(self, server: &mut auto::Builder<E>) {
        let half = self.0 / 2;
        server.http2().timer(TokioTimer::new()).keep_alive_interval(half).keep_alive_timeout(half);
    }

    /// For connections to an upstream: heartbeats would hide from a client for ever that it vanished.
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

    /// So that the silence and all probes make up the patience.
    fn probe_interval(self) -> Duration {
        (self.0 / 2 / Self::PROBES).max(Duration::from_secs(1))
    }
}
