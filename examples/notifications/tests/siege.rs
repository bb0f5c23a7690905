//! Tests the program with 512 file descriptors and a thousand connections that send no request in time.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use http::StatusCode;
use tokio::time::Instant;

#[path = "../../../tests/support/siege.rs"]
mod siege;
mod support;
use siege::{Siege, Times};
use support::{STREAM, Visitor, bodies, client::VERSIONS, example::Server, expect, within};

#[tokio::test]
async fn users_are_served_within_a_second_during_a_siege() {
    let mut command = siege::with_few_files(Path::new(env!("CARGO_BIN_EXE_notifications")));
    let server = within(Server::start(command.env("PORT", "0").env("LOGINS_PER_MINUTE", "1000"))).await;
    let ada = Visitor::named(&server, "ada").await;
    let mut stream = ada.get(STREAM).await;
    let mut siege = within(Siege::lay(ada.address, "/login")).await;
    let mut times = Times::default();
    for _ in 0..20 {
        for version in VERSIONS {
            let bob = Visitor { version, ..Visitor::of(&server) };
            let (time, status) = siege::get(ada.address, "/health").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            times.note(time);
            let begun = Instant::now();
            assert_eq!(bob.send(bob.login("bob")).await.status(), StatusCode::OK);
            assert_eq!(bob.get("/announcements").await.status(), StatusCode::OK);
            times.note(begun.elapsed());
        }
    }
    times.are_within_a_second();
    assert!(siege.left() > 100, "{} are left", siege.left());
    // An open stream is not closed to make room.
    ada.post("/api/users/ada/notifications", "still here").await;
    expect(&mut stream, &["ada still here"]).await;
}

#[tokio::test]
async fn requests_without_bodies_that_are_renewed_keep_out_nobody_whose_head_is_under_way() {
    let mut command = siege::with_few_files(Path::new(env!("CARGO_BIN_EXE_notifications")));
    let server = within(Server::start(command.env("PORT", "0"))).await;
    let address = Visitor::of(&server).address;
    siege::renewals_keep_nobody_out(address, ("/login", "/health"), (siege::FILES, 110)).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn streams_of_few_addresses_leave_connections_for_others() {
    let mut command = siege::with_few_files(Path::new(env!("CARGO_BIN_EXE_notifications")));
    let server = within(Server::start(command.env("PORT", "0"))).await;
    let address = Visitor::of(&server).address;
    siege::streams_leave_connections_for_others(address, "/announcements", "/health").await;
    // They leave streams for users too.
    let ada = Visitor::named(&server, "ada").await;
    let mut stream = ada.get(STREAM).await;
    ada.post("/api/users/ada/notifications", "still here").await;
    expect(&mut stream, &["ada still here"]).await;
}
