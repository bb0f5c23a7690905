//! The drain of a registry, poll by poll: which requests are refused, when each stream ends, the farewell, and the
//! counts.

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::ACCEPT};
use http_body_util::{BodyExt, Empty};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance, timeout},
};
use tokio_stream::StreamExt;
use tower_sse::{CloseReason, Drain, Drained, Event, Observation, RefusedReason, Registry, RegistryConfig, SseBody};

use crate::{
    answer::answer,
    bodies::{self, event_stream},
    open::open,
    polling::{Polled, fields, poll, publish, quiet, rest, settle, subscribed},
};

const SECOND: Duration = Duration::from_secs(1);

/// Reads a body to its end, as a server does. Returns the text and the time of the end.
fn serve<B>(mut body: SseBody<B>) -> JoinHandle<(String, Instant)>
where
    B: http_body::Body<Error: std::fmt::Debug + Send> + Send + Unpin + 'static,
    SseBody<B>: http_body::Body<Data = Bytes, Error: std::fmt::Debug + Send>,
{
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
        }
        (String::from_utf8(all).unwrap(), Instant::now())
    })
}

fn drained(ended: u64, still_open: u64) -> impl Fn(&Drained) -> bool {
    move |drained| (drained.ended, drained.still_open) == (ended, still_open)
}

#[tokio::test(start_paused = true)]
async fn streams_end_over_three_quarters_of_the_window_with_all_events() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let streams: Vec<_> =
        (0..100).map(|_| serve(open(&layer, None, |client| client.subscribe("topic").unwrap()).1)).collect();
    settle().await;
    let start = Instant::now();
    publish(&registry, "topic", "last news");
    let farewell = Event::data("bye").event("restart");
    let result = registry.drain(Drain::within(8 * SECOND).farewell(&farewell).reconnect_delay(10 * SECOND)).await;
    assert!(drained(100, 0)(&result), "{result:?}");
    assert!(start.elapsed() <= 6 * SECOND, "{:?}", start.elapsed());

    let (mut ends, mut retries) = (Vec::new(), Vec::new());
    for stream in streams {
        let (told, end) = stream.await.unwrap();
        assert_eq!(fields(&told, "data"), ["last news", "bye"], "{told:?}");
        let retry = told.rsplit_once("event: restart\ndata: bye\nretry: ").unwrap().1.strip_suffix("\n\n").unwrap();
        retries.push(retry.parse::<u64>().unwrap());
        ends.push((end - start).as_millis());
    }
    ends.sort_unstable();
    for quarter in 0..4 {
        let [from, to] = [quarter, quarter + 1].map(|quarter| quarter * 1500);
        let number = ends.iter().filter(|end| (from..to).contains(*end)).count();
        assert!((24..=26).contains(&number), "{number} of 100 ended in {from}..{to} ms: {ends:?}");
    }
    assert!(retries.iter().all(|retry| (5000..=15_000).contains(retry)), "{retries:?}");
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 90);
    assert_eq!(registry.stats().closed_streams[&CloseReason::Drained], 100);
}

#[tokio::test(start_paused = true)]
async fn drain_refuses_new_streams_from_the_call_on_and_no_other_requests() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    assert!(!registry.is_draining());
    let draining = registry.drain(Drain::within(SECOND));
    assert!(registry.is_draining(), "the registry drains before the future is awaited");

    let (_, response) = answer(&layer, Request::new(()), |_| event_stream(Empty::<Bytes>::new()));
    assert_eq!(response.status(), 503);
    assert_eq!(response.extensions().get(), Some(&RefusedReason::Draining));
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3..=8).contains(&seconds), "{seconds}");

    let asking = Request::builder().header(ACCEPT, "text/event-stream").body(()).unwrap();
    let mut service = tower_layer::Layer::layer(
        &layer,
        tower::service_fn(async |_: Request<()>| -> Result<Response<Empty<Bytes>>, std::convert::Infallible> {
            panic!("the handler of a refused request does not run")
        }),
    );
    let response = tower::Service::call(&mut service, asking).await.unwrap();
    assert_eq!(response.status(), 503);

    let (client, response) = answer(&layer, Request::new(()), |_| Response::new(Empty::<Bytes>::new()));
    assert_eq!(response.status(), 200);
    assert_eq!(client.acquire_slot(), Err(RefusedReason::Draining));
    assert_eq!(registry.stats().refused_streams, 3);
    assert!(drained(0, 0)(&draining.await));
}

#[tokio::test(start_paused = true)]
async fn drain_is_done_at_once_if_no_stream_is_open() {
    let start = Instant::now();
    assert!(drained(0, 0)(&Registry::new().drain(Drain::within(Duration::MAX)).await));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_counts_as_ended_and_an_unpolled_stream_as_open() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let stalled = open(&layer, None, |client| client.subscribe("topic").unwrap());
    let leaves = open(&layer, None, |client| client.subscribe("topic").unwrap());
    let start = Instant::now();
    let draining = tokio::spawn(registry.drain(Drain::within(8 * SECOND)));
    settle().await;
    drop(leaves);
    let result = draining.await.unwrap();
    assert!(drained(1, 1)(&result), "{result:?}");
    assert_eq!(start.elapsed(), 8 * SECOND);
    assert!(registry.client(&stalled.0.id()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_inside_an_event_is_cut_after_seven_eighths_of_the_window() {
    let registry = Registry::new();
    let (frames, own) = bodies::channel();
    let (client, response) = answer(&quiet(&registry), Request::new(()), |_| event_stream(own));
    frames.send(Ok(http_body::Frame::data("data: half".into()))).await.unwrap();
    let start = Instant::now();
    let stream = serve(response.into_body());
    settle().await;
    let result = registry.drain(Drain::within(8 * SECOND).farewell(Event::data("bye"))).await;
    assert!(drained(1, 0)(&result), "{result:?}");
    let (told, end) = stream.await.unwrap();
    assert_eq!((told.as_str(), end - start), ("data: half", 7 * SECOND));
    assert_eq!(client.closed().await, CloseReason::Drained);
}

#[tokio::test(start_paused = true)]
async fn streams_that_may_finish_end_by_themselves_or_at_the_deadline() {
    let registry = Registry::new();
    let layer = quiet(&registry).finish_on_drain(true);
    let open = |topic: &'static str| open(&layer, None, |client| client.subscribe(topic).unwrap());
    let (finishes, goes_on, ordinary) = (open("finishes"), open("goes on"), open("ordinary"));
    ordinary.0.finish_on_drain(false);
    let [finishes_task, goes_on_task, ordinary_task] = [finishes.1, goes_on.1, ordinary.1].map(serve);
    settle().await;
    let start = Instant::now();
    let draining = tokio::spawn(registry.drain(Drain::within(8 * SECOND).finish_within(40 * SECOND)));
    assert_eq!(
        ordinary_task.await.unwrap().1 - start,
        Duration::ZERO,
        "the ordinary stream is the only one, so it ends at once"
    );
    advance(20 * SECOND).await;
    publish(&registry, "finishes", "the rest");
    settle().await;
    finishes.0.close();
    let (told, end) = finishes_task.await.unwrap();
    assert_eq!((fields(&told, "data"), end - start), (vec!["the rest"], 20 * SECOND));
    assert_eq!(finishes.0.closed().await, CloseReason::ByServer);
    assert_eq!(goes_on_task.await.unwrap().1 - start, 38 * SECOND);
    assert_eq!(goes_on.0.closed().await, CloseReason::Drained);
    assert!(drained(3, 0)(&draining.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_got_its_slot_before_the_drain_ends_as_it_opens() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let mut draining = None;
    // The request does not ask for a stream, so its limit is checked at the response. Events are not refused.
    let mut events = None;
    let (client, _response) = answer(&layer, Request::new(()), |client| {
        client.subscribe("topic").unwrap();
        draining = Some(registry.drain(Drain::within(SECOND)));
        events = Some(client.clone().into_events());
        Response::new(Empty::<Bytes>::new())
    });
    assert!(timeout(SECOND, events.unwrap().next()).await.unwrap().is_none());
    assert_eq!(client.closed().await, CloseReason::Drained);
    assert!(drained(1, 0)(&draining.unwrap().await));
}

#[tokio::test(start_paused = true)]
async fn drain_ends_events_too() {
    let registry = Registry::new();
    let client = subscribed(&registry, ["topic"]);
    let mut events = client.clone().into_events();
    publish(&registry, "topic", "last");
    let draining = tokio::spawn(registry.drain(Drain::within(SECOND).farewell(Event::data("not for these"))));
    settle().await;
    assert_eq!(events.next().await.unwrap().unwrap().data().unwrap(), "last");
    assert!(events.next().await.is_none());
    assert!(drained(1, 0)(&draining.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_drain_leaves_streams_open_and_can_be_called_again() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let mut bodies: Vec<_> =
        (0..10).map(|_| open(&layer, None, |client| client.subscribe("topic").unwrap()).1).collect();
    assert!(timeout(SECOND, registry.drain(Drain::within(8 * SECOND))).await.is_err());
    let has_ended: Vec<_> = bodies.iter_mut().map(|body| rest(body).1).collect();
    assert_eq!(has_ended.iter().filter(|ended| **ended).count(), 2);
    assert!(registry.is_draining());
    let streams: Vec<_> = bodies.into_iter().map(serve).collect();
    let result = registry.drain(Drain::within(SECOND)).await;
    assert!(drained(8, 0)(&result), "{result:?}");
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_farewell_ends() {
    let registry = Registry::new();
    let (_, mut body) = open(&quiet(&registry), None, |client| client.subscribe("topic").unwrap());
    assert_eq!(poll(&mut body), Polled::Pending);
    let stream = serve(body);
    registry.drain(Drain::within(Duration::ZERO)).await;
    assert_eq!(stream.await.unwrap().0, "");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_stream_takes_no_time_from_streams_that_may_finish() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let _stalled = open(&layer, None, |client| client.subscribe("topic").unwrap());
    let stream = serve(open(&layer.finish_on_drain(true), None, |client| client.subscribe("topic").unwrap()).1);
    settle().await;
    let start = Instant::now();
    let result = registry.drain(Drain::within(8 * SECOND).farewell(Event::data("bye"))).await;
    assert!(drained(1, 1)(&result), "{result:?}");
    let (told, end) = stream.await.unwrap();
    assert_eq!((told.as_str(), end - start), ("data: bye\n\n", 6 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_during_the_drain_counts_as_still_open() {
    let registry = Registry::with_config(RegistryConfig::default().stalled_client_timeout(SECOND));
    let (client, mut body) = open(&quiet(&registry), None, |client| client.subscribe("topic").unwrap());
    assert_eq!(poll(&mut body), Polled::Pending);
    publish(&registry, "topic", "waits");
    let draining = tokio::spawn(registry.drain(Drain::within(8 * SECOND)));
    for _ in 0..4 {
        advance(SECOND).await;
        publish(&registry, "elsewhere", "");
    }
    assert!(registry.client(&client.id()).is_none(), "the client has stalled");
    let result = draining.await.unwrap();
    assert!(drained(0, 1)(&result), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waits_for_its_turn_to_end_has_not_stalled() {
    let (told, is_told) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let slow = move |observation: &Observation<'_>| {
        if matches!(observation, Observation::Closed { .. }) {
            told.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
    };
    let registry = Registry::with_config(RegistryConfig::default().observer(slow));
    let layer = quiet(&registry).finish_on_drain(true);
    let (client, body) = open(&layer, None, |client| client.subscribe("topic").unwrap());
    let window = Duration::from_millis(10);
    let mut draining = Box::pin(registry.drain(Drain::within(window).finish_within(100 * SECOND)));
    let _ = timeout(10 * window, &mut draining).await.unwrap_err();
    let stream = serve(body);
    client.close();
    tokio::task::spawn_blocking(move || is_told.recv().unwrap()).await.unwrap();
    let early = timeout(20 * window, &mut draining).await;
    go_on.send(()).unwrap();
    let result = match early {
        Ok(result) => result,
        Err(_) => draining.await,
    };
    assert!(drained(1, 0)(&result), "{result:?}");
    assert_eq!(stream.await.unwrap().0, "");
}

#[tokio::test(start_paused = true)]
async fn the_window_starts_when_the_drain_is_awaited() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let streams: Vec<_> =
        (0..2).map(|_| serve(open(&layer, None, |client| client.subscribe("topic").unwrap()).1)).collect();
    settle().await;
    let draining = registry.drain(Drain::within(8 * SECOND).farewell(Event::data("bye")));
    advance(10 * SECOND).await;
    let start = Instant::now();
    let result = draining.await;
    assert!(drained(2, 0)(&result), "{result:?}");
    let mut ends = Vec::new();
    for stream in streams {
        let (told, end) = stream.await.unwrap();
        assert_eq!(told, "data: bye\n\n");
        ends.push(end - start);
    }
    ends.sort_unstable();
    assert_eq!(ends, [Duration::ZERO, 3 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn finish_on_drain_can_be_set_while_the_streams_end() {
    let registry = Registry::new();
    let layer = quiet(&registry);
    let open = || open(&layer, None, |client| client.subscribe("topic").unwrap());
    let (clients, bodies): (Vec<_>, Vec<_>) = (0..3).map(|_| open()).unzip();
    clients[0].finish_on_drain(true);
    let mut streams: Vec<_> = bodies.into_iter().map(serve).collect();
    settle().await;
    let start = Instant::now();
    let draining = tokio::spawn(registry.drain(Drain::within(8 * SECOND).finish_within(40 * SECOND)));
    settle().await;
    // One of the other two streams ends at once, and the other ends in three seconds. Now that one has something to
    // finish.
    clients[1..].iter().for_each(|client| client.finish_on_drain(true));
    advance(20 * SECOND).await;
    // The first client has sent its answer.
    clients[0].finish_on_drain(false);
    assert_eq!(streams.remove(0).await.unwrap().1 - start, 20 * SECOND);
    let mut ends = Vec::new();
    for stream in streams {
        ends.push(stream.await.unwrap().1 - start);
    }
    ends.sort_unstable();
    assert_eq!(ends, [Duration::ZERO, 38 * SECOND]);
    assert!(drained(3, 0)(&draining.await.unwrap()));
}
