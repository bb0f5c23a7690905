//! The suite for engines: `Memory` passes it, and engines that are wrong in one thing do not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tower_sse::backplane::{
    AppendError, Backplane, Block, BoxFuture, FollowError, Following, Mark, Memory, Place, Read, Stored, Tail, suite,
};

#[tokio::test]
async fn memory_passes() {
    run(|memory| Arc::new(memory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_passes_on_several_threads() {
    run(|memory| Arc::new(memory)).await;
}

/// Runs the suite with an engine that is made of a log in memory.
async fn run(make: impl Fn(Memory) -> Arc<dyn Backplane> + Send + Sync) {
    let logs: Mutex<HashMap<String, Memory>> = Mutex::default();
    suite::run(|name: &str| -> BoxFuture<'static, Arc<dyn Backplane>> {
        let engine = make(logs.lock().unwrap().entry(name.to_owned()).or_default().clone());
        Box::pin(async move { engine })
    })
    .await;
}

/// What is wrong with an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// All blocks of a millisecond stand at one place.
    RepeatsPlaces,
    /// It looks only at the place of a mark.
    ContinuesByPlace,
    /// It continues behind any mark.
    ContinuesAlways,
    /// It takes a block from the log before it returns it.
    LosesWhenNextIsDropped,
    /// It says of each read that there is nothing behind it.
    IsAlwaysNewest,
    /// It wakes no reader: they look once a second.
    DoesNotWake,
    /// Its first `next` waits.
    WaitsAtFirst,
    /// Its `next` waits without end.
    WaitsForEver,
    /// It takes `append_above` for `append`.
    AppendsBelow,
    /// It removes the block that is to be kept.
    TrimsOneTooMany,
    /// It loses the last byte of large blocks.
    CutsLargeBlocks,
    /// Its readers stop at 4,500 blocks.
    LosesTheRest,
    /// A handle reads only what it appended itself.
    OwnBlocksOnly,
}

#[derive(Debug)]
struct Wrong {
    fault: Fault,
    memory: Memory,
    own: Arc<Mutex<Vec<u64>>>,
}

impl Backplane for Wrong {
    fn append<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        self.append_above(Place::default(), block)
    }

    fn append_above<'a>(&'a self, place: Place, block: &'a Block) -> BoxFuture<'a, Result<(), AppendError>> {
        let mut block = block.clone();
        if self.fault == Fault::CutsLargeBlocks && block.body.len() > 1 << 20 {
            block.body.truncate(block.body.len() - 1);
        }
        self.own.lock().unwrap().push(block.key.session);
        Box::pin(async move {
            match self.fault {
                Fault::AppendsBelow => self.memory.append(&block).await,
                _ => self.memory.append_above(place, &block).await,
            }
        })
    }

    fn follow<'a>(&'a self, after: Option<&'a Mark>) -> BoxFuture<'a, Result<Following, FollowError>> {
        Box::pin(async move {
            let mut reading = self.memory.follow(None).await?;
            let blocks = reading.tail.next().await?.blocks;
            let same_place = |mark: &&Mark| blocks.iter().find(|stored| stored.place == mark.place).map(Stored::mark);
            let found = after.as_ref().and_then(same_place);
            let Following { mut continues, tail } = match self.fault {
                Fault::ContinuesByPlace => self.memory.follow(found.as_ref()).await?,
                _ => self.memory.follow(after).await?,
            };
            continues |= self.fault == Fault::ContinuesAlways && after.is_some();
            let tail = WrongTail { fault: self.fault, tail, calls: 0, read: 0, late: None, own: Arc::clone(&self.own) };
            Ok(Following { continues, tail: Box::new(tail) })
        })
    }

    fn trim(&self, before: Place) {
        let more = Place { seq: before.seq + 1, ..before };
        self.memory.trim(if self.fault == Fault::TrimsOneTooMany { more } else { before });
    }
}

#[derive(Debug)]
struct WrongTail {
    fault: Fault,
    tail: Box<dyn Tail>,
    calls: usize,
    read: usize,
    late: Option<Read>,
    own: Arc<Mutex<Vec<u64>>>,
}

impl Tail for WrongTail {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, FollowError>> {
        Box::pin(async move {
            self.calls += 1;
            if self.fault == Fault::WaitsAtFirst && self.calls == 1 {
                tokio::time::sleep(Duration::from_millis(800)).await;
            }
            if self.fault == Fault::DoesNotWake && self.calls > 1 {
                tokio::time::sleep(Duration::from_millis(950)).await;
            }
            let mut read = self.tail.next().await?;
            self.read += read.blocks.len();
            match self.fault {
                Fault::LosesWhenNextIsDropped if !read.blocks.is_empty() => {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                Fault::RepeatsPlaces => read.blocks.iter_mut().for_each(|stored| stored.place.seq = 0),
                Fault::IsAlwaysNewest => read.is_newest = true,
                Fault::WaitsForEver if self.calls > 1 && read.blocks.is_empty() => std::future::pending().await,
                Fault::LosesTheRest if self.read > 4500 => read.blocks.clear(),
                Fault::OwnBlocksOnly => {
                    let own = self.own.lock().unwrap();
                    read.blocks.retain(|stored| own.contains(&stored.block.key.session));
                }
                _ => {}
            }
            Ok(self.late.take().unwrap_or(read))
        })
    }
}

/// Why the suite fails, with an engine that is wrong in one thing.
async fn found(fault: Fault) -> String {
    let suite = run(move |memory| Arc::new(Wrong { fault, memory, own: Arc::default() }));
    let failed = tokio::spawn(suite).await.expect_err("the suite passes, and the engine is wrong");
    *failed.into_panic().downcast::<String>().expect("the suite says why")
}

macro_rules! finds {
    ($($name:ident: $fault:ident, $case:literal;)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                let found = found(Fault::$fault).await;
                assert!(found.starts_with(concat!($case, ": ")), "{found}");
            }
        )*
    };
}

finds! {
    it_finds_places_that_repeat: RepeatsPlaces, "blocks_are_read_as_they_were_appended";
    it_finds_an_engine_that_does_not_look_at_keys: ContinuesByPlace, "a_mark_with_another_key_does_not_continue";
    it_finds_an_engine_that_always_continues: ContinuesAlways, "a_mark_with_another_key_does_not_continue";
    it_finds_blocks_that_are_lost_with_a_dropped_next: LosesWhenNextIsDropped, "a_next_that_is_dropped_misses_nothing";
    it_finds_a_read_that_is_not_the_newest: IsAlwaysNewest, "is_newest_is_said_when_all_is_read_and_not_before";
    it_finds_readers_that_do_not_wake: DoesNotWake, "a_waiting_reader_wakes_when_a_block_is_appended";
    it_finds_a_first_next_that_waits: WaitsAtFirst, "the_first_next_returns_at_once";
    it_finds_a_next_that_does_not_return: WaitsForEver, "a_next_that_has_nothing_returns_none_after_about_a_second";
    it_finds_blocks_that_do_not_stand_above: AppendsBelow, "append_above_puts_the_block_above";
    it_finds_a_trim_of_too_much: TrimsOneTooMany, "trim_keeps_what_is_not_before_its_place";
    it_finds_large_blocks_that_are_cut: CutsLargeBlocks, "a_block_of_the_largest_size_is_kept";
    it_finds_blocks_that_are_lost_at_the_end: LosesTheRest, "five_thousand_blocks_are_read_in_order";
    it_finds_blocks_that_another_handle_does_not_see: OwnBlocksOnly, "blocks_are_read_as_they_were_appended";
}
