//! A log under test, and those who append to it and read it.

use std::{
    collections::HashMap,
    fmt::Display,
    future::poll_fn,
    hash::{BuildHasher, Hasher, RandomState},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::AT_ONCE;
use crate::backplane::{
    Backplane, Block, BlockKey, BoxFuture, FollowError, Following, Mark, Place, Read, Stored, Tail,
};

/// One log, for one case.
#[derive(Clone)]
pub(super) struct Log<'a> {
    pub(super) open: &'a Open<'a>,
    pub(super) case: &'a str,
    pub(super) name: String,
}

pub(super) type Open<'a> = dyn Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync + 'a;

impl Log<'_> {
    pub(super) async fn open(&self) -> Arc<dyn Backplane> {
        (self.open)(&self.name).await
    }

    #[track_caller]
    pub(super) fn fail(&self, rule: impl Display) -> ! {
        fail(self.case, rule)
    }

    #[track_caller]
    pub(super) fn check(&self, holds: bool, rule: impl Display) {
        if !holds {
            self.fail(rule);
        }
    }

    pub(super) async fn append(&self, engine: &Arc<dyn Backplane>, block: &Block) {
        if let Err(error) = engine.append(block).await {
            self.fail(format_args!("appending fails: {error}"));
        }
    }

    pub(super) async fn follow(&self, engine: &Arc<dyn Backplane>, after: Option<Mark>) -> (bool, Reader<'_>) {
        let following = engine.follow(after.as_ref()).await;
        let Following { continues, tail } =
            following.unwrap_or_else(|error| self.fail(format_args!("following fails: {error}")));
        self.check(after.is_some() || !continues, "reading that begins at the oldest block does not continue");
        (continues, Reader { tail, case: self.case, last: None })
    }

    pub(super) async fn read(&self, engine: &Arc<dyn Backplane>) -> Reader<'_> {
        self.follow(engine, None).await.1
    }

    pub(super) async fn read_all(&self, engine: &Arc<dyn Backplane>) -> Vec<Stored> {
        self.read(engine).await.until_newest().await
    }

    pub(super) async fn newest(&self, engine: &Arc<dyn Backplane>) -> Place {
        self.read_all(engine).await.last().map(|stored| stored.place).unwrap_or_default()
    }

    pub(super) async fn first_next_is_quick(&self, engine: &Arc<dyn Backplane>, after: Option<Mark>) {
        // The quickest of three, as a machine can be busy.
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let (_, mut reader) = self.follow(engine, after).await;
            let began = Instant::now();
            reader.next().await;
            quickest = quickest.min(began.elapsed());
        }
        self.check(
            quickest < AT_ONCE,
            format_args!("the first `next` returns at once, and the quickest of 3 took {quickest:?}"),
        );
    }

    pub(super) async fn begins_at_the_oldest(
        &self,
        engine: &Arc<dyn Backplane>,
        mark: Mark,
        whose: &str,
        all: &[Stored],
    ) {
        let (continues, mut reader) = self.follow(engine, Some(mark)).await;
        self.check(!continues, format_args!("reading continues behind {whose}, {mark:?}, which is not in the log"));
        self.check_stored(&reader.until_newest().await, all);
    }

    /// Leaves out the blocks that are there already: an engine may keep a block twice that was appended twice.
    pub(super) fn without_repeats(&self, read: Vec<Stored>) -> Vec<Stored> {
        let mut seen: HashMap<BlockKey, Block> = HashMap::new();
        let mut first = Vec::new();
        for stored in read {
            match seen.get(&stored.block.key) {
                Some(block) => self.check(*block == stored.block, "two blocks with the same key are the same block"),
                None => {
                    seen.insert(stored.block.key, stored.block.clone());
                    first.push(stored);
                }
            }
        }
        first
    }

    #[track_caller]
    pub(super) fn check_bounds(&self, place: Place) {
        self.check(place.ms < 1 << 48, format_args!("`ms` is less than 2^48, and a place has {}", place.ms));
        self.check(place.seq < 1 << 22, format_args!("`seq` is less than 2^22, and a place has {}", place.seq));
    }

    /// Compares what was read with what was appended.
    #[track_caller]
    pub(super) fn check_blocks(&self, read: &[Stored], appended: &[Block]) {
        let differs = read.iter().zip(appended).position(|(read, appended)| read.block != *appended);
        if let Some(at) = differs {
            let (read, appended) = (&read[at].block, &appended[at]);
            let bodies = if read.body == appended.body { "the same body" } else { "another body" };
            self.fail(format_args!(
                "block {at} was appended with {:?}, {} records and {} bytes, and is read with {:?}, {} records, {} bytes and {bodies}",
                appended.key, appended.records, appended.body.len(), read.key, read.records, read.body.len(),
            ));
        }
        self.check(
            read.len() == appended.len(),
            format_args!("{} blocks are read where {} were appended", read.len(), appended.len()),
        );
    }

    /// Compares what two readers read.
    #[track_caller]
    pub(super) fn check_stored(&self, read: &[Stored], expected: &[Stored]) {
        let differs = read.iter().zip(expected).find(|(read, expected)| read != expected);
        if let Some((read, expected)) = differs {
            let (read, expected) = (read.mark(), expected.mark());
            self.fail(format_args!(
                "all read the same from a place on: {read:?} is read where {expected:?} was before"
            ));
        }
        self.check(
            read.len() == expected.len(),
            format_args!("all read the same from a place on: {} blocks are read, not {}", read.len(), expected.len()),
        );
    }
}

/// Appends the blocks of one session.
pub(super) struct Writer<'a> {
    pub(super) engine: Arc<dyn Backplane>,
    pub(super) case: &'a str,
    pub(super) session: u64,
    pub(super) number: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(log: &Log<'a>, engine: &Arc<dyn Backplane>) -> Self {
        Self { engine: Arc::clone(engine), case: log.case, session: random(), number: 0 }
    }

    pub(super) fn next_block(&mut self, body: impl Into<Bytes>) -> Block {
        let key = BlockKey { session: self.session, number: self.number };
        let records = 1 + u32::try_from(self.number % 3).unwrap_or_default();
        self.number += u64::from(records);
        Block { key, records, body: body.into() }
    }

    pub(super) async fn append(&mut self, body: impl Into<Bytes>) -> Block {
        let block = self.next_block(body);
        if let Err(error) = self.engine.append(&block).await {
            fail(self.case, format_args!("appending fails: {error}"));
        }
        block
    }

    pub(super) async fn append_above(&mut self, place: Place, body: impl Into<Bytes>) -> Block {
        let block = self.next_block(body);
        if let Err(error) = self.engine.append_above(place, &block).await {
            fail(self.case, format_args!("appending above {place:?} fails: {error}"));
        }
        block
    }
}

/// Reads a log, and checks of each read what holds for all.
pub(super) struct Reader<'a> {
    pub(super) tail: Box<dyn Tail>,
    pub(super) case: &'a str,
    pub(super) last: Option<Place>,
}

impl Reader<'_> {
    pub(super) async fn next(&mut self) -> Read {
        let read = self.tail.next().await;
        self.check(read)
    }

    pub(super) fn check(&mut self, read: Result<Read, FollowError>) -> Read {
        let read = read.unwrap_or_else(|error| fail(self.case, format_args!("reading fails: {error}")));
        for stored in &read.blocks {
            let place = stored.place;
            if let Some(last) = self.last.filter(|last| *last >= place) {
                fail(
                    self.case,
                    format_args!("a reader gets each place once, in order: {place:?} comes after {last:?}"),
                );
            }
            self.last = Some(place);
        }
        read
    }

    pub(super) async fn until_newest(&mut self) -> Vec<Stored> {
        let mut all = Vec::new();
        loop {
            let read = self.next().await;
            all.extend(read.blocks);
            if read.is_newest {
                return all;
            }
        }
    }

    pub(super) async fn count(&mut self, blocks: usize) -> Vec<Stored> {
        let mut all = Vec::new();
        while all.len() < blocks {
            all.extend(self.next().await.blocks);
        }
        all
    }
}

#[track_caller]
pub(super) fn fail(case: &str, rule: impl Display) -> ! {
    panic!("{case}: {rule}")
}

pub(super) fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Poll<T> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for two futures at once.
pub(super) async fn both<A, B>(one: impl Future<Output = A>, two: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut first, mut second) = (None, None);
    poll_fn(|context| {
        if first.is_none() {
            first = ready_value(one.as_mut().poll(context));
        }
        if second.is_none() {
            second = ready_value(two.as_mut().poll(context));
        }
        match (first.take(), second.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            not_yet => {
                (first, second) = not_yet;
                Poll::Pending
            }
        }
    })
    .await
}

pub(super) fn ready_value<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
