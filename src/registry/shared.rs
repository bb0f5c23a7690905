//! The home itself: the order of events, the topics, the clients.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{
    ClientId, Position, PublishError, Receipt, RegistryConfig, Retention, Start, Stats,
    client::Client,
    cursor::Joining,
    joined::Joined,
    log::{Entry, Forgotten, Ledger, TopicLog, spacious},
    topic::{ByName, Topic, TopicState},
    waiters::Slot,
};
use crate::{Event, event, sync::lock};

/// What all handles share.
///
/// Locks are taken in this order, and user code runs under none: a client's state, the order, a topic's state, a joined frame.
pub(crate) struct Shared {
    pub(super) config: RegistryConfig,
    clock: Clock,
    /// Publishers take turns here, so that the order of positions is the order in which events come to be in the log.
    order: Mutex<Order>,
    /// The number of the newest event of which all that is older is in the log too.
    published: AtomicU64,
    /// When something was last published, in nanoseconds since the clock's start.
    last_publish: AtomicU64,
    clients: Mutex<HashMap<ClientId, Weak<Client>>>,
    pub(super) joined: Joined,
    hasher: RandomState,
    pub(crate) withheld_heartbeats: AtomicU64,
}

struct Order {
    last: Position,
    number: u64,
    topics: HashSet<ByName>,
    /// The next topic's.
    topic_id: u64,
    ledger: Ledger<Arc<Topic>>,
    /// What the retained events, and the topics without subscribers, take.
    cost: usize,
    forgotten: Forgotten,
}

/// The wall clock when the registry was made, and the time since then: it never goes back and never jumps.
struct Clock {
    start_ms: u64,
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX), start: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn now_ms(&self) -> u64 {
        self.ms(self.elapsed())
    }

    fn ms(&self, elapsed: Duration) -> u64 {
        self.start_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Shared {
    pub(super) fn new(config: RegistryConfig) -> Self {
        let clock = Clock::new();
        let begin = Position::new(clock.start_ms, 0);
        Self {
            config,
            clock,
            order: Mutex::new(Order {
                last: begin,
                number: 0,
                topics: HashSet::new(),
                topic_id: 0,
                ledger: Ledger::new(),
                cost: 0,
                forgotten: Forgotten::new(begin),
            }),
            published: AtomicU64::new(0),
            last_publish: AtomicU64::new(0),
            clients: Mutex::default(),
            joined: Joined::new(),
            hasher: RandomState::new(),
            withheld_heartbeats: AtomicU64::new(0),
        }
    }

    /// The number of the newest event that may be read: all that is older can be read too.
    pub(super) fn horizon(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// When something was last published: what a stream that has just got it need not ask a clock for.
    pub(crate) fn last_publish(&self) -> std::time::Instant {
        let elapsed = Duration::from_nanos(self.last_publish.load(Ordering::Relaxed));
        self.clock.start.into_std() + elapsed
    }

    /// The newest position that was issued.
    pub(super) fn position(&self) -> Position {
        lock(&self.order).last
    }

    pub(super) fn stats(&self) -> Stats {
        let clients = lock(&self.clients).len();
        let order = lock(&self.order);
        Stats {
            clients,
            topics: order.topics.len(),
            events: order.ledger.len(),
            bytes: order.cost,
            published: order.number,
            withheld_heartbeats: self.withheld_heartbeats.load(Ordering::Relaxed),
        }
    }

    pub(super) fn client(&self, id: &ClientId) -> Option<Arc<Client>> {
        lock(&self.clients).get(id).and_then(Weak::upgrade)
    }

    pub(super) fn register(&self, id: ClientId, client: &Arc<Client>) {
        lock(&self.clients).insert(id, Arc::downgrade(client));
    }

    pub(super) fn unregister(&self, id: &ClientId) {
        let mut clients = lock(&self.clients);
        clients.remove(id);
        if let Some(enough) = spacious(clients.len(), clients.capacity()) {
            clients.shrink_to(enough);
        }
    }

    pub(super) fn publish(&self, name: &str, event: &Event) -> Result<Receipt, PublishError> {
        let fields = event.encode_fields();
        let id = event.own_id().map_or(Position::MAX_LENGTH, str::len);
        let size = Entry::cost_of(fields.len() + event::ROOM_FOR_ID + id, event.own_id());
        let limit = self.config.retention.bytes.saturating_sub(name.len() + Topic::OVERHEAD);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let elapsed = self.clock.elapsed();
        let now_ms = self.clock.ms(elapsed);
        let (mut order, topic) = self.topic(name);
        let limit = limit.min(topic.retention.bytes);
        if size > limit {
            self.forget_if_unused(&mut order, &topic, &lock(&topic.state));
            return Err(PublishError::TooLarge { size, limit });
        }
        self.last_publish.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let (receipt, waiters) = self.append(&mut order, &topic, event, fields, now_ms);
        self.evict(&mut order, now_ms);
        drop(order);
        waiters.for_each(Waker::wake);
        Ok(receipt)
    }

    fn append(
        &self,
        order: &mut Order,
        topic: &Arc<Topic>,
        event: &Event,
        mut wire: Vec<u8>,
        now_ms: u64,
    ) -> (Receipt, impl Iterator<Item = Waker> + use<>) {
        let position = order.last.next(now_ms);
        let id_at = wire.len();
        if event.has_data() {
            wire.extend_from_slice(b"id: ");
            match event.own_id() {
                Some(id) => wire.extend_from_slice(id.as_bytes()),
                None => position.write(&mut wire),
            }
            wire.push(b'\n');
        }
        let entry = Entry {
            number: order.number + 1,
            position,
            wire: event::finish(wire),
            id_at,
            own_id: event.own_id().is_some(),
            ticket: order.ledger.push(Arc::clone(topic)),
        };
        order.last = position;
        order.number = entry.number;
        order.cost += entry.cost();

        let mut state = lock(&topic.state);
        state.log.push(entry);
        topic.tail.store(state.log.tail(), Ordering::Release);
        self.published.store(order.number, Ordering::Release);
        self.evict_from(order, topic, &mut state, now_ms);
        (Receipt { position, clients: state.subscribers }, state.waiters.take())
    }

    /// Evicts from one topic what its own retention does not allow.
    fn evict_from(&self, order: &mut Order, topic: &Topic, state: &mut TopicState, now_ms: u64) {
        let Retention { events, bytes, .. } = topic.retention;
        let horizon = topic.retention.horizon(now_ms).max(self.config.retention.horizon(now_ms)).unwrap_or(0);
        while state.log.len() > events
            || state.log.cost() > bytes
            || state.log.oldest().is_some_and(|entry| entry.position.ms() < horizon)
        {
            order.evict_oldest_of(state);
        }
    }

    /// Evicts the oldest of all as long as there is more than what is retained in all; but never the newest, which
    /// somebody is about to be woken for.
    fn evict(&self, order: &mut Order, now_ms: u64) {
        let Retention { events, bytes, .. } = self.config.retention;
        let horizon = self.config.retention.horizon(now_ms);
        while order.ledger.len() > 1 {
            let too_many = order.ledger.len() > events || order.cost > bytes || order.ledger.is_full();
            if !too_many && horizon.is_none() {
                return;
            }
            let Some(topic) = order.ledger.oldest().map(Arc::clone) else { return };
            let mut state = lock(&topic.state);
            if !too_many && state.log.oldest().is_some_and(|entry| Some(entry.position.ms()) >= horizon) {
                return;
            }
            order.evict_oldest_of(&mut state);
            self.forget_if_unused(order, &topic, &state);
        }
    }

    /// The topic with this name, made if there is none, with the order that it was found in.
    fn topic(&self, name: &str) -> (MutexGuard<'_, Order>, Arc<Topic>) {
        let order = lock(&self.order);
        if let Some(topic) = order.topic(name) {
            return (order, topic);
        }
        drop(order);
        let retention = self.config.topic_retention_of(name);
        let mut order = lock(&self.order);
        if let Some(topic) = order.topic(name) {
            return (order, topic);
        }
        let floor = order.forgotten.floor(self.hasher.hash_one(name));
        order.topic_id += 1;
        let topic = Arc::new(Topic::new(order.topic_id, name, retention, floor));
        order.cost += topic.cost();
        order.topics.insert(ByName(Arc::clone(&topic)));
        (order, topic)
    }

    fn forget_if_unused(&self, order: &mut Order, topic: &Topic, state: &TopicState) {
        if state.subscribers > 0 || !state.log.is_empty() || !order.topics.remove(topic.name()) {
            return;
        }
        order.cost -= topic.cost();
        order.forgotten.insert(self.hasher.hash_one(topic.name()), state.log.floor());
        if let Some(enough) = spacious(order.topics.len(), order.topics.capacity()) {
            order.topics.shrink_to(enough);
        }
    }

    /// Adds a subscriber to a topic.
    pub(super) fn join(&self, name: &str, start: Start) -> Joining {
        let now_ms = self.clock.now_ms();
        let (mut order, topic) = self.topic(name);
        let mut state = lock(&topic.state);
        if state.subscribers == 0 {
            // From now on it is part of what its subscribers take.
            order.cost -= topic.cost();
        }
        state.subscribers += 1;
        self.evict_from(&mut order, &topic, &mut state, now_ms);
        let (next, missed) = order.locate(&state.log, start);
        drop(state);
        drop(order);
        Joining { topic, next, missed }
    }

    /// Where a client goes on after a position, and after which it already misses something.
    pub(super) fn locate(&self, topic: &Topic, after: Position) -> (u64, Option<Position>) {
        let mut order = lock(&self.order);
        let mut state = lock(&topic.state);
        self.evict_from(&mut order, topic, &mut state, self.clock.now_ms());
        order.locate(&state.log, Start::After(after))
    }

    /// Takes a subscriber off a topic, and off its waiters if it is still among them.
    pub(super) fn leave(&self, topic: &Topic, parked: Option<Slot>, next: u64) {
        let mut order = lock(&self.order);
        let mut state = lock(&topic.state);
        let waiter = parked.and_then(|slot| state.unpark(slot, next));
        state.subscribers -= 1;
        if state.subscribers == 0 {
            order.cost += topic.cost();
            self.forget_if_unused(&mut order, topic, &state);
        }
        drop(state);
        drop(order);
        drop(waiter);
    }
}

impl Order {
    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.get(name).map(|ByName(topic)| Arc::clone(topic))
    }

    fn evict_oldest_of(&mut self, state: &mut TopicState) {
        if let Some(entry) = state.log.pop() {
            self.cost -= entry.cost();
            self.ledger.remove(entry.ticket);
        }
    }

    /// Where a subscription starts, and after which position it already misses something.
    fn locate(&self, log: &TopicLog, start: Start) -> (u64, Option<Position>) {
        match start {
            Start::Now => (log.tail(), None),
            Start::Oldest => (log.base(), None),
            Start::Last(events) => (log.base().max(log.tail().saturating_sub(events as u64)), None),
            Start::After(position) if log.covers(position) && position <= self.last => (log.after(position), None),
            Start::After(position) => (log.base(), Some(position)),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}
