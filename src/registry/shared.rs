//! The home itself: the order of events, the topics, the clients.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    fmt,
    num::NonZeroU32,
    ops::{
        Bound::{Included, Unbounded},
        Deref, DerefMut,
    },
    sync::{Arc, Weak, atomic::Ordering},
};

use super::{
    ClientId, Position, PublishError, Receipt, RegistryConfig, Retention, Start,
    client::Client,
    cursor::{Joining, Place},
    drain::Draining,
    evicted_ids::EvictedIds,
    feed::{ByName, Feed, FeedState, Kept, Parked},
    forgotten::Forgotten,
    hooks::Hooks,
    joined::Joined,
    lanes::Apart,
    ledger::{Ledger, Ticket},
    log::{Entry, Log, spacious},
    position::{Era, Progress},
    presence::Presences,
    produce::{AT_A_TIME, Ending, Production, Writer},
    stats::{Counters, Samples},
    steps::step,
    topic::{self, Patterns},
    waiters::{Later, ToWake},
};
use crate::{
    Event, Lag,
    clock::{Clock, nanoseconds},
    event,
    few::Few,
    sync::{AtomicU64, Mutex, MutexGuard, lock, nothing_is_locked},
};

/// What all handles share.
///
/// Locks are taken in this order, and user code runs under none: a client's state, the hooks, the presence lists, one such list,
/// the order, a topic's state, a pattern's state, a joined frame, a lane.
pub(crate) struct Shared {
    pub(super) config: RegistryConfig,
    pub(crate) clock: Clock,
    /// Publishers take turns here, so that the order of positions is the order in which events come to be in the log.
    order: Apart<Mutex<Order>>,
    /// What readers look at.
    newest: Apart<Newest>,
    /// When to look for stuck clients again, in nanoseconds since the clock's start.
    pub(super) next_look: AtomicU64,
    /// A feed of which there is never any event.
    pub(super) nothing: Arc<Feed>,
    /// By half of their ids.
    pub(super) clients: Mutex<HashMap<u64, Weak<Client>>>,
    pub(super) joined: Joined,
    pub(super) presences: Presences,
    pub(super) draining: Draining,
    pub(crate) counters: Counters,
    pub(super) samples: Samples,
    pub(super) hooks: Hooks,
}

#[derive(Debug)]
struct Newest {
    /// The number of the newest event of which all that is older is in the log too.
    published: AtomicU64,
    /// When something was last published, in nanoseconds since the clock's start.
    last_publish: AtomicU64,
}

/// The most events of a topic that a client may have missed to get them when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bound(Option<NonZeroU32>);

impl Bound {
    pub(crate) fn of(events: u32) -> Self {
        // One more, as it may be none. So many are no bound.
        Self(NonZeroU32::new(events.wrapping_add(1)))
    }

    fn events(self) -> Option<usize> {
        self.0.map(|events| events.get() as usize - 1)
    }
}

/// What each publish needs comes first, in few cache lines.
#[repr(C)]
pub(super) struct Order {
    pub(super) last: Position,
    /// Of the newest event or end.
    pub(super) number: u64,
    pub(super) published: u64,
    /// What the retained events take, and the topics that nobody holds.
    pub(super) cost: usize,
    pub(super) ledger: Ledger<Arc<Feed>>,
    /// Events that went, for whoever has it locked to drop later.
    gone: Few<Arc<Entry>>,
    pub(super) topics: HashSet<ByName>,
    /// The same in the order of their names: those that begin alike are next to each other.
    by_name: BTreeSet<ByName>,
    /// Topics that have ended and are to be forgotten, by their ends.
    pub(super) ended: Ledger<Ending>,
    /// The patterns that have subscribers.
    patterns: Patterns<Arc<Feed>>,
    /// The same, to be looked at in turn.
    pattern_list: Vec<Arc<Feed>>,
    /// Which of them is next.
    pattern_turn: usize,
    /// What their logs take, as a part of the cost.
    pub(super) rows: usize,
    /// The next topic's or pattern's.
    feed_id: u64,
    forgotten: Forgotten,
    evicted_ids: EvictedIds,
}

/// What the logs of patterns may take.
#[derive(Debug, Clone, Copy)]
struct Share {
    all: usize,
    each: usize,
}

/// The order, locked.
pub(super) struct OrderGuard<'a> {
    guard: MutexGuard<'a, Order>,
    later: &'a mut Later,
}

impl Deref for OrderGuard<'_> {
    type Target = Order;

    fn deref(&self) -> &Order {
        &self.guard
    }
}

impl DerefMut for OrderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Order {
        &mut self.guard
    }
}

impl Drop for OrderGuard<'_> {
    fn drop(&mut self) {
        if !self.guard.gone.is_empty() {
            self.later.drop_entries(&mut self.guard.gone);
        }
    }
}

impl Shared {
    pub(super) fn new(config: RegistryConfig) -> Self {
        let clock = Clock::new();
        let begin = Position::new(Era::random(), clock.start_ms(), 0);
        Self {
            config,
            clock,
            order: Apart(Mutex::new(Order {
                last: begin,
                number: 0,
                published: 0,
                cost: 0,
                ledger: Ledger::new(),
                gone: Few::default(),
                topics: HashSet::new(),
                by_name: BTreeSet::new(),
                ended: Ledger::new(),
                patterns: Patterns::new(),
                pattern_list: Vec::new(),
                pattern_turn: 0,
                rows: 0,
                feed_id: 0,
                forgotten: Forgotten::new(begin),
                evicted_ids: EvictedIds::default(),
            })),
            newest: Apart(Newest { published: AtomicU64::new(0), last_publish: AtomicU64::new(0) }),
            next_look: AtomicU64::new(0),
            nothing: Arc::new(Feed::new(0, "", Retention::default(), begin)),
            clients: Mutex::default(),
            joined: Joined::new(),
            presences: Presences::default(),
            draining: Draining::default(),
            counters: Counters::default(),
            samples: Samples::default(),
            hooks: Hooks::default(),
        }
    }

    /// The number of the newest event that may be read: all that is older can be read too.
    #[inline]
    pub(super) fn horizon(&self) -> u64 {
        self.newest.0.published.load(Ordering::Acquire)
    }

    /// Lets readers go up to this number.
    pub(super) fn set_horizon(&self, number: u64) {
        self.newest.0.published.store(number, Ordering::Release);
    }

    /// When something was last published, by the clock: what a stream that has just got it need not ask it for.
    #[inline]
    pub(crate) fn last_publish(&self) -> u64 {
        self.newest.0.last_publish.load(Ordering::Relaxed)
    }

    /// The newest position that was issued.
    pub(super) fn position(&self) -> Position {
        lock(&self.order.0).last
    }

    /// Whether this position was issued here, and not by another registry, or by nobody.
    pub(super) fn has_issued(&self, position: Position) -> bool {
        lock(&self.order.0).has_issued(position)
    }

    pub(super) fn order<'a>(&'a self, later: &'a mut Later) -> OrderGuard<'a> {
        OrderGuard { guard: self.lock_order(), later }
    }

    fn lock_order(&self) -> MutexGuard<'_, Order> {
        let mut order = lock(&self.order.0);
        self.forget_ended(&mut order);
        order
    }

    pub(super) fn client(&self, id: &ClientId) -> Option<Arc<Client>> {
        let client = lock(&self.clients).get(&id.half()).and_then(Weak::upgrade)?;
        (client.known_id() == Some(*id)).then_some(client)
    }

    /// All clients that have an id, as each has whose stream is open.
    pub(super) fn known_clients(&self) -> Vec<Arc<Client>> {
        lock(&self.clients).values().filter_map(Weak::upgrade).collect()
    }

    /// An id that a client can be found by from now on.
    pub(super) fn register(&self, client: &Arc<Client>) -> ClientId {
        let mut clients = lock(&self.clients);
        loop {
            let id = ClientId::random();
            if let hash_map::Entry::Vacant(place) = clients.entry(id.half()) {
                place.insert(Arc::downgrade(client));
                return id;
            }
        }
    }

    pub(super) fn unregister(&self, id: &ClientId) {
        let mut clients = lock(&self.clients);
        clients.remove(&id.half());
        if let Some(enough) = spacious(clients.len(), clients.capacity()) {
            clients.shrink_to(enough);
        }
    }

    /// Publishes. `by`: whom the event comes from, if that is a producer or who stops one.
    pub(super) fn publish(&self, name: &str, event: &Event, by: Option<Writer<'_>>) -> Result<Receipt, PublishError> {
        let fields = event.encode_fields();
        let id = event.own_id().map_or(Position::MAX_LENGTH, str::len);
        let size = fields.len() + event::ROOM_FOR_ID + id;
        let size = Entry::cost_of(size, event.own_id(), event.audience().is_some());
        let limit = self.config.retention.bytes.saturating_sub(name.len() + Feed::OVERHEAD);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let audience = event.audience().cloned().map(Box::new);
        let like_ours = event.own_id().and_then(|id| id.parse::<Progress>().ok());
        let elapsed = self.clock.elapsed();
        let now_ms = self.clock.ms(elapsed);
        let mut later = Later::default();
        let (mut order, topic) = self.topic(name, &mut later);
        let limit = limit.min(topic.retention.largest());
        // Before the topic is locked, which its readers wait for.
        let position = order.last.next(now_ms);
        let mut wire = fields;
        let id_at = wire.len();
        if event.has_data() {
            wire.extend_from_slice(b"id: ");
            match event.own_id() {
                Some(id) => wire.extend_from_slice(id.as_bytes()),
                None => position.write(&mut wire),
            }
            wire.push(b'\n');
        }
        let wire = event::finish(wire);
        let mut state = lock(&topic.state);
        let refusal = match like_ours.filter(|id| id.seen.era() == position.era() && id.seen >= position) {
            Some(id) => Some(PublishError::IdToCome { id: id.to_string() }),
            None if size > limit => Some(PublishError::TooLarge { size, limit }),
            None => Production::refusal(by, &topic, &state),
        };
        if let Some(refusal) = refusal {
            self.forget_if_unused(&mut order, &topic, &state);
            return Err(refusal);
        }
        self.newest.0.last_publish.store(nanoseconds(elapsed), Ordering::Relaxed);
        let entry = Entry {
            number: order.number + 1,
            position,
            topic: Arc::clone(topic.name()),
            wire,
            id_at,
            own_id: event.own_id().is_some(),
            is_typed: event.is_typed(),
            lag: topic.retention.lag,
            audience,
            ticket: order.ledger.push(Arc::clone(&topic)),
        };
        order.last = position;
        order.number = entry.number;
        order.published += 1;
        let (clients, to_wake) = self.append(&mut order, &topic, &mut state, &Arc::new(entry));
        // Before the topic is unlocked: nobody gets the event without the end.
        let outcome = by.and_then(Writer::outcome);
        let stopped = outcome.and_then(|outcome| self.mark_end(&mut order, &topic, &mut state, outcome, true));
        self.evict_from(&mut order, &topic, &mut state, now_ms);
        drop(state);
        order.trim_next(self.share_of_patterns());
        // But never the newest, which somebody is about to be woken for.
        self.evict(&mut order, now_ms, 1);
        drop(order);
        to_wake.wake();
        if let Some(stopped) = stopped {
            stopped.tell();
        }
        drop(later);
        self.count_out_stuck(elapsed);
        let except = event.audience().and_then(|audience| self.client(&audience.except?));
        let left_out = except.map_or(0, |client| client.having(name));
        let receipt = Receipt { position, clients: clients.saturating_sub(left_out) };
        self.config.observers.notify(|observer| observer.published(name, &receipt));
        self.sample(elapsed);
        Ok(receipt)
    }

    /// Puts an event into its topic's log, and into those of the patterns that match. Gives how many clients it is
    /// for, and whom to wake.
    fn append(&self, order: &mut Order, topic: &Feed, state: &mut FeedState, entry: &Arc<Entry>) -> (usize, ToWake) {
        let number = entry.number;
        let cost = entry.cost();
        order.cost += cost;
        state.log.push(Arc::clone(entry), cost);
        topic.reach(number);
        let share = order.share(self.share_of_patterns());
        // All stay locked until the event may be read, so that no reader runs in circles for it.
        let mut patterns: Vec<_> = state.patterns.iter().map(|pattern| lock(&pattern.state)).collect();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            step();
            let cost = entry.cost_of_row();
            order.add_rows(cost);
            pattern.log.push(Arc::clone(entry), cost);
            order.trim(at, &mut pattern.log, share);
            at.reach(number);
        }
        self.set_horizon(number);
        let clients = topic.readers() + state.patterns.iter().map(|pattern| pattern.readers()).sum::<usize>();
        let mut to_wake = ToWake::default();
        for (pattern, at) in patterns.iter_mut().zip(&state.patterns) {
            at.take_waiters(pattern, &mut to_wake);
        }
        drop(patterns);
        topic.take_waiters(state, &mut to_wake);
        (clients, to_wake)
    }

    /// Evicts from one topic what its own retention does not allow.
    fn evict_from(&self, order: &mut Order, topic: &Feed, state: &mut FeedState, now_ms: u64) {
        let Retention { events, bytes, .. } = topic.retention;
        let horizon = topic.retention.horizon(now_ms).max(self.config.retention.horizon(now_ms)).unwrap_or(0);
        while state.log.len() > events
            || state.log.cost() > bytes && state.log.len() > 1
            || state.log.oldest().is_some_and(|entry| entry.position.ms() < horizon)
        {
            step();
            order.evict_oldest_of(state);
        }
    }

    /// Evicts the oldest of all as long as there is more than what is retained in all, be it an event or a topic of which
    /// nothing is left but that it has ended. `keep`: so many of the newest events stay.
    ///
    /// Each turn takes something out that does not come back, and gives back what it took, but for a bounded number of them: so there
    /// are no more turns than make room for what has come in.
    pub(super) fn evict(&self, order: &mut Order, now_ms: u64, keep: usize) {
        let Retention { events, bytes, .. } = self.config.retention;
        let horizon = self.config.retention.horizon(now_ms);
        let mut for_nothing = 0;
        loop {
            let too_many = order.ledger.len() > events || order.ledger.is_full();
            let too_much = order.cost > bytes;
            if !too_many && !too_much && horizon.is_none() {
                return;
            }
            step();
            if too_much && for_nothing < AT_A_TIME {
                if let Some(topic) = order.oldest_is_an_end(keep) {
                    let mut state = lock(&topic.state);
                    // Its subscribers pay for it.
                    for_nothing += usize::from(state.is_held());
                    self.forget_ended_topic(order, &topic, &mut state);
                    continue;
                }
            }
            if order.ledger.len() <= keep {
                return;
            }
            let is_recent = |topic: &Feed| {
                lock(&topic.state).log.oldest().is_some_and(|entry| Some(entry.position.ms()) >= horizon)
            };
            if !too_many && !too_much && order.ledger.oldest().is_some_and(|topic| is_recent(topic)) {
                return;
            }
            let Some(topic) = order.ledger.pop() else { return };
            let mut state = lock(&topic.state);
            order.drop_oldest_of(&mut state);
            self.forget_if_unused(order, &topic, &state);
        }
    }

    /// The topic with this name, made if there is none, with the order that it was found in.
    pub(super) fn topic<'a>(&'a self, name: &str, later: &'a mut Later) -> (OrderGuard<'a>, Arc<Feed>) {
        let order = self.lock_order();
        if let Some(topic) = order.topic(name) {
            return (OrderGuard { guard: order, later }, topic);
        }
        drop(order);
        nothing_is_locked();
        let retention = self.config.topic_retention_of(name);
        let mut order = OrderGuard { guard: lock(&self.order.0), later };
        if let Some(topic) = order.topic(name) {
            return (order, topic);
        }
        let topic = Feed::new(order.next_id(), name, retention, order.forgotten.floor(name));
        if topic::is_public(name) {
            lock(&topic.state).patterns = order.patterns.matching(name).into_iter().cloned().collect();
        }
        let topic = Arc::new(topic);
        order.cost += topic.cost();
        order.topics.insert(ByName(Arc::clone(&topic)));
        order.by_name.insert(ByName(Arc::clone(&topic)));
        (order, topic)
    }

    /// The pattern with this name, made if it has no subscribers so far.
    ///
    /// What was published before is left where it is until somebody asks for it.
    fn pattern<'a>(&'a self, name: &str, later: &'a mut Later) -> (OrderGuard<'a>, Arc<Feed>) {
        let mut order = self.order(later);
        if let Some(pattern) = order.patterns.get(name).cloned() {
            return (order, pattern);
        }
        let pattern = Feed::new(order.next_id(), name, Retention::default(), order.last);
        let mut state = lock(&pattern.state);
        state.lacks = order.number;
        // Who starts now starts behind it, and who asks for it later finds that it is there.
        state.log.end_at(order.number);
        pattern.reach(order.number);
        drop(state);
        let pattern = Arc::new(pattern);
        for topic in order.matching(name) {
            lock(&topic.state).patterns.push(Arc::clone(&pattern));
        }
        order.patterns.insert(name, Arc::clone(&pattern));
        order.pattern_list.push(Arc::clone(&pattern));
        // As a topic without subscribers: it is about to have one.
        order.cost += pattern.cost();
        (order, pattern)
    }

    /// Puts what was published before a pattern had subscribers into its log.
    fn complete(&self, order: &mut Order, pattern: &Feed) {
        let lacks = std::mem::take(&mut lock(&pattern.state).lacks);
        if lacks == 0 {
            return;
        }
        let mut floor = order.forgotten.floor_of_matching(pattern.name());
        let mut entries = Vec::new();
        for topic in order.matching(pattern.name()) {
            let state = lock(&topic.state);
            floor = floor.max(state.log.floor());
            entries.extend(state.log.entries().take_while(|entry| entry.number <= lacks).cloned());
        }
        entries.sort_unstable_by_key(|entry| entry.number);
        let share = order.share(self.share_of_patterns());
        let wanted: usize = entries.iter().map(|entry| entry.cost_of_row()).sum();
        if order.rows + wanted > share.all {
            // As many as are there now, which is no more than was looked at.
            let most = Share { all: share.all.saturating_sub(wanted), ..share };
            for other in order.pattern_list.clone() {
                let mut log = lock(&other.state);
                while order.trim(&other, &mut log.log, most) {}
            }
        }
        let mut room = share.all.saturating_sub(order.rows);
        let has_room = |entry: &&Arc<Entry>| {
            let left = room.checked_sub(entry.cost_of_row());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let fitting = entries.iter().rev().take_while(has_room).count();
        for left_out in entries.drain(..entries.len() - fitting) {
            let position = order.left_out(&left_out, pattern.name());
            floor = position.map_or(floor, |position| floor.max(position));
        }
        order.add_rows(entries.iter().map(|entry| entry.cost_of_row()).sum());
        let mut state = lock(&pattern.state);
        state.log.prepend(entries, floor);
        pattern.reach(state.log.newest());
        drop(state);
        self.evict(order, self.clock.now_ms(), 0);
    }

    /// How much of what is retained the logs of all patterns together may take, however many there are, so that they do not push out
    /// the events.
    fn share_of_patterns(&self) -> usize {
        self.config.retention.bytes / 4
    }

    pub(super) fn forget_if_unused(&self, order: &mut Order, topic: &Feed, state: &FeedState) {
        let is_used = state.subscribers > 0 || state.production.is_some() || topic.has_ended();
        if is_used || !state.log.is_empty() || !order.topics.remove(&**topic.name()) {
            return;
        }
        order.by_name.remove(&**topic.name());
        order.cost -= topic.cost();
        order.forgotten.insert(topic.name(), state.log.floor());
        if let Some(enough) = spacious(order.topics.len(), order.topics.capacity()) {
            order.topics.shrink_to(enough);
        }
    }

    /// The topic with this name, if it exists, or the pattern, if a topic does that matches it.
    fn existing<'a>(&'a self, name: &str, later: &'a mut Later) -> Option<(OrderGuard<'a>, Arc<Feed>)> {
        let now_ms = self.clock.now_ms();
        let exists = |topic: &Feed| {
            let horizon = topic.retention.horizon(now_ms).max(self.config.retention.horizon(now_ms));
            topic.exists(horizon.unwrap_or(0))
        };
        let order = self.lock_order();
        if topic::is_pattern(name) {
            let exists = order.matching(name).any(|topic| exists(topic));
            drop(order);
            return exists.then(|| self.pattern(name, later));
        }
        let topic = order.topic(name).filter(|topic| exists(topic))?;
        Some((OrderGuard { guard: order, later }, topic))
    }

    /// Adds a subscriber to a topic or a pattern. `None`: it must exist, and does not.
    pub(super) fn join(&self, name: &str, start: Start, must_exist: bool, later: &mut Later) -> Option<Joining> {
        let (mut order, feed) = match topic::is_pattern(name) {
            _ if must_exist => self.existing(name, later)?,
            true => self.pattern(name, later),
            false => self.topic(name, later),
        };
        let mut state = lock(&feed.state);
        order.hold(&feed, &mut state, |state| state.subscribers += 1);
        feed.prepare_for(state.subscribers);
        drop(state);
        let place = self.place(&mut order, &feed, start);
        drop(order);
        Some(Joining { feed, place })
    }

    /// Where a client goes on after a position, and after which it already misses something, or may not have more.
    pub(super) fn locate(&self, feed: &Feed, after: Position, bound: Bound, later: &mut Later) -> Place {
        let mut order = self.order(later);
        let place = self.place(&mut order, feed, Start::After(after));
        match bound.events().filter(|events| lock(&feed.state).log.count_from(place.next) > *events) {
            Some(events) => {
                let missed = (feed.retention.lag != Lag::Skip).then_some(after);
                Place { missed, ..self.place(&mut order, feed, Start::Last(events)) }
            }
            None => place,
        }
    }

    /// Where a client goes on that comes back with this id. `all`: what it is subscribed to, each of which may have given it.
    pub(super) fn place_of_id(&self, feed: &Feed, all: &[Arc<Feed>], last_event_id: &str, bound: Bound) -> Place {
        let mut later = Later::default();
        let progress = self.progress(all.iter().map(|feed| &**feed), last_event_id, &mut later);
        // What nobody knows comes before everything.
        let after = progress.map(|progress| progress.of(feed.name())).unwrap_or_default();
        self.locate(feed, after, bound, &mut later)
    }

    /// Where a subscription starts.
    pub(super) fn place_of(&self, feed: &Feed, start: Start) -> Place {
        let mut later = Later::default();
        self.place(&mut self.order(&mut later), feed, start)
    }

    /// How far a client had read that comes back with this id to these feeds. `None`: nobody can say.
    ///
    /// An event that was given an id of this registry's stands after the event that the id is of: the older of the two
    /// counts, so that nothing is lost.
    pub(super) fn progress<'a>(
        &self,
        feeds: impl Iterator<Item = &'a Feed>,
        id: &str,
        later: &mut Later,
    ) -> Option<Progress> {
        let mut order = self.order(later);
        match id.parse::<Progress>().ok().filter(|progress| order.has_issued(progress.seen)) {
            Some(issued) => Some(issued.for_names(feeds.map(|feed| &**feed.name()))),
            None => self.find(&mut order, feeds, id).map(Progress::from),
        }
    }

    /// Where the event with this id of its own is: the oldest, where several are retained. `None`: there is none, or there
    /// was another one before, which the client may have had.
    fn find<'a>(&self, order: &mut Order, feeds: impl Iterator<Item = &'a Feed>, own_id: &str) -> Option<Position> {
        let mut first: Option<Position> = None;
        for feed in feeds {
            if order.evicted_ids.has(own_id, feed.name(), |topic| feed.is_pattern() && feed.has(topic)) {
                return None;
            }
            if feed.is_pattern() {
                self.complete(order, feed);
            }
            let found = lock(&feed.state).log.find(own_id);
            first = first.into_iter().chain(found).min();
        }
        first
    }

    fn place(&self, order: &mut Order, feed: &Feed, start: Start) -> Place {
        let now_ms = self.clock.now_ms();
        if feed.is_pattern() {
            if start != Start::Now {
                self.complete(order, feed);
            }
            self.evict_too_old(order, feed, now_ms);
        } else {
            self.evict_from(order, feed, &mut lock(&feed.state), now_ms);
        }
        let mut state = lock(&feed.state);
        let FeedState { log, began, .. } = &mut *state;
        let oldest = log.oldest().map_or(log.newest() + 1, |entry| entry.number);
        let (next, missed) = match start {
            Start::Now | Start::LastEventId => (feed.last_word().unwrap_or(log.newest() + 1), None),
            // Who asks for the beginning of what somebody made is told if that is not there.
            Start::Oldest => (oldest, began.filter(|began| !log.covers(*began))),
            Start::Last(events) => (log.last(events), None),
            Start::After(position) => {
                let is_known = order.has_issued(position);
                let missed = !(is_known && log.covers(position)) && feed.retention.lag != Lag::Skip;
                // A pattern may retain events from before the position though some from after it are gone.
                (if is_known { log.after(position) } else { oldest }, missed.then_some(position))
            }
        };
        Place { next, read: log.ordinal_before(next), told: log.lost(), missed }
    }

    /// Evicts what is too old from the topics whose events are the oldest of a pattern.
    fn evict_too_old(&self, order: &mut Order, pattern: &Feed, now_ms: u64) {
        loop {
            let Some(oldest) = lock(&pattern.state).log.oldest().cloned() else { return };
            let Some(topic) = order.topic(&oldest.topic) else { return };
            let mut state = lock(&topic.state);
            self.evict_from(order, &topic, &mut state, now_ms);
            self.forget_if_unused(order, &topic, &state);
            drop(state);
            if lock(&pattern.state).log.oldest().is_some_and(|entry| entry.number == oldest.number) {
                return;
            }
        }
    }

    /// Takes a subscriber off a topic or a pattern, and off its waiters if it is still among them.
    pub(super) fn leave(&self, feed: &Feed, parked: Option<Parked>, later: &mut Later) {
        let mut order = self.order(later);
        let mut state = lock(&feed.state);
        let waiter = parked.and_then(|parked| feed.unpark_locked(&mut state, parked));
        if !feed.is_pattern() {
            order.hold(feed, &mut state, |state| state.subscribers -= 1);
            if state.subscribers == 0 {
                // What was sent to one client alone is for nobody else.
                while !topic::is_public(feed.name()) && !state.log.is_empty() {
                    order.evict_oldest_of(&mut state);
                }
                if state.kept == Some(Kept::Subscribers) {
                    self.forget_ended_topic(&mut order, feed, &mut state);
                } else {
                    self.forget_if_unused(&mut order, feed, &state);
                }
                drop(state);
                if order.cost > self.config.retention.bytes {
                    self.evict(&mut order, self.clock.now_ms(), 0);
                }
            } else {
                drop(state);
            }
        } else if state.subscribers == 1 {
            state.subscribers = 0;
            order.free_rows(state.log.cost());
            let log = std::mem::replace(&mut state.log, Log::new(Position::default()));
            log.entries().filter(|entry| entry.audience.is_some()).for_each(|entry| order.gone.push(Arc::clone(entry)));
            drop(state);
            order.patterns.remove(feed.name());
            order.pattern_list.retain(|pattern| pattern.id() != feed.id());
            for topic in order.matching(feed.name()) {
                lock(&topic.state).patterns.retain(|pattern| pattern.id() != feed.id());
            }
        } else {
            state.subscribers -= 1;
            drop(state);
        }
        drop(order);
        drop(waiter);
    }
}

impl Order {
    fn has_issued(&self, position: Position) -> bool {
        position.era() == self.last.era() && position <= self.last
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Feed>> {
        self.topics.get(name).map(|ByName(topic)| Arc::clone(topic))
    }

    /// The topics that match a pattern.
    fn matching(&self, pattern: &str) -> impl Iterator<Item = &Arc<Feed>> {
        // All others begin otherwise.
        let begin = &pattern[..pattern.find('*').unwrap_or(pattern.len())];
        let topics = self.by_name.range::<str, _>((Included(begin), Unbounded)).map(|ByName(topic)| topic);
        let topics = topics.take_while(move |topic| topic.name().starts_with(begin)).inspect(|_| step());
        topics.filter(move |topic| topic::is_public(topic.name()) && topic::matches(pattern, topic.name()))
    }

    /// Somebody comes to a topic or a pattern or leaves it: nobody pays for its name but who holds it, or what is retained.
    pub(super) fn hold(&mut self, feed: &Feed, state: &mut FeedState, change: impl FnOnce(&mut FeedState)) {
        let was_held = state.is_held();
        change(state);
        match (was_held, state.is_held()) {
            (false, true) => self.cost -= feed.cost(),
            (true, false) => self.cost += feed.cost(),
            _ => {}
        }
    }

    /// The topic that ended first, if nothing retained is older than its end but the newest `keep` events.
    fn oldest_is_an_end(&self, keep: usize) -> Option<Arc<Feed>> {
        let end = self.ended.oldest()?;
        if !lock(&end.topic.state).log.is_empty() {
            // Its last event is the newest of all, and came with the end.
            return None;
        }
        let event = self.ledger.oldest().filter(|_| self.ledger.len() > keep);
        let number = event.and_then(|topic| Some(lock(&topic.state).log.oldest()?.number));
        number.is_none_or(|number| end.number < number).then(|| Arc::clone(&end.topic))
    }

    fn next_id(&mut self) -> u64 {
        self.feed_id += 1;
        self.feed_id
    }

    pub(super) fn evict_oldest_of(&mut self, state: &mut FeedState) {
        if let Some(ticket) = self.drop_oldest_of(state) {
            self.ledger.remove(ticket);
        }
    }

    fn add_rows(&mut self, cost: usize) {
        (self.cost, self.rows) = (self.cost + cost, self.rows + cost);
    }

    fn free_rows(&mut self, cost: usize) {
        (self.cost, self.rows) = (self.cost - cost, self.rows - cost);
    }

    /// What the log of one pattern may take, if all may take so much.
    fn share(&self, all: usize) -> Share {
        Share { all, each: all / self.pattern_list.len().max(1) }
    }

    /// If all patterns together have too much, takes the oldest events out of the log of one that has more than its share. They stay in
    /// their topics. A few at a time, as a share may become small all of a sudden: `true` if it may have more still.
    fn trim(&mut self, pattern: &Feed, log: &mut Log, share: Share) -> bool {
        for _ in 0..4 {
            let is_too_much = self.rows > share.all && log.cost() > share.each && log.len() > 1;
            let Some(oldest) = log.oldest().filter(|_| is_too_much).cloned() else { return false };
            step();
            self.free_rows(log.remove(&oldest));
            self.left_out(&oldest, pattern.name());
        }
        true
    }

    /// If all have too much, looks at a few more of them, which may have kept from a time with fewer what is not their share any more.
    fn trim_next(&mut self, all: usize) {
        for _ in 0..4 {
            if self.rows <= all || self.pattern_list.is_empty() {
                return;
            }
            self.pattern_turn = (self.pattern_turn + 1) % self.pattern_list.len();
            let (pattern, share) = (Arc::clone(&self.pattern_list[self.pattern_turn]), self.share(all));
            self.trim(&pattern, &mut lock(&pattern.state).log, share);
        }
    }

    /// The log of a topic or a pattern does not have an event any more. Gives where that is, unless its loss is passed over.
    fn left_out(&mut self, entry: &Entry, by: &Arc<str>) -> Option<Position> {
        if entry.lag == Lag::Skip {
            return None;
        }
        if let Some(id) = entry.own_id() {
            self.evicted_ids.insert(id, by);
        }
        Some(entry.position)
    }

    /// The same for an event that the ledger does not have any more.
    fn drop_oldest_of(&mut self, state: &mut FeedState) -> Option<Ticket> {
        let (entry, cost) = state.log.pop()?;
        self.cost -= cost;
        self.left_out(&entry, &entry.topic);
        for pattern in &state.patterns {
            let cost = lock(&pattern.state).log.remove(&entry);
            self.free_rows(cost);
        }
        let ticket = entry.ticket;
        self.gone.push(entry);
        Some(ticket)
    }
}

impl Drop for Shared {
    /// What of the program's is in the events may panic here, too.
    fn drop(&mut self) {
        self.sample_at_the_end();
        let mut later = Later::default();
        let mut order = OrderGuard { guard: lock(&self.order.0), later: &mut later };
        while let Some(topic) = order.ledger.pop() {
            order.drop_oldest_of(&mut lock(&topic.state));
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}
