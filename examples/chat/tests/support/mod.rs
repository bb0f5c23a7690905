//! Code that the tests of this example share.
#![allow(dead_code, reason = "no test uses all of it")]

use std::time::Duration;

use chat::proto::{JoinRequest, Said, SayRequest, Update, chat_client::ChatClient, update::What};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::{Request, Status, Streaming, transport::Channel};

/// The time after which a step has failed.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("the step takes too long")
}

pub(crate) type Client = ChatClient<Channel>;

pub(crate) async fn connect(url: &str) -> Client {
    within(Client::connect(url.to_owned())).await.unwrap()
}

pub(crate) async fn join(client: &mut Client, room: &str, name: &str) -> Result<Streaming<Update>, Status> {
    join_after(client, room, name, "").await
}

/// The same with the metadata `last-event-id`.
pub(crate) async fn join_after(
    client: &mut Client,
    room: &str,
    name: &str,
    id: &str,
) -> Result<Streaming<Update>, Status> {
    let mut request = Request::new(JoinRequest { room: room.to_owned(), name: name.to_owned() });
    if !id.is_empty() {
        request.metadata_mut().insert("last-event-id", id.parse().unwrap());
    }
    Ok(within(client.join(request)).await?.into_inner())
}

/// Says a text. Returns its id, and the number of clients that get it.
pub(crate) async fn say(client: &mut Client, room: &str, name: &str, text: &str) -> Result<(String, u32), Status> {
    let said = Said { name: name.to_owned(), text: text.to_owned() };
    let reply = within(client.say(SayRequest { room: room.to_owned(), said: Some(said) })).await?.into_inner();
    Ok((reply.id, reply.clients))
}

/// The next update: its id and what was said.
pub(crate) async fn heard(updates: &mut Streaming<Update>) -> (String, String) {
    match within(updates.message()).await.unwrap().expect("the stream goes on") {
        Update { id, what: Some(What::Said(said)) } => (id, format!("{}: {}", said.name, said.text)),
        other => panic!("{other:?}"),
    }
}

/// The next event of an event stream after its position event: its id and its data.
pub(crate) async fn event(stream: &mut Response<Incoming>) -> (String, String) {
    loop {
        let (is_position, id, data) = block(stream).await;
        if !is_position {
            return (id, data);
        }
    }
}

/// The position at which an event stream begins: the id of its first block.
pub(crate) async fn position(stream: &mut Response<Incoming>) -> String {
    let (is_position, id, _) = block(stream).await;
    assert!(is_position, "the stream begins with {id:?}");
    id
}

/// The received bytes after the last block that was read. A busy server sends several events in one frame.
#[derive(Clone)]
struct Unread(String);

async fn block(stream: &mut Response<Incoming>) -> (bool, String, String) {
    let mut text = stream.extensions_mut().remove().map_or_else(String::new, |Unread(text)| text);
    while !text.contains("\n\n") {
        let frame = within(stream.frame()).await.expect("the stream goes on").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    let (block, unread) = text.split_once("\n\n").unwrap();
    stream.extensions_mut().insert(Unread(unread.to_owned()));
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(block).to_owned();
    (block.starts_with("event: position\ndata: \nid: "), field("id: "), field("data: "))
}
