//! A suite that checks an implementation of [`Backplane`].
//!
//! Run it from the tests of your engine. Each case checks one rule of the trait, on a log of its own.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use std::collections::HashMap;
//!
//! use tower_sse::backplane::{Backplane, BoxFuture, Memory, suite};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # tokio::time::pause();
//! let logs: Mutex<HashMap<String, Memory>> = Mutex::default();
//! suite::run(|name: &str| -> BoxFuture<'static, Arc<dyn Backplane>> {
//!     let engine = logs.lock().unwrap().entry(name.to_owned()).or_default().clone();
//!     Box::pin(async move { Arc::new(engine) as Arc<dyn Backplane> })
//! })
//! .await;
//! # }
//! ```
//!
//! The suite checks what an engine does while it works. Test on your own what your engine does when it cannot be reached, has no room, or is
//! killed.

mod appending;
mod blocks;
mod log;
mod marks;
mod reading;
mod trimming;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use self::log::{Log, random};
use super::{Backplane, BoxFuture};

/// How long a case may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a call may take that does not wait for a block.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long a call may take that waits for a block that does not come.
const QUIET: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The largest block that the suite appends.
const LARGEST: usize = 8 << 20;

/// Runs all [`CASES`], one after the other.
///
/// `open` opens the log of a name. The first time that it is called with a name, the log must be empty. Later calls with the same name open
/// the same log again, as another process would. If only one process can have your engine's log, return a clone. The suite makes up the names
/// from `a` to `z`, `0` to `9`, `_` and `-`, with a random part, so that no two runs have a name in common.
///
/// It takes about ten seconds with an engine that answers within a millisecond, because some cases wait for a reader that has nothing to read.
/// It uses tokio's clock, and needs a runtime with time.
///
/// # Panics
///
/// Panics with the name of the case and a sentence that says which rule the engine breaks. A case that is not done after three minutes panics too.
pub async fn run<O>(open: O)
where
    O: Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync,
{
    for case in CASES {
        run_case(case, &open).await;
    }
}

/// Runs one of the [`CASES`], for example to find out why it fails.
///
/// `open` is as for [`run`].
///
/// # Panics
///
/// As [`run`]. It also panics if there is no case of this name.
pub async fn run_case<O>(case: &str, open: O)
where
    O: Fn(&str) -> BoxFuture<'static, Arc<dyn Backplane>> + Send + Sync,
{
    let log = Log { open: &open, case, name: format!("{case}-{:016x}", random()) };
    if timeout(PATIENCE, start(case, &log)).await.is_err() {
        log.fail(format_args!("it is not done after {} seconds", PATIENCE.as_secs()));
    }
}

macro_rules! cases {
    ($($part:ident::$case:ident,)*) => {
        /// The names of the cases, in the order in which [`run`] runs them.
        pub const CASES: &[&str] = &[$(stringify!($case)),*];

        async fn start(case: &str, log: &Log<'_>) {
            match case {
                $(stringify!($case) => $part::$case(log).await,)*
                _ => log.fail("there is no case of this name"),
            }
        }
    };
}

cases! {
    blocks::blocks_are_read_as_they_were_appended,
    blocks::an_empty_body_is_a_block,
    blocks::every_byte_of_a_body_is_kept,
    blocks::the_numbers_of_a_block_are_kept,
    blocks::a_block_of_256_kib_is_kept,
    blocks::a_block_of_the_largest_size_is_kept,
    blocks::what_was_appended_can_be_read_at_once,
    blocks::places_grow_and_stay_within_their_bounds,
    blocks::at_ms_is_when_the_block_was_appended,
    reading::the_first_next_returns_at_once,
    reading::a_next_that_has_nothing_returns_none_after_about_a_second,
    reading::is_newest_is_said_when_all_is_read_and_not_before,
    reading::a_waiting_reader_wakes_when_a_block_is_appended,
    reading::many_waiting_readers_wake,
    reading::all_readers_read_the_same,
    reading::a_next_that_is_dropped_misses_nothing,
    reading::a_waiting_reader_can_be_dropped,
    reading::a_reader_outlives_its_handle,
    marks::reading_continues_behind_every_block,
    marks::reading_continues_behind_the_newest_block,
    marks::a_mark_with_another_key_does_not_continue,
    marks::a_mark_with_another_place_does_not_continue,
    marks::a_mark_of_an_empty_log_does_not_continue,
    marks::a_mark_of_another_log_does_not_continue,
    appending::append_above_puts_the_block_above,
    appending::append_above_a_place_below_the_end_appends,
    appending::append_above_wakes_a_waiting_reader,
    appending::many_appenders_lose_nothing,
    appending::a_block_that_is_appended_again_is_read_as_it_is,
    appending::a_dropped_append_leaves_the_whole_block_or_nothing,
    trimming::trim_keeps_what_is_not_before_its_place,
    trimming::trim_of_everything_keeps_the_log_going,
    trimming::a_reader_that_is_behind_a_trim_reads_on,
    trimming::a_trimmed_mark_continues_only_if_its_block_is_there,
    trimming::five_thousand_blocks_are_read_in_order,
}
