//! Tests the program as a process, with clients that have a session and clients that have none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, Method, StatusCode};

mod support;
use support::{STREAM, Visitor, after_the_position, all, bodies, expect, start, until, within};

#[tokio::test]
async fn each_user_gets_their_own_and_the_public_notifications() {
    let server = start(&[]).await;
    let (ada, bob) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "bob").await);
    let nobody = Visitor::of(&server);
    let (mut adas, mut bobs) = (ada.get(STREAM).await, bob.get(STREAM).await);
    let mut everybodys = nobody.get("/announcements").await;
    assert_eq!(bob.post("/api/users/ada/notifications", "Tea?").await.1, 1);
    assert_eq!(ada.post("/api/users/bob/notifications", "Yes").await.1, 1);
    assert_eq!(ada.post("/api/announcements", "Tea at five").await.1, 3);
    expect(&mut adas, &["bob Tea?", "ada Tea at five"]).await;
    expect(&mut bobs, &["ada Yes", "ada Tea at five"]).await;
    expect(&mut everybodys, &["ada Tea at five"]).await;
    for stream in [&adas, &bobs, &everybodys] {
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
    }
    assert_eq!(adas.headers()["cache-control"], "no-store, no-transform", "the header of the stream's own layer");
    assert_eq!(everybodys.headers()["cache-control"], "no-cache, no-transform", "the router's");
}

#[tokio::test]
async fn a_cut_stream_resumes_on_all_of_its_topics() {
    let server = start(&[]).await;
    let ada = Visitor::named(&server, "ada").await;
    let mut stream = ada.get(STREAM).await;
    let (id, _) = ada.post("/api/users/ada/notifications", "one").await;
    expect(&mut stream, &["ada one"]).await;
    drop(stream);
    ada.post("/api/announcements", "two").await;
    ada.post("/api/users/ada/notifications", "three").await;
    let mut by_header = ada.get_with(STREAM, &[("last-event-id", &id)]).await;
    let mut by_query = ada.get(&format!("{STREAM}?lastEventId={id}")).await;
    let mut fresh = ada.get(STREAM).await;
    ada.post("/api/announcements", "four").await;
    expect(&mut by_header, &["ada two", "ada three", "ada four"]).await;
    expect(&mut by_query, &["ada two", "ada three", "ada four"]).await;
    expect(&mut fresh, &["ada one", "ada three", "ada four"]).await;
}

#[tokio::test]
async fn each_of_the_two_streams_has_its_own_layer() {
    let server = start(&[("HEARTBEAT_MS", "20"), ("PING_MS", "20")]).await;
    let ada = Visitor::named(&server, "ada").await;
    const PING: &str = "event: ping\ndata: \n\n";
    let users = until(&mut ada.get(STREAM).await, |text| text.matches(PING).count() == 5).await;
    assert_eq!(after_the_position(&users), PING.repeat(5), "no bytes of the other layer");
    let everybodys = until(&mut ada.get("/announcements").await, |text| text.matches(":\n\n").count() == 5).await;
    assert_eq!(after_the_position(&everybodys), ":\n\n".repeat(5));
}

#[tokio::test]
async fn each_user_has_their_own_limit_of_streams() {
    let server = start(&[("MAX_STREAMS_PER_USER", "2")]).await;
    let (ada, bob) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "bob").await);
    // The limit counts the user, not the session.
    let elsewhere = Visitor::named(&server, "ada").await;
    let event_stream = [("accept", "text/event-stream")];
    let (first, _second) = (ada.get_with(STREAM, &event_stream).await, elsewhere.get(STREAM).await);
    for headers in [&event_stream[..], &[]] {
        let refused = ada.get_with(STREAM, headers).await;
        assert_eq!(
            (refused.status(), &refused.headers()["cache-control"]),
            (StatusCode::OK, &"no-store".parse().unwrap())
        );
        let text = all(refused).await;
        assert!(text.starts_with("retry: ") && text.trim_end().lines().count() == 1, "{text:?}");
    }
    assert_eq!(ada.post("/api/users/ada/notifications", "Two").await.1, 2);
    let mut bobs = bob.get_with(STREAM, &event_stream).await;
    bob.post("/api/users/bob/notifications", "Three").await;
    expect(&mut bobs, &["bob Three"]).await;

    drop(first);
    within(async { while ada.post("/api/users/ada/notifications", "One").await.1 > 1 {} }).await;
    let mut third = ada.get_with(STREAM, &event_stream).await;
    until(&mut third, |text| text.contains("Two")).await;
}

#[tokio::test]
async fn a_logout_ends_only_the_streams_of_its_session() {
    let server = start(&[]).await;
    let (here, there) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "ada").await);
    let (mut ends, mut goes_on) = (here.get(STREAM).await, there.get(STREAM).await);
    here.post("/api/users/ada/notifications", "before").await;
    expect(&mut ends, &["ada before"]).await;
    let out = here.send(here.request(&Method::POST, "/api/logout", "")).await;
    assert_eq!(out.status(), StatusCode::NO_CONTENT);
    assert!(out.headers()["set-cookie"].to_str().unwrap().starts_with("session=; "));
    assert_eq!(all(ends).await, "");
    assert_eq!(here.get(STREAM).await.status(), StatusCode::UNAUTHORIZED, "a 401 stops an EventSource");
    there.post("/api/users/ada/notifications", "after").await;
    expect(&mut goes_on, &["ada before", "ada after"]).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_session_expires() {
    let server = start(&[("SESSION_SECONDS", "3")]).await;
    let ada = Visitor::named(&server, "ada").await;
    let stream = ada.get(STREAM).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let told = all(stream).await;
    assert_eq!(after_the_position(&told), "event: expired\ndata: Log in again.\n\n");
    assert_eq!(ada.get(STREAM).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn responses_that_are_no_stream_are_the_same_without_the_layer() {
    let server = start(&[]).await;
    let (ada, nobody) = (Visitor::named(&server, "ada").await, Visitor::of(&server));
    let nowhere = r#"{"error":"there is nothing here"}"#;
    for (visitor, target, status, text) in [
        (&ada, "/api/me", StatusCode::OK, r#"{"user":"ada"}"#),
        (&nobody, "/health", StatusCode::OK, "ok"),
        (&nobody, "/nowhere", StatusCode::NOT_FOUND, nowhere),
        (&nobody, "/api/nowhere", StatusCode::NOT_FOUND, nowhere),
        (&nobody, "/api/me", StatusCode::UNAUTHORIZED, r#"{"error":"log in first"}"#),
        (&nobody, STREAM, StatusCode::UNAUTHORIZED, r#"{"error":"log in first"}"#),
    ] {
        let answer = visitor.get_with(target, &[("accept", "*/*")]).await;
        assert_eq!(answer.status(), status, "{target}");
        let length = text.len().to_string();
        assert_eq!(answer.headers()["content-length"], *length, "{target}");
        for absent in ["cache-control", "x-accel-buffering", "connection"] {
            assert!(!answer.headers().contains_key(absent), "{target}: {absent}");
        }
        assert_eq!(all(answer).await, text, "{target}");
    }
    let wrong = ada.send(ada.request(&Method::POST, "/api/users/A*/notifications", "x")).await;
    assert_eq!(wrong.status(), StatusCode::NOT_FOUND);
    let large = ada.send(ada.request(&Method::POST, "/api/announcements", &"x".repeat(20_000))).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_page_is_compressed_and_a_stream_is_not() {
    let server = start(&[]).await;
    let ada = Visitor::named(&server, "ada").await;
    let gzip = [("accept-encoding", "gzip")];
    assert_eq!(ada.get_with("/", &gzip).await.headers()["content-encoding"], "gzip");
    let mut stream = ada.get_with(STREAM, &gzip).await;
    assert!(!stream.headers().contains_key("content-encoding"));
    ada.post("/api/users/ada/notifications", "at once").await;
    expect(&mut stream, &["ada at once"]).await;
}

#[tokio::test]
async fn pages_of_the_trusted_origin_can_read_responses_and_refusals() {
    let origin = "https://app.test";
    let server = start(&[("ORIGIN", origin)]).await;
    let ada = Visitor::named(&server, "ada").await;
    let allows = |headers: &HeaderMap| {
        headers.get("access-control-allow-origin").is_some_and(|value| value == origin)
            && headers.get("access-control-allow-credentials").is_some_and(|value| value == "true")
    };
    let own = [("origin", origin)];
    assert!(allows(ada.get_with(STREAM, &own).await.headers()));
    let refused = Visitor::of(&server).get_with(STREAM, &own).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(allows(refused.headers()), "a page can read the reason");
    let other = ada.get_with(STREAM, &[("origin", "https://other.test")]).await;
    assert!(!other.headers().contains_key("access-control-allow-origin"));

    let mut preflight = Visitor::of(&server).request(&Method::OPTIONS, STREAM, "");
    for (name, value) in [
        ("origin", origin),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "last-event-id"),
    ] {
        preflight.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = ada.send(preflight).await;
    assert_eq!(answer.status(), StatusCode::OK, "the preflight needs no session");
    assert!(allows(answer.headers()));
    assert!(answer.headers()["access-control-allow-headers"].to_str().unwrap().contains("last-event-id"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_the_streams_cleanly() {
    use nix::sys::signal::Signal::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        let mut server = start(&[]).await;
        let ada = Visitor::named(&server, "ada").await;
        let streams = [ada.get(STREAM).await, ada.get("/announcements").await];
        ada.post("/api/announcements", "before").await;
        support::example::signal(&server.process, signal);
        for stream in streams {
            let text = all(stream).await;
            let (events, farewell) = text.split_once("event: restart\ndata: The server restarts.\nretry: ").unwrap();
            assert!(events.contains("before"), "{events:?}");
            farewell.trim_end().parse::<u64>().unwrap();
        }
        assert_eq!(within(server.process.wait()).await.unwrap().code(), Some(0));
    }
}
