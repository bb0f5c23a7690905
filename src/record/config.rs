//! The settings of a record layer, and what they say about a request.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, request::Parts};

use super::{
    answer::Asked,
    error::RecordError,
    failure::RecordingFailure,
    key::{KeySource, TextOf},
};
use crate::{client::ClientHandle, event::Event, registry::Registry};

/// The settings of a record layer.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) key: KeySource,
    pub(super) only_joins: Option<Is>,
    pub(super) fingerprint: Option<TextOf>,
    pub(super) content_location: Option<TextOf>,
    pub(super) failed_event: FailedEvent,
    pub(super) cancel_unread_after: Option<Duration>,
    pub(super) running_at_most: usize,
}

/// A closure of the program that decides on a request.
type Is = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// The program's function for the last event of a recording that failed.
pub(super) type FailedEvent = Arc<dyn Fn(&RecordingFailure) -> Option<Event> + Send + Sync>;

impl Config {
    const RUNNING: usize = 10_000;

    pub(super) fn new(key: KeySource) -> Self {
        Self {
            key,
            only_joins: None,
            fingerprint: None,
            content_location: None,
            failed_event: Arc::new(|failure| Some(failure.event())),
            cancel_unread_after: None,
            running_at_most: Self::RUNNING,
        }
    }

    /// Whether a request can be recorded, as far as it is known without its parts.
    pub(super) fn may_record<B>(&self, request: &Request<B>) -> bool {
        match *request.method() {
            Method::OPTIONS | Method::CONNECT => false,
            Method::HEAD => self.only_joins.is_some() && self.key.may_find(request),
            _ => self.key.may_find(request),
        }
    }

    /// Returns what a request asks for, if it has a key.
    ///
    /// A HEAD is answered as the GET, if that one only joins a recording. Any other HEAD passes.
    pub(super) fn asked(&self, request: &Parts, registry: &Registry) -> Result<Option<Asked>, RecordError> {
        let get;
        let is_head = request.method == Method::HEAD;
        let request = if is_head {
            let mut parts = request.clone();
            parts.method = Method::GET;
            get = parts;
            &get
        } else {
            request
        };
        let only_joins = self.only_joins.as_ref().is_some_and(|only_joins| only_joins(request));
        if is_head && !only_joins {
            return Ok(None);
        }
        let Some(topic) = self.key.topic(request)? else { return Ok(None) };
        let client = request.extensions.get::<ClientHandle>().filter(|client| client.is_of(registry));
        let location = self.content_location.as_ref().and_then(|location| location(request));
        Ok(Some(Asked {
            topic: topic.into(),
            client: client.cloned().ok_or(RecordError::MissingLayer)?,
            only_joins,
            fingerprint: self.fingerprint.as_ref().and_then(|fingerprint| fingerprint(request)).map(Into::into),
            location: location.and_then(|location| HeaderValue::try_from(location).ok()),
        }))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match &self.key {
            KeySource::Key(_) => "key",
            KeySource::Topic(_) => "topic",
            KeySource::Header { .. } => "idempotency-key",
        };
        f.debug_struct("Config")
            .field("key", &key)
            .field("only_joins", &self.only_joins.is_some())
            .field("fingerprint", &self.fingerprint.is_some())
            .field("content_location", &self.content_location.is_some())
            .field("cancel_unread_after", &self.cancel_unread_after)
            .field("running_at_most", &self.running_at_most)
            .finish_non_exhaustive()
    }
}
