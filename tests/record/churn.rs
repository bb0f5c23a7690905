//! Many recordings that are begun, read, left, joined, cancelled and failed at random leave nothing behind.

use std::{convert::Infallible, sync::Once, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_sse::{Event, Heartbeat, RecordLayer, Registry, RegistryConfig, SseLayer};

use crate::{
    bodies::{AnyBody, any, channel, event_stream},
    process::{allocated, is_alone},
    random::Random,
    spec,
    test_server::{App, app},
    world::{Alive, key, post, resume},
};

const STREAMS: u64 = 10_000;
const KEPT: Duration = Duration::from_secs(60);
const UNREAD: Duration = Duration::from_secs(20);

/// What a handler does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    NoStream,
    Panics,
    NeverAnswers,
    BodyPanics,
    BodyFails,
    NeverEnds,
    Ends,
}

const PLANS: [Plan; 9] = [
    Plan::NoStream,
    Plan::Panics,
    Plan::NeverAnswers,
    Plan::BodyPanics,
    Plan::BodyFails,
    Plan::NeverEnds,
    Plan::Ends,
    Plan::Ends,
    Plan::Ends,
];

/// A panic that the test wants, which is not printed.
const WANTED: &str = "as the test wants";

fn hide_wanted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&WANTED) {
                usual(panic);
            }
        }));
    });
}

async fn pause(random: &mut Random) {
    sleep(Duration::from_millis(random.below(2000))).await;
}

async fn handler(request: Request<()>, seed: u64, alive: [Alive; 2]) -> Response<AnyBody> {
    let [handlers, bodies] = alive;
    let _handler = handlers.one();
    let key: u64 = request.headers()["key"].to_str().unwrap().parse().unwrap();
    let mut random = Random(seed ^ key);
    let plan = PLANS[random.index(PLANS.len())];
    pause(&mut random).await;
    match plan {
        Plan::NoStream => return Response::new(AnyBody::default()),
        Plan::Panics => std::panic::panic_any(WANTED),
        Plan::NeverAnswers => std::future::pending().await,
        _ => {}
    }
    let (frames, body) = channel();
    let body_lives = bodies.one();
    let body = body.map_frame(move |frame| {
        let _ = &body_lives;
        if frame.data_ref().is_some_and(|data| data == WANTED) {
            std::panic::panic_any(WANTED);
        }
        frame
    });
    tokio::spawn(async move {
        for number in 0..random.below(12) {
            pause(&mut random).await;
            if frames.send(Ok(Frame::data(format!("data: {number}\n\n").into()))).await.is_err() {
                return;
            }
        }
        // The body may have been dropped.
        let _ = match plan {
            Plan::BodyPanics => frames.send(Ok(Frame::data(Bytes::from_static(WANTED.as_bytes())))).await,
            Plan::BodyFails => frames.send(Err("it failed".into())).await,
            Plan::NeverEnds => {
                frames.closed().await;
                Ok(())
            }
            _ => Ok(()),
        };
    });
    event_stream(any(body))
}

/// A client that comes several times, reads for a while, and leaves.
async fn client(app: App, registry: Registry, record: RecordLayer, key: u64, mut random: Random) -> u64 {
    let key = key.to_string();
    let (mut read, mut last_event_id) = (0, String::new());
    for _ in 0..=random.below(3) {
        let is_fresh = last_event_id.is_empty() || random.one_in(3);
        let request = if is_fresh { post(&key) } else { resume(&key, &last_event_id) };
        let patience = Duration::from_millis(random.below(6000));
        // A handler's panic is that of its request.
        let answered = tokio::spawn(timeout(patience, app.clone().oneshot(request))).await;
        let Ok(Ok(Ok(response))) = answered else { continue };
        if response.headers().get("content-type").is_none() {
            assert!(
                [StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::GONE].contains(&response.status()),
                "{response:?}"
            );
            continue;
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                bytes.extend_from_slice(&frame.into_data().unwrap());
            }
        };
        let _ = timeout(Duration::from_millis(random.below(30_000)), reading).await;
        drop(body);
        let parsed = spec::parse(&bytes);
        let numbers = parsed.messages.iter().filter(|message| message.event_type == "message");
        let numbers: Vec<u64> = numbers.map(|message| message.data.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        assert!(!is_fresh || numbers.first().is_none_or(|first| *first == 0), "{numbers:?}");
        read += numbers.len() as u64;
        if !parsed.last_event_id.is_empty() {
            last_event_id = parsed.last_event_id;
        }
        if random.one_in(10) {
            let topic = record.topic_of(&post(&key).into_parts().0).unwrap().unwrap();
            registry.cancel_producer(topic);
        }
    }
    read
}

async fn until(alive: &Alive) {
    for _ in 0..1000 {
        if alive.count() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} are left", alive.count());
}

async fn round(app: &App, registry: &Registry, record: &RecordLayer, alive: &[Alive; 2], round: u64) -> usize {
    let mut random = Random(round + 1);
    let mut clients = Vec::new();
    for number in 0..STREAMS {
        let key = round * STREAMS + number;
        for _ in 0..=random.below(2) {
            let client = client(app.clone(), registry.clone(), record.clone(), key, random.split());
            clients.push(tokio::spawn(client));
        }
        if number % 100 == 0 {
            sleep(Duration::from_millis(random.below(1000))).await;
        }
    }
    let mut read = 0;
    for client in clients {
        read += client.await.unwrap();
    }
    assert!(read > STREAMS, "{read} events were read");
    // Nobody wants anything any more.
    sleep(UNREAD + Duration::from_secs(30)).await;
    until(&alive[0]).await;
    until(&alive[1]).await;
    assert_eq!(record.running(), 0);
    sleep(KEPT).await;
    // The next calls forget what is over.
    for _ in 0..STREAMS {
        registry.publish("other", Event::data("x")).unwrap();
    }
    let stats = registry.stats();
    assert_eq!((stats.topics, stats.clients, stats.subscriptions), (1, 0, 0), "{stats:?}");
    allocated()
}

#[test]
fn recordings_leave_no_handler_no_topic_and_no_memory() {
    if !is_alone("churn::recordings_leave_no_handler_no_topic_and_no_memory") {
        return;
    }
    hide_wanted_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let retention = tower_sse::Retention::default().events(1000);
        let config = RegistryConfig::default().ended_topic_ttl(KEPT).topic_retention(retention);
        let registry = Registry::with_config(config);
        let record = RecordLayer::by_key(&registry, key).cancel_unread_after(UNREAD).running_at_most(STREAMS as usize);
        let alive = [Alive::default(), Alive::default()];
        let counted = alive.clone();
        let recorded = BoxCloneSyncService::new(record.layer(service_fn(move |request| {
            let answer = handler(request, 7, counted.clone());
            async { Ok::<_, Infallible>(answer.await) }
        })));
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off());
        let app = app(&layer, move |request| {
            let recorded = recorded.clone();
            async move { recorded.oneshot(request).await.unwrap().map(any) }
        });
        // The first round fills what is remembered of topics that are forgotten.
        let mut taken = Vec::new();
        for number in 0..3 {
            taken.push(round(&app, &registry, &record, &alive, number).await);
        }
        println!("allocated after each round of {STREAMS} recordings: {taken:?}");
        assert!(taken[2] <= taken[1] + (256 << 10), "{taken:?}");
    });
}
