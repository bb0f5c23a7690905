//! What pages of other sites and slow request bodies can do to the examples.

use std::net::SocketAddr;

use http::{StatusCode, Version};
use http_body_util::Full;

use crate::{
    bodies::any,
    client::{VERSIONS, get, request},
    example::{Example, Server},
    strangers::{
        a_body_that_trickles_is_given_up, names_of_others_are_refused, pages_of_other_sites_change_nothing, send, until,
    },
};

static DASHBOARD: Example = Example::named("dashboard");
static LLM: Example = Example::named("llm");
static BOARD: Example = Example::named("board");

async fn start(example: &Example, environment: &[(&str, &str)]) -> (Server, SocketAddr) {
    let server = Server::start(example.command().env("PORT", "0").envs(environment.iter().copied())).await;
    let address = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn pages_of_other_sites_cannot_publish_or_close_on_the_dashboard() {
    let (_server, address) = start(&DASHBOARD, &[]).await;
    let mut stream = send(address, Version::HTTP_11, get("/events?topic=news")).await;
    let changes = [
        ("POST", "/publish/news"),
        ("POST", "/publish"),
        ("DELETE", "/streams/999"),
        ("DELETE", "/clients/somebody"),
        ("POST", "/clients/somebody/subscribe?topic=news"),
        ("POST", "/clients/somebody/unsubscribe?topic=news"),
        ("PUT", "/page/topics"),
    ];
    pages_of_other_sites_change_nothing(address, &changes, "its own").await;
    let told = until(&mut stream, "its own", 8).await;
    assert!(!told.contains("forged"), "{told:?}");
}

#[tokio::test]
async fn pages_of_other_sites_cannot_ask_or_stop_in_the_chat() {
    let (_server, address) = start(&LLM, &[("TOKEN_MS", "1000")]).await;
    let changes = [
        ("POST", "/chats/mine/messages?instead=true"),
        ("POST", "/chats/mine/messages"),
        ("DELETE", "/chats/mine/answers/1"),
    ];
    pages_of_other_sites_change_nothing(address, &changes, "What is a lighthouse for?").await;
}

#[tokio::test]
async fn pages_of_other_sites_cannot_order_write_or_notify_on_the_board() {
    let (_server, address) = start(&BOARD, &[]).await;
    let page = send(address, Version::HTTP_11, get("/")).await;
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let changes = [
        ("PUT", "/topics"),
        ("PUT", "/me"),
        ("POST", "/orders"),
        ("POST", "/monitor/work"),
        ("POST", "/notes"),
        ("PUT", "/notes/1"),
        ("DELETE", "/notes/1"),
        ("POST", "/notes/cursor"),
        ("POST", "/notices"),
    ];
    pages_of_other_sites_change_nothing(address, &changes, r#"{"text":"its own"}"#).await;
    // A page of another site sends the visitor's cookie, which a browser gives it, and changes nothing either.
    let mut forged = request("POST", "/notes", any(Full::from(r#"{"text":"forged"}"#)));
    for (name, value) in [
        ("cookie", &*cookie),
        ("content-type", "application/json"),
        ("origin", "https://evil.test"),
        ("sec-fetch-site", "cross-site"),
    ] {
        forged.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(send(address, Version::HTTP_11, forged).await.status(), StatusCode::FORBIDDEN);
    let mut list = get("/notes");
    list.headers_mut().insert("cookie", cookie.parse().unwrap());
    let notes = crate::text(send(address, Version::HTTP_11, list).await).await;
    assert!(notes.contains("lines") && !notes.contains("forged"), "{notes}");
}

#[tokio::test]
async fn pages_whose_name_points_to_this_machine_are_refused() {
    let (_server, address) = start(&DASHBOARD, &[]).await;
    names_of_others_are_refused(address, &[("GET", "/"), ("GET", "/events?topic=a"), ("POST", "/publish/a")]).await;
    let (_server, address) = start(&LLM, &[]).await;
    names_of_others_are_refused(address, &[("GET", "/chats/mine/events"), ("POST", "/chats/mine/messages")]).await;
    let (_server, address) = start(&BOARD, &[]).await;
    names_of_others_are_refused(address, &[("GET", "/"), ("GET", "/events?topic=notes"), ("POST", "/notes")]).await;
}

#[tokio::test]
async fn an_event_that_trickles_is_given_up_on_the_dashboard_and_streams_go_on() {
    let (_server, address) = start(&DASHBOARD, &[("GONE_AFTER_MS", "1000")]).await;
    let mut streams = Vec::new();
    for version in VERSIONS {
        streams.push(send(address, version, get("/events?topic=news")).await);
    }
    a_body_that_trickles_is_given_up(address, &[], ("POST", "/publish/news")).await;
    send(address, Version::HTTP_2, request("POST", "/publish/news", any(Full::from("still here")))).await;
    for stream in &mut streams {
        let told = until(stream, "still here", 1).await;
        assert!(!told.contains('\0'), "{told:?}");
    }
}

#[tokio::test]
async fn the_board_gives_up_a_slow_note() {
    let (_server, address) = start(&BOARD, &[("GONE_AFTER_MS", "1000")]).await;
    let page = send(address, Version::HTTP_11, get("/")).await;
    let cookie = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let headers = [("cookie", &*cookie), ("content-type", "application/json")];
    a_body_that_trickles_is_given_up(address, &headers, ("POST", "/notes")).await;
}

#[tokio::test]
async fn the_chat_gives_up_a_slow_prompt() {
    let (_server, address) = start(&LLM, &[("GONE_AFTER_MS", "1000")]).await;
    a_body_that_trickles_is_given_up(address, &[], ("POST", "/chats/mine/messages")).await;
}
