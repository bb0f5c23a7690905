//! Tests that streams end with their session, in any order. The handler takes as long as a test wants.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::request::Parts,
    middleware,
    routing::{get, post},
};
use http::{Method, StatusCode, Version};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::AbortHandle,
};
use tower_sse::{ClientHandle, ClientIpKey, Event, EventStream, Registry, RegistryConfig, SseLayer, SubscribeError};

#[allow(dead_code, reason = "these tests do not use all of it")]
#[path = "../src/login.rs"]
mod login;
#[allow(dead_code, reason = "these tests do not use all of it")]
#[path = "../src/session.rs"]
mod session;
mod support;
use session::{Bounds, NoSession, Session, Sessions, User};
use support::{Visitor, all, bodies, client::VERSIONS, within};

const BOUNDS: Bounds = Bounds {
    lifetime: Duration::from_secs(3600),
    sessions: usize::MAX,
    sessions_per_user: 2,
    logins_per_minute: NonZeroU32::MAX,
};

/// The part of the handlers' shared state that concerns sessions.
#[derive(Clone)]
struct App {
    sessions: Arc<Sessions>,
    address: ClientIpKey,
    handler: Arc<Handler>,
}

/// The progress of a request for a stream.
struct Handler {
    begins: Notify,
    may_end: Semaphore,
}

struct Server {
    address: SocketAddr,
    registry: Registry,
    handler: Arc<Handler>,
    serves: AbortHandle,
}

impl Server {
    async fn start(bounds: Bounds) -> Self {
        let sessions = Arc::new(Sessions::new(bounds));
        let registry = Registry::with_config(RegistryConfig::default().observer(Arc::clone(&sessions)));
        let handler = Arc::new(Handler { begins: Notify::new(), may_end: Semaphore::new(0) });
        let app = App { sessions, address: login::address(0), handler: Arc::clone(&handler) };
        let layer = SseLayer::new(&registry).metadata(|request: &Parts| request.extensions.get::<Session>().cloned());
        let router = Router::new()
            .route("/stream", get(stream).layer(layer))
            .route("/me", get(login::me))
            .route_layer(middleware::from_fn_with_state(app.clone(), login::require))
            .route("/login", post(login::log_in))
            .route("/logout", post(login::log_out))
            .with_state(app);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let serves = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { address, registry, handler, serves }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

async fn stream(State(app): State<App>, client: ClientHandle) -> Result<EventStream, SubscribeError> {
    client.subscribe("news")?;
    app.handler.begins.notify_one();
    app.handler.may_end.acquire().await.unwrap().forget();
    Ok(client.into_stream())
}

/// How a session ends.
#[derive(Debug, Clone, Copy)]
enum How {
    Logout,
    AnotherLogin,
    OldestOfTooMany,
}

impl How {
    const ALL: [Self; 3] = [Self::Logout, Self::AnotherLogin, Self::OldestOfTooMany];

    async fn end(self, ada: &Visitor) {
        match self {
            Self::Logout => {
                let answer = ada.send(ada.request(&Method::POST, "/logout", "")).await;
                assert_eq!(answer.status(), StatusCode::NO_CONTENT);
            }
            Self::AnotherLogin => assert_eq!(ada.send(ada.login("ada")).await.status(), StatusCode::OK),
            Self::OldestOfTooMany => {
                for _ in 0..BOUNDS.sessions_per_user {
                    Visitor::at(ada.address).log_in("ada").await;
                }
            }
        }
    }
}

async fn ada(server: &Server, version: Version) -> Visitor {
    let mut ada = Visitor { version, ..Visitor::at(server.address) };
    ada.log_in("ada").await;
    ada
}

#[tokio::test]
async fn a_stream_whose_session_ends_during_its_handler_ends_at_once() {
    for (version, how) in VERSIONS.into_iter().flat_map(|version| How::ALL.map(|how| (version, how))) {
        let server = Server::start(BOUNDS).await;
        let ada = ada(&server, version).await;
        let (stream, ()) = tokio::join!(ada.get("/stream"), async {
            within(server.handler.begins.notified()).await;
            how.end(&ada).await;
            server.handler.may_end.add_permits(1);
        });
        assert_eq!(stream.status(), StatusCode::OK, "the request came before the session's end");
        server.registry.publish("news", Event::data("secret")).unwrap();
        let text = all(stream).await;
        assert!(!text.contains("secret"), "{how:?} over {version:?}: {text:?}");
        assert_eq!(ada.get("/me").await.status(), StatusCode::UNAUTHORIZED, "{how:?} over {version:?}");
    }
}

#[tokio::test]
async fn an_open_stream_ends_with_its_session_and_gets_no_later_event() {
    for (version, how) in VERSIONS.into_iter().flat_map(|version| How::ALL.map(|how| (version, how))) {
        let server = Server::start(BOUNDS).await;
        server.handler.may_end.add_permits(2);
        let ada = ada(&server, version).await;
        let mut bob = Visitor::at(server.address);
        bob.log_in("bob").await;
        let (stream, mut bobs) = (ada.get("/stream").await, bob.get("/stream").await);
        server.registry.publish("news", Event::data("before")).unwrap();
        how.end(&ada).await;
        server.registry.publish("news", Event::data("after")).unwrap();
        let text = all(stream).await;
        assert!(text.contains("before") && !text.contains("after"), "{how:?} over {version:?}: {text:?}");
        support::until(&mut bobs, |text| text.contains("after")).await;
    }
}

/// The cost of a login does not depend on the number of sessions: expired sessions are removed once a minute.
#[test]
fn a_login_reads_only_the_sessions_of_its_user() {
    let sessions = Sessions::new(Bounds { lifetime: Duration::ZERO, sessions: 3, ..BOUNDS });
    let begin = |name| sessions.begin(User::named(name).unwrap()).map(|session| session.token);
    let expired = ["ada", "bob", "eve"].map(|name| begin(name).ok().unwrap());
    assert!(expired.iter().all(|token| sessions.find(token).is_none()));
    assert!(matches!(begin("dan"), Err(NoSession::TooMany)), "the expired sessions were removed");
    sessions.tidy();
    assert!(begin("dan").is_ok());
}
