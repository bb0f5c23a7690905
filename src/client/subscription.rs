//! What a client asks for when it subscribes.

use std::{fmt, sync::Arc};

use super::{events::Delivery, handle::ClientHandle};
use crate::{sync::nothing_is_locked, topics::Start};

/// What a client subscribes to: a topic or a pattern, where it starts, and a filter.
///
/// The name of a topic alone is one: `client.subscribe("prices/AAPL")`. A pattern has to be asked for, so that no client that
/// chooses a name chooses all of them: see [`matching`](Self::matching).
///
/// ```
/// use tower_sse::{Event, Registry, Start, Subscription};
///
/// let registry = Registry::new();
/// let client = registry.connect();
/// client.subscribe("orders/17")?;
/// client.subscribe(
///     Subscription::matching("log/**")
///         .from(Start::Last(100))
///         .filter(|event, _| event.event_type() == Some("error")),
/// )?;
/// # Ok::<(), tower_sse::SubscribeError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a subscription does nothing unless a client subscribes with it"]
pub struct Subscription {
    pub(crate) name: String,
    pub(crate) may_be_pattern: bool,
    pub(crate) start: Start,
    pub(crate) filter: Option<Filter>,
    pub(crate) must_exist: bool,
}

/// Decides which events a subscription lets through.
#[derive(Clone)]
pub(crate) struct Filter(Arc<Box<Passes>>); // Boxed, as each cursor has room for one.

type Passes = dyn Fn(&Delivery, &ClientHandle) -> bool + Send + Sync;

impl Subscription {
    /// To the topic with this name.
    pub fn to(topic: impl Into<String>) -> Self {
        Self { name: topic.into(), may_be_pattern: false, start: Start::Now, filter: None, must_exist: false }
    }

    /// To all topics that match a pattern, those included that come into being later: a segment of it may be `*`, which is
    /// any one segment, and the last one `**`, which is the rest, one or more. Without wildcards it matches one topic.
    ///
    /// Whoever chooses the pattern chooses what is read: `**` is everything. Put nothing into it that a client says unless
    /// that has been looked at.
    pub fn matching(pattern: impl Into<String>) -> Self {
        Self { may_be_pattern: true, ..Self::to(pattern) }
    }

    /// Sets where the subscription starts, for a client that does not resume. Default: [`Start::Now`].
    pub fn from(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Delivers only the events for which the filter returns `true`. Default: all.
    ///
    /// A client that [subscribes again](ClientHandle::subscribe) with another filter has that one from then on.
    ///
    /// It is asked each time an event is about to go out to the client, also when it resumes: what it refused live, it
    /// is asked about again. So it should give the same answer for the same event and the same user. It is asked
    /// outside all locks, by the task that the stream is polled on: it must not block, and a panic in it is a panic of that task.
    ///
    /// An event that several subscriptions of a client match goes out if one of them lets it through.
    ///
    /// Cost: events of such a subscription are put together for this client alone, where others share the bytes.
    pub fn filter(self, filter: impl Fn(&Delivery, &ClientHandle) -> bool + Send + Sync + 'static) -> Self {
        Self { filter: Some(Filter(Arc::new(Box::new(filter)))), ..self }
    }

    /// Only if the topic exists: else it is refused with [`SubscribeError::NoTopic`](crate::SubscribeError::NoTopic), which axum answers with a
    /// 404. Default: a topic that does not exist comes into being.
    ///
    /// For what has an end, or is made elsewhere: an answer, a job, an order. Who asks for one that is forgotten, or never was, gets a
    /// stream without an end otherwise, in which nothing comes.
    ///
    /// A topic exists while it has events that are retained, while it has a [`Producer`](crate::Producer), and from the producer's end
    /// until it is [forgotten](crate::RegistryConfig::ended_topic_ttl). That somebody else is subscribed to it is not enough. A pattern
    /// exists while a topic does that matches it.
    ///
    /// The question and the subscription are one step: a topic that was there is not forgotten in between.
    ///
    /// ```
    /// use tower_sse::{Registry, Start, SubscribeError, Subscription};
    ///
    /// let registry = Registry::new();
    /// let client = registry.connect();
    /// let answer = Subscription::to("answers/42").from(Start::Oldest).existing();
    /// let refused = client.subscribe(answer.clone()).unwrap_err();
    /// assert_eq!(refused, SubscribeError::NoTopic { topic: "answers/42".into() });
    ///
    /// let producer = registry.start_producer("answers/42")?;
    /// client.subscribe(answer)?;
    /// producer.end();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn existing(self) -> Self {
        Self { must_exist: true, ..self }
    }
}

impl Filter {
    pub(crate) fn passes(&self, event: &Delivery, client: &ClientHandle) -> bool {
        nothing_is_locked();
        (self.0)(event, client)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

impl<N: AsRef<str> + ?Sized> From<&N> for Subscription {
    fn from(name: &N) -> Self {
        Self::to(name.as_ref())
    }
}

impl From<String> for Subscription {
    fn from(name: String) -> Self {
        Self::to(name)
    }
}
