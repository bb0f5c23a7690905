//! A graceful shutdown: ends all streams of a registry within a time window.

use std::{
    borrow::Borrow,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::handle::Registry;
use crate::{
    client::{Client, DrainFarewell, Shared},
    event::Event,
    stream::CloseReason,
};

/// How [`Registry::drain`] ends the streams of a registry.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{Drain, Event};
///
/// let drain = Drain::within(Duration::from_secs(10))
///     .finish_within(Duration::from_secs(25)) // for answers that are being given
///     .farewell(Event::data("We are back in a minute.").event("restart"))
///     .reconnect_delay(Duration::from_secs(5));
/// # let _ = drain;
/// ```
#[derive(Debug, Clone)]
#[must_use = "it has to be given to `Registry::drain`"]
pub struct Drain {
    window: Duration,
    finish_within: Duration,
    last_words: DrainFarewell,
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

impl Drain {
    /// Ends all streams within this time, at most one day.
    ///
    /// The streams end spread over the first three quarters of the window, so that the clients do not all reconnect at
    /// once. The window begins when the drain is first polled.
    pub fn within(window: Duration) -> Self {
        let window = window.min(A_DAY);
        Self { window, finish_within: window, last_words: DrainFarewell::default() }
    }

    /// Sets how long streams that [may finish](crate::ClientHandle::finish_on_drain) stay open.
    ///
    /// Default: the window. At least the window, at most one day.
    ///
    /// The streams that have not finished by then end together, a quarter of a window before this time is over.
    pub fn finish_within(self, time: Duration) -> Self {
        Self { finish_within: time.clamp(self.window, A_DAY), ..self }
    }

    /// Sends this event at the end of each stream. Default: no event.
    ///
    /// An id of the event is not sent, because a client could not resume from it. A layer's own
    /// [farewell](crate::SseLayer::farewell) is sent first.
    pub fn farewell(mut self, event: impl Borrow<Event>) -> Self {
        self.last_words.farewell = Arc::new(event.borrow().clone());
        self
    }

    /// Sends a `retry:` field at the end of each stream.
    ///
    /// It is the average time that a client waits before it reconnects.
    ///
    /// Default: no field, so each client uses its own delay; browsers wait three to five seconds. Each stream gets a
    /// random value between half of the delay and one and a half times the delay, so that the clients do not all
    /// reconnect at once. The field is part of the [farewell](Self::farewell) event, because some client libraries
    /// ignore a `retry:` without data.
    pub fn reconnect_delay(mut self, delay: Duration) -> Self {
        self.last_words.reconnect_delay = Some(delay);
        self
    }
}

/// The result of a [drain](Registry::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// The streams that have ended since the drain began.
    ///
    /// They ended cleanly, or their clients disconnected.
    ///
    /// A stream counts as ended when the server has taken its last bytes. Those bytes may still wait in the server's
    /// buffers for a peer that reads nothing.
    pub ended: u64,
    /// The streams that could not be ended, because their peers read nothing.
    ///
    /// They include streams whose clients [stalled](crate::RegistryConfig::stalled_client_timeout) before. Such a
    /// stream ends only with its connection.
    pub still_open: u64,
}

impl Registry {
    /// Ends all streams within a time window, and refuses new ones.
    ///
    /// New requests for streams are [refused](crate::RefusedReason::Draining) as soon as this is called. Await the
    /// future to end the open streams; it returns how many have ended and how many are still open. Each stream ends at
    /// a boundary between two events, after all events that were published until then. Events that are published later
    /// still reach the streams that are open.
    ///
    /// The future takes at most as long as the window, or as [`Drain::finish_within`] if some streams may finish. It
    /// completes as soon as all streams have ended. When seven eighths of the window are over, the streams that have
    /// not reached their end are cut off: a stream that has stalled in the middle of an event, or one whose client is
    /// slow to read. A stream that is cut off at a boundary still gets its farewell. Clients discard an event that is
    /// cut off in the middle.
    ///
    /// A request whose handler is still running is refused when its handler returns. If you drop the future early, the
    /// remaining streams stay open and new ones are still refused; you can call `drain` again. If streams run in
    /// several tokio runtimes, await the future in a runtime that keeps running. The streams of a blocked runtime stay
    /// open, and do not delay the others.
    ///
    /// Use it together with the server's own graceful shutdown, which waits for open streams and does not end them:
    ///
    /// ```
    /// use std::{net::SocketAddr, time::Duration};
    /// use axum::Router;
    /// use tokio::net::TcpListener;
    /// use tower_sse::{Drain, Registry};
    ///
    /// async fn serve(listener: TcpListener, app: Router, registry: Registry, interrupted: impl Future) {
    ///     let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    ///     let app = app.into_make_service_with_connect_info::<SocketAddr>(); // for limits by address
    ///     let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    ///     let server = tokio::spawn(server.into_future());
    ///
    ///     interrupted.await;
    ///     let _ = stop.send(()); // no new connections
    ///     registry.drain(Drain::within(Duration::from_secs(10))).await;
    ///     // A server waits for ever for a connection whose peer reads nothing, or sends half a request.
    ///     let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    /// }
    /// ```
    pub fn drain(&self, drain: Drain) -> impl Future<Output = Drained> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        let ended_before = shared.draining.ended();
        shared.begin_drain(&drain.last_words);
        async move {
            shared.end_all(&drain, Instant::now()).await;
            Drained { ended: shared.draining.ended() - ended_before, still_open: shared.draining.streams() }
        }
    }

    /// Whether the registry is being [drained](Self::drain) and refuses new streams.
    ///
    /// Use it in a readiness probe.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.has_begun()
    }
}

impl Shared {
    async fn end_all(&self, drain: &Drain, begun: Instant) {
        let open = self.known_clients().into_iter().filter(|client| client.is_open());
        let (mut finishing, others): (Vec<_>, Vec<_>) = open.partition(|client| client.style().finish_on_drain);
        let window = drain.window;
        let number = others.len() as f64;
        let mut ending = Vec::with_capacity(others.len());
        for (nth, client) in others.into_iter().enumerate() {
            let due = begun + (window * 3 / 4).mul_f64(nth as f64 / number);
            if due > Instant::now() {
                sleep_until(due).await;
            }
            match client.style().finish_on_drain {
                // The handler has allowed it meanwhile.
                true => finishing.push(client),
                false => {
                    client.close(CloseReason::Drained);
                    ending.push(client);
                }
            }
        }
        let deadline = begun + drain.finish_within;
        let finish = async {
            if timeout_at(deadline - window / 4, all_ended(&finishing)).await.is_err() {
                finishing.iter().for_each(|client| client.close(CloseReason::Drained));
                cut_at(deadline - window / 8, deadline, &finishing).await;
            }
        };
        both(cut_at(begun + window * 7 / 8, begun + window, &ending), finish).await;
        let _ = timeout_at(Instant::now().max(begun + window), self.draining.all_ended()).await;
    }
}

/// Waits until all clients' streams have ended. Cuts off at `time` those that have not.
async fn cut_at(time: Instant, deadline: Instant, clients: &[Arc<Client>]) {
    if timeout_at(time, all_ended(clients)).await.is_err() {
        clients.iter().for_each(|client| client.cut(CloseReason::Drained));
        let _ = timeout_at(deadline, all_ended(clients)).await;
    }
}

async fn all_ended(clients: &[Arc<Client>]) {
    for client in clients {
        client.reader_ended().await;
    }
}

/// Waits for two futures at the same time.
async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut one_is_done, mut other_is_done) = (false, false);
    poll_fn(|cx| {
        one_is_done = one_is_done || one.as_mut().poll(cx).is_ready();
        other_is_done = other_is_done || other.as_mut().poll(cx).is_ready();
        if one_is_done && other_is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
