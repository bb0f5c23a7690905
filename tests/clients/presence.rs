//! Presence: members, joins, leaves, and the grace time.

use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task::spawn};
use tower_sse::{
    ClientHandle, ClientId, Event, Events, Member, Presence, PresenceChange, PresenceChanges, Registry, RegistryConfig,
    SseLayer, Subscription, TopicState,
};

use crate::{
    answer::answer,
    layers::plain,
    open::{self, open},
};

const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq)]
struct User(&'static str);

fn registry(grace: Duration) -> Registry {
    let key = |client: &ClientHandle| client.metadata().get::<User>().map(|user| user.0.to_owned());
    Registry::with_config(RegistryConfig::default().presence_key(key).presence_grace(grace))
}

/// A client in this process with a subscription. Its stream has not begun.
fn client(registry: &Registry, user: &'static str, name: &str) -> ClientHandle {
    let client = registry.connect();
    client.insert_metadata(User(user));
    client.subscribe(name).unwrap();
    client
}

/// A client in this process with a subscription and an open stream.
fn reader(registry: &Registry, user: &'static str, name: &str) -> (ClientHandle, Events) {
    let client = client(registry, user, name);
    (client.clone(), client.into_events())
}

fn keys(presence: &Presence) -> Vec<String> {
    presence.members().iter().map(|member| member.key().to_owned()).collect()
}

/// Returns the changes that are ready: `+` for a join, `-` for a leave.
fn told(changes: &mut tokio_test::task::Spawn<PresenceChanges>) -> Vec<String> {
    let mut told = Vec::new();
    while let std::task::Poll::Ready(Some(change)) = changes.poll_next() {
        told.push(match change {
            PresenceChange::Joined(member) => format!("+{}", member.key()),
            PresenceChange::Left(key) => format!("-{key}"),
            _ => unreachable!("there are two kinds"),
        });
    }
    told
}

#[tokio::test(start_paused = true)]
async fn clients_are_members_if_they_subscribed_before_or_after_the_first_question() {
    let registry = registry(GRACE);
    let (before, _ada) = reader(&registry, "ada", "room");
    let _eve = reader(&registry, "eve", "other");
    let room = registry.presence("room").unwrap();
    let _bob = reader(&registry, "bob", "room");
    assert_eq!((keys(&room), room.count()), (vec!["ada".into(), "bob".into()], 2));
    let members = room.members();
    assert_eq!(members[0].metadata().get(), Some(&User("ada")));
    assert_eq!(members[0].clients(), [before.id()]);
    assert_eq!(keys(&registry.presence("other").unwrap()), ["eve"]);
    assert!(registry.presence("a//b").is_err());
}

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_wake_the_reader_of_the_changes() {
    let registry = registry(Duration::ZERO);
    let (ada, _events) = reader(&registry, "ada", "room");
    let room = registry.presence("room").unwrap();
    let mut changes = spawn(room.changes());
    assert_eq!(told(&mut changes), ["+ada"]);
    let bob = client(&registry, "bob", "room");
    assert!(!changes.is_woken(), "the client has no stream yet");
    let bob = bob.into_events();
    assert!(changes.is_woken());
    assert_eq!(told(&mut changes), ["+bob"]);
    ada.unsubscribe("room");
    assert!(changes.is_woken());
    assert_eq!(told(&mut changes), ["-ada"]);
    ada.subscribe("room").unwrap();
    assert!(changes.is_woken(), "the client's stream is open, so it joins at once");
    assert_eq!(told(&mut changes), ["+ada"]);
    ada.unsubscribe("room");
    assert_eq!(told(&mut changes), ["-ada"]);
    drop(bob);
    assert!(changes.is_woken());
    assert_eq!(told(&mut changes), ["-bob"]);
    assert_eq!(room.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_reconnects_within_the_grace_time_neither_leaves_nor_joins() {
    let registry = registry(GRACE);
    let room = registry.presence("room").unwrap();
    let mut changes = spawn(room.changes());
    let (_, first) = reader(&registry, "ada", "room");
    assert_eq!(told(&mut changes), ["+ada"]);
    drop(first);
    assert_eq!(told(&mut changes), [""; 0]);
    assert_eq!((room.count(), room.members()[0].clients().len()), (1, 0));
    tokio::time::advance(GRACE - Duration::from_secs(1)).await;
    let (second, events) = reader(&registry, "ada", "room");
    tokio::time::advance(2 * GRACE).await;
    assert_eq!(told(&mut changes), [""; 0]);
    assert_eq!(room.members()[0].clients(), [second.id()]);

    drop(events);
    assert_pending!(changes.poll_next());
    tokio::time::advance(GRACE + Duration::from_millis(1)).await;
    assert!(changes.is_woken(), "the grace time's own timer wakes the reader: no other client joined or left");
    assert!(matches!(assert_ready!(changes.poll_next()), Some(PresenceChange::Left(key)) if &*key == "ada"));
}

#[tokio::test(start_paused = true)]
async fn a_user_with_two_tabs_leaves_with_the_last_tab() {
    let registry = registry(Duration::ZERO);
    let room = registry.presence("room").unwrap();
    let mut changes = spawn(room.changes());
    let [(_, one), (_, two)] = [reader(&registry, "ada", "room"), reader(&registry, "ada", "room")];
    assert_eq!((told(&mut changes), room.count()), (vec!["+ada".to_owned()], 1));
    drop(one);
    assert_eq!(told(&mut changes), [""; 0]);
    drop(two);
    assert_eq!(told(&mut changes), ["-ada"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_member_key_is_a_member_of_its_own() {
    let registry = Registry::with_config(RegistryConfig::default().presence_grace(Duration::ZERO));
    let room = registry.presence("room/*").unwrap();
    let clients = [registry.connect(), registry.connect()];
    clients.iter().for_each(|client| client.subscribe(Subscription::matching("room/*")).unwrap());
    let [one, _two] = clients.each_ref().map(|client| client.clone().into_events());
    assert_eq!(room.count(), 2);
    let two = &clients[1];
    drop(one);
    assert_eq!(room.members().iter().map(Member::clients).collect::<Vec<_>>(), [&[two.id()]]);
    assert_ne!(keys(&room), [two.id().to_string()], "a reader of the list does not learn the client's id");
}

#[tokio::test(start_paused = true)]
async fn a_member_leaves_when_its_stream_ends_in_any_way() {
    let registry = registry(Duration::ZERO);
    let layer = plain(&registry);
    let room = registry.presence("room").unwrap();
    let streams = || {
        open(&layer, None, |client| {
            client.insert_metadata(User("ada"));
            client.subscribe("room").unwrap();
        })
    };
    let (_handle, body) = streams();
    assert_eq!(room.count(), 1);
    drop(body);
    assert_eq!(room.count(), 0);

    let (handle, body) = streams();
    handle.close();
    let mut body = spawn(body);
    assert!(assert_ready!(body.enter(|cx, body| http_body::Body::poll_frame(body, cx))).is_none());
    assert_eq!(room.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_leaves_a_topic_that_it_has_read_to_the_end() {
    let registry = registry(Duration::ZERO);
    let answer = registry.presence("answer").unwrap();
    let mut changes = spawn(answer.changes());
    let producer = registry.start_producer("answer").unwrap();
    let mut events = spawn(client(&registry, "ada", "answer").into_events());
    assert_eq!(told(&mut changes), ["+ada"]);
    producer.publish(Event::data("1")).unwrap();
    producer.end();
    assert_eq!(registry.topic_state("answer"), Some(TopicState::Ended));
    assert!(assert_ready!(events.poll_next()).is_some());
    assert!(assert_ready!(events.poll_next()).is_none());
    assert!(changes.is_woken());
    assert_eq!(told(&mut changes), ["-ada"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_without_holders_is_forgotten() {
    let registry = registry(GRACE);
    let (_, ada) = reader(&registry, "ada", "room");
    let room = registry.presence("room").unwrap();
    let changes = room.changes();
    drop(ada);
    drop(room);
    assert_eq!(registry.presence("room").unwrap().count(), 1, "the list stays the same while its changes are read");
    drop(changes);
    assert_eq!(registry.presence("room").unwrap().count(), 0);
}

#[tokio::test]
async fn the_first_question_sees_all_joins_that_race_with_it() {
    for _ in 0..50 {
        let registry = registry(Duration::ZERO);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let registry = registry.clone();
                std::thread::spawn(move || {
                    let (early, late, go) = (registry.connect(), registry.connect(), registry.connect());
                    early.subscribe("room").unwrap();
                    go.subscribe("room").unwrap();
                    let mut streams = [&early, &late, &go].map(|client| client.clone().into_events()).into_iter();
                    late.subscribe("room").unwrap();
                    let stay = ([early.id(), late.id()], [streams.next(), streams.next()]);
                    drop(streams);
                    let go = registry.connect();
                    go.subscribe("room").unwrap();
                    let _events = go.clone().into_events();
                    go.unsubscribe("room");
                    stay
                })
            })
            .collect();
        let room = registry.presence("room").unwrap();
        let stayed: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut expected: Vec<ClientId> = stayed.iter().flat_map(|(ids, _)| *ids).collect();
        let mut there: Vec<ClientId> = room.members().iter().flat_map(|member| member.clients().to_vec()).collect();
        expected.sort_unstable();
        there.sort_unstable();
        assert_eq!(there, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_member_key_is_asked_for_when_the_stream_begins_and_not_before() {
    let registry = registry(GRACE);
    let client = registry.connect();
    client.subscribe("room").unwrap();
    // The presence list knows the client by now, but has not asked for its member key.
    let id = client.id();
    let room = registry.presence("room").unwrap();
    client.insert_metadata(User("nobody"));
    client.insert_metadata(User("ada"));
    let _events = client.into_events();
    assert_eq!(keys(&room), ["ada"]);
    assert_eq!((room.members()[0].clients(), room.members()[0].metadata().get()), (&[id][..], Some(&User("ada"))));
}

#[tokio::test(start_paused = true)]
async fn the_member_key_is_not_asked_for_before_the_open_stream_subscribes() {
    let registry = registry(GRACE);
    let client = registry.connect();
    let _events = client.clone().into_events();
    let room = registry.presence("room").unwrap();
    client.insert_metadata(User("ada"));
    client.subscribe("room").unwrap();
    assert_eq!(keys(&room), ["ada"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_stream_never_joins() {
    let registry = registry(GRACE);
    let layer = SseLayer::new(&registry);
    let room = registry.presence("room").unwrap();
    let mut changes = spawn(room.changes());
    assert_eq!(told(&mut changes), [""; 0]);
    let waiting = client(&registry, "ada", "room");
    let without = registry.presence("room").unwrap();
    drop(client(&registry, "bob", "room"));
    for method in ["HEAD", "GET"] {
        // The response to a page that may not read the room.
        let request = http::Request::builder().method(method).body(()).unwrap();
        let (_, response) = answer(&layer, request, |client| {
            client.insert_metadata(User("eve"));
            client.subscribe("room").unwrap();
            assert_eq!((without.count(), registry.stats().clients, registry.stats().subscriptions), (0, 0, 0));
            http::Response::builder().status(403).body(open::Empty::new()).unwrap()
        });
        assert_eq!(response.status(), 403);
    }
    assert_eq!((told(&mut changes), room.count(), room.members().len()), (vec![], 0, 0));
    assert!(!changes.is_woken(), "no grace time runs");

    let _events = waiting.into_events();
    assert_eq!((told(&mut changes), room.count()), (vec!["+ada".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_returning_client_is_away_until_its_new_stream_begins() {
    let registry = registry(GRACE);
    let room = registry.presence("room").unwrap();
    drop(reader(&registry, "ada", "room").1);
    let again = client(&registry, "ada", "room");
    tokio::time::advance(GRACE - Duration::from_secs(1)).await;
    assert_eq!((room.count(), room.members()[0].clients().len()), (1, 0));
    let _events = again.into_events();
    tokio::time::advance(GRACE).await;
    assert_eq!((room.count(), room.members()[0].clients().len()), (1, 1));
}
