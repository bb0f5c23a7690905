//! The memory of an idle stream as the system counts it, from a bare task to a whole server.

use crate::{
    child::Server,
    load::Load,
    server::{Behind, Side},
};

/// The steps, and what each shows.
const STEPS: [(Side, Behind, &str); 16] = [
    (Side::Task, Behind::Http1, "no HTTP server: a task with its socket"),
    (Side::Bare, Behind::Http1, "hyper's http1::Builder, a body that never has anything"),
    (Side::Bare, Behind::SmallBuffers, "the same, max_buf_size(8192)"),
    (Side::Bare, Behind::NoTimeout, "the same, header_read_timeout(None)"),
    (Side::Bare, Behind::Flatten, "the same, writev(false)"),
    (Side::Keeping, Behind::Http1, "the same, where the handler keeps the request's headers"),
    (Side::Bare, Behind::Auto, "hyper-util's auto::Builder, HTTP/1 or 2"),
    (Side::Keeping, Behind::Auto, "the same, where the handler keeps the request's headers"),
    (Side::Bare, Behind::MakeService, "axum::serve(listener, router.into_make_service())"),
    (Side::Bare, Behind::AxumServe, "axum::serve(listener, router)"),
    (Side::ManyRoutes, Behind::MakeService, "axum::serve(listener, router.into_make_service()), with 100 more routes"),
    (Side::ManyRoutes, Behind::AxumServe, "axum::serve(listener, router), with 100 more routes"),
    (Side::Ours, Behind::Http1, "ours, http1::Builder"),
    (Side::Ours, Behind::MakeService, "ours, axum::serve(listener, router.into_make_service())"),
    (Side::Ours, Behind::AxumServe, "ours, axum::serve(listener, router)"),
    (Side::Axums, Behind::AxumServe, "axum's Sse over a broadcast channel, axum::serve(listener, router)"),
];

pub(crate) fn print(arguments: &[String], core: usize) {
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let number = arguments.iter().find_map(|argument| argument.parse().ok());
    let streams: usize = number.unwrap_or(if is_quick { 200 } else { 5_000 });
    println!("resident memory of the server process for each of {streams} idle streams");
    for (side, behind, what) in STEPS {
        let mut server = Server::start(side, behind, core);
        // The first stream allocates what is allocated only once.
        let first = Load::open(server.address, 1);
        let before = server.usage().resident;
        let load = Load::open(server.address, streams);
        let after = server.usage().resident;
        println!("  {:>6.2} KiB  {what}", after.saturating_sub(before) as f64 / 1024.0 / streams as f64);
        drop((first, load));
    }
}
