//! A handler that a test answers for, behind a record layer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::HeaderMap, request::Parts};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_sse::{Heartbeat, RecordLayer, Registry, RegistryConfig, SseBody, SseLayer};

use crate::{
    bodies::{AnyBody, AnyError, any, channel, event_stream},
    test_server::{App, Frames, app},
    time_limit::within_20_s,
};

/// A program with one handler. Its requests have the header `key`, and the owner is `owner`.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) record: RecordLayer,
    pub(crate) app: App,
    calls: mpsc::UnboundedReceiver<Call>,
    /// How many runs of the handler have not ended.
    pub(crate) handlers: Alive,
    /// How many bodies of the handler have not been dropped.
    pub(crate) bodies: Alive,
}

/// Counts values that exist.
#[derive(Clone, Default)]
pub(crate) struct Alive(Arc<AtomicUsize>);

impl Alive {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::SeqCst);
        One(self.clone())
    }

    pub(crate) async fn until(&self, count: usize) {
        within_20_s(async {
            while self.count() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// One value that exists.
pub(crate) struct One(Alive);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A run of the handler, which waits for the test.
pub(crate) struct Call {
    answer: oneshot::Sender<Box<dyn FnOnce() -> Response<AnyBody> + Send>>,
    bodies: Alive,
}

impl Call {
    pub(crate) fn answer(self, response: Response<AnyBody>) {
        // The handler may have been dropped.
        let _ = self.answer.send(Box::new(|| response));
    }

    pub(crate) fn panic(self) {
        assert!(self.answer.send(Box::new(|| panic!("the handler panics, as the test wants"))).is_ok());
    }

    /// Answers with an event stream that the test writes.
    pub(crate) fn stream(self) -> Frames {
        self.stream_with(|_| {})
    }

    pub(crate) fn stream_with(self, change: impl FnOnce(&mut Response<AnyBody>)) -> Frames {
        let (frames, body) = channel();
        let alive = self.bodies.one();
        let body = body.map_frame(move |frame| {
            let _ = &alive;
            frame
        });
        let mut response = event_stream(any(body));
        change(&mut response);
        self.answer(response);
        frames
    }
}

/// The key of a request in its `key` header.
pub(crate) fn key(request: &Parts) -> Option<String> {
    Some(request.headers.get("key")?.to_str().ok()?.to_owned())
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(RegistryConfig::default(), |record| record)
    }

    pub(crate) fn with(config: RegistryConfig, change: impl FnOnce(RecordLayer) -> RecordLayer) -> Self {
        let registry = Registry::with_config(config);
        let record = change(RecordLayer::by_key(&registry, key));
        Self::of(registry, record)
    }

    pub(crate) fn of(registry: Registry, record: RecordLayer) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let (handlers, bodies) = (Alive::default(), Alive::default());
        let (running, made) = (handlers.clone(), bodies.clone());
        let handler = service_fn(move |request: Request<()>| {
            let (answer, answered) = oneshot::channel();
            drop(request);
            let call = Call { answer, bodies: made.clone() };
            let one = running.one();
            sender.send(call).map_err(drop).expect("the test waits for calls");
            async move {
                let _one = one;
                let answer: Box<dyn FnOnce() -> Response<AnyBody> + Send> = answered.await.expect("an answer");
                Ok::<_, std::convert::Infallible>(answer())
            }
        });
        let recorded = BoxCloneSyncService::new(record.layer(handler));
        // The position event is on, to show that recordings have none.
        let layer = SseLayer::new(&registry).heartbeat(Heartbeat::off()).open_at_once(false);
        let app = app(&layer, move |request| {
            let recorded = recorded.clone();
            async move { recorded.oneshot(request).await.expect("no handler fails").map(any) }
        });
        Self { registry, record, app, calls, handlers, bodies }
    }

    /// The next run of the handler.
    pub(crate) async fn call(&mut self) -> Call {
        within_20_s(self.calls.recv()).await.expect("the handler exists")
    }

    /// The handler has not been called since the last `call`.
    pub(crate) fn assert_not_called(&mut self) {
        assert!(self.calls.try_recv().is_err(), "the handler was called");
    }

    /// Sends a request in a task, so that the test can answer it.
    pub(crate) fn send(&self, request: Request<()>) -> Sent {
        Sent(tokio::spawn(self.app.clone().oneshot(request)))
    }

    /// Sends a request with a key, and answers it with a stream.
    pub(crate) async fn begin(&mut self, key: &str) -> (Frames, Reader) {
        let sent = self.send(post(key));
        let frames = self.call().await.stream();
        (frames, sent.stream().await)
    }

    /// Joins a recording, whose handler must have answered.
    pub(crate) async fn join(&self, request: Request<()>) -> Reader {
        self.send(request).stream().await
    }

    pub(crate) async fn status(&self, request: Request<()>) -> StatusCode {
        self.send(request).response().await.status()
    }
}

/// A request that was sent. If it is dropped, the client goes on waiting; `leave` disconnects it.
pub(crate) struct Sent(tokio::task::JoinHandle<Result<Response<SseBody<AnyBody>>, std::convert::Infallible>>);

impl Sent {
    pub(crate) async fn response(self) -> Response<SseBody<AnyBody>> {
        within_20_s(self.0).await.expect("no panic").unwrap()
    }

    pub(crate) async fn stream(self) -> Reader {
        Reader::new(self.response().await)
    }

    pub(crate) async fn panics(self) -> bool {
        within_20_s(self.0).await.is_err_and(|error| error.is_panic())
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.0.is_finished()
    }

    /// The client disconnects before it has an answer.
    pub(crate) async fn leave(self) {
        self.0.abort();
        assert!(within_20_s(self.0).await.is_err());
    }
}

pub(crate) fn post(key: &str) -> Request<()> {
    Request::post("/answers").header("key", key).body(()).unwrap()
}

pub(crate) fn resume(key: &str, last_event_id: &str) -> Request<()> {
    let mut request = post(key);
    request.headers_mut().insert("last-event-id", last_event_id.parse().unwrap());
    request
}

/// Sends bytes of the handler's body.
pub(crate) async fn write(frames: &Frames, text: &str) {
    let data = Bytes::copy_from_slice(text.as_bytes());
    within_20_s(frames.send(Ok(Frame::data(data)))).await.expect("the body is read");
}

/// An event with this data, as a handler writes it.
pub(crate) async fn event(frames: &Frames, data: &str) {
    write(frames, &format!("data: {data}\n\n")).await;
}

/// Fails the handler's body.
pub(crate) async fn fail(frames: Frames) {
    within_20_s(frames.send(Err("the model is on fire".into()))).await.expect("the body is read");
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Error,
}

/// A client that reads a stream.
pub(crate) struct Reader {
    pub(crate) headers: HeaderMap,
    body: SseBody<AnyBody>,
    /// What has arrived.
    pub(crate) text: String,
}

impl Reader {
    pub(crate) fn new(response: Response<SseBody<AnyBody>>) -> Self {
        let (parts, body) = response.into_parts();
        assert_eq!(
            parts.headers.get("content-type").map(|it| it.as_bytes()),
            Some(&b"text/event-stream"[..]),
            "{parts:?}"
        );
        Self { headers: parts.headers, body, text: String::new() }
    }

    /// Waits until so many events have arrived. Returns their data.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<String> {
        while self.data().len() < count {
            let frame = within_20_s(self.body.frame()).await.expect("the stream goes on").expect("no error");
            self.add(frame);
        }
        self.data()
    }

    fn add(&mut self, frame: Frame<Bytes>) {
        self.text += std::str::from_utf8(&frame.into_data().expect("no trailers")).unwrap();
    }

    /// The data of all events that have arrived.
    pub(crate) fn data(&self) -> Vec<String> {
        self.parsed().messages.into_iter().map(|message| message.data).collect()
    }

    pub(crate) fn parsed(&self) -> crate::spec::Parsed {
        crate::spec::parse(self.text.as_bytes())
    }

    /// The `Last-Event-ID` that the client would send now.
    pub(crate) fn last_event_id(&self) -> String {
        self.parsed().last_event_id
    }

    /// Reads to the end.
    pub(crate) async fn end(&mut self) -> End {
        loop {
            let frame: Option<Result<_, AnyError>> = within_20_s(self.body.frame()).await;
            match frame {
                None => return End::Clean,
                Some(Err(_)) => return End::Error,
                Some(Ok(frame)) => self.add(frame),
            }
        }
    }

    /// Reads to a clean end, and returns the data of all events.
    pub(crate) async fn whole(mut self) -> Vec<String> {
        assert_eq!(self.end().await, End::Clean);
        self.data()
    }
}
