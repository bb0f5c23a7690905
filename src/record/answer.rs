//! What a request with a key is answered with.

use std::{future::poll_fn, panic::resume_unwind, sync::Arc};

use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;

use super::{
    body::{BoxError, RecordBody},
    config::Config,
    error::RecordError,
    head::{self, Head},
    recording::{Reading, Stage},
    table::{Claim, Lead, Table},
    task::{Answer, Job, spawn},
};
use crate::{
    client::{ClientHandle, Style, SubscribeError},
    stream::Wrapped,
    topics::Start,
};

/// What a request with a key asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) topic: Arc<str>,
    pub(super) client: ClientHandle,
    /// The request never runs the handler.
    pub(super) only_joins: bool,
    pub(super) fingerprint: Option<Box<str>>,
    /// Where a GET finds the recording.
    pub(super) location: Option<HeaderValue>,
}

impl Asked {
    /// Joins a recording, or runs the handler if that becomes this request's turn.
    pub(super) async fn answer<S, In, Out>(
        self,
        table: Arc<Table>,
        config: Arc<Config>,
        mut claim: Claim,
        mut inner: S,
        request: Request<In>,
    ) -> Result<Response<RecordBody<Out>>, S::Error>
    where
        S: Service<Request<In>, Response = Response<Out>, Error: Send + 'static, Future: Send + 'static>,
        Out: Body<Error: Into<BoxError>> + Send + 'static,
    {
        loop {
            match claim {
                Claim::Run(lead, reading) => {
                    if let Err(refused) = self.client.client.acquire_slot() {
                        return Ok(refused.into_response());
                    }
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                    let handler = inner.call(request);
                    return self.run(&config, lead, reading, handler).await;
                }
                Claim::Join(reading) => {
                    if let Some(response) = self.join(&table, reading).await {
                        return Ok(response);
                    }
                }
                Claim::JoinTopic => match self.subscribe(false) {
                    Err(error) => return Ok(RecordError::Subscribe(error).into_response()),
                    Ok(()) if table.exists(&self.topic) => return Ok(self.stream(None, None)),
                    // The registry has forgotten the topic a moment ago, and the subscription has made it again.
                    Ok(()) => _ = self.client.unsubscribe(&*self.topic),
                },
                Claim::Refused(error) => return Ok(error.into_response()),
            }
            claim = table.claim(&self, &config);
        }
    }

    /// Runs the handler in a task of its own, and waits for its answer.
    pub(super) async fn run<F, B, E>(
        self,
        config: &Arc<Config>,
        lead: Lead,
        reading: Reading,
        handler: F,
    ) -> Result<Response<RecordBody<B>>, E>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        let (reply, answered) = oneshot::channel();
        let job = Job { lead, client: self.client.clone(), config: Arc::clone(config), reply };
        let task = spawn(job.run(handler));
        match answered.await {
            Ok(Answer::Untouched(result)) => result.map(|response| response.map(RecordBody::untouched)),
            Ok(Answer::Recorded(_, Err(error))) => Ok(RecordError::Subscribe(error).into_response()),
            Ok(Answer::Recorded(mut first, Ok(()))) => {
                let mut extensions = std::mem::take(&mut first.extensions);
                // The mark of a layer around the handler, whose body is not the one of this response.
                extensions.remove::<Wrapped>();
                let mut response = self.stream(Some(&Head::first(*first)), Some(reading));
                response.extensions_mut().extend(extensions);
                Ok(response)
            }
            Err(_) => match task.await {
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                _ if matches!(reading.recording().stage(), Stage::Cancelled) => {
                    Ok(RecordError::Cancelled.into_response())
                }
                _ => Ok(RecordError::Stopped.into_response()),
            },
        }
    }

    /// Joins a recording of this process, when it has a head. `None`: there is none, or no longer.
    async fn join<B>(&self, table: &Table, reading: Reading) -> Option<Response<RecordBody<B>>> {
        let recording = Arc::clone(reading.recording());
        let (head, has_ended) = match recording.answer().await {
            Stage::Running(head) => (head, false),
            Stage::Ended(head) => (head, true),
            Stage::Cancelled => return Some(RecordError::Cancelled.into_response()),
            Stage::Unanswered | Stage::Free => return None,
        };
        match self.subscribe(has_ended) {
            Err(SubscribeError::NoTopic { .. }) => return None,
            Err(error) => return Some(RecordError::Subscribe(error).into_response()),
            Ok(()) => {}
        }
        let has_ended_since = !has_ended && matches!(recording.stage(), Stage::Ended(_));
        if has_ended_since && !table.exists(&recording.topic) {
            // The subscription has made the topic again.
            self.client.unsubscribe(&recording.topic);
            return None;
        }
        Some(self.stream(Some(&head), Some(reading)))
    }

    /// Subscribes the client to the recording, from where it resumes or from the oldest event.
    fn subscribe(&self, must_exist: bool) -> Result<(), SubscribeError> {
        subscribe(&self.client, &self.topic, must_exist)
    }

    /// Every reader gets the same: nothing of other topics, and the recorded events as they are, whatever the layer is set to.
    fn take_nothing_else(&self) {
        for name in self.client.subscriptions().iter().filter(|name| **name != *self.topic) {
            self.client.unsubscribe(name);
        }
        self.client.resume_at_most(u32::MAX);
        self.client.client.change_style(|style| {
            *style = Style { is_recording: true, finish_on_drain: style.finish_on_drain, ..Style::default() };
        });
    }

    /// Answers with the client's stream, which the layer around this one fills.
    fn stream<B>(&self, head: Option<&Head>, reading: Option<Reading>) -> Response<RecordBody<B>> {
        self.take_nothing_else();
        let mut response = match self.client.clone().into_stream().answer::<()>() {
            Ok(response) => response,
            Err(refused) => return refused.into_response(),
        };
        if response.status() != StatusCode::OK {
            // The client has read everything, so there is no stream.
            return response.map(|()| RecordBody::from(String::new()));
        }
        if let Some(head) = head {
            head.give(&mut response);
        }
        head::locate(self, &mut response);
        response.map(|()| RecordBody::recorded(self.client.clone(), reading))
    }
}

/// Subscribes a client to a recording, from where it resumes or from the begin of the recording.
pub(super) fn subscribe(client: &ClientHandle, topic: &str, must_exist: bool) -> Result<(), SubscribeError> {
    let start = client.registry().began(topic).map_or(Start::Oldest, Start::After);
    client.client.join(topic, start, None, true, must_exist)
}
