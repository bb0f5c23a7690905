//! Subscribing and unsubscribing, with presence lists and observers.

use std::sync::{Arc, atomic::Ordering};

use super::{
    client_handle::ClientHandle,
    error::SubscribeError,
    hooks::Hook,
    shared::Shared,
    state::{Client, ClientState, Phase},
    subscription::Subscription,
    telling::TellDeferred,
};
use crate::{
    event::Event,
    log::topic_name,
    reading::Filter,
    sync::{MutexGuard, lock},
    topics::{Deferred, PublishError, Receipt, Start},
};

impl Client {
    /// Returns the name of the topic that only this client is subscribed to.
    pub(super) fn own_topic(self: &Arc<Self>) -> String {
        format!("$client/{}", self.id())
    }

    pub(crate) fn subscribe(self: &Arc<Self>, subscription: Subscription) -> Result<(), SubscribeError> {
        let Subscription { name, may_be_pattern, start, filter, must_exist } = subscription;
        let check = if may_be_pattern { topic_name::check_pattern } else { topic_name::check };
        let result = check(&name).map_err(SubscribeError::from);
        let result = result.and_then(|()| self.join(&name, start, filter.as_ref(), true, must_exist));
        if let Err(error) = &result {
            self.shared.counters.refused_subscriptions.fetch_add(1, Ordering::Relaxed);
            self.observe(|observer, client| observer.subscription_refused(client, error));
        }
        result
    }

    /// Subscribes to a name of any kind, or changes the existing subscription.
    ///
    /// `resumes`: if the stream has not begun, a `Last-Event-ID` overrides `start`. `must_exist`: only if the topic
    /// exists.
    pub(crate) fn join(
        self: &Arc<Self>,
        name: &str,
        start: Start,
        filter: Option<&Filter>,
        resumes: bool,
        must_exist: bool,
    ) -> Result<(), SubscribeError> {
        // Repeated if another thread has subscribed or unsubscribed meanwhile.
        loop {
            let is_new = lock(&self.state).may_subscribe(name, &self.shared)?;
            let is_done = match is_new {
                true => self.join_anew(name, start, filter, resumes, must_exist)?,
                false => self.change(name, start, filter),
            };
            if is_done {
                return Ok(());
            }
        }
    }

    /// Adds a subscription. Returns `false` if the client is subscribed by now.
    pub(super) fn join_anew(
        self: &Arc<Self>,
        name: &str,
        start: Start,
        filter: Option<&Filter>,
        resumes: bool,
        must_exist: bool,
    ) -> Result<bool, SubscribeError> {
        // Outside the lock, because it may call the user's retention function.
        let mut deferred = Deferred::default();
        let joining = self.shared.topics.join(name, start, must_exist, &mut deferred);
        let joining = joining.ok_or_else(|| SubscribeError::NoTopic { topic: name.to_owned() })?;
        let mut telling = TellDeferred::of(self);
        let mut state = self.lock_with_key(ClientState::is_open);
        let may = state.may_subscribe(name, &self.shared);
        match may {
            Ok(true) => {
                let is_waiting = state.phase == Phase::Waiting;
                state.cursors.subscribe(joining, filter.cloned(), resumes && is_waiting);
                if let Some(id) = self.last_event_id().filter(|_| start == Start::LastEventId && !is_waiting) {
                    let bound = state.resume_bound();
                    state.cursors.resume_newest(&self.shared.topics, id, bound, &mut deferred);
                }
                state.is_complete = false;
                if state.is_open() {
                    self.reads(&mut state, &mut deferred, &mut telling);
                }
            }
            _ => self.shared.topics.leave(&joining.shared_log, None, &mut deferred),
        }
        drop(state);
        drop(deferred);
        drop(telling);
        self.changed();
        may
    }

    /// Counts an open stream as a reader of its new subscriptions, adds it to presence lists, and notifies observers.
    pub(super) fn reads(
        self: &Arc<Self>,
        state: &mut ClientState,
        deferred: &mut Deferred,
        telling: &mut TellDeferred<'_>,
    ) {
        let has_presences = self.shared.presences.is_used();
        let somebody_asks = has_presences || !self.shared.settings.observers.is_empty();
        for name in state.cursors.count_as_read(|name| somebody_asks && topic_name::is_public(name)) {
            if has_presences {
                let metadata = state.metadata();
                let key = state.key_or(|| self.default_presence_key());
                self.shared.presences.join(&name, key, self.id(), metadata, deferred);
            }
            telling.note(|| Hook::Subscribed(name));
        }
    }

    /// Changes the start or the filter of a subscription, if they are not the default. Returns `false` if there is no
    /// such subscription.
    pub(super) fn change(&self, name: &str, start: Start, filter: Option<&Filter>) -> bool {
        if start == Start::Now && filter.is_none() {
            return true;
        }
        let state = lock(&self.state);
        let (shared_log, is_waiting, bound) =
            (state.cursors.shared_log(name), state.phase == Phase::Waiting, state.resume_bound());
        let all = state.cursors.shared_logs();
        drop(state);
        let Some(shared_log) = shared_log else { return false };
        let start = match start {
            // The client gets new events already.
            Start::Now => None,
            // Before the stream begins, the client resumes anyway.
            Start::LastEventId if is_waiting => None,
            Start::LastEventId => {
                self.last_event_id().map(|id| self.shared.topics.cursor_start_after_id(&shared_log, &all, id, bound))
            }
            start => Some(self.shared.topics.cursor_start_at(&shared_log, start)),
        };
        let mut state = lock(&self.state);
        let had_nothing = state.phase == Phase::Waiting;
        let before = state.cursors.change(&shared_log, start, filter.cloned(), had_nothing);
        drop(state);
        self.changed();
        // Drops the former filter, which may run user code.
        before.is_ok()
    }

    pub(crate) fn unsubscribe(self: &Arc<Self>, name: &str) -> bool {
        let mut telling = TellDeferred::of(self);
        let mut deferred = Deferred::default();
        let mut state = lock(&self.state);
        let was_subscribed = state.cursors.unsubscribe(&self.shared.topics, name, &mut deferred);
        if was_subscribed {
            self.left(&state, [name], Some(&mut telling), &mut deferred);
        }
        drop(state);
        drop(deferred);
        drop(telling);
        self.changed();
        was_subscribed
    }

    /// Locks the state. If the presence key `is_needed` in that state, the key is set before.
    ///
    /// The user's key function is called while nothing is locked.
    pub(crate) fn lock_with_key(
        self: &Arc<Self>,
        is_needed: impl Fn(&ClientState) -> bool,
    ) -> MutexGuard<'_, ClientState> {
        loop {
            let mut state = lock(&self.state);
            let Some(key_of) = &self.shared.settings.presence_key else { return state };
            if state.key().is_some() || !is_needed(&state) {
                return state;
            }
            drop(state);
            let key = key_of.of(&ClientHandle::new(Arc::clone(self)));
            let key = key.map_or_else(|| self.default_presence_key(), String::into_boxed_str);
            state = lock(&self.state);
            // Another thread may have set the key meanwhile.
            state.key_or(|| key);
        }
    }

    /// Returns a key for a client without one. It is not the id: whoever knows the id can act for the client.
    pub(crate) fn default_presence_key(self: &Arc<Self>) -> Box<str> {
        format!("{:016x}", topic_name::stable_hash(&self.id().to_string())).into()
    }

    /// Removes the client from presence lists and notifies observers, if its stream has begun and is no longer
    /// subscribed to these names.
    pub(crate) fn left<'a>(
        &self,
        state: &ClientState,
        names: impl IntoIterator<Item = &'a str>,
        mut telling: Option<&mut TellDeferred<'_>>,
        deferred: &mut Deferred,
    ) {
        if !state.had_stream {
            return;
        }
        let presences = Some(&self.shared.presences).filter(|presences| presences.is_used());
        for name in names.into_iter().filter(|name| topic_name::is_public(name)) {
            if let (Some(presences), Some(key), Some(id)) = (presences, state.key(), self.known_id()) {
                presences.leave(name, key, id, deferred);
            }
            if let Some(telling) = &mut telling {
                telling.note(|| Hook::Unsubscribed(name.into()));
            }
        }
    }

    /// Returns how many subscriptions of the open stream include the topic's events.
    pub(crate) fn having(&self, topic: &str) -> usize {
        let state = lock(&self.state);
        if state.is_open() { state.cursors.having(topic) } else { 0 }
    }

    pub(crate) fn subscriptions(&self) -> Vec<String> {
        let state = lock(&self.state);
        state.cursors.names().filter(|name| topic_name::is_public(name)).map(|name| name.to_string()).collect()
    }

    /// Publishes on the client's own topic, and subscribes the client to it.
    pub(crate) fn send(self: &Arc<Self>, event: &Event) -> Result<Receipt, PublishError> {
        self.subscribe_to_own()?;
        self.shared.publish(&self.own_topic(), event, None)
    }

    /// Subscribes the client to its own topic.
    pub(super) fn subscribe_to_own(self: &Arc<Self>) -> Result<(), PublishError> {
        match self.join(&self.own_topic(), Start::Now, None, false, false) {
            Err(SubscribeError::StreamEnded { reason }) => Err(PublishError::StreamEnded { reason }),
            // Without a subscription, the client would not get the event.
            Err(SubscribeError::TooManySubscriptions { limit } | SubscribeError::TooManyPatterns { limit }) => {
                Err(PublishError::TooManySubscriptions { limit })
            }
            Err(SubscribeError::Topic(error)) => Err(PublishError::Topic(error)),
            // Not possible: `must_exist` is `false`.
            Err(SubscribeError::NoTopic { topic }) => Err(PublishError::Ended { topic }),
            Ok(()) => Ok(()),
        }
    }
}

impl ClientState {
    /// Whether a subscription to this topic would be a new one. Fails if the client may not subscribe.
    pub(super) fn may_subscribe(&self, topic: &str, shared: &Shared) -> Result<bool, SubscribeError> {
        let (limit, patterns) = (shared.settings.subscriptions_per_client, shared.settings.patterns_per_client);
        match self.over() {
            Some(reason) => Err(SubscribeError::StreamEnded { reason }),
            None if self.cursors.contains(topic) => Ok(false),
            None if self.cursors.len() >= limit => Err(SubscribeError::TooManySubscriptions { limit }),
            None if topic_name::is_pattern(topic) && self.cursors.patterns() >= patterns => {
                Err(SubscribeError::TooManyPatterns { limit: patterns })
            }
            None => Ok(true),
        }
    }
}
