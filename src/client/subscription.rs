//! A subscription: topic or pattern, start, and filter.

use std::borrow::Cow;

use super::client_handle::ClientHandle;
use crate::{
    reading::{Delivery, Filter},
    topics::Start,
};

/// A subscription: a topic or a pattern, where it starts, and a filter.
///
/// A topic name alone is a subscription too: `client.subscribe("prices/AAPL")`. A pattern needs
/// [`matching`](Self::matching), so that a client that chooses a topic name cannot choose a pattern.
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

impl Subscription {
    /// Creates a subscription to the topic with this name.
    pub fn to(topic: impl Into<String>) -> Self {
        Self { name: topic.into(), may_be_pattern: false, start: Start::Now, filter: None, must_exist: false }
    }

    /// Creates a subscription to all topics that match a pattern.
    ///
    /// It includes topics that are created later.
    ///
    /// In a pattern, the segment `*` matches any one segment. The last segment may be `**`, which matches one or more
    /// segments. A pattern without wildcards matches one topic.
    ///
    /// Whoever chooses the pattern chooses what is read: `**` matches every topic. Check a client's text before you put
    /// it into a pattern, or encode it with [`segment`](crate::segment).
    pub fn matching(pattern: impl Into<String>) -> Self {
        Self { may_be_pattern: true, ..Self::to(pattern) }
    }

    /// Sets where the subscription starts, if the client does not resume.
    ///
    /// Default: [`Start::Now`].
    pub fn from(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Delivers only the events for which the filter returns `true`. Default: all events.
    ///
    /// A client that [subscribes again](ClientHandle::subscribe) with another filter uses that filter from then on.
    ///
    /// The filter is called each time before an event is sent to the client. After a resume, it is called again for
    /// events that it held back before. So it should return the same result for the same event and the same user. It is
    /// called outside all locks, by the task that polls the stream. It must not block, and a panic in it is a panic of
    /// that task.
    ///
    /// An event that matches several subscriptions of a client is delivered if one of their filters returns `true`.
    ///
    /// Cost: the frames of such a subscription are encoded for this client alone. Without a filter, clients share the
    /// bytes.
    pub fn filter(self, filter: impl Fn(&Delivery, &ClientHandle) -> bool + Send + Sync + 'static) -> Self {
        Self { filter: Some(Filter::new(filter)), ..self }
    }

    /// Requires that the topic exists. Default: a topic that does not exist is created.
    ///
    /// Otherwise the subscription is refused with [`SubscribeError::NoTopic`](crate::SubscribeError::NoTopic), which is
    /// a 404 with axum.
    ///
    /// Use it for a topic that has an end, or that is created elsewhere: an answer, a job, an order. Otherwise a client
    /// that asks for a topic that is forgotten, or never existed, gets an endless stream without events.
    ///
    /// A topic exists while it has retained events, while it has a [`Producer`](crate::Producer), and from the
    /// producer's end until the topic is [forgotten](crate::RegistryConfig::ended_topic_ttl). Other subscribers alone
    /// do not count. A pattern exists while a topic exists that matches it.
    ///
    /// The check and the subscription are one step: the topic is not forgotten in between.
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

/// So [`segment`](crate::segment) of a text is a subscription.
impl From<Cow<'_, str>> for Subscription {
    fn from(name: Cow<'_, str>) -> Self {
        Self::to(name)
    }
}
