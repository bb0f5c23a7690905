//! How many streams there may be.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::request::Parts;
use tokio::time::Instant;

use super::{
    admission::Claim,
    count::{Counted, Rate, Taken},
    key::LimitKey,
    refused_reason::RefusedReason,
};
use crate::time::nanoseconds;

/// A bound on open streams, or on new streams in a time: in all, or for each key.
///
/// It is a handle: clones count together. So [`SseLayer::limit`](crate::SseLayer::limit) limits what is behind one layer, a clone of
/// it on another layer what is behind both, and [`RegistryConfig::limit`](crate::RegistryConfig::limit) all streams of a
/// registry. A stream that comes through nested layers is counted once by each limit, unless something in between drops the request's
/// extensions.
///
/// ```
/// use std::time::Duration;
/// use http::request::Parts;
/// use tower_sse::{Limit, Registry, RegistryConfig, SseLayer};
///
/// #[derive(Clone)]
/// struct User(u64); // that an authentication layer further out puts into the extensions
///
/// let in_all = Limit::streams(10_000);
/// let registry = Registry::with_config(RegistryConfig::default().limit(in_all.clone()));
/// let layer = SseLayer::new(&registry)
///     .limit(Limit::streams(5).per(|request: &Parts| Some(request.extensions.get::<User>()?.0)))
///     .limit(Limit::rate(200, Duration::from_secs(1), 500));
///
/// in_all.set(20_000); // at any time
/// # let _ = layer;
/// ```
///
/// # When it counts
///
/// A request that asks for an event stream with its `Accept` header, as `EventSource` does, is counted before the handler
/// runs. So a refused request costs next to nothing. If the response is not a stream, it stops counting.
///
/// A response can be a stream although the request did not ask for one. It is counted when the handler answers. If there is
/// no room, it is refused, and its body is dropped unread. [`ClientHandle::acquire_slot`](crate::ClientHandle::acquire_slot) takes the
/// place before the handler begins its work.
///
/// A stream counts until its body is dropped, or until its client counts as [stalled](crate::RegistryConfig::stalled_client_timeout). The
/// server may hold the body of a peer that reads nothing until the socket is closed, which may be never. So a limit bounds
/// the streams that are served, and not the open sockets: use `TCP_USER_TIMEOUT` and HTTP/2 keep-alive for those. An observer
/// that is told of [`CloseReason::Stalled`](crate::CloseReason::Stalled) can close the connection, if your program has put a
/// means for that into the client's [metadata](crate::SseLayer::metadata).
///
/// [`Events`](crate::Events) count until they are dropped. Clients of [`Registry::connect`](crate::Registry::connect) do not
/// count.
///
/// There is no queue. If there is no room, the stream is refused at once: see [`RefusedResponse`](crate::RefusedResponse).
///
/// Cost: a few short locks and an allocation for each request that asks for a stream, and some 80 bytes as long as it is open; with a key,
/// some 40 to 75 more as long as there is a stream of that key, and those of the key if it is a text. `cargo bench --bench limits` measures the time.
#[derive(Clone)]
#[must_use = "a limit does nothing unless a layer or a registry has it"]
pub struct Limit {
    inner: Arc<Inner>,
}

struct Inner {
    /// How many streams, or how many new ones in the time that a rate has.
    number: AtomicU32,
    rate: Option<Rate>,
    key: Option<KeyOf>,
    counted: Counted,
    /// What the times of a rate are counted from.
    start: Instant,
}

/// Says the key of a request.
struct KeyOf {
    of: Box<GiveKey>,
    /// The name of the program's function, to find it by.
    by: &'static str,
    /// Requests without a key are not limited.
    is_optional: bool,
}

type GiveKey = dyn Fn(&Parts) -> Option<LimitKey> + Send + Sync;

impl Limit {
    /// Allows at most this many open streams. 0 allows none.
    pub fn streams(number: u32) -> Self {
        Self::with(number, None, None)
    }

    /// Allows at most `number` new streams in each time `per`, and up to `burst` at once after a pause.
    ///
    /// It is a token bucket: it holds `burst` tokens (at least one), and `number` come back evenly in a time `per`. With 0, no
    /// stream is allowed.
    ///
    /// A request takes a token when it is counted. If no stream comes of it, what has not come back by itself meanwhile is given back: all of it
    /// at once, half of it after half the time that a token takes, and nothing later. So however many requests are given up, no more streams
    /// begin than the rate allows.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_sse::Limit;
    ///
    /// // 100 a second, so that all who come back after a restart do not come at once; but 20 may.
    /// let limit = Limit::rate(100, Duration::from_secs(1), 20);
    /// # let _ = limit;
    /// ```
    pub fn rate(number: u32, per: Duration, burst: u32) -> Self {
        Self::with(number, Some(Rate::new(per, burst)), None)
    }

    /// Counts each key by itself: a user, an address, a tenant.
    ///
    /// A stream whose request has no key is refused, with [`RefusedReason::MissingKey`]: a limit that cannot tell whom a stream counts for
    /// would be none. Mostly the layer that inserts what the key is made of is [further in](crate::guide::layers) than
    /// [`SseLayer`](crate::SseLayer), or is not there. Other requests without a key pass. Where streams without a key are welcome, give them one key in
    /// common, or say [`per_optional`](Self::per_optional).
    ///
    /// It is a new limit, which counts anew. The key is asked for with each request that comes through a layer that has the limit, before its handler runs, and
    /// what is inserted into the extensions further out is there. [`ClientIpKey::key`](crate::ClientIpKey::key) is one for addresses.
    ///
    /// Keys may be chosen by whoever sends the request: there are never more entries than streams and, with a rate, than requests in the
    /// time that a bucket takes to be full again.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_sse::Limit;
    ///
    /// let limit = Limit::streams(5).per(|request: &Parts| Some(request.headers.get("x-api-key")?.to_str().ok()?.to_owned()));
    /// # let _ = limit;
    /// ```
    pub fn per<K: Into<LimitKey>>(self, key: impl Fn(&Parts) -> Option<K> + Send + Sync + 'static) -> Self {
        self.by_key(key, false)
    }

    /// The same as [`per`](Self::per), but a request without a key is not limited by it.
    ///
    /// For a limit that is meant for some requests only. It limits nothing at all where the key is never there.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_sse::Limit;
    ///
    /// // No streams for this one client.
    /// let banned = |request: &Parts| request.headers.get("x-api-key").filter(|key| *key == "banned").map(|_| "banned");
    /// let limit = Limit::streams(0).per_optional(banned);
    /// # let _ = limit;
    /// ```
    pub fn per_optional<K: Into<LimitKey>>(self, key: impl Fn(&Parts) -> Option<K> + Send + Sync + 'static) -> Self {
        self.by_key(key, true)
    }

    fn by_key<F, K: Into<LimitKey>>(&self, key: F, is_optional: bool) -> Self
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    {
        let of = Box::new(move |request: &Parts| key(request).map(Into::into));
        Self::with(self.limit(), self.inner.rate, Some(KeyOf { of, by: std::any::type_name::<F>(), is_optional }))
    }

    fn with(number: u32, rate: Option<Rate>, key: Option<KeyOf>) -> Self {
        let (number, counted, start) = (AtomicU32::new(number), Counted::default(), Instant::now());
        Self { inner: Arc::new(Inner { number, rate, key, counted, start }) }
    }

    /// Changes the number, from now on and for all clones. Streams that are open stay, if they are more.
    pub fn set_limit(&self, number: u32) {
        self.inner.number.store(number, Ordering::Relaxed);
        if let Some(rate) = self.inner.rate {
            rate.set(&self.inner.counted, number, self.inner.now());
        }
    }

    /// The number.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.inner.number.load(Ordering::Relaxed)
    }

    /// How many streams it counts at this moment, over all keys. Of a rate, always 0. Cost: a few nanoseconds for each key, in which no
    /// stream begins or ends.
    #[must_use]
    pub fn open_streams(&self) -> u64 {
        match self.inner.rate {
            None => self.inner.counted.open(),
            Some(_) => 0,
        }
    }

    /// How many entries it has at this moment: keys with open streams, or whose bucket is not full. Without a key, at most one.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.inner.counted.entries(self.inner.rate.map(|_| self.inner.now()))
    }

    /// What this request would take of it. `None`: it is not about this request.
    #[inline]
    pub(crate) fn ask(&self, request: &Parts) -> Option<Claim> {
        let key = self.inner.key.as_ref().map_or(Some(LimitKey::EVERYBODY), |key| key.of(request))?;
        Some(Claim::new(self.clone(), key))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// A place, or why there is none.
    pub(super) fn take(&self, key: &LimitKey) -> Result<Taken, RefusedReason> {
        if let Some(KeyOf { by, .. }) = self.inner.key.as_ref().filter(|_| key.is_missing()) {
            return Err(RefusedReason::MissingKey { by });
        }
        let (number, counted) = (self.limit(), &self.inner.counted);
        match self.inner.rate {
            None if counted.add(key, number) => Ok(Taken::Place),
            None => Err(RefusedReason::Full { key: key.clone().somebody(), limit: number }),
            Some(rate) => {
                let now = self.inner.now();
                match rate.take(counted, key, number, now) {
                    Ok(()) => Ok(Taken::Token(now)),
                    Err(retry_in) => Err(RefusedReason::RateLimited { key: key.clone().somebody(), retry_in }),
                }
            }
        }
    }

    pub(super) fn give_back(&self, key: &LimitKey, taken: Taken) {
        match taken {
            Taken::Place => self.inner.counted.remove(key),
            Taken::Token(at) => self.inner.counted.give_back(key, at, self.inner.now()),
            Taken::Nothing | Taken::SpentToken => {}
        }
    }
}

impl KeyOf {
    fn of(&self, request: &Parts) -> Option<LimitKey> {
        match (self.of)(request) {
            None if !self.is_optional => Some(LimitKey::MISSING),
            key => key,
        }
    }
}

impl Inner {
    /// Nanoseconds since it was made.
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Limit");
        debug
            .field("number", &self.limit())
            .field("rate", &self.inner.rate)
            .field("per_key", &self.inner.key.is_some());
        debug.field("entries", &self.entries()).finish()
    }
}
