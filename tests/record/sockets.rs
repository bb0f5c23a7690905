//! The same over sockets: HTTP/1.1 and HTTP/2, axum and plain hyper.

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower_sse::TopicState;

use crate::{
    bodies::AnyBody,
    client::{self, Client},
    spec,
    test_server::{Frames, Server, TestServer, on_all, within},
    world::{World, event, fail, post, write},
};

/// A response as it arrives.
struct Arriving {
    body: Incoming,
    bytes: Vec<u8>,
}

impl Arriving {
    /// Reads until so many events have arrived.
    async fn events(&mut self, count: usize) -> spec::Parsed {
        loop {
            let parsed = spec::parse(&self.bytes);
            if parsed.messages.len() >= count {
                return parsed;
            }
            let frame = within(self.body.frame()).await.expect("the stream goes on").expect("no error");
            self.bytes.extend_from_slice(&frame.into_data().expect("no trailers"));
        }
    }

    /// Reads to the end. Returns everything, and whether the end is clean.
    async fn end(mut self) -> (spec::Parsed, bool) {
        loop {
            match within(self.body.frame()).await {
                None => return (spec::parse(&self.bytes), true),
                Some(Err(_)) => return (spec::parse(&self.bytes), false),
                Some(Ok(frame)) => self.bytes.extend_from_slice(&frame.into_data().expect("no trailers")),
            }
        }
    }
}

fn data(parsed: &spec::Parsed) -> Vec<&str> {
    parsed.messages.iter().map(|message| &*message.data).collect()
}

fn ask(last_event_id: Option<&str>) -> Request<AnyBody> {
    let mut request = client::request("POST", "/answers", AnyBody::default());
    request.headers_mut().insert("key", "a".parse().unwrap());
    if let Some(id) = last_event_id {
        request.headers_mut().insert("last-event-id", id.parse().unwrap());
    }
    request
}

async fn send(client: &mut Client, request: Request<AnyBody>) -> Arriving {
    let response = within(client.send(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Arriving { body: response.into_body(), bytes: Vec::new() }
}

/// A recording over a socket, with its first reader.
struct Begun {
    world: World,
    server: TestServer,
    client: Client,
    frames: Frames,
    arriving: Arriving,
}

async fn begin(server: Server, version: Version) -> Begun {
    let mut world = World::new();
    let server = TestServer::open(server, world.app.clone()).await;
    let mut client = Client::connect(server.address, version).await;
    let sending = tokio::spawn(async move {
        let arriving = send(&mut client, ask(None)).await;
        (client, arriving)
    });
    let frames = world.call().await.stream();
    let (client, arriving) = sending.await.unwrap();
    Begun { world, server, client, frames, arriving }
}

#[tokio::test]
async fn a_client_that_is_cut_in_the_middle_gets_exactly_the_rest_and_the_handler_runs_once() {
    on_all(async |server: Server, version: Version| {
        let Begun { mut world, server, client, frames, mut arriving } = begin(server, version).await;
        write(&frames, "id: own\nevent: token\ndata: 1\n\ndata: 2\n\n").await;
        let parsed = arriving.events(2).await;
        // The connection is cut.
        drop((client, arriving));
        event(&frames, "3").await;
        let mut second = Client::connect(server.address, version).await;
        let mut rest = send(&mut second, ask(Some(&parsed.last_event_id))).await;
        assert_eq!(data(&rest.events(1).await), ["3"]);
        let mut third = Client::connect(server.address, version).await;
        let all = send(&mut third, ask(None)).await;
        event(&frames, "4").await;
        drop(frames);
        let (rest, is_clean) = rest.end().await;
        assert_eq!((data(&rest), is_clean), (vec!["3", "4"], true));
        let (all, is_clean) = all.end().await;
        assert_eq!((data(&all), is_clean), (vec!["1", "2", "3", "4"], true));
        assert_eq!((all.messages[0].event_type.as_str(), all.messages[0].own_id.as_deref()), ("token", Some("own")));
        let after = within(second.send(ask(Some(&all.last_event_id)))).await.unwrap();
        assert_eq!(after.status(), StatusCode::NO_CONTENT);
        world.assert_not_called();
    })
    .await;
}

#[tokio::test]
async fn a_failure_is_a_last_event_and_an_unclean_end_on_the_wire_for_each_reader() {
    on_all(async |server: Server, version: Version| {
        let Begun { world: _world, server, client: _client, frames, arriving } = begin(server, version).await;
        event(&frames, "1").await;
        fail(frames).await;
        let (parsed, is_clean) = arriving.end().await;
        assert_eq!((data(&parsed), is_clean), (vec!["1", r#"{"reason":"body_failed"}"#], false));
        let mut second = Client::connect(server.address, version).await;
        let (again, is_clean) = send(&mut second, ask(None)).await.end().await;
        assert_eq!((&again, is_clean), (&parsed, false));
        let mut third = Client::connect(server.address, version).await;
        let after = within(third.send(ask(Some(&again.last_event_id)))).await.unwrap();
        assert_eq!(after.status(), StatusCode::GONE);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_disconnects_before_the_head_finds_the_answer_later() {
    on_all(async |server: Server, version: Version| {
        let mut world = World::new();
        let server = TestServer::open(server, world.app.clone()).await;
        let mut first = Client::connect(server.address, version).await;
        let sending = tokio::spawn(async move { first.send(ask(None)).await });
        let call = world.call().await;
        sending.abort();
        let frames = call.stream();
        event(&frames, "1").await;
        drop(frames);
        let topic = world.record.topic_of(&post("a").into_parts().0).unwrap().unwrap();
        crate::test_server::until(|| world.registry.topic_state(&topic) == Some(TopicState::Ended)).await;
        let mut second = Client::connect(server.address, version).await;
        let (all, is_clean) = send(&mut second, ask(None)).await.end().await;
        assert_eq!((data(&all), is_clean), (vec!["1"], true));
        world.assert_not_called();
    })
    .await;
}
