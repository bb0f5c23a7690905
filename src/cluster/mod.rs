//! What the nodes of one backplane agree on: records, sessions, holes, and what is on its way.
//!
//! `record`, `state`, `carried`, `volume` and `outbox` are pure: no clock, no lock, no task. `changes` says what the blocks mean for the
//! registry, and `beginnings` how topics stood when the log begins. `task` reads the engine's log, `writing` appends to it, and `repeating`
//! says old events again. Only these three wait. This folder knows the engine's trait
//! and the changes that `topics` makes. It must not know clients or the registry: whoever makes the changes is a [`Replicated`].
//!
//! An event that is published becomes a record in the outbox. The task appends it in a block, and every node reads that block, the publisher
//! too. Only then the event is in the log of a topic. So all nodes have the same events in the same order, and none has an event that the
//! others will not have.

mod beginnings;
mod carried;
mod changes;
mod health;
mod outbox;
mod record;
mod repeating;
mod state;
mod task;
mod volume;
mod writing;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock, Weak, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use self::health::{BackplaneRefused, Health};
use self::{
    health::Signs,
    outbox::{NotTaken, Outbox},
    record::{Head, Record},
    state::State,
};
use crate::{
    backplane::{Backplane, Block, Place},
    event::{AttributeTypes, Event, random_bits},
    log::{Outcome, Position},
    sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, lock},
    topics::{By, Change, Over, Pending, Production, ProductionId, PublishError, Receipt, Retained, Stamp},
};

/// The registry as the log changes it. No lock of the cluster is held when these are called.
pub(crate) trait Replicated: Send + Sync {
    /// The log begins at this position.
    fn begin_at(&self, begin: Position);

    /// All that the engine had is loaded.
    fn loaded(&self);

    /// Makes changes, in order. Returns for each why it was not made, if so. `newest`: where the last record stands.
    fn make(&self, changes: &[Change<'_>], newest: Stamp) -> Vec<Result<(), PublishError>>;

    /// Events before this position are missing.
    fn lose(&self, before: Position);

    /// Removes the events that the engine does not have any more. `lost`: positions after the first one, up to the second one, may mean an
    /// event that it has lost.
    fn cut(&self, lost: Option<(Position, Position)>, is_kept: &dyn Fn(Position) -> bool);

    /// How the registry stands with the engine has changed.
    fn health_changed(&self, before: &Health, now: &Health);

    /// The position of the oldest event that is retained here.
    fn oldest(&self) -> Option<Position>;

    /// Returns for each event, at its position on its topic, what is around it. `None`: the event is not retained.
    fn retained(&self, events: &[(&str, Position)]) -> Vec<Option<Retained>>;

    /// How much memory the retained events take.
    fn retained_bytes(&self) -> usize;

    /// For how long a topic that has ended is known.
    fn ended_topic_ttl(&self) -> Duration;

    /// How a topic began or ended, to be said again before the log is trimmed.
    fn standing_of(&self, topic: &str) -> Option<Standing>;

    /// Ends a topic whose producer is gone.
    fn fail(&self, topic: &str, producer: ProductionId);
}

/// How a topic stands: who produces it, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Producing { producer: ProductionId, began: Option<Position> },
    Ended { outcome: Outcome, at_ms: u64, began: Option<Position>, has_last_word: bool },
}

/// One node of a backplane.
pub(crate) struct Cluster {
    engine: Arc<dyn Backplane>,
    attributes: AttributeTypes,
    inner: Mutex<Inner>,
    /// Something may have to be appended, or was read back.
    to_write: Notify,
    progress: watch::Sender<Progress>,
    is_running: AtomicBool,
    made: Instant,
    /// When the log was last read to its end, in milliseconds since this was made.
    alive_ms: AtomicU64,
    is_over: watch::Sender<bool>,
    /// The registry.
    node: OnceLock<Weak<dyn Replicated>>,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    state: State,
    /// Whether a hello of this session is in the outbox or in the log.
    has_said_hello: bool,
    /// The number of the last beat.
    beat: Option<u64>,
    /// How many bytes it took to say all events again that are retained.
    said_again: usize,
    /// The engine's log has fallen behind this place.
    above: Option<Place>,
    /// The producers of this process that have not ended, by topic.
    producers: HashMap<String, Weak<Production>>,
}

/// What a client resumes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resumes {
    Nothing,
    After(Position),
    /// An id that is no position.
    AfterOwnId,
}

/// How far the reading task has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    signs: Signs,
    /// The position of the last record.
    last: Position,
    /// How often a read found nothing behind what it returned.
    newest_reads: u64,
    /// Whether the last read was one of those.
    is_at_newest: bool,
    /// Nobody has to wait any more, because the registry is drained.
    nobody_waits: bool,
}

impl Cluster {
    pub(crate) fn new(engine: Arc<dyn Backplane>, attributes: AttributeTypes) -> Self {
        let session = u64::from_ne_bytes(random_bits());
        Self {
            engine,
            attributes,
            inner: Mutex::new(Inner {
                outbox: Outbox::new(session),
                state: State::default(),
                has_said_hello: false,
                beat: None,
                said_again: 0,
                above: None,
                producers: HashMap::new(),
            }),
            to_write: Notify::new(),
            progress: watch::Sender::new(Progress::default()),
            is_running: AtomicBool::new(false),
            made: Instant::now(),
            alive_ms: AtomicU64::new(0),
            is_over: watch::Sender::new(false),
            node: OnceLock::new(),
        }
    }

    /// Sets the registry, once.
    pub(crate) fn is_of(&self, node: Weak<dyn Replicated>) {
        let _ = self.node.set(node);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Puts an event into the outbox.
    ///
    /// # Errors
    ///
    /// [`PublishError::Busy`] if the outbox is full, [`PublishError::TooLarge`] if the engine takes no such block, and
    /// [`PublishError::Attribute`] if an attribute cannot cross to another node.
    pub(crate) fn publish(
        &self,
        topic: &str,
        event: &Event,
        by: By,
        outcome: Option<Outcome>,
        subscribers: usize,
    ) -> Result<Receipt, PublishError> {
        let attributes = match event.attributes() {
            Some(attributes) => {
                let encoded = self.attributes.encode(attributes);
                encoded.map_err(|reason| PublishError::Attribute { reason })?
            }
            None => Vec::new(),
        };
        let record = Record::Event {
            topic: topic.into(),
            payload: event.payload(),
            attributes: attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            by,
            outcome,
        };
        let pending = Arc::new(Pending::default());
        let limit = self.engine.max_block().saturating_sub(Block::HEAD + Head::LENGTH + Record::REPEATING);
        let pushed = self.lock().outbox.push(&record, Some(Arc::clone(&pending)), limit);
        pushed.map_err(|not_taken| match not_taken {
            NotTaken::Full => PublishError::Busy,
            NotTaken::TooLarge { size } => PublishError::TooLarge { size, limit },
        })?;
        self.to_write.notify_one();
        Ok(Receipt::pending(pending, subscribers))
    }

    /// Puts the begin of a production into the outbox. `None`: this process has another producer of the topic.
    pub(crate) fn begin(&self, topic: &str, replaces: bool) -> Result<Option<Arc<Production>>, PublishError> {
        let mut inner = self.lock();
        let other = inner.producers.get(topic).and_then(Weak::upgrade).filter(|other| !other.is_over());
        if other.is_some() && !replaces {
            return Ok(None);
        }
        let id = ProductionId { session: inner.outbox.session(), number: inner.outbox.next_number() };
        let record = Record::Begin { topic: topic.into() };
        inner.outbox.push(&record, None, usize::MAX).map_err(|_| PublishError::Busy)?;
        let production = Arc::new(Production::new(id));
        inner.producers.retain(|_, producer| producer.strong_count() > 0);
        inner.producers.insert(topic.to_owned(), Arc::downgrade(&production));
        drop(inner);
        // It is told now, as its begin may not be in the log yet.
        if let Some(other) = other {
            other.stop(Over::Replaced);
            other.tell();
        }
        self.to_write.notify_one();
        Ok(Some(production))
    }

    /// Returns this process's production of a topic, if it has not ended.
    pub(crate) fn own_production(&self, topic: &str) -> Option<Arc<Production>> {
        self.lock().producers.get(topic).and_then(Weak::upgrade).filter(|production| !production.is_over())
    }

    /// Puts the end of a topic into the outbox, always: a topic that does not end would be waited for.
    pub(crate) fn end(&self, topic: &str, by: By, outcome: Outcome) {
        self.lock().outbox.push_always(&Record::End { topic: topic.into(), by, outcome }, None);
        self.to_write.notify_one();
    }

    /// Returns the production of this process with this id.
    fn production(&self, topic: &str, id: ProductionId) -> Arc<Production> {
        let own = self.lock().producers.get(topic).and_then(Weak::upgrade).filter(|own| own.id == id);
        own.unwrap_or_else(|| Arc::new(Production::new(id)))
    }

    pub(crate) fn health(&self) -> Health {
        let health = self.progress.borrow().signs.health();
        let silent = self.made.elapsed().saturating_sub(Duration::from_millis(self.alive_ms.load(Ordering::Relaxed)));
        if health == Health::Following && silent > Self::STANDSTILL {
            let since = SystemTime::now().checked_sub(silent).unwrap_or(SystemTime::UNIX_EPOCH);
            return Health::Away { since, reason: "the runtime that follows the engine stands still".to_owned() };
        }
        health
    }

    /// Notes that the task runs.
    fn is_alive(&self) {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.alive_ms.store(now, Ordering::Relaxed);
    }

    /// After how long without a read the task counts as standing still. A read takes about a second if nothing comes.
    const STANDSTILL: Duration = Duration::from_secs(8);

    /// How many records are on their way to the engine.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().outbox.len()
    }

    /// Waits until everything that the engine retains is loaded.
    ///
    /// # Errors
    ///
    /// [`BackplaneRefused`] if the engine refuses the registry.
    pub(crate) async fn ready(&self) -> Result<(), BackplaneRefused> {
        let mut progress = self.progress.subscribe();
        loop {
            {
                let signs = &progress.borrow_and_update().signs;
                match signs.health() {
                    Health::Refused { reason } => return Err(BackplaneRefused { reason }),
                    _ if signs.is_loaded => return Ok(()),
                    _ => {}
                }
            }
            if progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Whether a client has to wait until this node has read more.
    pub(crate) fn has_to_wait(&self, resumes: Resumes) -> bool {
        let progress = self.progress.borrow();
        !progress.nobody_waits && (!progress.signs.is_loaded || progress.is_behind(resumes))
    }

    /// Waits until the log is loaded and has passed what a client has, or until it is clear that the engine does not have that, or until the
    /// time is over or the registry is drained.
    pub(crate) async fn catch_up(&self, resumes: Resumes) {
        let mut progress = self.progress.subscribe();
        let first_read = progress.borrow().newest_reads;
        let waited = async {
            loop {
                {
                    let progress = progress.borrow_and_update();
                    // The second read from now on began after now.
                    let has_read_all = progress.newest_reads >= first_read + 2;
                    let is_behind = progress.is_behind(resumes) && !has_read_all;
                    if (progress.signs.is_loaded && !is_behind) || progress.nobody_waits {
                        return;
                    }
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Self::PATIENCE, waited).await;
    }

    /// How long a request waits for a node that is behind because its engine is away. If the engine is there, it is known in about two seconds
    /// whether it has the position.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Lets those go on who wait for the log, because the registry is drained.
    pub(crate) fn stop_waiting(&self) {
        self.progress.send_modify(|progress| progress.nobody_waits = true);
    }

    /// Waits until the record with this number was read back.
    async fn came_back(&self, number: u64) {
        let mut progress = self.progress.subscribe();
        while self.lock().outbox.is_on_its_way(number) {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until every record that is in the outbox now was read back.
    pub(crate) async fn flushed(&self) {
        let next = self.lock().outbox.next_number();
        if let Some(last) = next.checked_sub(1) {
            self.came_back(last).await;
        }
    }

    /// Starts the task, if there is a runtime and the task is not running.
    pub(crate) fn start(self: &Arc<Self>) {
        if self.is_running.load(Ordering::Relaxed) {
            return;
        }
        let (Ok(runtime), Some(node)) = (tokio::runtime::Handle::try_current(), self.node.get()) else { return };
        if !self.is_running.swap(true, Ordering::AcqRel) {
            runtime.spawn(task::run(task::Running(Arc::clone(self)), Weak::clone(node)));
        }
    }

    /// Ends the task. Nobody knows of the records in the outbox whether they are in the log.
    pub(crate) fn close(&self) {
        self.is_over.send_replace(true);
        let pending = self.lock().outbox.give_up();
        pending.iter().for_each(|pending| pending.resolve(Err(PublishError::Unknown)));
    }
}

impl Progress {
    /// Whether it is known that this node may not have read yet what a client has.
    fn is_behind(&self, resumes: Resumes) -> bool {
        match resumes {
            Resumes::Nothing => false,
            Resumes::After(position) if position.era() == self.last.era() => position > self.last,
            // The event with that id may be the next one. An id of a publisher may look like a position.
            Resumes::After(_) | Resumes::AfterOwnId => !self.is_at_newest || self.signs.reading.is_some(),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("engine", &self.engine).field("health", &self.health()).finish_non_exhaustive()
    }
}
