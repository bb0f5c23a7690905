//! Two gRPC clients: one speaks in a room, one listens.

use std::{env, error::Error, time::Duration};

use chat::proto::{JoinRequest, Said, SayRequest, Update, chat_client::ChatClient, update::What};
use tonic::{Code, Request, Status, transport::Channel};

async fn connect() -> Result<ChatClient<Channel>, tonic::transport::Error> {
    ChatClient::connect(env::var("CHAT").unwrap_or_else(|_| "http://127.0.0.1:3000".to_owned())).await
}

pub(crate) async fn say(room: &str, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let said = Said { name: name.to_owned(), text: text.to_owned() };
    let reply = connect().await?.say(SayRequest { room: room.to_owned(), said: Some(said) }).await?.into_inner();
    println!("{} hear it", reply.clients);
    Ok(())
}

/// Prints everything that is said in the room. When the connection breaks, it reconnects and resumes.
pub(crate) async fn join(room: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let mut last = String::new();
    loop {
        let status = match connect().await {
            Ok(mut client) => listen(&mut client, room, name, &mut last).await.err(),
            Err(error) => Some(Status::unavailable(error.to_string())),
        };
        match status {
            None => return Ok(()),
            // A connection that breaks in the middle of a stream has one of these codes too.
            Some(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal) => {
                eprintln!("-- {}: reconnecting", status.message());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Some(status) => return Err(status.into()),
        }
    }
}

/// Listens until the stream ends. `last` is the id of the last update.
async fn listen(client: &mut ChatClient<Channel>, room: &str, name: &str, last: &mut String) -> Result<(), Status> {
    let mut request = Request::new(JoinRequest { room: room.to_owned(), name: name.to_owned() });
    if let Some(id) = Some(&*last).filter(|id| !id.is_empty()).and_then(|id| id.parse().ok()) {
        request.metadata_mut().insert("last-event-id", id);
    }
    let mut updates = client.join(request).await?.into_inner();
    while let Some(Update { id, what }) = updates.message().await? {
        match what {
            Some(What::Said(said)) => println!("{}: {}", said.name, said.text),
            Some(What::Missed(_)) => println!("-- some of it is lost"),
            None => {}
        }
        if !id.is_empty() {
            *last = id;
        }
    }
    Ok(())
}
