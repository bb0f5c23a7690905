//! A whole server: thousands of streams over loopback sockets, beside axum's `Sse` over `tokio::sync::broadcast`, in the same run.
//!
//! `cargo bench --bench sockets [-- [STREAMS [SECONDS [RATE...]]] [OPTION...]]`, and with `--quick` to see that it runs.
//!
//! - `--rounds N`: each side N times in turn, and the median of the ratios.
//! - `--sides ours,least,raw`: these in turn; one alone is for a profiler. Default: `ours,batched,axum`, where `batched` is ours with at
//!   least 100 ms between two frames of a stream. `raw` is a loop over sockets, which shows what the system takes, and `least` a body
//!   over hyper that does the least, which shows what hyper and tokio take besides.
//! - `--behind http1`: hyper's own builder, or another of those in `server.rs`, instead of `axum::serve`.
//! - `memory [STREAMS]`: what an idle stream takes, and how much of it is hyper's.
//!
//! The server is a process of its own on one core, this program once more, on a runtime of one thread; the load runs on another core.
//! All sides are axum routers behind `axum::serve`, with TCP_NODELAY, heartbeats on, and the defaults otherwise: a topic retains 1,000 events, the
//! broadcast channel 1,024. Once all streams are open, the server publishes by itself, at a fixed rate, and is late if it is busy. The load
//! reads raw sockets, looks at all bytes of all events, and counts what is missing or misplaced by their sequence numbers. Latencies are
//! from when an event was due, so that one that is published late counts as late. Each rate and side has a fresh process.
//!
//! A server that cannot write each event by itself is busy all the time: it writes as often as it can, and each write takes what has come
//! meanwhile. The time for a delivery is then that of the plan over the deliveries, whatever a write costs, unless something limits how
//! often it writes. A server that something else took the core from writes less often, and looks faster for it: the last column says how long.
//!
//! No time is asserted: the numbers are printed. That nothing of ours is lost or misplaced is.

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
#[allow(dead_code, reason = "the plan has arguments of its own")]
#[path = "../support/table.rs"]
mod table;
#[cfg(target_os = "linux")]
mod wire;

fn main() {
    #[cfg(target_os = "linux")]
    plan::main();
    #[cfg(not(target_os = "linux"))]
    println!("it pins processes to cores, and reads what they use, as Linux has it");
}
