//! Login and logout, and the checks for requests that need a session.

use std::{net::SocketAddr, str};

use axum::{
    Extension, Form, Json,
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{COOKIE, HOST, ORIGIN, REFERER, RETRY_AFTER},
        request::Parts,
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_sse::ClientIpKey;

use crate::{
    App,
    session::{NoSession, Session, User},
};

const SESSION: &str = "session";

/// The values of all session cookies. This reads bytes, because other cookies may contain any bytes. A cookie jar
/// ignores a header that is not ASCII, and keeps only one cookie of each name.
fn tokens(headers: &HeaderMap) -> Vec<&str> {
    let cookies = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let values = cookies.filter_map(|it| it.trim_ascii().strip_prefix(SESSION.as_bytes())?.strip_prefix(b"="));
    // A value that is not UTF-8 becomes an empty token: it is no session, but it counts as a cookie.
    values.map(|value| str::from_utf8(value).unwrap_or_default()).collect()
}

/// Refuses requests without a session, and requests with several session cookies. An attacker who controls a sub-domain
/// can add a second cookie, so that the user acts in the attacker's session.
pub(crate) async fn require(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let session = match tokens(request.headers())[..] {
        [] => None,
        [token] => app.sessions.find(token),
        _ => return refused(StatusCode::BAD_REQUEST, "there are several session cookies: delete this site's cookies"),
    };
    let Some(session) = session else { return refused(StatusCode::UNAUTHORIZED, "log in first") };
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// Refuses requests that a browser sends for pages of other sites. Such a page cannot read the stream, but the stream would take
/// one of the user's slots. Pages of the trusted origin may open streams.
///
/// Browsers send `Sec-Fetch-Site` over HTTPS and to this machine only. Without it, `Origin` and `Referer` say which page asks.
pub(crate) async fn own_pages(State(trusted): State<HeaderValue>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_own = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        None => [ORIGIN, REFERER].iter().all(|name| headers.get(name).is_none_or(|page| is_of(page, &request))),
    };
    if !is_own && headers.get(ORIGIN) != Some(&trusted) {
        return refused(StatusCode::FORBIDDEN, "this is not for pages of other sites");
    }
    next.run(request).await
}

/// Whether a page has the host that a request asks for.
fn is_of(page: &HeaderValue, request: &Request) -> bool {
    let page: Option<Uri> = page.to_str().ok().and_then(|page| page.parse().ok());
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    // Over HTTP/2, the host is in the target.
    let asked: Option<&Authority> = request.uri().authority().or(header.as_ref());
    page.is_some_and(|page| page.authority().is_some_and(|page| Some(page) == asked))
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// The user of a request, as the key of a limit.
pub(crate) fn user_of(request: &Parts) -> Option<String> {
    Some(request.extensions.get::<Session>()?.user.name().to_owned())
}

/// The client address of a request, as the key of a limit.
pub(crate) fn address(proxies: usize) -> ClientIpKey {
    let peer = |request: &Parts| Some(request.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip());
    ClientIpKey::new(peer).proxies(proxies)
}

#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
}

/// A real program asks for more than a name.
pub(crate) async fn log_in(
    State(app): State<App>,
    request: Parts,
    Form(Login { name }): Form<Login>,
) -> Result<(CookieJar, Json<Value>), Problem> {
    let address = app.address.of(&request).ok_or(Problem::NoAddress)?;
    if !app.sessions.may_log_in(address) {
        return Err(Problem::TooManyLogins);
    }
    let user = User::named(&name).ok_or(Problem::NoName)?;
    // A new login replaces the cookie. Without this, the old session would stay open, and no request could end it.
    end_all(&app, &request.headers);
    let session = app.sessions.begin(user).map_err(Problem::NoSession)?;
    // Behind TLS, also set `secure`, and use the name `__Host-session`: no sub-domain can set a cookie with such a
    // name.
    let cookie = Cookie::build((SESSION, session.token.to_string())).path("/").http_only(true).same_site(SameSite::Lax);
    Ok((CookieJar::new().add(cookie), Json(json!({ "user": session.user.name() }))))
}

/// Needs no session, so that it also removes several cookies and cookies of expired sessions.
pub(crate) async fn log_out(State(app): State<App>, headers: HeaderMap) -> (CookieJar, StatusCode) {
    end_all(&app, &headers);
    (CookieJar::new().add(Cookie::build(SESSION).path("/").removal()), StatusCode::NO_CONTENT)
}

fn end_all(app: &App, headers: &HeaderMap) {
    tokens(headers).into_iter().for_each(|token| app.sessions.end(token));
}

pub(crate) async fn me(Extension(session): Extension<Session>) -> Json<Value> {
    Json(json!({ "user": session.user.name() }))
}

/// Why a login failed.
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
