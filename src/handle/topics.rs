//! What a handle does with its client's topics: subscribe, resume and send.

use std::borrow::Borrow;

use crate::{
    client::{ClientHandle, Resume, ResumeError, SubscribeError, Subscription},
    event::Event,
    topics::{PublishError, Receipt, Start},
};

impl ClientHandle {
    /// Subscribes the client to a topic, or to what a [`Subscription`] describes.
    ///
    /// If the stream has not begun, a client with a `Last-Event-ID` resumes after that id. Otherwise a topic name alone
    /// starts with the events that are published from now on.
    ///
    /// You can call it at any time, from the handler or from elsewhere, also while the stream is open. An event that
    /// matches several of a client's subscriptions is delivered once.
    ///
    /// If the client is already subscribed to the name, the call changes that subscription. A name alone changes
    /// nothing. A new filter applies to all events that are not yet read for the client; no event is lost or repeated
    /// because of it. A new start replaces the old one if the stream has not begun. Once it has begun, a new
    /// start has an effect only if it is before the position up to which the client has read. The client then goes back
    /// there, and gets the events since then again.
    ///
    /// Cost: the first subscription to a pattern looks at the names of all topics. If it starts at retained events, it
    /// also looks at the retained events of the matching topics. After that, a pattern costs one reference to each
    /// event.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if the name is invalid, if the client has reached a limit of subscriptions, if the topic must
    /// exist and does not, or if the stream has ended.
    pub fn subscribe(&self, subscription: impl Into<Subscription>) -> Result<(), SubscribeError> {
        self.client.subscribe(subscription.into())
    }

    /// Subscribes the client to a topic from a [`Start`] on.
    ///
    /// A client that resumes ignores the start.
    ///
    /// Events are sent in position order over all topics. If a later subscription starts with older events, their ids
    /// do not move the client back: each id says how far the client has read in which topic. So a client that
    /// disconnects while it catches up loses nothing and gets nothing twice. There are three exceptions:
    ///
    /// - With more than eight such subscriptions at the same time, the client may get events twice.
    /// - Events that the client has already read by another subscription may come twice.
    /// - A subscription whose events were not sent yet is in no id. After a reconnect, the client continues there from
    ///   the position of its other subscriptions.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub fn subscribe_from(&self, name: impl AsRef<str>, start: Start) -> Result<(), SubscribeError> {
        self.subscribe(Subscription::to(name.as_ref()).from(start))
    }

    /// Returns the names of the topics and patterns that the client is subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<String> {
        self.client.subscriptions()
    }

    /// Ends a subscription. Returns whether the client was subscribed.
    ///
    /// Events of the subscription that were not sent yet are not sent. If only its subscriptions keep the stream open,
    /// the stream ends with the last of them.
    pub fn unsubscribe(&self, topic: impl AsRef<str>) -> bool {
        self.client.unsubscribe(topic.as_ref())
    }

    /// Sends an event to this client alone, in order with all other events.
    ///
    /// An event that is sent before the stream begins, such as a welcome, comes first: before the events of all
    /// subscriptions, and after a [snapshot](crate::EventStream::snapshot). Its id is then the client's position at the
    /// beginning of the stream, so a client that resumes from it loses nothing. An id that you set on such an event is
    /// replaced.
    ///
    /// The event is lost if the client reconnects before it has received the event. Publish what must survive a
    /// reconnect on a topic.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the event is too large, if the client has reached its limit of subscriptions, or if the
    /// stream has ended.
    pub fn send(&self, event: impl Borrow<Event>) -> Result<Receipt, PublishError> {
        self.client.send(event.borrow())
    }

    /// Returns how the client's resume goes, with its subscriptions so far.
    ///
    /// On a gap, a handler may want to send a [snapshot](crate::EventStream::snapshot).
    #[must_use]
    pub fn resume(&self) -> Resume {
        self.client.resume()
    }

    /// Resumes the client from this id, as if its request had a `Last-Event-ID`.
    ///
    /// Use it for a client that sends its last id elsewhere, such as in a gRPC or WebSocket message. The id is one that
    /// was sent, such as that of [`Delivery::id`](crate::Delivery::id). A blank id has no effect.
    ///
    /// # Errors
    ///
    /// [`ResumeError`] if the client has an id already, or if its stream has begun.
    pub fn resume_from(&self, id: impl AsRef<str>) -> Result<(), ResumeError> {
        match id.as_ref().trim() {
            "" => Ok(()),
            _ => self.client.resume_from(&bounded(id.as_ref())),
        }
    }

    /// Limits how many missed events the client gets when it resumes.
    ///
    /// The bound is for each topic or pattern.
    ///
    /// Default: as the [layer](crate::SseLayer::resume_at_most) sets it. The client gets the newest events, after a
    /// [gap](crate::Gap). Call it before the stream begins.
    ///
    /// Any client can send a `Last-Event-ID` from long ago. Without a bound, it gets all retained events after that id.
    pub fn resume_at_most(&self, events: u32) {
        self.client.bound_resume(events);
    }
}

/// Shortens an id that is longer than any event's id. It cannot match an event; the beginning and the length are kept
/// for messages.
pub(crate) fn bounded(id: &str) -> Box<str> {
    if id.len() <= Event::MAX_ID {
        return id.into();
    }
    let shown: String = id.chars().take(64).collect();
    format!("{shown}… ({} bytes)", id.len()).into()
}
