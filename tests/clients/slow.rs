//! Clients that fall behind the retention of a topic, and clients that have stopped reading.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, header::CONTENT_ENCODING};
use http_body::Frame;
use tokio_test::{assert_pending, assert_ready, task};
use tower_sse::{
    Batching, ClientHandle, CloseReason, Event, Heartbeat, Registry, RegistryConfig, Resume, Retention,
    SlowClientPolicy, SseBody, Start, Subscription,
};

use crate::{
    answer::answer,
    bodies,
    observer::{Observed, Recorder},
    open::{Empty, open},
    polling::{Polled, bounded, data, fields, next, plain, poll, publish, quiet, received, rest, subscribed, text},
};

const SECOND: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(10);

/// A registry whose topics have this retention and slow-client policy.
fn with_retention(retention: Retention) -> (Recorder, Registry) {
    let (recorder, config) = Recorder::new();
    (recorder, Registry::with_config(config.topic_retention(retention)))
}

fn flood(registry: &Registry, topic: &str, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| publish(registry, topic, &number.to_string()));
}

fn reading(registry: &Registry, topics: &[&str]) -> (ClientHandle, SseBody<Empty>) {
    open(&quiet(registry), None, |client| {
        topics.iter().for_each(|topic| client.subscribe(Subscription::matching(*topic)).unwrap());
    })
}

#[test]
fn a_client_that_is_told_of_a_gap_goes_on_at_the_oldest_event() {
    let (recorder, registry) =
        with_retention(Retention::default().events(3).slow_client_policy(SlowClientPolicy::NotifyGap));
    let (client, mut body) = reading(&registry, &["a", "b"]);
    flood(&registry, "a", 0..1);
    let seen = fields(&text(&mut body), "id")[0].to_owned();
    flood(&registry, "a", 1..10);
    publish(&registry, "b", "b");
    recorder.take();
    let (gap, after) = text(&mut body).split_once("\n\n").map(|(gap, rest)| (gap.to_owned(), rest.to_owned())).unwrap();
    assert!(gap.starts_with(&format!("event: gap\ndata: {{\"topics\":[\"a\"],\"after\":\"{seen}\"}}\n")), "{gap}");
    assert_eq!(fields(&after, "data"), ["7", "8", "9", "b"]);
    let observed = recorder.take();
    assert_eq!(observed[0], Observed::FellBehind(client.id(), "a".into(), 6));
    assert!(matches!(&observed[1], Observed::Gap(id, gap) if *id == client.id() && gap.after() == seen));
    assert_eq!(observed.len(), 2);
    let stats = registry.stats();
    assert_eq!((stats.fell_behind, stats.missed, stats.gaps, stats.delivered), (1, 6, 1, 5));
}

#[test]
fn each_loss_is_counted_exactly_and_once() {
    for bound in [Retention::default().events(3), Retention::default().bytes(3 * 320)] {
        let (recorder, registry) = with_retention(bound);
        let (client, mut body) = reading(&registry, &["a"]);
        let mut missed = Vec::new();
        for burst in [2, 5, 3, 100, 4] {
            flood(&registry, "a", 0..burst);
            let got = fields(&text(&mut body), "id").len();
            let lags = recorder.take().into_iter().filter_map(|observed| match observed {
                Observed::FellBehind(id, topic, missed) => Some((id, topic, missed)),
                _ => None,
            });
            let lags: Vec<_> = lags.collect();
            let lost: u64 = lags.iter().map(|(.., missed)| missed).sum();
            let events = got - lags.len();
            assert_eq!(lost as usize + events, burst, "{bound:?}");
            assert!(lags.iter().all(|(id, topic, _)| (*id, topic.as_str()) == (client.id(), "a")) && lags.len() <= 1);
            missed.push(lost);
        }
        assert_eq!(missed, [0, 2, 0, 97, 1], "{bound:?}");
        assert_eq!((registry.stats().fell_behind, registry.stats().missed), (3, 100));
    }
}

#[test]
fn a_loss_on_each_of_two_topics_is_two_losses_and_one_gap() {
    let (recorder, registry) = with_retention(Retention::default().events(2));
    let client = subscribed(&registry, ["a", "b", "c"]);
    recorder.take();
    let mut events = client.clone().into_events();
    [("a", 3), ("b", 5), ("c", 2)].iter().for_each(|(topic, events)| flood(&registry, topic, 0..*events));
    assert_eq!(next(&mut events).unwrap().unwrap_err().topics(), ["a", "b"]);
    assert_eq!(data(&mut events).concat(), "123401");
    let lags =
        recorder.of_clients().into_iter().filter(|it| matches!(it, Observed::FellBehind(..))).collect::<Vec<_>>();
    assert_eq!(lags, [("a", 1), ("b", 3)].map(|(topic, lost)| Observed::FellBehind(client.id(), topic.into(), lost)));
}

#[test]
fn a_stream_of_a_slow_client_sends_a_reconnection_time_and_ends() {
    let (recorder, registry) = with_retention(
        Retention::default().events(2).slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: RETRY }),
    );
    for _ in 0..50 {
        let (client, mut body) = reading(&registry, &["a"]);
        flood(&registry, "a", 0..5);
        let Polled::Frame(last) = poll(&mut body) else { panic!("nothing comes") };
        let retry: u64 = last.strip_prefix("retry: ").unwrap().strip_suffix("\n\n").unwrap().parse().unwrap();
        assert!((5_000..=15_000).contains(&retry), "{retry}");
        assert_eq!((poll(&mut body), poll(&mut body)), (Polled::End, Polled::End));
        let observed = recorder.of_clients();
        assert!(observed.contains(&Observed::FellBehind(client.id(), "a".into(), 3)));
        assert!(
            matches!(observed.last(), Some(Observed::Closed(id, it)) if *id == client.id() && it.reason == CloseReason::FellBehind)
        );
    }
    let stats = registry.stats();
    assert_eq!(
        (stats.closed_streams[&CloseReason::FellBehind], stats.fell_behind, stats.missed, stats.gaps),
        (50, 50, 150, 0)
    );
    assert_eq!((stats.clients, stats.subscriptions), (0, 0));
}

#[test]
fn a_disconnected_slow_client_resumes_with_a_gap_and_goes_on() {
    let (_, registry) = with_retention(
        Retention::default().events(2).slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: RETRY }),
    );
    let (_, mut body) = reading(&registry, &["a"]);
    flood(&registry, "a", 0..1);
    let seen = fields(&text(&mut body), "id")[0].to_owned();
    flood(&registry, "a", 1..6);
    assert!(rest(&mut body).1);
    for _ in 0..2 {
        let (client, mut body) = open(&quiet(&registry), Some(&seen), |client| client.subscribe("a").unwrap());
        assert!(matches!(client.resume(), Resume::Gap(gap) if gap.topics() == ["a"] && gap.after() == seen));
        let wire = text(&mut body);
        assert!(wire.starts_with("event: gap\n") && wire.contains("data: 4\n") && wire.contains("data: 5\n"), "{wire}");
        publish(&registry, "a", "live");
        assert_eq!(received(&mut body), ["live"]);
        flood(&registry, "a", 4..6);
    }
    assert_eq!(registry.stats().closed_streams[&CloseReason::FellBehind], 1);
}

#[test]
fn events_of_a_slow_client_that_is_disconnected_end() {
    let (_, registry) = with_retention(
        Retention::default().events(2).slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: RETRY }),
    );
    let client = subscribed(&registry, ["a"]);
    let mut events = task::spawn(client.clone().into_events());
    flood(&registry, "a", 0..5);
    assert!(assert_ready!(events.poll_next()).is_none());
    assert_eq!(assert_ready!(task::spawn(client.closed()).poll()), CloseReason::FellBehind);
}

#[test]
fn any_reconnection_delay_is_a_valid_retry_field() {
    for retry in [Duration::ZERO, Duration::MAX] {
        let (_, registry) = with_retention(
            Retention::default().events(1).slow_client_policy(SlowClientPolicy::Disconnect { reconnect_delay: retry }),
        );
        for _ in 0..20 {
            let (_, mut body) = reading(&registry, &["a"]);
            flood(&registry, "a", 0..2);
            let (wire, has_ended) = rest(&mut body);
            assert!(wire.starts_with("retry: ") && has_ended, "{wire}");
        }
    }
}

#[test]
fn a_topic_that_skips_silently_gives_the_current_value() {
    let (recorder, registry) =
        with_retention(Retention::default().events(1).slow_client_policy(SlowClientPolicy::SkipSilently));
    let (_, mut body) = reading(&registry, &["a", "b"]);
    flood(&registry, "a", 0..10);
    flood(&registry, "b", 0..3);
    assert_eq!(received(&mut body), ["9", "2"]);
    let (client, mut late) = open(&quiet(&registry), None, |client| client.subscribe_from("a", Start::Oldest).unwrap());
    assert_eq!((received(&mut late), client.resume()), (vec!["9".to_owned()], Resume::Fresh));
    let id = registry.position().to_string();
    flood(&registry, "a", 10..20);
    let (client, mut resumed) = open(&quiet(&registry), Some(&id), |client| client.subscribe("a").unwrap());
    assert_eq!((received(&mut resumed), client.resume()), (vec!["19".to_owned()], Resume::Continued));
    let stats = registry.stats();
    assert_eq!((stats.fell_behind, stats.missed, stats.gaps), (0, 0, 0));
    assert!(!recorder.take().iter().any(|it| matches!(it, Observed::FellBehind(..) | Observed::Gap(..))));
}

#[test]
fn a_topic_that_skips_silently_may_lose_all_its_events() {
    bounded(|| {
        let config = RegistryConfig::default().total_retention(Retention::default().events(1));
        let registry = Registry::with_config(
            config.topic_retention(Retention::default().slow_client_policy(SlowClientPolicy::SkipSilently)),
        );
        let (_, mut body) = reading(&registry, &["a"]);
        assert_eq!(poll(&mut body), Polled::Pending);
        ["a", "b"].iter().for_each(|topic| publish(&registry, topic, "what the next one makes go"));
        assert_eq!(poll(&mut body), Polled::Pending);
        publish(&registry, "a", "next");
        assert_eq!(received(&mut body), ["next"]);
    });
}

/// A registry that drops stalled clients after ten seconds. It looks for them at each heartbeat and each publish.
fn impatient() -> (Recorder, Registry) {
    let (recorder, config) = Recorder::new();
    (recorder, Registry::with_config(config.stalled_client_timeout(10 * SECOND)))
}

/// Lets seconds pass while other clients' events are published.
async fn pass(registry: &Registry, seconds: u32) {
    for _ in 0..seconds {
        tokio::time::advance(SECOND).await;
        publish(registry, "elsewhere", "");
    }
}

fn close_reason(client: &ClientHandle) -> Option<CloseReason> {
    let mut closed = Box::pin(client.closed());
    match closed.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(reason) => Some(reason),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_pending_event_is_dropped_as_stalled() {
    let (recorder, registry) = impatient();
    let (client, body) = reading(&registry, &["a", "b/*"]);
    let mut body = task::spawn(body);
    assert_pending!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx)));
    recorder.take();
    publish(&registry, "a", "waits");
    pass(&registry, 9).await;
    assert_eq!((close_reason(&client), registry.stats().subscriptions), (None, 2));
    pass(&registry, 6).await;
    assert_eq!((close_reason(&client), registry.stats().subscriptions), (Some(CloseReason::Stalled), 0));
    assert!(registry.client(&client.id()).is_none());
    assert!(body.is_woken());
    assert!(assert_ready!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx))).is_none());
    drop(body);
    let closed = recorder.closed();
    assert_eq!(closed.iter().map(|closed| closed.reason).collect::<Vec<_>>(), [CloseReason::Stalled]);
    assert_eq!(registry.stats().closed_streams, [(CloseReason::Stalled, 1)].into());
}

#[tokio::test(start_paused = true)]
async fn another_streams_heartbeat_drops_a_stalled_client() {
    let (_, registry) = impatient();
    let (client, _body) = reading(&registry, &["a"]);
    let layer = plain(&registry).heartbeat(Heartbeat::every(SECOND));
    let (_, mut other) = open(&layer, None, |client| client.subscribe("quiet").unwrap());
    assert_eq!(text(&mut other), "");
    publish(&registry, "a", "waits");
    for _ in 0..15 {
        tokio::time::advance(SECOND).await;
        assert_eq!(text(&mut other), ":\n\n");
    }
    assert_eq!(close_reason(&client), Some(CloseReason::Stalled));
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_and_a_slow_reader_are_not_stalled() {
    let (_, registry) = impatient();
    let (idle, _idle_body) = reading(&registry, &["quiet"]);
    let (slow, mut slow_body) = reading(&registry, &["a"]);
    let large = "x".repeat(60_000);
    (0..20).for_each(|_| publish(&registry, "a", &large));
    for _ in 0..12 {
        pass(&registry, 9).await;
        assert!(matches!(poll(&mut slow_body), Polled::Frame(_)), "the slow reader takes one frame in nine seconds");
    }
    assert_eq!((close_reason(&idle), close_reason(&slow)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_its_events_one_by_one_is_not_stalled() {
    let (_, registry) = impatient();
    let client = subscribed(&registry, ["a"]);
    let mut events = client.clone().into_events();
    flood(&registry, "a", 0..60);
    for number in 0..60 {
        assert_eq!(next(&mut events).unwrap().unwrap().data().unwrap(), number.to_string());
        publish(&registry, "a", "more");
        pass(&registry, 1).await;
        assert_eq!(close_reason(&client), None, "the client read event {number} a second ago");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_the_next_batch_is_not_stalled() {
    let (_, registry) = impatient();
    let layer = plain(&registry).heartbeat(Heartbeat::every(2 * SECOND)).batching(Batching::every(30 * SECOND));
    let (client, mut body) = open(&layer, None, |client| client.subscribe("a").unwrap());
    publish(&registry, "a", "1");
    assert_eq!(received(&mut body), ["1"]);
    publish(&registry, "a", "2");
    for _ in 0..29 {
        pass(&registry, 1).await;
        assert!(text(&mut body).replace(":\n\n", "").is_empty());
    }
    assert_eq!(close_reason(&client), None);
    pass(&registry, 2).await;
    assert_eq!(received(&mut body), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_can_take_no_event_is_not_stalled() {
    let (_, registry) = impatient();
    let (frames, body) = bodies::channel();
    let subscribe = |client: &ClientHandle| client.subscribe("a").unwrap();
    let (stalled, response) = answer(&quiet(&registry), Request::new(()), |client| {
        subscribe(client);
        bodies::event_stream(body)
    });
    let mut stalled_body = response.into_body();
    frames.send(Ok(Frame::data(Bytes::from_static(b"data: the first half")))).await.unwrap();
    assert!(matches!(poll(&mut stalled_body), Polled::Frame(_)));
    assert_eq!(poll(&mut stalled_body), Polled::Pending);

    let (_open_frames, body) = bodies::channel();
    let (encoded, response) = answer(&quiet(&registry), Request::new(()), |client| {
        subscribe(client);
        let mut response = bodies::event_stream(body);
        response.headers_mut().insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        response
    });
    let mut encoded_body = response.into_body();
    assert_eq!(poll(&mut encoded_body), Polled::Pending);
    let waiting = subscribed(&registry, ["a"]);

    publish(&registry, "a", "waits");
    pass(&registry, 60).await;
    assert_eq!([&stalled, &encoded, &waiting].map(close_reason), [None, None, None]);
    frames.send(Ok(Frame::data(Bytes::from_static(b" and the second\n\n")))).await.unwrap();
    assert_eq!(fields(&text(&mut stalled_body), "data"), ["waits"]);
    assert_eq!(data(&mut waiting.into_events()), ["waits"]);
}

#[tokio::test(start_paused = true)]
async fn no_client_is_dropped_if_the_timeout_is_off() {
    let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(None));
    let (client, mut body) = reading(&registry, &["a"]);
    publish(&registry, "a", "waits");
    pass(&registry, 600).await;
    assert_eq!((close_reason(&client), received(&mut body)), (None, vec!["waits".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn the_default_timeout_is_a_minute() {
    let registry = Registry::new();
    let (client, _body) = reading(&registry, &["a"]);
    publish(&registry, "a", "waits");
    pass(&registry, 59).await;
    assert_eq!(close_reason(&client), None);
    pass(&registry, 31).await;
    assert_eq!(close_reason(&client), Some(CloseReason::Stalled));
    assert!(client.send(Event::data("")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_paused_drops_no_client_that_is_about_to_read() {
    let (_, registry) = impatient();
    let (client, mut body) = reading(&registry, &["a"]);
    for _ in 0..3 {
        publish(&registry, "a", "before");
        tokio::time::advance(3600 * SECOND).await;
        // The publisher is the first to run when the process goes on.
        publish(&registry, "a", "after");
        assert_eq!((close_reason(&client), received(&mut body)), (None, vec!["before".to_owned(), "after".to_owned()]));
    }
    publish(&registry, "a", "waits");
    pass(&registry, 15).await;
    assert_eq!(close_reason(&client), Some(CloseReason::Stalled));
}
