//! Tests the program as a process against strangers, against pages of other sites, and against a client that logs in
//! again and again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

mod support;
#[path = "../../../tests/support/strangers.rs"]
mod trickling;
use support::{STREAM, Visitor, all, bodies, bodies::AnyBody, client, client::VERSIONS, expect, start, until, within};

const ASKS: [(&str, &str); 1] = [("accept", "text/event-stream")];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// The limit refuses the stream, and an `EventSource` reconnects.
async fn is_told_to_reconnect(refused: Response<Incoming>) {
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["content-type"], "text/event-stream");
    let text = all(refused).await;
    assert!(text.starts_with("retry: ") && text.trim_end().lines().count() == 1, "{text:?}");
}

#[tokio::test]
async fn strangers_cannot_use_up_the_slots_of_users() {
    let server = start(&[("MAX_PUBLIC_STREAMS", "2"), ("MAX_STREAMS", "1")]).await;
    let nobody = Visitor::of(&server);
    let _streams = (nobody.get("/announcements").await, nobody.get_with("/announcements", &ASKS).await);
    is_told_to_reconnect(nobody.get_with("/announcements", &ASKS).await).await;
    is_told_to_reconnect(nobody.get("/announcements").await).await;
    let (ada, bob) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "bob").await);
    let mut stream = ada.get_with(STREAM, &ASKS).await;
    bob.post("/api/users/ada/notifications", "still here").await;
    expect(&mut stream, &["bob still here"]).await;
    is_told_to_reconnect(bob.get_with(STREAM, &ASKS).await).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_address_has_its_own_limit_of_public_streams() {
    let server = start(&[("MAX_STREAMS_PER_ADDRESS", "2")]).await;
    let nobody = Visitor::of(&server);
    let _streams = (nobody.get("/announcements").await, nobody.get("/announcements").await);
    is_told_to_reconnect(nobody.get_with("/announcements", &ASKS).await).await;
    let elsewhere = Visitor { from: Some(ELSEWHERE.into()), ..Visitor::of(&server) };
    let mut stream = elsewhere.get_with("/announcements", &ASKS).await;
    Visitor::named(&server, "ada").await.post("/api/announcements", "to all").await;
    expect(&mut stream, &["ada to all"]).await;
}

#[tokio::test]
async fn a_slot_that_a_stranger_leaves_is_free_for_the_next_one() {
    let server = start(&[("MAX_PUBLIC_STREAMS", "1")]).await;
    let nobody = Visitor::of(&server);
    drop(nobody.get("/announcements").await);
    within(async {
        loop {
            let stream = nobody.get_with("/announcements", &ASKS).await;
            if stream.headers()["cache-control"] == "no-cache, no-transform" {
                return;
            }
            is_told_to_reconnect(stream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn too_many_logins_of_a_user_end_the_oldest_session() {
    let server = start(&[("MAX_SESSIONS_PER_USER", "2")]).await;
    let (first, second) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "ada").await);
    let bob = Visitor::named(&server, "bob").await;
    let (ends, mut goes_on) = (first.get(STREAM).await, second.get(STREAM).await);
    let third = Visitor::named(&server, "ada").await;
    all(ends).await;
    for (visitor, status) in [
        (&first, StatusCode::UNAUTHORIZED),
        (&second, StatusCode::OK),
        (&third, StatusCode::OK),
        (&bob, StatusCode::OK),
    ] {
        assert_eq!(visitor.get("/api/me").await.status(), status);
    }
    bob.post("/api/users/ada/notifications", "hello").await;
    expect(&mut goes_on, &["bob hello"]).await;
}

#[tokio::test]
async fn at_the_limit_of_sessions_logins_are_refused_until_one_ends() {
    let server = start(&[("MAX_SESSIONS", "2")]).await;
    let (ada, bob) = (Visitor::named(&server, "ada").await, Visitor::named(&server, "bob").await);
    let mut carol = Visitor::of(&server);
    let refused = carol.send(carol.login("carol")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "60");
    assert!(!refused.headers().contains_key("set-cookie"));
    assert_eq!(ada.get("/api/me").await.status(), StatusCode::OK);
    bob.send(bob.request(&Method::POST, "/api/logout", "")).await;
    carol.log_in("carol").await;
    assert_eq!(carol.get("/api/me").await.status(), StatusCode::OK);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_address_has_its_own_limit_of_logins_per_minute() {
    let server = start(&[("LOGINS_PER_MINUTE", "2")]).await;
    let ada = Visitor::named(&server, "ada").await;
    // Logins with invalid names count too.
    let wrong = ada.send(ada.login("Ada")).await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    let refused = ada.send(ada.login("ada")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "60");
    assert_eq!(ada.get("/api/me").await.status(), StatusCode::OK, "the session is unchanged");
    let mut elsewhere = Visitor { from: Some(ELSEWHERE.into()), ..Visitor::of(&server) };
    elsewhere.log_in("bob").await;
}

#[tokio::test]
async fn a_second_login_replaces_the_session_and_ends_its_streams() {
    for version in VERSIONS {
        let server = start(&[]).await;
        let before = Visitor { version, ..Visitor::named(&server, "ada").await };
        let stream = before.get(STREAM).await;
        let mut after = Visitor { cookie: before.cookie.clone(), version, ..Visitor::of(&server) };
        after.log_in("bob").await;
        all(stream).await;
        assert_eq!(before.get("/api/me").await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(all(after.get("/api/me").await).await, r#"{"user":"bob"}"#);
    }
}

/// The session cookies as a browser sends them if a sub-domain has set one too, or as a client sends them in one header
/// each.
fn with_cookies(mut request: Request<AnyBody>, lines: &[&str]) -> Request<AnyBody> {
    for line in lines {
        request.headers_mut().append("cookie", HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    request
}

#[tokio::test]
async fn two_session_cookies_are_refused_and_a_login_or_logout_ends_both() {
    for (version, two_lines) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        for target in ["/login", "/api/logout"] {
            let server = start(&[]).await;
            let ada = Visitor { version, ..Visitor::named(&server, "ada").await };
            let mallory = Visitor { version, ..Visitor::named(&server, "mallory").await };
            let (adas, mallorys) = (ada.cookie.clone().unwrap(), mallory.cookie.clone().unwrap());
            let joined = format!("{adas}; {mallorys}");
            let both = if two_lines { vec![adas.as_str(), &mallorys] } else { vec![joined.as_str()] };
            let nobody = Visitor { version, ..Visitor::of(&server) };

            let asked = [(Method::GET, "/api/me"), (Method::GET, STREAM), (Method::POST, "/api/announcements")];
            for (method, needs_a_session) in asked {
                let request = with_cookies(nobody.request(&method, needs_a_session, "whose?"), &both);
                let refused = nobody.send(request).await;
                assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{needs_a_session} over {version:?}: {both:?}");
            }
            for visitor in [&ada, &mallory] {
                assert_eq!(visitor.get("/api/me").await.status(), StatusCode::OK, "both sessions go on");
            }
            let ends = if target == "/login" { nobody.login("ada") } else { nobody.request(&Method::POST, target, "") };
            let answer = nobody.send(with_cookies(ends, &both)).await;
            assert!(answer.status().is_success() && answer.headers().contains_key("set-cookie"), "{target}");
            for visitor in [&ada, &mallory] {
                let status = visitor.get("/api/me").await.status();
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{target} over {version:?}: {both:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_found_and_ended_among_any_other_cookies() {
    for version in VERSIONS {
        let server = start(&[]).await;
        let ada = Visitor { version, ..Visitor::named(&server, "ada").await };
        let nobody = Visitor { version, ..Visitor::of(&server) };
        let session = ada.cookie.clone().unwrap();
        let line = format!("theme=é; mysession=1; session2=2;{session}; broken");
        for lines in [&[line.as_str()][..], &["theme=é", &session, "a=b"]] {
            let me = nobody.send(with_cookies(nobody.request(&Method::GET, "/api/me", ""), lines)).await;
            assert_eq!(me.status(), StatusCode::OK, "{lines:?} over {version:?}");
        }
        let out = nobody.send(with_cookies(nobody.request(&Method::POST, "/api/logout", ""), &[&line])).await;
        assert!(out.headers()["set-cookie"].to_str().unwrap().starts_with("session=; "));
        assert_eq!(ada.get("/api/me").await.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn only_own_trusted_pages_and_programs_may_take_a_users_slot() {
    for version in VERSIONS {
        let server = start(&[("ORIGIN", "https://app.test"), ("MAX_STREAMS_PER_USER", "1")]).await;
        let ada = Visitor { version, ..Visitor::named(&server, "ada").await };
        for headers in [
            &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")][..],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.test")],
            &[("sec-fetch-site", "same-site"), ("origin", "null")],
            &[("sec-fetch-site", "?"), ("origin", "https://app.test.evil.test")],
            // Over plain HTTP to a name, browsers do not send `sec-fetch-site`.
            &[("origin", "https://evil.test")],
            &[("origin", "http://evil.server.test")],
            &[("origin", "http://server.test:81")],
            &[("origin", "null")],
            &[("referer", "http://evil.test/page")],
        ] {
            let refused = ada.get_with(STREAM, headers).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{headers:?} over {version:?}");
        }
        for (user, headers) in [
            ("ada", &[("sec-fetch-site", "same-origin")][..]),
            ("bob", &[("sec-fetch-site", "none")]),
            ("carol", &[("sec-fetch-site", "cross-site"), ("origin", "https://app.test")]),
            ("dan", &[]),
            ("eve", &[("origin", "http://server.test"), ("referer", "http://server.test/page?q")]),
            ("finn", &[("origin", "https://app.test"), ("referer", "https://app.test/")]),
        ] {
            let user = Visitor { version, ..Visitor::named(&server, user).await };
            let mut stream = user.get_with(STREAM, headers).await;
            assert_eq!(stream.status(), StatusCode::OK, "{headers:?} over {version:?}");
            let text = until(&mut stream, |text| text.contains("event: position")).await;
            assert!(text.contains("id: "), "{text:?}");
        }
    }
}

#[tokio::test]
async fn pages_whose_name_points_to_this_machine_are_refused() {
    let server = start(&[]).await;
    let requests = [("GET", "/"), ("GET", STREAM), ("GET", "/announcements"), ("POST", "/login")];
    trickling::names_of_others_are_refused(Visitor::of(&server).address, &requests).await;
}

#[tokio::test]
async fn what_pages_of_other_origins_make_a_browser_send_changes_nothing() {
    let server = start(&[("ORIGIN", "https://app.test")]).await;
    for version in VERSIONS {
        let ada = Visitor { version, ..Visitor::named(&server, "ada").await };
        let mut stream = ada.get(STREAM).await;
        for (name, value) in [
            ("origin", "https://evil.test"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let posts = ["/api/logout", "/api/users/ada/notifications", "/api/announcements"]
                .map(|target| ada.request(&Method::POST, target, "forged"));
            for mut request in posts.into_iter().chain([ada.login("mallory")]) {
                let target = request.uri().path().to_owned();
                request.headers_mut().insert(name, value.parse().unwrap());
                let refused = ada.send(request).await;
                assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{target} with {name}: {value}");
                assert!(!refused.headers().contains_key("set-cookie"));
            }
        }
        ada.post("/api/users/ada/notifications", "her own").await;
        let text = until(&mut stream, |text| text.contains("her own")).await;
        assert!(!text.contains("forged"), "{text:?}");
        assert_eq!(all(ada.get("/api/me").await).await, r#"{"user":"ada"}"#);
    }
}

#[tokio::test]
async fn own_and_trusted_pages_and_programs_may_log_in_and_post() {
    let server = start(&[("ORIGIN", "https://app.test")]).await;
    for version in VERSIONS {
        let ada = Visitor { version, ..Visitor::named(&server, "ada").await };
        for headers in [
            &[("sec-fetch-site", "same-origin"), ("origin", "http://server.test")][..],
            &[("origin", "http://server.test")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://app.test")],
            &[("sec-fetch-site", "none")],
            &[],
        ] {
            let posted = ada.request(&Method::POST, "/api/announcements", "hello");
            for mut request in [posted, Visitor::of(&server).login("ada")] {
                for (name, value) in headers {
                    request.headers_mut().insert(*name, value.parse().unwrap());
                }
                assert_eq!(ada.send(request).await.status(), StatusCode::OK, "{headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_slow_login_or_notification_is_given_up_and_streams_go_on() {
    let server = start(&[("GONE_AFTER_MS", "1000")]).await;
    let ada = Visitor::named(&server, "ada").await;
    let mut stream = ada.get(STREAM).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    trickling::a_body_that_trickles_is_given_up(ada.address, &form, ("POST", "/login")).await;
    let session = [("cookie", ada.cookie.as_deref().unwrap())];
    trickling::a_body_that_trickles_is_given_up(ada.address, &session, ("POST", "/api/users/ada/notifications")).await;
    ada.post("/api/users/ada/notifications", "still here").await;
    expect(&mut stream, &["ada still here"]).await;
}
