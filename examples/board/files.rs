//! The page's files. They are part of the program.

use axum::{
    extract::Path,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};

use crate::{
    problem::{Problem, problem},
    visitor,
};

/// No inline code, nothing from elsewhere, in no frame of another page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const FILES: [(&str, &str); 12] = [
    ("page.css", include_str!("page/page.css")),
    ("icon.svg", include_str!("page/icon.svg")),
    ("page.js", include_str!("page/page.js")),
    ("dom.js", include_str!("page/dom.js")),
    ("tabs.js", include_str!("page/tabs.js")),
    ("chart.js", include_str!("page/chart.js")),
    ("orders.js", include_str!("page/orders.js")),
    ("stocks.js", include_str!("page/stocks.js")),
    ("monitor.js", include_str!("page/monitor.js")),
    ("notes.js", include_str!("page/notes.js")),
    ("cursors.js", include_str!("page/cursors.js")),
    ("notices.js", include_str!("page/notices.js")),
];

/// The page. A visitor without a cookie gets one.
pub(crate) async fn page(headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = text("text/html; charset=utf-8", include_str!("page/page.html"));
    if visitor::cookie(&headers).is_none() {
        let cookie = visitor::new_cookie().ok().and_then(|cookie| HeaderValue::from_str(&cookie).ok());
        let cookie = cookie.ok_or_else(|| problem(StatusCode::INTERNAL_SERVER_ERROR, "there is no randomness"))?;
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

pub(crate) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let file = FILES.iter().find(|(known, _)| *known == name);
    let (name, content) = file.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such file"))?;
    Ok(match name.rsplit_once('.') {
        Some((_, "css")) => text("text/css; charset=utf-8", content),
        Some((_, "svg")) => text("image/svg+xml", content),
        _ => text("text/javascript; charset=utf-8", content),
    })
}

fn text(content_type: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}
