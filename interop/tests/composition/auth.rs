//! tower-http's authorization layers, and axum's `from_fn`. They go outside of `SseLayer`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode, header::AUTHORIZATION, request::Parts};
use tower::ServiceBuilder;
use tower_http::{auth::AsyncRequireAuthorizationLayer, validate_request::ValidateRequestHeaderLayer};
use tower_sse::{Limit, SseLayer};

use crate::test_server::TestServer;

/// The authenticated user. An auth layer puts it into the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User(String);

/// `Authorization: Bearer NAME` is a user of that name.
async fn authorize<In, Out: Default>(mut request: Request<In>) -> Result<Request<In>, Response<Out>> {
    // A real one queries a database here.
    tokio::task::yield_now().await;
    let name = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match name.map(str::to_owned) {
        Some(name) => {
            request.extensions_mut().insert(User(name));
            Ok(request)
        }
        None => Err(unauthorized()),
    }
}

fn unauthorized<Out: Default>() -> Response<Out> {
    let mut response = Response::new(Out::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn user_of(request: &Parts) -> Option<User> {
    request.extensions.get().cloned()
}

/// One stream per user. The user is part of the client's metadata.
fn one_each(sse: SseLayer) -> SseLayer {
    sse.metadata(user_of).limit(Limit::streams(1).per(|request: &Parts| Some(user_of(request)?.0)))
}

#[tokio::test]
#[allow(deprecated, reason = "it is there, and used")]
async fn a_bearer_token_is_checked_in_both_orders() {
    in_both_orders!(ValidateRequestHeaderLayer::bearer("secret"), async |test_server: TestServer| {
        let answer = test_server.without_token().get("/news").await;
        assert_eq!(answer.status(), 401);
        assert_eq!(test_server.registry.stats().clients, 0);
    });
}

#[tokio::test]
#[allow(clippy::result_large_err, reason = "it is what tower-http asks for")]
async fn a_custom_check_composes_in_both_orders() {
    in_both_orders!(ValidateRequestHeaderLayer::custom(|request: &mut Request<_>| {
        match request.headers().contains_key(AUTHORIZATION) {
            true => Ok(()),
            false => Err(unauthorized()),
        }
    }));
}

#[tokio::test]
async fn async_authorization_composes_in_both_orders() {
    in_both_orders!(AsyncRequireAuthorizationLayer::new(authorize), async |test_server: TestServer| {
        let answer = test_server.without_token().get("/news").await;
        assert_eq!(answer.status(), 401);
        assert_eq!(test_server.registry.stats().clients, 0);
    });
}

#[tokio::test]
async fn limits_and_metadata_read_the_user_of_an_outer_auth_layer() {
    behind!(
        |sse| ServiceBuilder::new().layer(AsyncRequireAuthorizationLayer::new(authorize)).layer(one_each(sse)),
        async |test_server: TestServer| {
            let _ada = test_server.with("authorization", "Bearer ada").open("/news").await;
            assert_eq!(test_server.with("authorization", "Bearer ada").get("/news").await.status(), 429);
            let _bob = test_server.with("authorization", "Bearer bob").open("/news").await;
            let mut users: Vec<_> =
                test_server.registry.clients().iter().map(|it| it.metadata().get().cloned()).collect();
            users.sort_by_key(|user: &Option<User>| user.as_ref().map(|user| user.0.clone()));
            assert_eq!(users, [Some(User("ada".to_owned())), Some(User("bob".to_owned()))]);
        }
    );
}

#[tokio::test]
async fn auth_inside_comes_too_late_for_limits_and_metadata() {
    behind!(
        |sse| ServiceBuilder::new().layer(one_each(sse)).layer(AsyncRequireAuthorizationLayer::new(authorize)),
        async |test_server: TestServer| {
            let answer = test_server.with("authorization", "Bearer ada").get("/news").await;
            assert_eq!(answer.status(), 500, "without a user, a limit per user cannot be checked");
            assert_eq!((test_server.registry.stats().clients, test_server.registry.stats().refused_streams), (0, 1));
        }
    );
    behind!(
        |sse| {
            let known = sse.metadata(user_of);
            ServiceBuilder::new().layer(known).layer(AsyncRequireAuthorizationLayer::new(authorize))
        },
        async |test_server: TestServer| {
            let _open = test_server.with("authorization", "Bearer ada").open("/news").await;
            assert_eq!(test_server.registry.clients()[0].metadata().get::<User>(), None);
        }
    );
}

#[tokio::test]
async fn a_request_that_outer_auth_refuses_costs_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = |sse: SseLayer| {
        let asked = Arc::clone(&asked);
        sse.limit(Limit::streams(1)).metadata(move |_: &Parts| Some(asked.fetch_add(1, Ordering::Relaxed)))
    };
    behind!(
        |sse| ServiceBuilder::new().layer(AsyncRequireAuthorizationLayer::new(authorize)).layer(counting(sse)),
        async |test_server: TestServer| {
            let _ada = test_server.with("authorization", "Bearer ada").open("/news").await;
            asked.store(0, Ordering::Relaxed);
            assert_eq!(test_server.without_token().get("/news").await.status(), 401);
            assert_eq!(asked.load(Ordering::Relaxed), 0);
            assert_eq!(test_server.registry.stats().refused_streams, 0);
        }
    );
}

#[tokio::test]
async fn with_auth_inside_strangers_learn_that_the_limit_is_reached() {
    behind!(
        |sse| {
            let full = sse.limit(Limit::streams(1));
            ServiceBuilder::new().layer(full).layer(AsyncRequireAuthorizationLayer::new(authorize))
        },
        async |test_server: TestServer| {
            assert_eq!(test_server.without_token().get("/news").await.status(), 401);
            let _ada = test_server.with("authorization", "Bearer ada").open("/news").await;
            assert_eq!(test_server.without_token().get("/news").await.status(), 503);
            assert_eq!(test_server.registry.stats().refused_streams, 1);
        }
    );
}

#[tokio::test]
async fn auth_in_axum_middleware_works_the_same() {
    use axum::{
        extract::Request,
        middleware::{Next, from_fn},
        response::IntoResponse,
    };
    async fn check(request: Request, next: Next) -> axum::response::Response {
        match authorize::<_, axum::body::Body>(request).await {
            Ok(request) => next.run(request).await,
            Err(response) => response.into_response(),
        }
    }
    let registry = tower_sse::Registry::new();
    let sse = one_each(crate::test_server::layer(&registry));
    let router = crate::handlers::router().layer(ServiceBuilder::new().layer(from_fn(check)).layer(sse));
    let address = crate::test_server::serve_router(router).await;
    let test_server = TestServer::new(address, registry, http::Version::HTTP_11);
    assert_eq!(test_server.without_token().get("/news").await.status(), 401);
    let _ada = test_server.with("authorization", "Bearer ada").open("/news").await;
    assert_eq!(test_server.with("authorization", "Bearer ada").get("/news").await.status(), 429);
    assert_eq!(test_server.registry.clients()[0].metadata().get(), Some(&User("ada".to_owned())));
}
