//! A graceful end.

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
    client::{Client, LastWords, Shared},
    event::Event,
    stream::CloseReason,
};

/// How a registry ends its streams: see [`Registry::drain`].
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
    last_words: LastWords,
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

impl Drain {
    /// Ends all streams within this time (at most a day), spread over the first three quarters of it so that not all clients come back at once.
    /// It begins when the drain is first polled.
    pub fn within(window: Duration) -> Self {
        let window = window.min(A_DAY);
        Self { window, finish_within: window, last_words: LastWords::default() }
    }

    /// Lets streams that [may finish](crate::ClientHandle::finish_on_drain) go on for so long (at most a day). Default: the window.
    /// Those that have not by then end together, in the last quarter of a window.
    pub fn finish_within(self, time: Duration) -> Self {
        Self { finish_within: time.clamp(self.window, A_DAY), ..self }
    }

    /// Ends each stream with this event, without an id if it has one: who comes back could not resume from it. Default: none. A layer's own [farewell](crate::SseLayer::farewell) goes before it.
    pub fn farewell(mut self, event: impl Borrow<Event>) -> Self {
        self.last_words.farewell = Arc::new(event.borrow().clone());
        self
    }

    /// Ends each stream with a `retry:` field: how long its client waits before it reconnects, on average. Each gets between half of that and one and a
    /// half, so that not all come back at once. It is part of the [farewell](Self::farewell), as some client libraries overlook one that has no data with it.
    /// Default: none, which leaves it to the client; browsers wait for three to five seconds.
    pub fn reconnect_delay(mut self, delay: Duration) -> Self {
        self.last_words.reconnect_delay = Some(delay);
        self
    }
}

/// How a [drain](Registry::drain) went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Streams that have ended since it began: with a clean end, or because their clients left.
    pub ended: u64,
    /// Streams that could not be told of their end, as their peers read nothing, those among them whose clients
    /// [stalled](crate::RegistryConfig::stalled_client_timeout) before. Only the end of their connections ends them.
    ///
    /// One whose last bytes the server has taken has ended, though they may wait in the server's buffers for a peer that reads nothing.
    pub still_open: u64,
}

impl Registry {
    /// Ends all streams, each at a boundary between two events and when it has what was published until then, spread over a window.
    /// From now on, requests for new ones are [refused](crate::RefusedReason::Draining); what is published still goes to those that are open.
    ///
    /// Awaiting it ends them, and says how many have ended and how many are still open. It takes as long as the window at most, or
    /// as [`Drain::finish_within`] says if there are streams that may finish; it is done as soon as all have ended. What has not got to
    /// its end when seven eighths of the time are over is cut off there, with its farewell if it is at a boundary: a stream that has stalled in the
    /// middle of an event, which clients drop, or one whose client is slow to read. A request that is being answered
    /// is refused when it is. If it is dropped before it is done, the rest stay open, and new ones are refused still; it can be called again.
    /// With streams in several runtimes, await it in one that does not stand still: streams of a runtime that does stay open, and hold up no others.
    ///
    /// It goes beside the server's own graceful end, which waits for open streams and ends none:
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
        let told = shared.draining.told();
        shared.draining.begin(&drain.last_words);
        async move {
            shared.end_all(&drain, Instant::now()).await;
            Drained { ended: shared.draining.told() - told, still_open: shared.draining.streams() }
        }
    }

    /// Whether it is being [drained](Self::drain), and takes no new streams: time for a readiness probe to say no.
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
                // It was said meanwhile.
                true => finishing.push(client),
                false => {
                    client.close(CloseReason::Drained);
                    ending.push(client);
                }
            }
        }
        let deadline = begun + drain.finish_within;
        let finish = async {
            if timeout_at(deadline - window / 4, all_told(&finishing)).await.is_err() {
                finishing.iter().for_each(|client| client.close(CloseReason::Drained));
                cut_at(deadline - window / 8, deadline, &finishing).await;
            }
        };
        both(cut_at(begun + window * 7 / 8, begun + window, &ending), finish).await;
        let _ = timeout_at(Instant::now().max(begun + window), self.draining.all_told()).await;
    }
}

/// Waits until all are over, and cuts those off that are not by then.
async fn cut_at(time: Instant, deadline: Instant, clients: &[Arc<Client>]) {
    if timeout_at(time, all_told(clients)).await.is_err() {
        clients.iter().for_each(|client| client.cut(CloseReason::Drained));
        let _ = timeout_at(deadline, all_told(clients)).await;
    }
}

async fn all_told(clients: &[Arc<Client>]) {
    for client in clients {
        client.told().await;
    }
}

/// Waits for both at the same time.
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
