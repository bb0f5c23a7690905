//! Whose open streams are subscribed to a topic.

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
    collections::{Slot, Waiters, spacious},
    event::ClientId,
    sync::{AtomicU64, Mutex, lock},
    topics::Deferred,
};

/// Whose open streams are subscribed to a topic, or to a pattern: by just that name.
///
/// A client is there from the moment its stream begins: when the layer gets the handler's answer, or when
/// [`into_events`](crate::ClientHandle::into_events) is called. What turns out to have no stream never was there: a HEAD,
/// a request that was subscribed and then answered with a 403, one whose handler fails.
///
/// Clients with the same [key](crate::RegistryConfig::presence_key) are one member: a user with several tabs. A member
/// whose last client goes stays for the [grace time](crate::RegistryConfig::presence_grace), so that who reconnects neither leaves nor joins.
///
/// It is a handle; clones are of the same list. For as long as there is one, the topic's joins and leaves are noted. A topic
/// of which nobody asks pays nothing, and publishing pays nothing in any case.
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

/// Somebody whose open stream is subscribed, or was a moment ago.
#[derive(Debug, Clone)]
pub struct Member {
    key: Arc<str>,
    metadata: Arc<Extensions>,
    clients: Vec<ClientId>,
}

/// Who came or went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PresenceChange {
    /// Somebody who was not there.
    Joined(Member),
    /// The member with this key has gone, and its grace time is over.
    Left(Arc<str>),
}

/// All topics of which somebody wants to know who is there.
#[derive(Debug)]
pub(crate) struct Presences {
    grace: Duration,
    lists: Mutex<HashMap<Arc<str>, Weak<List>>>,
    /// How many lists there are, to be looked at without the lock.
    count: AtomicU64,
}

/// Who is at one topic, and who waits for that to change.
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
    /// The list of a topic, and whether it is new: then all who are there already are yet to be put into it.
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

    /// A client with an open stream is subscribed. To be called with its state locked.
    pub(crate) fn join(&self, name: &str, key: &str, id: ClientId, metadata: Arc<Extensions>, deferred: &mut Deferred) {
        if let Some(list) = self.get(name) {
            list.join(key, id, metadata, deferred);
            // This may be the last that there is of it by now.
            deferred.drop(list);
        }
    }

    /// The same for one that is no longer subscribed.
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
            deferred.wake(state.waiters.take());
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut lists = lock(&self.lists.lists);
        // There may be a newer one of the same name by now.
        if lists.get(&self.name).is_some_and(|list| list.strong_count() == 0) {
            lists.remove(&self.name);
            if let Some(enough) = spacious(lists.len(), lists.capacity()) {
                lists.shrink_to(enough);
            }
        }
        self.lists.count.store(lists.len() as u64, Ordering::Release);
    }
}

impl Presence {
    /// A client with an open stream is subscribed. To be called with its state locked.
    pub(crate) fn join(&self, key: &str, id: ClientId, metadata: Arc<Extensions>, deferred: &mut Deferred) {
        self.list.join(key, id, metadata, deferred);
    }

    /// The topic's name, or the pattern's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.list.name
    }

    /// Who is there, in order of their keys.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.look(|members| members.list().into_iter().map(Member::from).collect())
    }

    /// How many are there.
    #[must_use]
    pub fn count(&self) -> usize {
        self.look(|members| members.count())
    }

    /// Who comes and goes from now on, beginning with those who are there: as a stream.
    ///
    /// It tells the difference to what it told before: somebody who has come and gone while nobody looked is not told of. So
    /// it has no queue that could grow. It never ends.
    ///
    /// Cost: a reference to each member that it has told of.
    pub fn changes(&self) -> PresenceChanges {
        PresenceChanges {
            list: Arc::clone(&self.list),
            watch: Watch::default(),
            told: VecDeque::new(),
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
    /// Its [key](crate::RegistryConfig::presence_key), or one made up for its only client, if that has none.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What was known of the client that came last, when its stream began, or when it subscribed if that was later.
    #[must_use]
    pub fn metadata(&self) -> &Extensions {
        &self.metadata
    }

    /// Its clients. None in the grace time.
    #[must_use]
    pub fn clients(&self) -> &[ClientId] {
        &self.clients
    }
}

impl From<members::Member<ClientId, Arc<Extensions>>> for Member {
    fn from(member: members::Member<ClientId, Arc<Extensions>>) -> Self {
        let clients = member.clients.into_iter().map(|(id, _)| id).collect();
        Self { key: member.key, metadata: member.value, clients }
    }
}

/// Who comes to a topic and who goes, as a [`Stream`]: see [`Presence::changes`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct PresenceChanges {
    list: Arc<List>,
    watch: Watch,
    told: VecDeque<Change<ClientId, Arc<Extensions>>>,
    parked: Option<Slot>,
    /// When somebody's grace time is over.
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Stream for PresenceChanges {
    type Item = PresenceChange;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PresenceChange>> {
        let this = self.get_mut();
        loop {
            match this.told.pop_front() {
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
            this.told.extend(state.members.changes(&mut this.watch));
            if !this.told.is_empty() {
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

/// How long a member stays by default when its last client has gone: browsers come back after three to five seconds.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn what_many_lists_took_is_given_back_while_one_of_them_stays() {
        let registry = Registry::new();
        let mut lists: Vec<Presence> =
            (0..10_000).map(|number| registry.presence(format!("room/{number}")).unwrap()).collect();
        lists.truncate(1);
        let capacity = lock(&lists[0].list.lists.lists).capacity();
        assert!(capacity < 1000, "{capacity}");
    }
}
