//! Tests the program as a process, with gRPC clients over HTTP/2 and event streams over HTTP/1.1 and HTTP/2.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use chat::proto::chat_client::ChatClient;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::process::Command;
use tonic::{Code, transport::Endpoint};

#[path = "../../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../../tests/support/client.rs"]
mod client;
#[allow(dead_code, reason = "cargo has built this program already")]
#[path = "../../../tests/support/example.rs"]
mod example;
#[path = "../../../tests/support/strangers.rs"]
mod strangers;
mod support;
use bodies::{AnyBody, any};
use client::{VERSIONS, get};
use example::Server;
use support::{connect, event, heard, join, join_after, position, say, within};

async fn chat(environment: &[(&str, &str)]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
    command.env("PORT", "0").envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    within(Server::start(&mut command)).await
}

fn address(server: &Server) -> SocketAddr {
    server.url.strip_prefix("http://").unwrap().parse().unwrap()
}

async fn ask(server: &Server, version: Version, request: Request<AnyBody>) -> http::Response<hyper::body::Incoming> {
    within(client::Client::connect(address(server), version).await.send(request)).await.unwrap()
}

/// The status and the text of an HTTP/1.1 response.
async fn text(server: &Server, request: Request<AnyBody>) -> (StatusCode, String) {
    let response = ask(server, Version::HTTP_11, request).await;
    let status = response.status();
    let text = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(text.into()).unwrap())
}

fn post(target: &str, text: &'static str) -> Request<AnyBody> {
    let mut request = get(target);
    *request.method_mut() = Method::POST;
    request.map(|_| any(Full::from(text)))
}

/// Repeats the request until the response is as expected.
async fn until_members(server: &Server, room: &str, members: &str) {
    within(async {
        while text(server, get(&format!("/rooms/{room}"))).await.1 != members {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn grpc_clients_and_event_streams_get_the_same_events() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    let mut streams = Vec::new();
    for version in VERSIONS {
        let stream = ask(&server, version, get(&format!("/rooms/lobby/events?name=bob{version:?}"))).await;
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        assert_eq!(stream.headers().contains_key("connection"), version == Version::HTTP_11);
        streams.push(stream);
    }
    let (by_grpc, clients) = say(&mut grpc, "lobby", "ada", "Hello,\nall: ∀").await.unwrap();
    assert_eq!(clients, 3);
    let (status, by_post) = text(&server, post("/rooms/lobby?name=bob", "Hi")).await;
    assert_eq!(status, StatusCode::OK);
    let by_post = by_post.trim_end().to_owned();

    assert_eq!(heard(&mut updates).await, (by_grpc.clone(), "ada: Hello,\nall: ∀".to_owned()));
    assert_eq!(heard(&mut updates).await, (by_post.clone(), "bob: Hi".to_owned()));
    for stream in &mut streams {
        let hello = r#"{"name":"ada","text":"Hello,\nall: ∀"}"#.to_owned();
        assert_eq!(event(stream).await, (by_grpc.clone(), hello));
        assert_eq!(event(stream).await, (by_post.clone(), r#"{"name":"bob","text":"Hi"}"#.to_owned()));
    }
}

#[tokio::test]
async fn an_id_of_either_kind_of_stream_resumes_both() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    let mut stream = ask(&server, Version::HTTP_11, get("/rooms/lobby/events")).await;
    say(&mut grpc, "lobby", "cy", "one").await.unwrap();
    let (from_grpc, _) = heard(&mut updates).await;
    let (from_stream, _) = event(&mut stream).await;
    drop((updates, stream));
    for text in ["two", "three"] {
        say(&mut grpc, "lobby", "cy", text).await.unwrap();
    }

    let mut updates = join_after(&mut grpc, "lobby", "ada", &from_stream).await.unwrap();
    assert_eq!(heard(&mut updates).await.1, "cy: two");
    assert_eq!(heard(&mut updates).await.1, "cy: three");
    let mut request = get("/rooms/lobby/events");
    request.headers_mut().insert("last-event-id", from_grpc.parse().unwrap());
    let mut stream = ask(&server, Version::HTTP_11, request).await;
    assert_eq!(position(&mut stream).await, from_grpc, "the client already has that message");
    let frame = within(stream.frame()).await.unwrap().unwrap().into_data().unwrap();
    let missed = std::str::from_utf8(&frame).unwrap();
    assert!(missed.contains("two") && missed.contains("three") && !missed.contains("one"), "{missed:?}");

    say(&mut grpc, "lobby", "cy", "four").await.unwrap();
    assert_eq!(heard(&mut updates).await.1, "cy: four");
    assert!(event(&mut stream).await.1.contains("four"));
}

#[tokio::test]
async fn a_new_client_gets_the_last_messages() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    for n in 0..30 {
        say(&mut grpc, "lobby", "ada", &n.to_string()).await.unwrap();
    }
    let mut updates = join(&mut grpc, "lobby", "bob").await.unwrap();
    for n in 10..30 {
        assert_eq!(heard(&mut updates).await.1, format!("ada: {n}"));
    }
}

#[tokio::test]
async fn a_grpc_client_that_leaves_is_unsubscribed() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    let reset = join(&mut grpc, "lobby", "ada").await.unwrap();
    let mut other = connect(&server.url).await;
    let closed = join(&mut other, "lobby", "bob").await.unwrap();
    until_members(&server, "lobby", r#"["ada","bob"]"#).await;

    // The client resets its HTTP/2 stream, and the connection stays open.
    drop(reset);
    until_members(&server, "lobby", r#"["bob"]"#).await;
    // The client closes the connection.
    drop((closed, other));
    until_members(&server, "lobby", "[]").await;
    assert_eq!(say(&mut grpc, "lobby", "ada", "Nobody?").await.unwrap().1, 0);
    let (_, stats) = text(&server, get("/stats")).await;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["clients"], &stats["subscriptions"]), (&0.into(), &0.into()), "{stats}");
}

#[tokio::test]
async fn any_characters_in_a_rooms_name_are_one_room() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    let _lobby = join(&mut grpc, "lobby", "ada").await.unwrap();
    let _deeper = join(&mut grpc, "lobby/deeper", "bob").await.unwrap();
    let _all = join(&mut grpc, "**", "eve").await.unwrap();
    until_members(&server, "lobby", r#"["ada"]"#).await;
    until_members(&server, "lobby%2Fdeeper", r#"["bob"]"#).await;
    until_members(&server, "**", r#"["eve"]"#).await;
    for room in ["lobby", "lobby/deeper", "**"] {
        assert_eq!(say(&mut grpc, room, "ada", "Hi").await.unwrap().1, 1, "{room}");
    }
}

#[tokio::test]
async fn errors_are_reported_in_the_terms_of_the_protocol() {
    let server = chat(&[]).await;
    let mut grpc = connect(&server.url).await;
    let (large, long) = ("x".repeat(5000), "x".repeat(81));
    for (room, name, words) in [(&*long, "ada", "a"), ("", "ada", "a"), ("lobby", "", "a"), ("lobby", "ada", &large)] {
        let refused = say(&mut grpc, room, name, words).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(!refused.message().is_empty());
    }
    let no_one = within(grpc.say(chat::proto::SayRequest { room: "lobby".into(), said: None })).await.unwrap_err();
    assert_eq!(no_one.code(), Code::InvalidArgument);
    for (room, name) in [(&*long, "ada"), ("", "ada"), ("lobby", "\n")] {
        let refused = join(&mut grpc, room, name).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert_eq!(text(&server, get(&format!("/rooms/{long}/events"))).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(text(&server, post("/rooms/lobby?name=", "Hi")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(text(&server, get("/nowhere")).await, (StatusCode::NOT_FOUND, "there is nothing here\n".to_owned()));
    let mut request = post("/no.Service/Method", "");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let response = ask(&server, Version::HTTP_2, request).await;
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
    let (_, stats) = text(&server, get("/stats")).await;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["clients"], &stats["topics"]), (&0.into(), &0.into()), "{stats}");
}

#[tokio::test]
async fn a_limit_counts_streams_of_both_kinds_until_they_end() {
    let server = chat(&[("MAX_STREAMS", "2")]).await;
    let mut grpc = connect(&server.url).await;
    let updates = join(&mut grpc, "lobby", "ada").await.unwrap();
    let stream = ask(&server, Version::HTTP_11, get("/rooms/lobby/events")).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let refused = join(&mut grpc, "lobby", "bob").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(text(&server, get("/rooms/lobby/events")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    // A request that is no stream needs no slot.
    assert_eq!(say(&mut grpc, "lobby", "ada", "Two are company").await.unwrap().1, 2);

    drop(updates);
    until_members(&server, "lobby", r#"["someone"]"#).await;
    join(&mut grpc, "lobby", "bob").await.expect("a slot is free again");
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_streams_of_both_kinds_cleanly() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        let mut server = chat(&[]).await;
        let mut grpc = connect(&server.url).await;
        let mut updates = join(&mut grpc, "lobby", "ada").await.unwrap();
        let stream = ask(&server, Version::HTTP_11, get("/rooms/lobby/events")).await;
        say(&mut grpc, "lobby", "ada", "Bye").await.unwrap();
        example::signal(&server.process, signal);

        assert_eq!(heard(&mut updates).await.1, "ada: Bye", "the message was sent before the end");
        let end = within(updates.message()).await.unwrap_err();
        assert_eq!(end.code(), Code::Unavailable, "{end:?}");
        let rest = within(stream.into_body().collect()).await.expect("a clean end").to_bytes();
        let rest = std::str::from_utf8(&rest).unwrap();
        assert!(rest.contains("Bye") && rest.contains("\n\nretry: "), "{rest:?}");
        assert_eq!(within(server.process.wait()).await.unwrap().code(), Some(0));
    }
}

/// The messages are larger than the buffers of HTTP/2 and of the server.
#[cfg(unix)]
#[tokio::test]
async fn a_grpc_client_that_reads_nothing_delays_no_other_client_and_no_exit() {
    let mut server = chat(&[]).await;
    let endpoint = Endpoint::from_shared(server.url.clone()).unwrap().initial_stream_window_size(1 << 16);
    let mut stalled = ChatClient::new(within(endpoint.connect()).await.unwrap());
    let _unread = join(&mut stalled, "lobby", "ada").await.unwrap();
    let mut grpc = connect(&server.url).await;
    let mut updates = join(&mut grpc, "lobby", "bob").await.unwrap();
    let long = "x".repeat(4000);
    for _ in 0..300 {
        assert_eq!(say(&mut grpc, "lobby", "cy", &long).await.unwrap().1, 2);
        assert_eq!(heard(&mut updates).await.1.len(), 4004);
    }
    let start = Instant::now();
    example::signal(&server.process, nix::sys::signal::Signal::SIGTERM);
    assert_eq!(within(updates.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(within(server.process.wait()).await.unwrap().code(), Some(0));
    // The window of the drain, and the timeout for connections.
    let gone_in = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(12)).contains(&gone_in), "{gone_in:?}");
}

#[tokio::test]
async fn the_programs_own_client_prints_messages_and_reconnects() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let server = chat(&[]).await;
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chat"));
        command.args(arguments).env("CHAT", &server.url).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    };
    let mut joined = program(&["join", "lobby", "ada"]).spawn().unwrap();
    let mut lines = BufReader::new(joined.stdout.take().unwrap()).lines();
    until_members(&server, "lobby", r#"["ada"]"#).await;
    let said = within(program(&["say", "lobby", "bob", "Hello"]).output()).await.unwrap();
    assert!(said.status.success());
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "1 hear it\n");
    assert_eq!(within(lines.next_line()).await.unwrap().unwrap(), "bob: Hello");
    let refused = within(program(&["say", "", "bob", "Hello"]).output()).await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
}

#[tokio::test]
async fn pages_of_other_sites_cannot_send_messages() {
    let server = chat(&[]).await;
    let mut stream = ask(&server, Version::HTTP_11, get("/rooms/lobby/events")).await;
    let change = ("POST", "/rooms/lobby?name=ada");
    strangers::pages_of_other_sites_change_nothing(address(&server), &[change], "her own").await;
    let told = strangers::until(&mut stream, "her own", 8).await;
    assert!(!told.contains("forged"), "{told:?}");
}

#[tokio::test]
async fn a_slow_message_is_given_up_and_streams_go_on() {
    let server = chat(&[("GONE_AFTER_MS", "1000")]).await;
    let mut grpc = connect(&server.url).await;
    let mut updates = join(&mut grpc, "lobby", "bob").await.unwrap();
    strangers::a_body_that_trickles_is_given_up(address(&server), &[], ("POST", "/rooms/lobby?name=ada")).await;
    let headers = [("content-type", "application/grpc-web+proto")];
    strangers::a_body_that_trickles_is_given_up(address(&server), &headers, ("POST", "/chat.Chat/Say")).await;
    say(&mut grpc, "lobby", "ada", "still here").await.unwrap();
    assert_eq!(heard(&mut updates).await.1, "ada: still here");
}
