use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::sync::Mutex;
use tower_service::Service;

use super::{
    error::{TopicsError, response},
    request::{Bounds, TopicsRequest},
    topics,
};
use crate::{
    client::{ClientHandle, Subscription},
    event::ClientId,
    full_body::FullBody,
    registry::Registry,
};

/// A service with which a client changes the topics of its open stream.
///
/// A browser opens at most six connections to a server over HTTP/1.1, for all tabs together. So a page has one stream, and
/// its topics come and go while it is open. The client gets its id and the path of this service with a
/// [`HelloEvent`](crate::HelloEvent).
///
/// The request names the **full set** of topics that the stream is to have. So it can be repeated, and the last one wins:
///
/// ```text
/// PUT /sse/topics
/// content-type: application/json
///
/// {"client":"5f0c6f2e8d1b4a7c9e3d2b1a0f9e8d7c","topics":["orders/17","prices/AAPL"]}
/// ```
///
/// The closure is the permission. It is asked for each topic of the request, also for one that the stream has already. It
/// returns the [`Subscription`] with its start and filter, or an error, whose text the client gets. After that, the stream
/// has exactly the topics that the closure allowed, and those that are [kept](Self::keep):
///
/// ```text
/// 200 OK
/// {"topics":["orders/17"],"refused":[{"topic":"prices/AAPL","why":"not yours"}],"position":"1763612399000-4-7k3m9p2xr"}
/// ```
///
/// - `topics`: the topics of the request that the stream has now.
/// - `refused`: those that it does not have, because the closure refused them, or because of a
///   [`SubscribeError`](crate::SubscribeError). If the stream had such a topic, it has it no longer.
/// - `position`: all events of the new topics after this [position](crate::Position) come in the stream.
///
/// A topic that the stream has already loses and repeats no event. It only gets the new filter, if there is one.
///
/// All other responses are a [`TopicsError`]: 404 if no open stream has the id, and the client has to open a new one; 413
/// above a [limit](Self::max_topics); 405, 415 and 400. No response is cached.
///
/// The id of a client is a capability: it is sent in the body, because URLs are logged. Put the same authentication around
/// this service as around the streams, and compare the user with [`owned_by`](Self::owned_by). In the closure, read the
/// user from the client's [metadata](crate::SseLayer::metadata).
///
/// With a [backplane](crate::backplane), the request has to reach the process that has the stream. In any other one it is
/// a 404.
///
/// Cost: one allocation for each request, and what the changes cost. Requests for one client wait for each other.
///
/// ```
/// use axum::{Router, extract::RawQuery, routing::get};
/// use tower_sse::{
///     ClientHandle, EventStream, HelloEvent, Registry, SseLayer, Start, SubscribeError, Subscription, TopicsService,
/// };
///
/// /// Whether the client may have the topic, and where it starts.
/// fn allow(_client: &ClientHandle, topic: &str) -> Result<Subscription, &'static str> {
///     match topic.split_once('/') {
///         Some(("prices", _)) => Ok(Subscription::to(topic).from(Start::Last(1))),
///         _ => Err("there is no such topic"),
///     }
/// }
///
/// async fn events(RawQuery(query): RawQuery, client: ClientHandle) -> Result<EventStream, SubscribeError> {
///     for (name, topic) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
///         if let (true, Ok(subscription)) = (name == "topic", allow(&client, &topic)) {
///             client.subscribe(subscription)?;
///         }
///     }
///     Ok(client.into_stream())
/// }
///
/// let registry = Registry::new();
/// let hello = HelloEvent::default().control("/sse/topics");
/// let app: Router = Router::new()
///     .route("/sse", get(events).layer(SseLayer::new(&registry).hello_event(hello)))
///     .route_service("/sse/topics", TopicsService::new(&registry, allow));
/// # let _ = app;
/// ```
#[derive(Clone)]
pub struct TopicsService {
    registry: Registry,
    rules: Rules,
    bounds: Bounds,
    turns: Arc<[Mutex<()>; TURNS]>,
}

/// How many clients can have a request at the same time, about.
const TURNS: usize = 64;

/// The program's closures.
#[derive(Clone)]
pub(super) struct Rules {
    allow: Arc<Allow>,
    keep: Option<Arc<Keep>>,
    owned_by: Option<Arc<OwnedBy>>,
}

type Allow = dyn Fn(&ClientHandle, &str) -> Result<Subscription, String> + Send + Sync;
type Keep = dyn Fn(&ClientHandle, &str) -> bool + Send + Sync;
type OwnedBy = dyn Fn(&Parts, &ClientHandle) -> bool + Send + Sync;

impl Rules {
    pub(super) fn allows(&self, client: &ClientHandle, topic: &str) -> Result<Subscription, String> {
        (self.allow)(client, topic)
    }

    pub(super) fn keeps(&self, client: &ClientHandle, topic: &str) -> bool {
        self.keep.as_ref().is_some_and(|keep| keep(client, topic))
    }

    fn is_owner(&self, request: &Parts, client: &ClientHandle) -> bool {
        self.owned_by.as_ref().is_none_or(|owned_by| owned_by(request, client))
    }
}

impl TopicsService {
    /// Makes a service for the clients of this registry.
    ///
    /// `allow` returns the subscription for a topic that the client may have. Its name is usually that of the topic. It can
    /// be another one, or a [pattern](Subscription::matching). The closure gets the client of the stream, and whatever the
    /// request names: check the name, or encode it with [`segment`](crate::segment). It must not block.
    pub fn new<E: fmt::Display>(
        registry: &Registry,
        allow: impl Fn(&ClientHandle, &str) -> Result<Subscription, E> + Send + Sync + 'static,
    ) -> Self {
        let allow = move |client: &ClientHandle, topic: &str| allow(client, topic).map_err(|error| error.to_string());
        Self {
            registry: registry.clone(),
            rules: Rules { allow: Arc::new(allow), keep: None, owned_by: None },
            bounds: Bounds { body: 64 << 10, topics: 256 },
            turns: Arc::new(std::array::from_fn(|_| Mutex::default())),
        }
    }

    /// Keeps subscriptions that no request names. Default: none.
    ///
    /// The closure gets the client, and the name of a topic or pattern to which the client is subscribed. Use it for the
    /// subscriptions that your handler adds to each stream, such as the user's own topic.
    #[must_use]
    pub fn keep(mut self, keep: impl Fn(&ClientHandle, &str) -> bool + Send + Sync + 'static) -> Self {
        self.rules.keep = Some(Arc::new(keep));
        self
    }

    /// Refuses a request for a stream of somebody else. Default: whoever knows the id may change the topics.
    ///
    /// The closure gets the head of the request, with the extensions that outer layers have set, and the client of the
    /// stream. If it returns `false`, the response is the same 404 as for a client that does not exist.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_sse::{ClientHandle, Registry, Subscription, TopicsService};
    ///
    /// #[derive(Clone, PartialEq)]
    /// struct User(u64);
    ///
    /// // The metadata of `SseLayer` has the user, too.
    /// let same_user = |request: &Parts, client: &ClientHandle| {
    ///     let user = request.extensions.get::<User>();
    ///     user.is_some() && client.metadata().get::<User>() == user
    /// };
    /// let registry = Registry::new();
    /// let allow = |_: &ClientHandle, topic: &str| Ok::<_, String>(Subscription::to(topic));
    /// let service = TopicsService::new(&registry, allow).owned_by(same_user);
    /// # let _ = service;
    /// ```
    #[must_use]
    pub fn owned_by(mut self, owned_by: impl Fn(&Parts, &ClientHandle) -> bool + Send + Sync + 'static) -> Self {
        self.rules.owned_by = Some(Arc::new(owned_by));
        self
    }

    /// Limits the topics of a request. Default: 256. More are a 413.
    ///
    /// [`RegistryConfig::subscriptions_per_client`](crate::RegistryConfig::subscriptions_per_client) limits the
    /// subscriptions of a stream, too.
    #[must_use]
    pub fn max_topics(mut self, topics: usize) -> Self {
        self.bounds.topics = topics;
        self
    }

    /// Limits the body of a request, in bytes. Default: 65536. A larger one is a 413.
    ///
    /// The time in which the body comes has no limit here: put a timeout around the service.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.bounds.body = bytes;
        self
    }

    async fn answer<B: Body>(self, request: Request<B>) -> Result<Response<FullBody>, TopicsError> {
        let (head, TopicsRequest { client: id, topics }) = TopicsRequest::read(request, self.bounds).await?;
        let client = self.registry.client(&id).filter(|client| self.rules.is_owner(&head, client));
        let client = client.ok_or(TopicsError::Gone)?;
        // Requests for one client take turns, in the order in which they were read: the last one wins.
        let _turn = self.turn(&id).lock().await;
        let set = topics::set(&self.rules, &client, topics)?;
        Ok(response(StatusCode::OK, "application/json", set.to_string()))
    }

    fn turn(&self, id: &ClientId) -> &Mutex<()> {
        &self.turns[id.spread() as usize % TURNS]
    }
}

impl<B> Service<Request<B>> for TopicsService
where
    B: Body + Send + 'static,
    B::Data: Send,
{
    type Response = Response<FullBody>;
    type Error = Infallible;
    type Future = TopicsFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> TopicsFuture {
        let answer = self.clone().answer(request);
        TopicsFuture(Box::pin(async move { answer.await.unwrap_or_else(TopicsError::into_response) }))
    }
}

impl fmt::Debug for TopicsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicsService").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// The response future of a [`TopicsService`].
pub struct TopicsFuture(Pin<Box<dyn Future<Output = Response<FullBody>> + Send>>);

impl Future for TopicsFuture {
    type Output = Result<Response<FullBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for TopicsFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicsFuture").finish_non_exhaustive()
    }
}
