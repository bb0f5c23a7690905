//! Who is logged in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Form, Json,
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;

const COOKIE: &str = "session";

/// A name that is also a segment of a topic's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User(Arc<str>);

impl User {
    /// `None`: it is no name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        ((1..=32).contains(&name.len()) && name.bytes().all(is_right)).then(|| Self(name.into()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// What is published on it is for this user alone.
    pub(crate) fn topic(&self) -> String {
        format!("user/{}", self.0)
    }
}

/// What `require` puts into the extensions of a request.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) user: User,
    pub(crate) expires: SystemTime,
    token: Arc<str>,
}

pub(crate) struct Sessions {
    lifetime: Duration,
    by_token: Mutex<HashMap<Arc<str>, Session>>,
}

impl Sessions {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, by_token: Mutex::default() }
    }

    fn begin(&self, user: User) -> Result<Session, getrandom::Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let token: Arc<str> = random.map(|byte| format!("{byte:02x}")).concat().into();
        let session = Session { user, expires: SystemTime::now() + self.lifetime, token: Arc::clone(&token) };
        let mut sessions = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.expires > SystemTime::now());
        sessions.insert(token, session.clone());
        Ok(session)
    }

    fn find(&self, token: &str) -> Option<Session> {
        let sessions = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(token).filter(|session| session.expires > SystemTime::now()).cloned()
    }

    fn end(&self, session: &Session) {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner).remove(&session.token);
    }
}

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

#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
}

/// A real program asks for more than a name.
pub(crate) async fn log_in(
    State(app): State<App>,
    jar: CookieJar,
    Form(Login { name }): Form<Login>,
) -> Result<(CookieJar, Json<Value>), (StatusCode, &'static str)> {
    let user = User::named(&name).ok_or((StatusCode::BAD_REQUEST, "a name has 1 to 32 of a-z, 0-9, - and _\n"))?;
    let no_randomness = |_| (StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness to give\n");
    let session = app.sessions.begin(user).map_err(no_randomness)?;
    // Behind TLS, it is `secure` too.
    let cookie = Cookie::build((COOKIE, session.token.to_string())).path("/").http_only(true).same_site(SameSite::Lax);
    Ok((jar.add(cookie), Json(json!({ "user": session.user.name() }))))
}

/// Ends the session, and the streams that were opened with it.
pub(crate) async fn log_out(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    jar: CookieJar,
) -> (CookieJar, StatusCode) {
    app.sessions.end(&session);
    for client in app.registry.clients() {
        if client.metadata().get::<Session>().is_some_and(|its| its.token == session.token) {
            client.close_with("logged_out");
        }
    }
    (jar.remove(Cookie::build(COOKIE).path("/")), StatusCode::NO_CONTENT)
}

pub(crate) async fn me(Extension(session): Extension<Session>) -> Json<Value> {
    Json(json!({ "user": session.user.name() }))
}
