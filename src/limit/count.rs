//! The counting. Time is passed in.

use std::{collections::HashMap, fmt, time::Duration};

use super::{Limit, LimitKey};
use crate::{
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

    fn forget_full(&mut self, now: u64) {
        self.entries.retain(|_, full_at| *full_at > now);
        self.shrink();
    }
}

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

    /// Takes a token, and says how many nanoseconds it takes to come back; or else how long it is until there is one, if ever.
    pub(super) fn take(
        self,
        counted: &Counted,
        key: &LimitKey,
        number: u32,
        now: u64,
    ) -> Result<u64, Option<Duration>> {
        let per = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX);
        let token = per.checked_div(number.into()).ok_or(None)?;
        let whole = token.saturating_mul(self.burst.into());
        let mut state = lock(&counted.0);
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
        Ok(token)
    }
}

/// A place among what is limited. It is given back when this is dropped.
pub(crate) struct Permit {
    limit: Limit,
    key: LimitKey,
    /// The token that was taken of a rate: how many nanoseconds it takes to come back.
    token: Option<u64>,
}

impl Permit {
    pub(super) fn new(limit: Limit, key: LimitKey, token: Option<u64>) -> Self {
        Self { limit, key, token }
    }

    pub(super) fn is_of(&self, limit: &Limit) -> bool {
        self.limit.is(limit)
    }

    /// A stream begins, and with that its token is spent. What is left is given back when the stream is over.
    pub(super) fn spend(&mut self) {
        self.token = self.token.map(|_| 0);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counted = &self.limit.inner.counted;
        match self.token {
            None => counted.remove(&self.key),
            Some(token) => {
                if let Some(full_at) = lock(&counted.0).entries.get_mut(&self.key) {
                    *full_at = full_at.saturating_sub(token);
                }
            }
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.key).finish()
    }
}
