//! Sessions, and the streams that end with each session.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tower_sse::{ClientHandle, Observer, StreamSummary};

/// The close reason of a stream whose session has ended.
const SESSION_ENDED: &str = "session_ended";

/// A user's name. It is valid as a segment of a topic's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User(Arc<str>);

impl User {
    /// `None` if the name is invalid.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        ((1..=32).contains(&name.len()) && name.bytes().all(is_right)).then(|| Self(name.into()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The topic of this user's own notifications.
    pub(crate) fn topic(&self) -> String {
        format!("user/{}", self.0)
    }
}

/// A session. `require` puts it into the extensions of a request.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) user: User,
    pub(crate) expires: SystemTime,
    pub(crate) token: Arc<str>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) lifetime: Duration,
    pub(crate) sessions: usize,
    /// A further login of the user ends the user's oldest session.
    pub(crate) sessions_per_user: usize,
    /// For each address.
    pub(crate) logins_per_minute: NonZeroU32,
}

pub(crate) struct Sessions {
    bounds: Bounds,
    all: Mutex<All>,
    logins: DefaultKeyedRateLimiter<IpAddr>,
}

/// Why no session was created.
pub(crate) enum NoSession {
    TooMany,
    NoRandomness,
}

#[derive(Default)]
struct All {
    by_token: HashMap<Arc<str>, (Session, Vec<ClientHandle>)>,
    /// The oldest session first.
    of_user: HashMap<User, VecDeque<Arc<str>>>,
}

impl Sessions {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let logins = RateLimiter::keyed(Quota::per_minute(bounds.logins_per_minute));
        Self { bounds, all: Mutex::default(), logins }
    }

    /// Counts a login from this address, and returns whether it is allowed.
    pub(crate) fn may_log_in(&self, address: IpAddr) -> bool {
        self.logins.check_key(&address).is_ok()
    }

    pub(crate) fn begin(&self, user: User) -> Result<Session, NoSession> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| NoSession::NoRandomness)?;
        let token: Arc<str> = random.map(|byte| format!("{byte:02x}")).concat().into();
        let mut all = self.lock();
        let mut ended = Vec::new();
        while let Some(oldest) = all.oldest_of(&user, self.bounds.sessions_per_user) {
            ended.extend(all.remove(&oldest).into_iter().flatten());
        }
        if all.by_token.len() >= self.bounds.sessions {
            return Err(NoSession::TooMany);
        }
        let session = Session { user, expires: SystemTime::now() + self.bounds.lifetime, token: Arc::clone(&token) };
        all.of_user.entry(session.user.clone()).or_default().push_back(Arc::clone(&token));
        all.by_token.insert(token, (session.clone(), Vec::new()));
        drop(all);
        close(&ended);
        Ok(session)
    }

    pub(crate) fn find(&self, token: &str) -> Option<Session> {
        let all = self.lock();
        all.by_token.get(token).map(|(session, _)| session).filter(|it| it.expires > SystemTime::now()).cloned()
    }

    /// Ends a session and its streams.
    pub(crate) fn end(&self, token: &str) {
        let ended = self.lock().remove(token);
        close(&ended.unwrap_or_default());
    }

    /// Removes all expired sessions. It reads all sessions, so the program calls it once a minute and not at each
    /// login.
    pub(crate) fn tidy(&self) {
        let mut all = self.lock();
        let expired = all.by_token.values().filter(|(session, _)| session.expires <= SystemTime::now());
        for token in expired.map(|(session, _)| Arc::clone(&session.token)).collect::<Vec<_>>() {
            // Its streams end by themselves: `expire_at`.
            all.remove(&token);
        }
        drop(all);
        self.logins.retain_recent();
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Call it without a lock: closing a stream wakes the task that sends it.
fn close(streams: &[ClientHandle]) {
    streams.iter().for_each(|stream| stream.close_with(SESSION_ENDED));
}

impl All {
    /// The user's oldest session, if the user has at least `number`.
    fn oldest_of(&self, user: &User, number: usize) -> Option<Arc<str>> {
        self.of_user.get(user).filter(|tokens| tokens.len() >= number)?.front().cloned()
    }

    fn remove(&mut self, token: &str) -> Option<Vec<ClientHandle>> {
        let (session, streams) = self.by_token.remove(token)?;
        if let Some(tokens) = self.of_user.get_mut(&session.user) {
            tokens.retain(|other| **other != *token);
            if tokens.is_empty() {
                self.of_user.remove(&session.user);
            }
        }
        Some(streams)
    }
}

/// Keeps the list of streams of each session.
impl Observer for Sessions {
    fn opened(&self, client: &ClientHandle) {
        let Some(token) = token_of(client) else { return };
        let mut all = self.lock();
        let Some((_, streams)) = all.by_token.get_mut(&token) else {
            drop(all);
            // The session ended while the handler answered the request for the stream.
            return client.close_with(SESSION_ENDED);
        };
        streams.push(client.clone());
    }

    fn closed(&self, client: &ClientHandle, _: &StreamSummary) {
        let Some(token) = token_of(client) else { return };
        if let Some((_, streams)) = self.lock().by_token.get_mut(&token) {
            streams.retain(|stream| stream.id() != client.id());
        }
    }
}

fn token_of(client: &ClientHandle) -> Option<Arc<str>> {
    Some(Arc::clone(&client.metadata().get::<Session>()?.token))
}
