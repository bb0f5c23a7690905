//! The counting. Time is passed in.

use std::{collections::HashMap, hash::BuildHasherDefault, mem, time::Duration};

use super::{LimitKey, key::KeyHasher};
use crate::{
    clock::nanoseconds,
    registry::spacious,
    sync::{Mutex, lock},
};

/// How many streams are open; of a rate, when the bucket is full again. For everybody, or by key.
#[derive(Default)]
pub(super) struct Counted(Mutex<State>);

#[derive(Default)]
struct State {
    /// 0: there is no entry.
    everybody: u64,
    by_key: HashMap<LimitKey, u64, BuildHasherDefault<KeyHasher>>,
    /// When to look for buckets that are full.
    look_at: u64,
    /// How long a token takes to come back, by which the entries of a rate have been reckoned.
    token: u64,
}

impl Counted {
    /// One stream more, if there is room.
    pub(super) fn add(&self, key: &LimitKey, limit: u32) -> bool {
        let mut state = lock(&self.0);
        match state.entry(key) {
            Some(open) if *open < limit.into() => *open += 1,
            None if limit > 0 => state.insert(key, 1),
            _ => return false,
        }
        true
    }

    pub(super) fn remove(&self, key: &LimitKey) {
        let mut state = lock(&self.0);
        if let Some(open) = state.entry(key) {
            *open -= 1;
            if *open == 0 && !key.is_everybody() {
                state.by_key.remove(key);
                state.shrink();
            }
        }
    }

    /// A token that was taken for nothing.
    pub(super) fn give_back(&self, key: &LimitKey) {
        let mut state = lock(&self.0);
        let token = state.token;
        if let Some(full_at) = state.entry(key) {
            *full_at = full_at.saturating_sub(token);
        }
    }

    pub(super) fn open(&self) -> u64 {
        let state = lock(&self.0);
        state.everybody + state.by_key.values().sum::<u64>()
    }

    /// `now`: of a rate.
    pub(super) fn entries(&self, now: Option<u64>) -> usize {
        let mut state = lock(&self.0);
        if let Some(now) = now {
            state.forget_full(now);
        }
        state.by_key.len() + usize::from(state.everybody > 0)
    }
}

impl State {
    #[inline]
    fn entry(&mut self, key: &LimitKey) -> Option<&mut u64> {
        match key.is_everybody() {
            true => Some(&mut self.everybody).filter(|entry| **entry > 0),
            false => self.by_key.get_mut(key),
        }
    }

    fn insert(&mut self, key: &LimitKey, entry: u64) {
        match key.is_everybody() {
            true => self.everybody = entry,
            false => _ = self.by_key.insert(key.clone(), entry),
        }
    }

    fn shrink(&mut self) {
        if self.by_key.is_empty() {
            self.by_key = HashMap::default();
        } else if let Some(enough) = spacious(self.by_key.len(), self.by_key.capacity()) {
            self.by_key.shrink_to(enough);
        }
    }

    /// What a bucket lacks stays as many tokens, however long they take from now on.
    fn reckon_by(&mut self, token: u64, now: u64) {
        let known = mem::replace(&mut self.token, token);
        if known == token {
            return;
        }
        self.look_at = now;
        for full_at in self.by_key.values_mut().chain(Some(&mut self.everybody).filter(|entry| **entry > 0)) {
            let lacks = u128::from(full_at.saturating_sub(now)) * u128::from(token) / u128::from(known.max(1));
            *full_at = now.saturating_add(u64::try_from(lacks).unwrap_or(LONGEST));
        }
    }

    fn forget_full(&mut self, now: u64) {
        if self.everybody <= now {
            self.everybody = 0;
        }
        self.by_key.retain(|_, full_at| *full_at > now);
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
        let known = state.entry(key);
        let full_at = known.as_deref().copied().unwrap_or(0).max(now).saturating_add(token);
        let wait = (full_at - now).saturating_sub(whole);
        if wait > 0 {
            return Err(Some(Duration::from_nanos(wait)));
        }
        match known {
            Some(known) => *known = full_at,
            None => state.insert(key, full_at),
        }
        Ok(())
    }
}

/// What a request has of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Taken {
    #[default]
    Nothing,
    Place,
    Token,
    /// A stream has begun with it.
    SpentToken,
}
