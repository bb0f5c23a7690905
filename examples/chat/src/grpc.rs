//! The rooms as a gRPC service.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt, once};
use tonic::{Request, Response, Status};
use tower_sse::{ClientHandle, CloseReason, Delivery, Gap, PublishError, RefusedReason, Registry, SubscribeError};

use crate::{
    proto::{
        JoinRequest, MembersReply, MembersRequest, Missed, Said, SayReply, SayRequest, Update, chat_server::Chat,
        update::What,
    },
    room::{self, Problem},
};

#[derive(Debug)]
pub(crate) struct Rooms {
    registry: Registry,
}

impl Rooms {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone() }
    }
}

#[tonic::async_trait]
impl Chat for Rooms {
    type JoinStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Self::JoinStream>, Status> {
        // `SseLayer` has put the handle there. It also reads the metadata `last-event-id`, because gRPC metadata are
        // headers.
        let client = request.extensions().get::<ClientHandle>().cloned();
        let client = client.ok_or_else(|| Status::internal("no SseLayer is around this service"))?;
        let JoinRequest { room, name } = request.into_inner();
        // The layer cannot see that a gRPC request asks for a stream, so this method acquires the slots of the limits.
        client.acquire_slot().map_err(|refused| refusal(&refused))?;
        room::enter(&client, &room, &name)?;
        let updates = client.clone().into_events().map(|event| match event {
            Ok(event) => said(&event),
            Err(gap) => Ok(missed(&gap)),
        });
        let end = once(client).then(async |client| client.closed().await).filter_map(status_of).map(Err);
        Ok(Response::new(Box::pin(updates.chain(end))))
    }

    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayReply>, Status> {
        let SayRequest { room, said } = request.into_inner();
        let said = said.ok_or_else(|| Status::invalid_argument("nothing is said"))?;
        let receipt = room::say(&self.registry, &room, &said)?;
        let clients = receipt.subscribers().try_into().unwrap_or(u32::MAX);
        let position = receipt.await.map_err(room::Problem::from)?;
        Ok(Response::new(SayReply { id: position.to_string(), clients }))
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let names = room::members(&self.registry, &request.get_ref().room)?;
        Ok(Response::new(MembersReply { names }))
    }
}

fn said(event: &Delivery) -> Result<Update, Status> {
    let said: Option<Said> = event.data().and_then(|data| serde_json::from_str(&data).ok());
    let said = said.ok_or_else(|| Status::internal("what is in the room is not what was said in it"))?;
    Ok(Update { id: event.id().unwrap_or_default().to_owned(), what: Some(What::Said(said)) })
}

fn missed(gap: &Gap) -> Update {
    let id = gap.position().map(|position| position.to_string()).unwrap_or_default();
    Update { id, what: Some(What::Missed(Missed { after: gap.after().to_owned() })) }
}

/// The status that a stream ends with. After most reasons the client should reconnect.
fn status_of(reason: CloseReason) -> Option<Status> {
    match reason {
        CloseReason::ByServer | CloseReason::TopicsEnded => None,
        CloseReason::AuthorizationExpired => Some(Status::unauthenticated(reason.to_string())),
        _ => Some(Status::unavailable(reason.to_string())),
    }
}

fn refusal(refused: &RefusedReason) -> Status {
    match refused {
        RefusedReason::Draining => Status::unavailable(refused.to_string()),
        _ => Status::resource_exhausted(refused.to_string()),
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Input(sentence) => Self::invalid_argument(sentence),
            Problem::Subscribe(SubscribeError::Topic(error)) => Self::invalid_argument(error.to_string()),
            Problem::Publish(PublishError::Topic(error)) => Self::invalid_argument(error.to_string()),
            Problem::Subscribe(error) => Self::failed_precondition(error.to_string()),
            Problem::Publish(error) => Self::failed_precondition(error.to_string()),
        }
    }
}
