//! The counting. Time is passed in.

use std::{collections::HashMap, fmt, mem, time::Duration};

use super::{Limit, LimitKey};
use crate::{
    clock::nanoseconds,
    registry::spacious,
    sync::{Mutex, lock},
};

/// By key, how many streams are open; of a rate, when the key's bucket is full again.
#[derive(Default)]
pub(super) struct Counted(Mutex<State>);

#[derive(Default)]
struct State {
    entries: HashMap<LimitKey, u64>,
    /// When to look for buckets that are full.
    look_at: u64,
    /// How long a token takes to come back, by which the entries of a rate have been reckoned.
    token: u64,
}

impl Counted {
    /// One stream more, if there is room.
    pub(super) fn add(&self, key: &LimitKey, limit: u32) -> bool {
        let mut state = lock(&self.0);
        match state.entries.get_mut(key) {
            Some(open) if *open < limit.into() => *open += 1,
            None if limit > 0 => _ = state.entries.insert(key.clone(), 1),
            _ => return false,
        }
        true
    }

    fn remove(&self, key: &LimitKey) {
        let mut state = lock(&self.0);
        if let Some(open) = state.entries.get_mut(key) {
            *open -= 1;
            if *open == 0 {
                state.entries.remove(key);
                state.shrink();
            }
        }
    }

    /// A token that was taken for nothing.
    fn give_back(&self, key: &LimitKey) {
        let mut state = lock(&self.0);
        let token = state.token;
        if let Some(full_at) = state.entries.get_mut(key) {
            *full_at = full_at.saturating_sub(token);
        }
    }

    pub(super) fn open(&self) -> u64 {
        lock(&self.0).entries.values().sum()
    }

    /// `now`: of a rate.
    pub(super) fn entries(&self, now: Option<u64>) -> usize {
        let mut state = lock(&self.0);
        if let Some(now) = now {
            state.forget_full(now);
        }
        state.entries.len()
    }
}

impl State {
    fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.entries = HashMap::new();
        } else if let Some(enough) = spacious(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(enough);
        }
    }

    /// What a bucket lacks stays as many tokens, however long they take from now on.
    fn reckon_by(&mut self, token: u64, now: u64) {
        let known = mem::replace(&mut self.token, token);
        if known == token {
            return;
        }
        self.look_at = now;
        for full_at in self.entries.values_mut() {
            let lacks = u128::from(full_at.saturating_sub(now)) * u128::from(token) / u128::from(known.max(1));
            *full_at = now.saturating_add(u64::try_from(lacks).unwrap_or(LONGEST));
        }
    }

    fn forget_full(&mut self, now: u64) {
        self.entries.retain(|_, full_at| *full_at > now);
        self.shrink();
    }
}

/// As long as it may take a bucket to be full, in nanoseconds: a century, so that no sum of times overflows.
const LONGEST: u64 = u64::MAX / 4;

/// A token bucket, kept as the time when it is full again: the generic cell rate algorithm of ITU-T I.371.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    per: Duration,
    burst: u32,
}

impl Rate {
    pub(super) fn new(per: Duration, burst: u32) -> Self {
        Self { per, burst: burst.max(1) }
    }

    /// How many nanoseconds a token takes to come back. `None`: it never does.
    fn token(self, number: u32) -> Option<u64> {
        let per = nanoseconds(self.per);
        Some(per.checked_div(number.into())?.min(LONGEST / u64::from(self.burst)))
    }

    pub(super) fn set(self, counted: &Counted, number: u32, now: u64) {
        if let Some(token) = self.token(number) {
            lock(&counted.0).reckon_by(token, now);
        }
    }

    /// Takes a token; or says how long it is until there is one, if ever.
    pub(super) fn take(self, counted: &Counted, key: &LimitKey, number: u32, now: u64) -> Result<(), Option<Duration>> {
        let token = self.token(number).ok_or(None)?;
        let whole = token.saturating_mul(self.burst.into());
        let mut state = lock(&counted.0);
        state.reckon_by(token, now);
        if now >= state.look_at {
            // As often as a bucket fills, so that each entry is looked at once or twice.
            state.forget_full(now);
            state.look_at = now.saturating_add(whole);
        }
        let known = state.entries.get_mut(key);
        let full_at = known.as_deref().copied().unwrap_or(0).max(now).saturating_add(token);
        let wait = (full_at - now).saturating_sub(whole);
        if wait > 0 {
            return Err(Some(Duration::from_nanos(wait)));
        }
        match known {
            Some(known) => *known = full_at,
            None => _ = state.entries.insert(key.clone(), full_at),
        }
        Ok(())
    }
}

/// A place among what is limited. It is given back when this is dropped.
pub(crate) struct Permit {
    limit: Limit,
    key: LimitKey,
    taken: Taken,
}

/// What is given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Place,
    Token,
    Nothing,
}

impl Permit {
    pub(super) fn new(limit: Limit, key: LimitKey, taken: Taken) -> Self {
        Self { limit, key, taken }
    }

    pub(super) fn is_of(&self, limit: &Limit) -> bool {
        self.limit.is(limit)
    }

    /// A stream begins, and with that its token is spent. What is left is given back when the stream is over.
    pub(super) fn spend(&mut self) {
        if self.taken == Taken::Token {
            self.taken = Taken::Nothing;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counted = &self.limit.inner.counted;
        match self.taken {
            Taken::Place => counted.remove(&self.key),
            Taken::Token => counted.give_back(&self.key),
            Taken::Nothing => {}
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.key).finish()
    }
}
