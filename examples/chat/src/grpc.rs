//! The rooms as a gRPC service.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt, once};
use tonic::{Code, Request, Response, Status};
use tower_sse::{ClientHandle, CloseReason, Delivery, Error, Gap, RefusedReason, Registry};

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
        room::enter(&client, &room, &name)?;
        let events = client.clone().into_events();
        // Without a status, the end of a refused stream would look like the end of the room.
        if let Some(refused) = events.refused() {
            return Err(Problem::from(refused.clone()).into());
        }
        let updates = events.map(|event| match event {
            Ok(event) => said(&event),
            Err(gap) => Ok(missed(&gap)),
        });
        let end = once(client).then(async |client| client.closed().await).filter_map(status_of).map(Err);
        Ok(Response::new(Box::pin(updates.chain(end))))
    }

    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayReply>, Status> {
        let SayRequest { room, said } = request.into_inner();
        let said = said.ok_or_else(|| Status::invalid_argument("nothing is said"))?;
        let (position, clients) = room::say(&self.registry, &room, &said).await?;
        let clients = clients.try_into().unwrap_or(u32::MAX);
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

/// The status for any error of `tower_sse`.
fn status(error: &Error) -> Status {
    let code = match (error, error.status().as_u16()) {
        (Error::Refused(RefusedReason::Draining), _) => Code::Unavailable,
        (Error::Refused(RefusedReason::Full { .. } | RefusedReason::RateLimited { .. }), _) => Code::ResourceExhausted,
        (_, 400 | 413) => Code::InvalidArgument,
        (_, 404) => Code::NotFound,
        (_, 409) => Code::FailedPrecondition,
        (_, 503) => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Input(sentence) => Self::invalid_argument(sentence),
            Problem::Events(error) => status(&error),
        }
    }
}
