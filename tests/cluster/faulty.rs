//! An engine that fails in every way that an engine can fail.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use tower_sse::backplane::{
    AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Place, Read, Stored, Tail,
};

use super::random::Random;

/// The log that all nodes share, and the faults. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Engine(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    blocks: VecDeque<Stored>,
    /// The blocks that were trimmed, which the log has not lost.
    trimmed: Vec<Stored>,
    last: Place,
    lost: Vec<Vec<u8>>,
    appended: tokio::sync::watch::Sender<u64>,
    start: Instant,
    random: Random,
    faults: Faults,
    are_on: bool,
    /// Until when each node reaches nothing: to append, and to read.
    cuts: Vec<[Instant; 2]>,
    /// How often each node's connections were closed.
    connections: Vec<u64>,
    has_trimmed: bool,
}

/// How often things go wrong: one in so many calls, or never.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    away: u64,
    unknown: u64,
    twice: u64,
    late: u64,
    /// One of these in each step, with this many in a hundred.
    cut: u64,
    close: u64,
    trim: u64,
    rollback: u64,
    reuses_places: bool,
    hole: u64,
    delete: u64,
}

impl Faults {
    pub(crate) fn none() -> Self {
        let reuses_places = false;
        Self {
            away: 0,
            unknown: 0,
            twice: 0,
            late: 0,
            cut: 0,
            close: 0,
            trim: 0,
            rollback: 0,
            reuses_places,
            hole: 0,
            delete: 0,
        }
    }

    pub(crate) fn random(random: &mut Random) -> Self {
        let mut some = |share: u64| if random.one_in(2) { share } else { 0 };
        let (away, unknown, twice, late) = (some(20), some(10), some(10), some(10));
        let (cut, close, trim) = (some(15), some(15), some(10));
        // Losses are rarer, because a log that loses something all the time says little of the rest.
        let mut rare = |share: u64| if random.one_in(5) { share } else { 0 };
        let (rollback, hole, delete) = (rare(8), rare(8), rare(3));
        let reuses_places = random.one_in(2);
        Self { away, unknown, twice, late, cut, close, trim, rollback, reuses_places, hole, delete }
    }

    /// Whether a loss is known only a little later: blocks disappear that a node is about to read, and it learns of that when their sender
    /// goes on; or a place is used again before a node has said that the log fell back.
    pub(crate) fn loses_unread(&self) -> bool {
        self.hole + self.delete > 0 || self.uses_places_again()
    }

    /// Whether the log is trimmed although a node may need it.
    pub(crate) fn trims(&self) -> bool {
        self.trim > 0
    }

    /// Whether the log falls back, and later blocks get the places of those that were lost.
    pub(crate) fn uses_places_again(&self) -> bool {
        self.rollback > 0 && self.reuses_places
    }

    pub(crate) fn loses(&self) -> bool {
        self.rollback + self.hole + self.delete > 0
    }
}

impl Engine {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(Log {
            blocks: VecDeque::new(),
            trimmed: Vec::new(),
            last: Place::default(),
            lost: Vec::new(),
            appended: tokio::sync::watch::Sender::new(0),
            start: Instant::now(),
            random: Random(seed ^ 0xabcd),
            faults,
            are_on: false,
            cuts: Vec::new(),
            connections: Vec::new(),
            has_trimmed: false,
        })))
    }

    /// The connection of one node.
    pub(crate) fn handle(&self) -> Handle {
        let mut log = self.log();
        log.cuts.push([Instant::now(); 2]);
        log.connections.push(0);
        Handle { engine: self.clone(), node: log.cuts.len() - 1 }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    /// Returns how many connections were ever made.
    pub(crate) fn nodes(&self) -> usize {
        self.log().cuts.len()
    }

    /// Cuts a node off for good: it is dead.
    pub(crate) fn cut_off(&self, node: usize) {
        self.log().cuts[node] = [Instant::now() + Duration::from_secs(1_000_000); 2];
    }

    pub(crate) fn begin_faults(&self) {
        self.log().are_on = true;
    }

    pub(crate) fn end_faults(&self) {
        let mut log = self.log();
        log.are_on = false;
        let now = Instant::now();
        log.cuts.iter_mut().for_each(|cut| *cut = [now; 2]);
    }

    /// Everything that was appended and not lost, as a log for a node that only reads.
    pub(crate) fn history(&self) -> tower_sse::backplane::Memory {
        let log = self.log();
        let history = tower_sse::backplane::Memory::new();
        log.trimmed.iter().chain(&log.blocks).for_each(|stored| history.restore(stored.clone()));
        history
    }

    /// The blocks that were in the log twice, and of which a node may not have seen the first: it was trimmed, or lost. If so, nodes give their
    /// events two positions.
    pub(crate) fn doubled(&self) -> Vec<Vec<u8>> {
        let log = self.log();
        let bodies: Vec<_> = log.trimmed.iter().chain(&log.blocks).map(|stored| stored.block.body.to_vec()).collect();
        let is_doubled =
            |(at, body): &(usize, &Vec<u8>)| log.has_trimmed && bodies[..*at].contains(body) || log.lost.contains(body);
        let lost = log.lost.iter().enumerate().filter(|(at, body)| log.lost[..*at].contains(body));
        lost.chain(bodies.iter().enumerate().filter(is_doubled)).map(|(_, body)| body.clone()).collect()
    }

    pub(crate) fn lost(&self) -> Vec<Vec<u8>> {
        self.log().lost.clone()
    }

    pub(crate) fn trims(&self) -> bool {
        self.log().has_trimmed
    }

    /// Lets things happen to the log and to the connections.
    pub(crate) async fn run_faults(&self, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
            self.log().happen();
        }
    }
}

impl Log {
    fn happen(&mut self) {
        let Faults { cut, close, trim, rollback, reuses_places, hole, delete, .. } = self.faults.clone();
        let node = self.random.index(self.cuts.len());
        if self.random.below(100) < cut {
            let lasts = Duration::from_millis(self.random.below(20_000));
            let way = self.random.index(3);
            for (at, cut) in self.cuts[node].iter_mut().enumerate().filter(|(at, _)| way == 2 || way == *at) {
                let _ = at;
                *cut = Instant::now() + lasts;
            }
        }
        if self.random.below(100) < close {
            self.connections[node] += 1;
        }
        if self.random.below(100) < trim {
            let most = self.blocks.len() as u64;
            let count = self.random.below(most / 2 + 1);
            self.has_trimmed |= count > 0;
            let gone: Vec<_> = self.blocks.drain(..count as usize).collect();
            self.trimmed.extend(gone);
        }
        if self.random.below(100) < rollback {
            for _ in 0..self.random.below(10) {
                if let Some(lost) = self.blocks.pop_back() {
                    self.lost.push(lost.block.body.to_vec());
                }
            }
            // A log that was deleted begins above its old places. Otherwise it would have two lives, which no node could read as one history.
            if let Some(newest) = self.blocks.back().filter(|_| reuses_places) {
                self.last = newest.place;
            }
            // An engine that was put back has been stopped before.
            self.connections.iter_mut().for_each(|connection| *connection += 1);
        }
        if self.random.below(100) < hole && self.blocks.len() > 2 {
            let at = self.random.index(self.blocks.len() - 1);
            if let Some(lost) = self.blocks.remove(at) {
                self.lost.push(lost.block.body.to_vec());
            }
        }
        if self.random.below(100) < delete {
            let lost: Vec<_> = self.blocks.drain(..).map(|lost| lost.block.body.to_vec()).collect();
            self.lost.extend(lost);
        }
    }

    fn append(&mut self, block: &Block, above: Place) {
        let at_ms = 1_000_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap();
        let at_ms = if self.faults.reuses_places { 1_000_000 } else { at_ms };
        let last = self.last.max(above);
        let place = match at_ms > last.ms {
            true => Place { ms: at_ms, seq: 0 },
            false => Place { ms: last.ms, seq: last.seq + 1 },
        };
        self.last = place;
        self.blocks.push_back(Stored { place, at_ms, block: block.clone() });
        self.appended.send_modify(|count| *count += 1);
    }

    fn chance(&mut self, many: u64) -> bool {
        self.are_on && many > 0 && self.random.one_in(many)
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(if self.are_on { self.random.below(20_000) } else { 300 })
    }
}

#[derive(Debug)]
pub(crate) struct Handle {
    engine: Engine,
    node: usize,
}

impl Handle {
    /// Waits as long as this direction of the node is cut, at most as long as a client of an engine waits.
    async fn reach(&self, way: usize) -> Result<(), tower_sse::backplane::BoxError> {
        let (until, delay) = {
            let mut log = self.engine.log();
            (log.cuts[self.node][way], log.delay())
        };
        if until > Instant::now() {
            sleep((until - Instant::now()).min(Duration::from_secs(3))).await;
            if until > Instant::now() {
                return Err("the network is cut".into());
            }
        }
        sleep(delay).await;
        Ok(())
    }
}

impl Backplane for Handle {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            self.reach(0).await.map_err(AppendError::Away)?;
            let (away, unknown, twice, late, after, delay) = {
                let mut log = self.engine.log();
                let Faults { away, unknown, twice, late, .. } = log.faults.clone();
                let after = Duration::from_millis(log.random.below(5000));
                (log.chance(away), log.chance(unknown), log.chance(twice), log.chance(late), after, log.delay())
            };
            if away {
                return Err(AppendError::Away("it answers that it starts".into()));
            }
            if late {
                // The bytes are on the way while the connection is taken for dead.
                let (engine, block) = (self.engine.clone(), block.clone());
                tokio::spawn(async move {
                    sleep(after).await;
                    engine.log().append(&block, place);
                });
                return Err(AppendError::Unknown("the connection was lost".into()));
            }
            self.engine.log().append(block, place);
            if twice {
                self.engine.log().append(block, place);
            }
            sleep(delay).await;
            if unknown {
                return Err(AppendError::Unknown("the answer was lost".into()));
            }
            Ok(())
        })
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(async move {
            self.reach(1).await.map_err(FollowError::Away)?;
            let log = self.engine.log();
            let found = after.filter(|mark| log.blocks.iter().any(|stored| stored.mark() == **mark));
            let tail = FaultyTail {
                engine: self.engine.clone(),
                node: self.node,
                appended: log.appended.subscribe(),
                after: found.map(|mark| mark.place),
                connection: log.connections[self.node],
                has_read: false,
            };
            Ok(Following { continues: found.is_some(), tail: Box::new(tail) })
        })
    }

    fn slack(&self) -> usize {
        2000
    }

    fn trim(&self, before: Place) {
        let mut log = self.engine.log();
        if log.blocks.front().is_some_and(|oldest| oldest.place < before) {
            log.has_trimmed = true;
            let count = log.blocks.partition_point(|stored| stored.place < before);
            let gone: Vec<_> = log.blocks.drain(..count).collect();
            log.trimmed.extend(gone);
        }
    }
}

#[derive(Debug)]
struct FaultyTail {
    engine: Engine,
    node: usize,
    appended: tokio::sync::watch::Receiver<u64>,
    after: Option<Place>,
    connection: u64,
    has_read: bool,
}

impl FaultyTail {
    fn read(&mut self) -> Result<Option<Read>, FollowError> {
        self.appended.mark_unchanged();
        let mut log = self.engine.log();
        if log.connections[self.node] != self.connection {
            return Err(FollowError::Away("the connection was closed".into()));
        }
        if log.cuts[self.node][1] > Instant::now() {
            return Ok(None);
        }
        let start = log.blocks.partition_point(|stored| Some(stored.place) <= self.after);
        let at_most = 1 + log.random.index(20);
        let blocks: Vec<_> = log.blocks.range(start..).take(at_most).cloned().collect();
        let is_newest = start + blocks.len() == log.blocks.len();
        if let Some(last) = blocks.last() {
            self.after = Some(last.place);
        }
        Ok(Some(Read { blocks, is_newest }))
    }
}

impl Tail for FaultyTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            let (quiet, dead) = (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(3));
            loop {
                let read = self.read()?;
                let is_first = !std::mem::replace(&mut self.has_read, true);
                match read {
                    Some(read) if !read.blocks.is_empty() || is_first || Instant::now() >= quiet => return Ok(read),
                    None if Instant::now() >= dead => return Err(FollowError::Away("nothing comes".into())),
                    Some(_) => _ = timeout_at(quiet, self.appended.changed()).await,
                    None => sleep(Duration::from_millis(500)).await,
                }
            }
        })
    }
}
