//! Presence lists: the members that are subscribed to a topic.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures_core::Stream;
use http::Extensions;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    members,
    members::{Change, Members, Watch},
};
use crate::{
    collections::{Slot, Waiters, shrunk_capacity},
    event::ClientId,
    sync::{AtomicU64, Mutex, lock},
    topics::Deferred,
};

/// The members whose open streams are subscribed to a topic or a pattern.
///
/// Only subscriptions with exactly this name count. Get it from [`Registry::presence`](crate::Registry::presence).
///
/// A client is present from the moment its stream begins: when the layer gets the handler's response, or when
/// [`into_events`](crate::ClientHandle::into_events) is called. A client without a stream is never present: a HEAD
/// request, a request that subscribed and was answered with a 403, or one whose handler failed.
///
/// Clients with the same [key](crate::RegistryConfig::presence_key) are one member, such as a user with several tabs.
/// When the last client of a member disconnects, the member stays for the [grace
/// time](crate::RegistryConfig::presence_grace). So a member that reconnects in that time neither leaves nor joins.
///
/// A `Presence` is a handle; clones share the same list. The list is kept while a handle exists. A topic without a list
/// costs nothing, and publishing costs nothing in any case.
///
/// Cost: the first handle for a name looks at all clients.
///
/// ```
/// use tower_sse::{ClientHandle, Registry, RegistryConfig};
///
/// #[derive(Clone)]
/// struct User(String);
///
/// let registry = Registry::with_config(
///     RegistryConfig::default().presence_key(|client: &ClientHandle| client.metadata().get::<User>().map(|user| user.0.clone())),
/// );
/// let room = registry.presence("chat/1")?;
///
/// let client = registry.connect();
/// client.insert_metadata(User("ada".into()));
/// client.subscribe("chat/1")?;
/// assert_eq!(room.count(), 0);
/// let events = client.into_events();
/// assert_eq!(room.count(), 1);
/// assert_eq!(room.members()[0].key(), "ada");
/// # drop(events);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Presence {
    list: Arc<List>,
}

/// A member: one or more clients with the same presence key.
#[derive(Debug, Clone)]
pub struct Member {
    key: Arc<str>,
    metadata: Arc<Extensions>,
    clients: Vec<ClientId>,
}

/// A member that joined or left.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PresenceChange {
    /// A member joined.
    Joined(Member),
    /// The member with this key left, after its grace time.
    Left(Arc<str>),
}

/// All presence lists of a registry.
#[derive(Debug)]
pub(crate) struct Presences {
    grace: Duration,
    lists: Mutex<HashMap<Arc<str>, Weak<List>>>,
    /// How many lists there are, to be read without the lock.
    count: AtomicU64,
}

/// The members of one topic, and the wakers that wait for a change.
pub(crate) struct List {
    lists: Arc<Presences>,
    name: Arc<str>,
    state: Mutex<ListState>,
}

struct ListState {
    members: Members<ClientId, Arc<Extensions>>,
    waiters: Waiters<Waker>,
}

impl Presences {
    /// Returns the list of a topic, and whether it is new. The caller must add the present clients to a new list.
    pub(crate) fn open(self: &Arc<Self>, name: &str) -> (Presence, bool) {
        let mut lists = lock(&self.lists);
        if let Some(list) = lists.get(name).and_then(Weak::upgrade) {
            return (Presence { list }, false);
        }
        let list = Arc::new(List {
            lists: Arc::clone(self),
            name: name.into(),
            state: Mutex::new(ListState { members: Members::new(self.grace), waiters: Waiters::new() }),
        });
        lists.insert(Arc::clone(&list.name), Arc::downgrade(&list));
        self.count.store(lists.len() as u64, Ordering::Release);
        (Presence { list }, true)
    }

    pub(crate) fn new(grace: Duration) -> Self {
        Self { grace, lists: Mutex::default(), count: AtomicU64::new(0) }
    }

    pub(crate) fn is_used(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn get(&self, name: &str) -> Option<Arc<List>> {
        lock(&self.lists).get(name).and_then(Weak::upgrade)
    }

    /// Adds a client with an open stream that is subscribed. The client's state must be locked.
    pub(crate) fn join(&self, name: &str, key: &str, id: ClientId, metadata: Arc<Extensions>, deferred: &mut Deferred) {
        if let Some(list) = self.get(name) {
            list.join(key, id, metadata, deferred);
            // This may be the last reference to the list.
            deferred.drop(list);
        }
    }

    /// Removes a client that is no longer subscribed. The client's state must be locked.
    pub(crate) fn leave(&self, name: &str, key: &str, id: ClientId, deferred: &mut Deferred) {
        if let Some(list) = self.get(name) {
            list.change(|members, now| members.leave(key, id, now), deferred);
            deferred.drop(list);
        }
    }
}

impl List {
    fn join(&self, key: &str, id: ClientId, metadata: Arc<Extensions>, deferred: &mut Deferred) {
        let join = |members: &mut Members<_, _>, now| {
            members.expire(now);
            members.join(key, id, metadata);
        };
        self.change(join, deferred);
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Members<ClientId, Arc<Extensions>>, std::time::Instant),
        deferred: &mut Deferred,
    ) {
        let mut state = lock(&self.state);
        let before = (state.members.version(), state.members.next_expiry());
        change(&mut state.members, Instant::now().into_std());
        deferred.drop(state.members.take_gone());
        if (state.members.version(), state.members.next_expiry()) != before {
            deferred.wake(state.waiters.take().into_iter().map(|(_, waker)| waker));
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut lists = lock(&self.lists.lists);
        // There may be a newer list with the same name.
        if lists.get(&self.name).is_some_and(|list| list.strong_count() == 0) {
            lists.remove(&self.name);
            if let Some(enough) = shrunk_capacity(lists.len(), lists.capacity()) {
                lists.shrink_to(enough);
            }
        }
        self.lists.count.store(lists.len() as u64, Ordering::Release);
    }
}

impl Presence {
    /// Adds a client with an open stream that is subscribed. The client's state must be locked.
    pub(crate) fn join(&self, key: &str, id: ClientId, metadata: Arc<Extensions>, deferred: &mut Deferred) {
        self.list.join(key, id, metadata, deferred);
    }

    /// Returns the name of the topic or pattern.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.list.name
    }

    /// Returns the members, in order of their keys.
    ///
    /// Members in their grace time are among them.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.look(|members| members.list().into_iter().map(Member::from).collect())
    }

    /// Returns how many members are present, with those in their grace time.
    #[must_use]
    pub fn count(&self) -> usize {
        self.look(|members| members.count())
    }

    /// Returns a stream of joins and leaves.
    ///
    /// It begins with a join for each present member.
    ///
    /// The stream returns the difference to what it returned before. A member that joins and leaves between two polls
    /// is not in it, so no queue can grow. The stream never ends.
    ///
    /// Cost: a reference to the key of each member that it has returned.
    pub fn changes(&self) -> PresenceChanges {
        PresenceChanges {
            list: Arc::clone(&self.list),
            watch: Watch::default(),
            pending: VecDeque::new(),
            parked: None,
            expiry: None,
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Members<ClientId, Arc<Extensions>>) -> T) -> T {
        let mut deferred = Deferred::default();
        let mut state = lock(&self.list.state);
        state.members.expire(Instant::now().into_std());
        deferred.drop(state.members.take_gone());
        look(&state.members)
    }
}

impl Member {
    /// Returns the member's [key](crate::RegistryConfig::presence_key), or a generated one for a client without a key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the metadata of the member's newest client.
    ///
    /// It is the metadata at the time when that client's stream began, or when the client subscribed if that was later.
    #[must_use]
    pub fn metadata(&self) -> &Extensions {
        &self.metadata
    }

    /// Returns the ids of the member's clients. Empty in the grace time.
    #[must_use]
    pub fn clients(&self) -> &[ClientId] {
        &self.clients
    }
}

impl From<members::PresentMember<ClientId, Arc<Extensions>>> for Member {
    fn from(member: members::PresentMember<ClientId, Arc<Extensions>>) -> Self {
        let clients = member.clients.into_iter().map(|(id, _)| id).collect();
        Self { key: member.key, metadata: member.value, clients }
    }
}

/// A [`Stream`] of joins and leaves: see [`Presence::changes`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct PresenceChanges {
    list: Arc<List>,
    watch: Watch,
    pending: VecDeque<Change<ClientId, Arc<Extensions>>>,
    parked: Option<Slot>,
    /// When the next grace time is over.
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Stream for PresenceChanges {
    type Item = PresenceChange;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PresenceChange>> {
        let this = self.get_mut();
        loop {
            match this.pending.pop_front() {
                Some(Change::Joined(member)) => {
                    return Poll::Ready(Some(PresenceChange::Joined(member.into())));
                }
                Some(Change::Left(key)) => return Poll::Ready(Some(PresenceChange::Left(key))),
                None => {}
            }
            let mut deferred = Deferred::default();
            let mut state = lock(&this.list.state);
            deferred.drop(this.parked.take().and_then(|slot| state.waiters.remove(slot)));
            state.members.expire(Instant::now().into_std());
            deferred.drop(state.members.take_gone());
            this.pending.extend(state.members.changes(&mut this.watch));
            if !this.pending.is_empty() {
                continue;
            }
            this.parked = Some(state.waiters.insert(cx.waker().clone()));
            let expiry = state.members.next_expiry();
            drop(state);
            drop(deferred);
            this.expiry = expiry.map(|at| Box::pin(sleep_until(at.into())));
            if let Some(expiry) = &mut this.expiry {
                ready!(expiry.as_mut().poll(cx));
            } else {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for PresenceChanges {
    fn drop(&mut self) {
        let waker = self.parked.take().and_then(|slot| lock(&self.list.state).waiters.remove(slot));
        drop(waker);
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("name", &self.name()).field("count", &self.count()).finish()
    }
}

impl fmt::Debug for PresenceChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceChanges").field("name", &self.list.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The default grace time. Browsers reconnect after three to five seconds.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn removed_lists_free_their_memory_while_another_one_stays() {
        let registry = Registry::new();
        let mut lists: Vec<Presence> =
            (0..10_000).map(|number| registry.presence(format!("room/{number}")).unwrap()).collect();
        lists.truncate(1);
        let capacity = lock(&lists[0].list.lists.lists).capacity();
        assert!(capacity < 1000, "{capacity}");
    }
}
