//! Bugs that attackers of the crate found: forged ids, names that are reused, and unused patterns.

use http::{Method, Request, StatusCode};
use tower::Layer;
use tower_sse::{
    ClientHandle, Event, Events, Heartbeat, Registry, RegistryConfig, Resume, Retention, SlowClientPolicy, SseLayer,
    Start, Subscription,
};

use crate::{
    answer::answer,
    open, polling,
    polling::{data, next, publish, text},
};

fn layer(registry: &Registry) -> SseLayer {
    SseLayer::new(registry).heartbeat(Heartbeat::off())
}

fn own(registry: &Registry, topic: &str, id: &str) {
    registry.publish(topic, Event::data(id).id(id).unwrap()).unwrap();
}

fn retaining(events: usize, policy: SlowClientPolicy) -> Registry {
    Registry::with_config(
        RegistryConfig::default().topic_retention(Retention::default().events(events).slow_client_policy(policy)),
    )
}

/// On a last-value topic nothing is a gap, so the id is sent back to the client.
#[test]
fn an_id_in_a_query_adds_no_lines_to_a_stream() {
    let registry = retaining(1, SlowClientPolicy::SkipSilently);
    publish(&registry, "state", "on");
    for id in ["x%0A%0Aevent:%20logout%0Adata:%20evil%0A", "x%0Dretry:%200%0D", "x%00y", "%20x"] {
        let request = Request::get(format!("/?lastEventId={id}")).body(()).unwrap();
        let (_, response) = answer(&layer(&registry), request, |client| {
            client.subscribe_from("state", Start::Oldest).unwrap();
            client.clone().into_stream().into_response::<open::Empty>()
        });
        let wire = text(&mut response.into_body());
        assert!(wire.starts_with("data: on\nid: ") && wire.split(['\n', '\r']).count() == 4, "{id}: {wire:?}");
    }
}

/// The status of each response to an `EventSource` that reconnects with its last id.
fn returns(registry: &Registry, handle: impl Fn(&ClientHandle)) -> Vec<StatusCode> {
    let mut last_id: Option<String> = None;
    let mut come = || {
        let mut request = Request::new(());
        if let Some(id) = &last_id {
            request.headers_mut().insert("last-event-id", id.parse().unwrap());
        }
        let (_, response) = answer(&layer(registry), request, |client| {
            handle(client);
            client.clone().into_stream().into_response::<open::Empty>()
        });
        let status = response.status();
        let (wire, _) = polling::rest(&mut response.into_body());
        last_id = polling::fields(&wire, "id").last().map(ToString::to_string).or(last_id.take());
        status
    };
    vec![come(), come()]
}

#[test]
fn a_client_without_the_last_event_of_an_answer_stops_reconnecting() {
    let only_true = || Subscription::to("a").from(Start::Oldest).filter(|event, _| event.attribute() == Some(&true));
    let (ok, whole, failed) = (StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::GONE);
    for (fails, last) in [(false, Event::data("2")), (true, Event::data("2")), (false, Event::empty().comment("."))] {
        let registry = Registry::new();
        let producer = registry.start_producer("a").unwrap();
        producer.publish(Event::data("1").attribute(true)).unwrap();
        producer.publish(last.attribute(false)).unwrap();
        if fails {
            producer.fail();
        } else {
            producer.end();
        }
        let seen = returns(&registry, |client| client.subscribe(only_true()).unwrap());
        assert_eq!(seen, [ok, if fails { failed } else { whole }]);
    }
}

#[test]
fn a_head_request_passes_nested_layers_like_a_get() {
    let registry = Registry::new();
    for method in [Method::GET, Method::HEAD] {
        let mut service = layer(&registry).layer(layer(&registry).layer(tower::service_fn(|request: Request<()>| {
            let client = request.extensions().get::<ClientHandle>().unwrap().clone();
            client.subscribe("a").unwrap();
            std::future::ready(Ok::<_, std::convert::Infallible>(client.into_stream().into_response::<open::Empty>()))
        })));
        let request = Request::builder().method(&method).body(()).unwrap();
        let response =
            tokio_test::assert_ready_ok!(tokio_test::task::spawn(tower::Service::call(&mut service, request)).poll());
        assert_eq!((response.status(), registry.stats().refused_streams), (StatusCode::OK, 0), "{method}");
        assert_eq!(response.headers()["x-accel-buffering"], "no", "{method}");
    }
}

#[test]
fn a_client_that_catches_up_and_resumes_by_another_name_loses_nothing() {
    for (had, back) in [("a/*", "a/x"), ("a/x", "a/*"), ("a/x", "**")] {
        let registry = Registry::new();
        [("a/x", "1"), ("a/x", "2"), ("b", "3")].iter().for_each(|(topic, it)| publish(&registry, topic, it));
        let client = registry.connect();
        client.subscribe_from("b", Start::Oldest).unwrap();
        let mut events = client.clone().into_events();
        assert_eq!(data(&mut events), ["3"]);
        client.subscribe(Subscription::matching(had).from(Start::Oldest)).unwrap();
        let id = next(&mut events).unwrap().unwrap().id().unwrap().to_owned();
        drop(events);
        let client = registry.connect();
        client.resume_from(&id).unwrap();
        [back, "b"].iter().for_each(|name| client.subscribe(Subscription::matching(*name)).unwrap());
        assert_eq!(client.resume(), Resume::Continued);
        assert!(data(&mut client.into_events()).contains(&"2".to_owned()), "{had}, then {back}: {id}");
    }
}

#[test]
fn the_latest_eviction_of_an_id_counts() {
    let registry = retaining(2, SlowClientPolicy::NotifyGap);
    own(&registry, "a", "k");
    (0..16_000).for_each(|number| own(&registry, "a", &format!("u{number}")));
    own(&registry, "a", "k");
    (16_000..16_500).for_each(|number| own(&registry, "a", &format!("u{number}")));
    own(&registry, "a", "k");
    let client = registry.connect();
    client.resume_from("k").unwrap();
    client.subscribe("a").unwrap();
    assert!(matches!(client.resume(), Resume::Gap(_)), "{:?}", client.resume());
}

#[test]
fn an_own_id_that_its_topic_retains_resumes_if_a_pattern_lost_it() {
    let bytes = Retention::default().bytes(100_000);
    let registry = Registry::with_config(RegistryConfig::default().total_retention(bytes).topic_retention(bytes));
    let everything = registry.connect();
    everything.subscribe(Subscription::matching("**")).unwrap();
    let _reader = everything.into_events();
    (0..150).for_each(|number| own(&registry, "a", &format!("v{number}")));
    let client = registry.connect();
    client.subscribe_from("a", Start::Oldest).unwrap();
    let retained = data(&mut client.into_events());
    assert!(retained.len() > 100, "{}", retained.len());
    for id in retained {
        let client = registry.connect();
        client.resume_from(&id).unwrap();
        client.subscribe("a").unwrap();
        assert_eq!(client.resume(), Resume::Continued, "{id}");
    }
}

#[test]
fn unmatched_patterns_take_no_memory_from_matched_patterns() {
    let registry = Registry::new();
    let idle: Vec<Events> = (0..700)
        .map(|stream| {
            let client = registry.connect();
            let names = (0..16).map(|number| format!("x/{stream}/{number}/*"));
            names.for_each(|name| client.subscribe(Subscription::matching(name)).unwrap());
            client.into_events()
        })
        .collect();
    let reader = registry.connect();
    reader.subscribe(Subscription::matching("prices/*")).unwrap();
    let mut reader = reader.into_events();
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    numbers.iter().for_each(|number| publish(&registry, "prices/a", number));
    assert_eq!(data(&mut reader), numbers, "no event is reported as lost");
    drop(idle);
}

#[test]
fn a_resume_bound_of_zero_causes_one_gap() {
    let registry = Registry::new();
    let id = polling::position(&registry, "a", "1").to_string();
    publish(&registry, "a", "2");
    let back = |id: &str| {
        let (client, mut body) = open::open(&layer(&registry).resume_at_most(0), Some(id), |client| {
            client.subscribe("a").unwrap();
        });
        (client.resume(), text(&mut body))
    };
    let (resume, wire) = back(&id);
    assert!(matches!(resume, Resume::Gap(_)) && wire.starts_with("event: gap\n"), "{wire}");
    let told = polling::fields(&wire, "id")[0];
    assert_eq!(back(told).0, Resume::Continued, "{wire}");
}
