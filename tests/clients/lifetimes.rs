//! How long a stream may be open: its maximum age, its expiry, and its farewell.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::{Instant, advance, timeout};
use tokio_stream::StreamExt;
use tower_sse::{ClientHandle, CloseReason, Event, Heartbeat, Registry, SseBody, SseLayer};

use crate::{
    answer::answer,
    bodies::{self, event_stream},
    open::open,
    polling::{Polled, plain, poll, publish, quiet, rest, settle, text},
};

const SECOND: Duration = Duration::from_secs(1);

fn subscribe(client: &ClientHandle) {
    client.subscribe("topic").unwrap();
}

/// Reads a body to its end. Returns the text and the time that it took.
async fn end<B: http_body::Body>(body: SseBody<B>) -> (String, Duration)
where
    SseBody<B>: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let start = Instant::now();
    let bytes = timeout(1_000_000 * SECOND, body.collect()).await.unwrap().unwrap().to_bytes();
    (String::from_utf8(bytes.into()).unwrap(), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn streams_that_began_together_end_at_80_to_100_percent_of_the_age() {
    let layer = quiet(&Registry::new()).max_age(100 * SECOND);
    let mut ages = Vec::new();
    for _ in 0..50 {
        let (client, body) = open(&layer, None, subscribe);
        let (told, age) = end(body).await;
        assert_eq!((told.as_str(), client.closed().await), ("", CloseReason::MaxAge));
        assert!((79 * SECOND..102 * SECOND).contains(&age), "{age:?}");
        ages.push(age);
    }
    ages.sort_unstable();
    ages.dedup();
    assert!(ages.len() > 25 && ages[0] < 90 * SECOND && ages[ages.len() - 1] > 90 * SECOND, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn the_age_is_counted_from_the_start_of_the_stream() {
    let layer = quiet(&Registry::new()).max_age(100 * SECOND);
    let (client, mut body) = open(&layer, None, subscribe);
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(79 * SECOND).await;
    assert_eq!(poll(&mut body), Polled::Pending);
    advance(22 * SECOND).await;
    assert_eq!(rest(&mut body), (String::new(), true));
    assert_eq!(client.closed().await, CloseReason::MaxAge);
}

#[tokio::test(start_paused = true)]
async fn an_expired_stream_ends_after_the_events_published_until_then() {
    let registry = Registry::new();
    let (client, mut body) = open(&quiet(&registry), None, |client| {
        subscribe(client);
        client.expire_after(10 * SECOND);
    });
    publish(&registry, "topic", "in time");
    advance(11 * SECOND).await;
    let (told, has_ended) = rest(&mut body);
    assert!(told.starts_with("data: in time\n") && has_ended, "{told:?}");
    assert_eq!(client.closed().await, CloseReason::AuthorizationExpired);
}

#[tokio::test(start_paused = true)]
async fn the_expiry_of_an_open_stream_can_be_moved_and_removed() {
    let (client, body) = open(&quiet(&Registry::new()), None, subscribe);
    let task = tokio::spawn(end(body));
    settle().await;
    client.expire_after(10 * SECOND);
    settle().await;
    advance(9 * SECOND).await;
    client.expire_after(10 * SECOND);
    settle().await;
    advance(9 * SECOND).await;
    client.expire_at(None);
    settle().await;
    advance(1000 * SECOND).await;
    settle().await;
    assert!(!task.is_finished());
    client.expire_at(SystemTime::now() + 500 * SECOND);
    client.expire_after(2 * SECOND);
    let (_, age) = task.await.unwrap();
    assert!((1020 * SECOND..1021 * SECOND).contains(&age), "{age:?}");
    assert_eq!(client.closed().await, CloseReason::AuthorizationExpired);
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_an_expired_token_ends_at_once() {
    let (client, body) = open(&quiet(&Registry::new()), None, |client| {
        subscribe(client);
        client.expire_at(SystemTime::UNIX_EPOCH);
    });
    assert!(end(body).await.1 < SECOND);
    assert_eq!(client.closed().await, CloseReason::AuthorizationExpired);
}

#[tokio::test(start_paused = true)]
async fn a_time_beyond_the_clocks_range_means_never() {
    let (client, mut body) = open(&quiet(&Registry::new()).max_age(Duration::MAX), None, subscribe);
    client.expire_after(Duration::MAX);
    advance(1_000_000 * SECOND).await;
    assert_eq!(poll(&mut body), Polled::Pending);
}

#[tokio::test(start_paused = true)]
async fn an_age_or_expiry_ends_a_stream_at_a_boundary() {
    let (frames, own) = bodies::channel();
    let layer = quiet(&Registry::new()).max_age(10 * SECOND);
    let (client, response) = answer(&layer, Request::new(()), |_| event_stream(own));
    let mut body = response.into_body();
    let send = |text: &'static str| frames.try_send(Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes()))));
    send("data: half").unwrap();
    assert_eq!(poll(&mut body), Polled::Frame("data: half".to_owned()));
    advance(11 * SECOND).await;
    assert_eq!(poll(&mut body), Polled::Pending);
    send(" and half\n\n").unwrap();
    assert_eq!(rest(&mut body), (" and half\n\n".to_owned(), true));
    assert_eq!(client.closed().await, CloseReason::MaxAge);
}

#[tokio::test(start_paused = true)]
async fn age_ends_an_encoded_stream_too() {
    let response =
        || Response::builder().header("content-type", "text/event-stream").header("content-encoding", "gzip");
    let (frames, own) = bodies::channel();
    let layer = quiet(&Registry::new()).max_age(10 * SECOND).farewell(|_, _| Some(Event::data("bye")));
    let (client, response) = answer(&layer, Request::new(()), |_| response().body(own).unwrap());
    let (told, age) = end(response.into_body()).await;
    assert_eq!((told.as_str(), client.closed().await), ("", CloseReason::MaxAge));
    assert!(age <= 11 * SECOND, "{age:?}");
    drop(frames);
}

#[tokio::test(start_paused = true)]
async fn age_and_expiry_end_events_too() {
    let layer = quiet(&Registry::new()).max_age(20 * SECOND);
    for expires_after in [10 * SECOND, 30 * SECOND] {
        let mut events = None;
        let (client, _response) = answer(&layer, Request::new(()), |client| {
            client.expire_after(expires_after);
            events = Some(client.clone().into_events());
            Response::new(Empty::<Bytes>::new())
        });
        assert!(timeout(21 * SECOND, events.unwrap().next()).await.unwrap().is_none());
        let reason = if expires_after == 10 * SECOND { CloseReason::AuthorizationExpired } else { CloseReason::MaxAge };
        assert_eq!(client.closed().await, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn age_ends_busy_streams_and_silent_streams_with_heartbeats() {
    let registry = Registry::new();
    let layer = plain(&registry).heartbeat(Heartbeat::every(SECOND)).max_age(10 * SECOND);
    let (client, body) = open(&layer, None, subscribe);
    let (told, age) = end(body).await;
    assert!(told.len() >= 7 * 3 && age <= 11 * SECOND, "{told:?} {age:?}");
    assert_eq!(client.closed().await, CloseReason::MaxAge);

    let (client, body) = open(&layer, None, subscribe);
    let task = tokio::spawn(end(body));
    while !task.is_finished() {
        publish(&registry, "topic", "x");
        advance(Duration::from_millis(100)).await;
    }
    assert!(task.await.unwrap().1 <= 11 * SECOND);
    assert_eq!(client.closed().await, CloseReason::MaxAge);
}

mod farewells {
    use super::*;

    fn layer(registry: &Registry) -> SseLayer {
        quiet(registry).farewell(|_, reason| Some(Event::data(reason.as_str())))
    }

    #[tokio::test(start_paused = true)]
    async fn are_the_last_event_and_depend_on_the_close_reason() {
        let registry = Registry::new();
        let (client, mut body) = open(&layer(&registry), None, subscribe);
        publish(&registry, "topic", "event");
        client.close_with("enough");
        let (told, has_ended) = rest(&mut body);
        assert!(
            told.starts_with("data: event\nid: ") && told.ends_with("\n\ndata: enough\n\n") && has_ended,
            "{told:?}"
        );

        let (_, body) = open(&layer(&registry).max_age(SECOND), None, subscribe);
        assert_eq!(end(body).await.0, "data: max_age\n\n");
    }

    #[test]
    fn are_sent_once_and_counted_as_bytes() {
        let (client, mut body) = open(&layer(&Registry::new()), None, subscribe);
        client.close();
        assert_eq!(rest(&mut body), ("data: by_server\n\n".to_owned(), true));
        assert_eq!(poll(&mut body), Polled::End);
        assert_eq!(client.stats().bytes, 17);
    }

    #[test]
    fn come_after_the_handlers_body_and_before_its_trailers() {
        let (client, response) = answer(&layer(&Registry::new()), Request::new(()), |_| {
            event_stream(bodies::with_trailers("data: own\n\n"))
        });
        let mut body = response.into_body();
        assert_eq!(poll(&mut body), Polled::Frame("data: own\n\n".to_owned()));
        assert_eq!(poll(&mut body), Polled::Frame("data: body_ended\n\n".to_owned()));
        assert_eq!(poll(&mut body), Polled::Frame(String::new()), "trailers");
        assert_eq!(poll(&mut body), Polled::End);
        assert!(!client.subscriptions().iter().any(|_| true));
    }

    #[test]
    fn are_left_out_after_an_unfinished_event() {
        let own = Full::new(Bytes::from_static(b"data: half"));
        let (_, response) = answer(&layer(&Registry::new()), Request::new(()), |_| event_stream(own));
        assert_eq!(rest(&mut response.into_body()), ("data: half".to_owned(), true));
    }

    #[test]
    fn are_not_sent_if_the_farewell_closure_returns_none() {
        let layer = quiet(&Registry::new()).farewell(|_, reason| match reason {
            CloseReason::ByServer => None,
            _ => Some(Event::data("bye")),
        });
        let (client, mut body) = open(&layer, None, subscribe);
        assert_eq!(text(&mut body), "");
        client.close();
        assert_eq!(rest(&mut body), (String::new(), true));
    }
}
