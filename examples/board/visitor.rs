//! Visitors: whoever has the cookie that the page sets.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, StatusCode, header::COOKIE, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tower_sse::ClientHandle;

use crate::problem::{Problem, problem};

pub(crate) const MAX_NAME: usize = 24;
const MAX_VISITORS: usize = 10_000;
/// Requests a second that change something, and how many may come at once.
const RATE: f64 = 12.0;
const BURST: f64 = 40.0;

#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// A digest of the cookie. It names the visitor for others, because the cookie is secret, and is the same after a restart.
    pub(crate) number: u64,
    rest: Arc<Mutex<Rest>>,
}

#[derive(Debug)]
struct Rest {
    name: String,
    budget: f64,
    since: Instant,
}

impl Visitor {
    fn new(cookie: u128) -> Self {
        let digest = Sha256::digest(cookie.to_be_bytes());
        // A number of 48 bits is exact in JavaScript.
        let number = digest.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
        let rest = Rest { name: format!("guest {}", number % 1000), budget: BURST, since: Instant::now() };
        Self { number, rest: Arc::new(Mutex::new(rest)) }
    }

    /// The visitor that [`require`] has found.
    pub(crate) fn of(request: &Parts) -> Option<Self> {
        request.extensions.get().cloned()
    }

    /// Whose stream it is.
    pub(crate) fn behind(client: &ClientHandle) -> Option<Self> {
        client.metadata().get().cloned()
    }

    pub(crate) fn name(&self) -> String {
        lock(&self.rest).name.clone()
    }

    /// Returns whether the name is another one.
    pub(crate) fn rename(&self, name: &str) -> bool {
        let mut rest = lock(&self.rest);
        let is_new = rest.name != name;
        name.clone_into(&mut rest.name);
        is_new
    }

    /// Takes a request from the visitor's budget, a token bucket.
    fn pay(&self) -> Result<(), Problem> {
        let mut rest = lock(&self.rest);
        rest.budget = (rest.budget + RATE * rest.since.elapsed().as_secs_f64()).min(BURST);
        rest.since = Instant::now();
        if rest.budget < 1.0 {
            return Err(Problem::too_fast());
        }
        rest.budget -= 1.0;
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(request).ok_or_else(nobody)
    }
}

fn nobody() -> Problem {
    problem(StatusCode::UNAUTHORIZED, "no cookie says who you are: load the page at /")
}

/// All visitors by their cookies. When there are too many, the oldest is forgotten, and comes back without its name.
#[derive(Default)]
pub(crate) struct Visitors(Mutex<All>);

#[derive(Default)]
struct All {
    by_cookie: HashMap<u128, Visitor>,
    oldest_first: VecDeque<u128>,
}

impl Visitors {
    fn find_or_add(&self, cookie: u128) -> Visitor {
        let mut all = lock(&self.0);
        if let Some(visitor) = all.by_cookie.get(&cookie) {
            return visitor.clone();
        }
        if all.oldest_first.len() >= MAX_VISITORS {
            if let Some(oldest) = all.oldest_first.pop_front() {
                all.by_cookie.remove(&oldest);
            }
        }
        let visitor = Visitor::new(cookie);
        all.by_cookie.insert(cookie, visitor.clone());
        all.oldest_first.push_back(cookie);
        visitor
    }
}

/// Refuses requests without a cookie, and requests that change something too often.
pub(crate) async fn require(State(visitors): State<Arc<Visitors>>, mut request: Request, next: Next) -> Response {
    let Some(cookie) = cookie(request.headers()) else { return nobody().into_response() };
    let visitor = visitors.find_or_add(cookie);
    if request.method() != Method::GET {
        if let Err(problem) = visitor.pay() {
            return problem.into_response();
        }
    }
    request.extensions_mut().insert(visitor);
    next.run(request).await
}

/// `None` without a cookie of this program, and with several: somebody else may have set one of them.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<u128> {
    let all = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut ours = all.filter_map(|it| it.trim_ascii().strip_prefix(b"board="));
    let (first, second) = (ours.next()?, ours.next());
    if second.is_some() || first.len() != 32 {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(first).ok()?, 16).ok()
}

/// The value of `set-cookie` for a new visitor. Behind TLS, add `Secure`.
pub(crate) fn new_cookie() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("board={:032x}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000", u128::from_le_bytes(bytes)))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
