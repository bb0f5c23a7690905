//! How users log in and out, and what they may not do before.

use std::net::SocketAddr;

use axum::{
    Extension, Form, Json,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header::RETRY_AFTER, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_sse::ClientAddress;

use crate::{
    App,
    session::{NoSession, Session, User},
};

const COOKIE: &str = "session";

/// Lets nobody through without a session.
pub(crate) async fn require(State(app): State<App>, jar: CookieJar, mut request: Request, next: Next) -> Response {
    let Some(session) = jar.get(COOKIE).and_then(|cookie| app.sessions.find(cookie.value())) else {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "error": "log in first" }))).into_response();
    };
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// Whose request it is, for limits.
pub(crate) fn user_of(request: &Parts) -> Option<String> {
    Some(request.extensions.get::<Session>()?.user.name().to_owned())
}

/// Where requests come from, for limits.
pub(crate) fn address(proxies: usize) -> ClientAddress {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    ClientAddress::new(peer).proxies(proxies)
}

#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
}

/// A real program asks for more than a name.
pub(crate) async fn log_in(
    State(app): State<App>,
    request: Parts,
    jar: CookieJar,
    Form(Login { name }): Form<Login>,
) -> Result<(CookieJar, Json<Value>), Problem> {
    let address = app.address.of(&request).ok_or(Problem::NoAddress)?;
    if !app.sessions.may_log_in(address) {
        return Err(Problem::TooManyLogins);
    }
    let user = User::named(&name).ok_or(Problem::NoName)?;
    // Who logs in again shall not leave a session behind that nobody can log out of any more.
    jar.get(COOKIE).inspect(|cookie| app.sessions.end(cookie.value()));
    let session = app.sessions.begin(user).map_err(Problem::NoSession)?;
    // Behind TLS, it is `secure` too.
    let cookie = Cookie::build((COOKIE, session.token.to_string())).path("/").http_only(true).same_site(SameSite::Lax);
    Ok((jar.add(cookie), Json(json!({ "user": session.user.name() }))))
}

pub(crate) async fn log_out(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    jar: CookieJar,
) -> (CookieJar, StatusCode) {
    app.sessions.end(&session.token);
    (jar.remove(Cookie::build(COOKIE).path("/")), StatusCode::NO_CONTENT)
}

pub(crate) async fn me(Extension(session): Extension<Session>) -> Json<Value> {
    Json(json!({ "user": session.user.name() }))
}

/// Why nobody is logged in.
pub(crate) enum Problem {
    NoName,
    TooManyLogins,
    NoSession(NoSession),
    NoAddress,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, sentence) = match self {
            Self::NoName => (StatusCode::BAD_REQUEST, "a name has 1 to 32 of a-z, 0-9, - and _\n"),
            Self::TooManyLogins => (StatusCode::TOO_MANY_REQUESTS, "too many logins from this address\n"),
            Self::NoSession(NoSession::TooMany) => (StatusCode::SERVICE_UNAVAILABLE, "too many users are logged in\n"),
            Self::NoAddress => (StatusCode::INTERNAL_SERVER_ERROR, "the server does not know who asks\n"),
            Self::NoSession(NoSession::NoRandomness) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness to give\n")
            }
        };
        let wait = (status != StatusCode::BAD_REQUEST).then_some([(RETRY_AFTER, "60")]);
        (status, wait, sentence).into_response()
    }
}
