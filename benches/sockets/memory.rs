//! What an idle stream takes in memory, as the system sees it, from a bare task to a whole server.

use crate::{
    child::Server,
    load::Load,
    server::{Behind, Side},
};

/// Each with what it shows.
const STEPS: [(Side, Behind, &str); 10] = [
    (Side::Task, Behind::Http1, "a task with its socket, no HTTP server"),
    (Side::Bare, Behind::Http1, "hyper, HTTP/1 alone, a body that never has anything"),
    (Side::Bare, Behind::NoTimeout, "the same, header_read_timeout(None)"),
    (Side::Bare, Behind::Flatten, "the same, writev(false)"),
    (Side::Bare, Behind::SmallBuffers, "the same, max_buf_size(8192)"),
    (Side::Bare, Behind::Auto, "hyper-util's auto, HTTP/1 or 2, the same body"),
    (Side::Bare, Behind::AxumServe, "axum::serve, the same body"),
    (Side::Ours, Behind::Http1, "hyper, HTTP/1 alone, ours"),
    (Side::Ours, Behind::AxumServe, "axum::serve, ours"),
    (Side::Axums, Behind::AxumServe, "axum::serve, axum's Sse over a broadcast channel"),
];

pub(crate) fn print(arguments: &[String], core: usize) {
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let number = arguments.iter().find_map(|argument| argument.parse().ok());
    let streams: usize = number.unwrap_or(if is_quick { 200 } else { 5_000 });
    println!("resident memory of the server process for each of {streams} idle streams");
    for (side, behind, what) in STEPS {
        let mut server = Server::start(side, behind, core);
        // What is made once is there.
        let first = Load::open(server.address, 1);
        let before = server.usage().resident;
        let load = Load::open(server.address, streams);
        let after = server.usage().resident;
        println!("  {:>6.2} KiB  {what}", after.saturating_sub(before) as f64 / 1024.0 / streams as f64);
        drop((first, load));
    }
}
