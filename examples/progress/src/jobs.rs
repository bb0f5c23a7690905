//! Jobs, and the responses to requests about them.

use std::{
    error::Error,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_sse::{ClientHandle, Event, Producer, Registry, Start, SubscribeError, Subscription, segment};

const MAX_STEPS: u32 = 1000;

/// The largest number of events that a job publishes.
pub(crate) const MAX_EVENTS: usize = MAX_STEPS as usize + 1;

type Answer = Response<Full<Bytes>>;

pub(crate) struct Jobs {
    registry: Registry,
    step: Duration,
    running: Arc<Semaphore>,
}

impl Jobs {
    pub(crate) fn new(registry: &Registry, step: Duration, at_once: usize) -> Self {
        Self { registry: registry.clone(), step, running: Arc::new(Semaphore::new(at_once)) }
    }

    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        match (path.strip_prefix("/jobs/"), request.method()) {
            (None, &Method::POST) if path == "/jobs" => self.start(request.uri().query()),
            (None, _) if path == "/jobs" => not_allowed("POST"),
            (Some(id), &Method::GET | &Method::HEAD) => self.progress(id, request.extensions().get()),
            (Some(id), &Method::DELETE) => match self.registry.cancel_producer(topic(id)) {
                true => empty(StatusCode::NO_CONTENT),
                false => sentence(StatusCode::NOT_FOUND, "no such job is running\n"),
            },
            (Some(_), _) => not_allowed("GET, HEAD, DELETE"),
            (None, _) => sentence(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn start(&self, query: Option<&str>) -> Answer {
        let steps = match query.and_then(|query| query.strip_prefix("steps=")) {
            None => Some(20),
            Some(text) => text.parse().ok().filter(|steps| (1..=MAX_STEPS).contains(steps)),
        };
        let Some(steps) = steps else {
            return sentence(StatusCode::BAD_REQUEST, format!("steps: a number from 1 to {MAX_STEPS}\n"));
        };
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else {
            let mut busy = sentence(StatusCode::SERVICE_UNAVAILABLE, "too many jobs are running\n");
            busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return busy;
        };
        // A random id: after a restart, a page that still asks for an older job must not get another job.
        let id = format!("{:016x}", RandomState::new().hash_one(()));
        let (Ok(job), Ok(location)) = (self.registry.start_producer(topic(&id)), format!("/jobs/{id}").parse()) else {
            return sentence(StatusCode::INTERNAL_SERVER_ERROR, "the job has no name\n");
        };
        let step = self.step;
        tokio::spawn(async move {
            if let Err(error) = run(job, steps, step, permit).await {
                eprintln!("a job is not done: {error}");
            }
        });
        let mut answer = sentence(StatusCode::ACCEPTED, format!("/jobs/{id}\n"));
        answer.headers_mut().insert(LOCATION, location);
        answer
    }

    /// Streams the job from its beginning, or from the client's `Last-Event-ID`.
    fn progress(&self, id: &str, client: Option<&ClientHandle>) -> Answer {
        let Some(client) = client else {
            return sentence(StatusCode::INTERNAL_SERVER_ERROR, "no SseLayer is around this service\n");
        };
        // Without `existing`, the stream would wait for ever for a job that was forgotten or never existed.
        match client.subscribe(Subscription::to(topic(id)).from(Start::Oldest).existing()) {
            Ok(()) => client.clone().into_stream().into_response(),
            Err(SubscribeError::NoTopic { .. } | SubscribeError::Topic(_)) => {
                sentence(StatusCode::NOT_FOUND, "there is no such job, or none any more\n")
            }
            Err(error) => sentence(StatusCode::CONFLICT, format!("{error}\n")),
        }
    }
}

/// The topic of a job. `segment` makes one segment of any id in the path.
fn topic(id: &str) -> String {
    format!("jobs/{}", segment(id))
}

/// Runs a job, which does nothing but wait. If `job` is dropped before `finish`, the topic has failed.
async fn run(
    job: Producer,
    steps: u32,
    step: Duration,
    _permit: OwnedSemaphorePermit,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    for done in 1..=steps {
        tokio::select! {
            () = tokio::time::sleep(step) => {}
            why = job.stopped() => return Err(why.into()),
        }
        job.publish(Event::data(format!(r#"{{"done":{done},"of":{steps}}}"#)).event("progress"))?;
    }
    job.finish(Event::data(format!(r#"{{"of":{steps}}}"#)).event("done"))?;
    Ok(())
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::default();
    *answer.status_mut() = status;
    answer
}

fn sentence(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = sentence(StatusCode::METHOD_NOT_ALLOWED, format!("what goes here is {allowed}\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
