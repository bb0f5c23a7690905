//! The part of a node's task that writes: it appends what is in the outbox, and beats.

use std::sync::Weak;

use tokio::time::{sleep, timeout};

use super::{
    Cluster, Inner, Replicated, Standing,
    health::Trouble,
    record::{PastEnd, Record, Spot},
    state::State,
    task::{BEAT, Backoff, away},
};
use crate::{
    backplane::{AppendError, Block, Place},
    log::Position,
    topics::PublishError,
};

/// How many topics are looked at with one beat, to be said again or forgotten.
const CARRIED_AT_ONCE: usize = 1000;

/// Which part of the engine's slack the log may be larger for how topics stand, before that is said again.
const CARRIED_SHARE: usize = 8;

/// Appends what is in the outbox, one block after the other.
pub(super) async fn write(cluster: &Cluster) {
    let mut backoff = Backoff::new();
    loop {
        let Some((block, above)) = cluster.to_append() else {
            cluster.to_write.notified().await;
            continue;
        };
        let first_read = cluster.progress.borrow().newest_reads;
        let appending = match above {
            None => cluster.engine.append(&block),
            Some(place) => cluster.engine.append_above(place, &block),
        };
        let appended = match timeout(cluster.engine.longest_call(), appending).await {
            Ok(appended) => appended,
            Err(elapsed) => Err(AppendError::Unknown(elapsed.into())),
        };
        match appended {
            Ok(()) => {
                cluster.has_appended(block.key.number, above);
                cluster.writing_is(None);
                backoff = Backoff::new();
                cluster.read_back(block.key.number, first_read).await;
            }
            Err(AppendError::Unknown(error)) => {
                cluster.writing_is(away(error.to_string()));
                cluster.read_back(block.key.number, first_read).await;
                backoff.wait(Backoff::AWAY).await;
            }
            Err(AppendError::Away(error)) => {
                cluster.writing_is(away(error.to_string()));
                backoff.wait(Backoff::AWAY).await;
            }
            Err(AppendError::Full(error)) => {
                cluster.writing_is(Some(Trouble::Full { reason: error.to_string() }));
                backoff.wait(Backoff::AWAY).await;
            }
            Err(AppendError::Refused(error)) => {
                cluster.writing_is(Some(Trouble::Refused { reason: error.to_string() }));
                backoff.wait(Backoff::REFUSED).await;
            }
            Err(AppendError::TooLarge { limit }) if cluster.leave_out(limit) => {}
            Err(error @ AppendError::TooLarge { .. }) => {
                cluster.writing_is(Some(Trouble::Refused { reason: error.to_string() }));
                backoff.wait(Backoff::REFUSED).await;
            }
        }
    }
}

/// Says every two seconds that this node is there, and from where on it needs the log.
pub(super) async fn beat(cluster: &Cluster, node: &Weak<dyn Replicated>) {
    loop {
        sleep(BEAT).await;
        let Some(node) = node.upgrade() else { return };
        cluster.beat(&*node);
    }
}

impl Cluster {
    /// Returns the block that has to be appended, and the place that it has to stand above.
    fn to_append(&self) -> Option<(Block, Option<Place>)> {
        let inner = &mut *self.lock();
        let head = inner.state.head().filter(|_| inner.has_said_hello)?;
        Some((inner.outbox.block(head, self.engine.max_block())?, inner.above))
    }

    /// The engine takes no block that is as large as the one in flight. Returns `false` if it is not one event, which could be left out.
    fn leave_out(&self, limit: usize) -> bool {
        let left_out = self.lock().outbox.leave_out();
        let Some((receipt, size)) = left_out else { return false };
        receipt.resolve(Err(PublishError::TooLarge { size, limit }));
        true
    }

    /// The engine has a block.
    fn has_appended(&self, number: u64, above: Option<Place>) {
        let mut inner = self.lock();
        inner.outbox.accept(number);
        if inner.above == above {
            inner.above = None;
        }
    }

    /// Waits until the block with this number was read back, or until the log was read to its end without it, so that it has to be appended
    /// again. `first_read`: how often the log had been read to its end before the block was appended.
    async fn read_back(&self, number: u64, first_read: u64) {
        let mut progress = self.progress.subscribe();
        // The first read may have begun before the block was appended. Two more are for an engine that answers an old question late.
        let enough = progress.borrow().newest_reads.max(first_read) + 3;
        while self.lock().outbox.is_in_flight(number) && progress.borrow_and_update().newest_reads < enough {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    fn beat(&self, node: &dyn Replicated) {
        let retained = node.oldest().map(State::place);
        let mut inner = self.lock();
        // One beat on its way is enough, also for an engine that is away, and so is what is said with it.
        if inner.beat.is_some_and(|number| inner.outbox.is_on_its_way(number)) {
            return;
        }
        let Some(oldest) = inner.state.needed(retained).filter(|_| inner.has_said_hello) else { return };
        let held = inner.state.carried().oldest().map_or(oldest, |carried| carried.min(oldest));
        inner.state.forget_before(held);
        inner.state.note_needed(oldest);
        let slack = u64::try_from(self.engine.slack() / CARRIED_SHARE).unwrap_or(u64::MAX);
        let said_before = inner.state.carried_before(oldest, slack);
        let to_say: Vec<String> =
            inner.state.carried().before(said_before).take(CARRIED_AT_ONCE).map(str::to_owned).collect();
        let abandoned = inner.state.abandoned();
        drop(inner);
        let standing: Vec<_> = to_say.iter().map(|topic| (topic, node.standing_of(topic))).collect();
        abandoned.iter().for_each(|(topic, producer)| node.fail(topic, *producer));
        let mut inner = self.lock();
        for (topic, standing) in standing {
            match standing {
                Some(standing) if inner.state.says_again(topic, inner.outbox.session()) => {
                    inner.say_again(topic, standing);
                }
                // Another node says it.
                Some(_) => {}
                None => inner.state.carried().forget(topic),
            }
        }
        let oldest = inner.state.carried().oldest().map_or(oldest, |carried| carried.min(oldest));
        inner.beat = Some(inner.outbox.next_number());
        inner.outbox.push_always(&Record::Beat { oldest }, None);
        let needed = inner.state.needed_by_all();
        drop(inner);
        if let Some(needed) = needed {
            self.engine.trim(needed);
        }
        self.to_write.notify_one();
    }
}

impl Inner {
    /// Puts how a topic stands into the outbox once more.
    fn say_again(&mut self, topic: &str, standing: Standing) {
        let Some((since, index)) = self.state.carried().since(topic) else { return };
        let Some(since) = State::spot(since, index) else { return };
        let era = self.state.era();
        // A position of another log is before all of this one.
        let spot = |began: Position| if Some(began.era()) == era { Spot::of(began) } else { Spot { ms: 0, seq: 0 } };
        let record = match standing {
            Standing::Producing { producer, began } => {
                Record::Produced { topic: topic.into(), producer, began: began.map(spot), since }
            }
            Standing::Ended { outcome, at_ms, began, has_last_word } => {
                let (producer, began) = (self.state.carried().ended_by(topic), began.map(spot));
                Record::Ended {
                    topic: topic.into(),
                    end: PastEnd { producer, began, outcome, at_ms, has_last_word, since },
                }
            }
        };
        self.outbox.push_always(&record, None);
    }
}
