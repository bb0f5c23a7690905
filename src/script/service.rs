use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS},
};
use tower_service::Service;

use crate::full_body::FullBody;

/// Returns a service that serves the browser client.
///
/// The client is one module without dependencies. A page imports it from wherever you mount the service:
///
/// ```
/// use axum::Router;
///
/// let app: Router = Router::new()
///     .route_service("/tower-sse.js", tower_sse::script())
///     .route_service("/tower-sse.d.ts", tower_sse::script());
/// # let _ = app;
/// ```
///
/// ```html
/// <script type="module">
///   import { open } from "/tower-sse.js";
///   open("/events", { topics: ["news"] }).on("*", ({ data }) => console.log(data));
/// </script>
/// ```
///
/// A path that ends with `.d.ts` gets the types, and any other path gets the module.
#[doc = concat!("The module says how it is used. It is also on npm, as `tower-sse` ", env!("CARGO_PKG_VERSION"), ".")]
pub fn script() -> ScriptService {
    ScriptService { _private: () }
}

/// Serves the browser client: see [`script`].
///
/// It answers GET and HEAD, and any other method with a 405. The responses have a strong `etag`, a 304 if the browser has
/// the file, and `cache-control: no-cache`: a browser asks each time, so that a new version of your program has its own
/// client at once. Compress them with a layer of yours.
///
/// Cost: one allocation for each response.
#[derive(Debug, Clone)]
pub struct ScriptService {
    _private: (),
}

/// One of the files of the client.
struct File {
    content_type: HeaderValue,
    etag: HeaderValue,
    text: &'static str,
}

static MODULE: File = File {
    content_type: HeaderValue::from_static("text/javascript; charset=utf-8"),
    etag: HeaderValue::from_static(ETAG_OF_MODULE.as_str()),
    text: include_str!("../../js/tower-sse.js"),
};

static TYPES: File = File {
    // No type is registered for TypeScript. `video/mp2t` is what the ending `.ts` means.
    content_type: HeaderValue::from_static("text/plain; charset=utf-8"),
    etag: HeaderValue::from_static(ETAG_OF_TYPES.as_str()),
    text: include_str!("../../js/tower-sse.d.ts"),
};

const ETAG_OF_MODULE: Etag = Etag::of(include_bytes!("../../js/tower-sse.js"));
const ETAG_OF_TYPES: Etag = Etag::of(include_bytes!("../../js/tower-sse.d.ts"));

/// An entity tag: the hash of a file in quotes.
struct Etag([u8; 18]);

impl Etag {
    /// Hashes a file when the crate is compiled, with FNV-1a of 64 bits.
    const fn of(file: &[u8]) -> Self {
        let (mut hash, mut at) = (0xcbf2_9ce4_8422_2325_u64, 0);
        while at < file.len() {
            hash = (hash ^ file[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        let mut tag = [b'"'; 18];
        let mut digit = 0;
        while digit < 16 {
            tag[16 - digit] = b"0123456789abcdef"[(hash & 15) as usize];
            hash >>= 4;
            digit += 1;
        }
        Self(tag)
    }

    const fn as_str(&'static self) -> &'static str {
        match std::str::from_utf8(&self.0) {
            Ok(tag) => tag,
            // All bytes are ASCII.
            Err(_) => "\"\"",
        }
    }
}

impl File {
    fn of(path: &str) -> &'static Self {
        if path.ends_with(".d.ts") { &TYPES } else { &MODULE }
    }

    /// Whether the browser has the file, by what it says about its copies.
    fn is_one_of(&self, headers: &HeaderMap) -> bool {
        let is_this =
            |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.etag.as_bytes();
        let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
        lists.flat_map(|list| list.split(',')).any(|tag| is_this(tag.trim()))
    }
}

impl<B> Service<Request<B>> for ScriptService {
    type Response = Response<FullBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<FullBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(answer(request.method(), request.uri().path(), request.headers())))
    }
}

fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Response<FullBody> {
    let mut response = Response::new(FullBody::default());
    if !matches!(*method, Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let file = File::of(path);
    if std::ptr::eq(file, &MODULE) {
        // Where Deno finds the types.
        let types = HeaderName::from_static("x-typescript-types");
        response.headers_mut().insert(types, HeaderValue::from_static("./tower-sse.d.ts"));
    }
    let head = response.headers_mut();
    head.insert(ETAG, file.etag.clone());
    head.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if file.is_one_of(headers) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    head.insert(CONTENT_TYPE, file.content_type.clone());
    head.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The server leaves the body of a response to a HEAD out, and says its length.
    *response.body_mut() = FullBody::new(file.text);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str, if_none_match: Option<&str>) -> (StatusCode, HeaderMap, String) {
        ask(Method::GET, path, if_none_match).await
    }

    async fn ask(method: Method, path: &str, if_none_match: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tags) = if_none_match {
            request = request.header(IF_NONE_MATCH, tags);
        }
        let (head, body) = script().oneshot(request.body(()).unwrap()).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes().to_vec();
        (head.status, head.headers, String::from_utf8(text).unwrap())
    }

    #[tokio::test]
    async fn the_module_and_its_types_are_served_by_the_ending_of_the_path() {
        let (status, headers, text) = get("/js/tower-sse.js", None).await;
        assert_eq!((status, &*text), (StatusCode::OK, include_str!("../../js/tower-sse.js")));
        assert_eq!(headers[CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(headers[CACHE_CONTROL], "no-cache");
        let (_, other, text) = get("/js/tower-sse.d.ts", None).await;
        assert_eq!(text, include_str!("../../js/tower-sse.d.ts"));
        assert_ne!(headers[ETAG], other[ETAG]);
        assert!(text.contains("export function open"));
    }

    #[tokio::test]
    async fn a_browser_that_has_the_file_gets_a_304() {
        let (_, headers, _) = get("/", None).await;
        let tag = headers[ETAG].to_str().unwrap();
        for tags in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
            let (status, headers, text) = get("/", Some(&tags)).await;
            assert_eq!(
                (status, headers[ETAG].to_str().unwrap(), &*text),
                (StatusCode::NOT_MODIFIED, tag, ""),
                "{tags}"
            );
        }
        for tags in ["\"other\"", "", &tag[1..]] {
            assert_eq!(get("/", Some(tags)).await.0, StatusCode::OK, "{tags}");
        }
    }

    #[tokio::test]
    async fn any_method_but_get_and_head_is_a_405() {
        assert_eq!(ask(Method::HEAD, "/", None).await.0, StatusCode::OK);
        let (status, headers, _) = ask(Method::POST, "/", None).await;
        assert_eq!((status, headers[ALLOW].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
    }

    #[test]
    fn the_client_has_the_version_of_the_crate() {
        let package = include_str!("../../js/package.json");
        assert!(package.contains(concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\"")));
    }
}
