//! A whole server: thousands of streams over loopback sockets, compared with axum's `Sse` over `tokio::sync::broadcast`
//! in the same run.
//!
//! `cargo bench --bench sockets [-- [STREAMS [SECONDS [RATE...]]] [OPTION...]]`. With `--quick` it only checks that the
//! bench runs.
//!
//! - `--rounds N`: runs each side N times in turn. The median of the ratios counts.
//! - `--sides ours,least,raw`: runs these sides in turn. A single side is useful for a profiler. Default:
//!   `ours,batched,axum`. `batched` is ours with at least 100 ms between two frames of a stream. `raw` is a loop over
//!   sockets, which shows the system's cost. `least` is a minimal body over hyper, which shows the additional cost of
//!   hyper and tokio.
//! - `--behind http1`: hyper's own builder, or another one in `server.rs`, instead of `axum::serve`.
//! - `memory [STREAMS]`: the memory of an idle stream, and hyper's part of it.
//!
//! The server is a process of its own on one core: this program, with a runtime of one thread. The load runs on another
//! core. All sides are axum routers behind `axum::serve`, with TCP_NODELAY, heartbeats, and otherwise the defaults: a
//! topic retains 1,000 events, the broadcast channel 1,024. When all streams are open, the server publishes by itself
//! at a fixed rate, and is late if it is busy. The load reads raw sockets, checks all bytes of all events, and counts
//! missing and misplaced events by their sequence numbers. Latencies start when an event was due, so a late publish
//! counts as latency. Each rate and side has a new process.
//!
//! A server that cannot write each event separately is busy all the time: it writes as often as it can, and each write
//! takes all events that are pending. Then the time per delivery is the plan's time divided by the deliveries, whatever
//! a write costs, unless something limits how often the server writes. If another process takes the server's core, the
//! server writes less often and looks faster. The last column shows for how long that was.
//!
//! No time is asserted. The figures are printed. It is asserted that this crate loses and misplaces no event.

#![allow(clippy::expect_used)]

#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "the plan parses its own arguments")]
#[path = "../support/table.rs"]
mod table;
#[cfg(target_os = "linux")]
mod wire;

fn main() {
    #[cfg(target_os = "linux")]
    plan::main();
    #[cfg(not(target_os = "linux"))]
    println!("this bench needs Linux: it pins processes to cores and reads their resource usage");
}
