//! Counts streams and tokens. Time is an argument.

use std::{collections::HashMap, hash::BuildHasherDefault, time::Duration};

use super::key::{KeyHasher, LimitKey};
use crate::{
    collections::shrunk_capacity,
    sync::{Mutex, lock},
    time::nanoseconds,
};

/// What a limit counts, in total or for each key.
///
/// For a limit on open streams it is the number of open streams. For a rate it is the time at which the bucket is full
/// again.
#[derive(Default)]
pub(super) struct Counted(Mutex<State>);

#[derive(Default)]
struct State {
    /// The entry without a key. 0: there is no entry.
    without_key: u64,
    by_key: HashMap<LimitKey, u64, BuildHasherDefault<KeyHasher>>,
    /// The time at which to remove the entries of full buckets.
    next_cleanup: u64,
    /// How long a token took to come back in each period of time.
    ///
    /// The entries of a rate are computed with the last period.
    periods: Vec<Period>,
}

#[derive(Debug, Clone, Copy)]
struct Period {
    since: u64,
    token: u64,
}

impl Counted {
    /// Counts one more stream, if there is room.
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
            if *open == 0 && !key.is_without_key() {
                state.by_key.remove(key);
                state.shrink();
            }
        }
    }

    /// Gives back a token that no stream has used.
    ///
    /// The part of the token that has come back by itself is not given back again. Otherwise the bucket would be fuller
    /// than if the token had never been taken.
    pub(super) fn give_back(&self, key: &LimitKey, taken_at: u64, now: u64) {
        let mut state = lock(&self.0);
        let left = state.left(taken_at, now);
        if let Some(full_at) = state.entry(key) {
            *full_at = full_at.saturating_sub(left);
        }
    }

    pub(super) fn open(&self) -> u64 {
        let state = lock(&self.0);
        state.without_key + state.by_key.values().sum::<u64>()
    }

    /// Returns the number of entries. `now`: the time, for a rate only.
    pub(super) fn entries(&self, now: Option<u64>) -> usize {
        let mut state = lock(&self.0);
        if let Some(now) = now {
            state.forget_full(now);
        }
        state.by_key.len() + usize::from(state.without_key > 0)
    }
}

impl State {
    #[inline]
    fn entry(&mut self, key: &LimitKey) -> Option<&mut u64> {
        match key.is_without_key() {
            true => Some(&mut self.without_key).filter(|entry| **entry > 0),
            false => self.by_key.get_mut(key),
        }
    }

    fn insert(&mut self, key: &LimitKey, entry: u64) {
        match key.is_without_key() {
            true => self.without_key = entry,
            false => _ = self.by_key.insert(key.clone(), entry),
        }
    }

    fn shrink(&mut self) {
        if self.by_key.is_empty() {
            self.by_key = HashMap::default();
        } else if let Some(enough) = shrunk_capacity(self.by_key.len(), self.by_key.capacity()) {
            self.by_key.shrink_to(enough);
        }
    }

    /// Computes with this token time from now on.
    ///
    /// An entry keeps the number of its missing tokens when the token time changes.
    #[inline]
    fn use_token_time(&mut self, token: u64, now: u64) {
        if self.periods.last().is_none_or(|known| known.token != token) {
            self.begin_period(token, now);
        }
    }

    #[cold]
    fn begin_period(&mut self, token: u64, now: u64) {
        let Some(known) = self.periods.last().copied() else {
            return self.periods.push(Period { since: 0, token });
        };
        if self.periods.len() == PERIODS {
            self.periods.remove(0);
        }
        self.periods.push(Period { since: now, token });
        self.next_cleanup = now;
        for full_at in self.by_key.values_mut().chain(Some(&mut self.without_key).filter(|entry| **entry > 0)) {
            *full_at = now.saturating_add(rescaled(full_at.saturating_sub(now), known.token, token));
        }
    }

    /// Returns how long a token that was taken at this time still takes to come back.
    ///
    /// If the token was taken before all known periods, nothing is left of it.
    fn left(&self, taken_at: u64, now: u64) -> u64 {
        let Some(first) = self.periods.iter().rposition(|period| period.since <= taken_at) else { return 0 };
        let mut periods = self.periods[first..].iter().peekable();
        let (mut left, mut then) = (self.periods[first].token, taken_at);
        while let Some(period) = periods.next() {
            let next = periods.peek();
            let until = next.map_or(now, |next| next.since);
            left = left.saturating_sub(until.saturating_sub(then));
            if let Some(next) = next {
                (left, then) = (rescaled(left, period.token, next.token), next.since);
            }
        }
        left
    }

    fn forget_full(&mut self, now: u64) {
        if self.without_key <= now {
            self.without_key = 0;
        }
        self.by_key.retain(|_, full_at| *full_at > now);
        self.shrink();
    }
}

/// How many changes of a rate are remembered.
///
/// They are needed to give back the tokens of requests that wait during the changes.
const PERIODS: usize = 16;

/// Converts a time to a new token time: as many tokens come back in it as before.
///
/// `old` and `new`: how long one token takes.
fn rescaled(time: u64, old: u64, new: u64) -> u64 {
    let time = u128::from(time) * u128::from(new) / u128::from(old.max(1));
    u64::try_from(time).unwrap_or(LONGEST)
}

/// The longest time until a bucket is full, in nanoseconds.
///
/// It is more than a century, and short enough that no sum of times overflows.
const LONGEST: u64 = u64::MAX / 4;

/// A token bucket.
///
/// It is kept as the time at which it is full again: the generic cell rate algorithm of ITU-T I.371.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    per: Duration,
    burst: u32,
}

impl Rate {
    pub(super) fn new(per: Duration, burst: u32) -> Self {
        Self { per, burst: burst.max(1) }
    }

    /// Returns how many nanoseconds a token takes to come back.
    ///
    /// `None`: it never comes back.
    fn token(self, number: u32) -> Option<u64> {
        let per = nanoseconds(self.per);
        Some(per.checked_div(number.into())?.min(LONGEST / u64::from(self.burst)))
    }

    pub(super) fn set(self, counted: &Counted, number: u32, now: u64) {
        if let Some(token) = self.token(number) {
            lock(&counted.0).use_token_time(token, now);
        }
    }

    /// Takes a token, or returns how long it takes until there is one.
    ///
    /// `Err(None)`: there will never be one.
    pub(super) fn take(self, counted: &Counted, key: &LimitKey, number: u32, now: u64) -> Result<(), Option<Duration>> {
        let token = self.token(number).ok_or(None)?;
        let whole = token.saturating_mul(self.burst.into());
        let mut state = lock(&counted.0);
        state.use_token_time(token, now);
        if now >= state.next_cleanup {
            // This runs once in the time that a bucket takes to fill. So each entry is read once or twice.
            state.forget_full(now);
            state.next_cleanup = now.saturating_add(whole);
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

/// What a request has taken from a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Acquired {
    #[default]
    Nothing,
    Slot,
    /// A token that was taken at this time, in nanoseconds since the limit was made.
    Token(u64),
    /// A token with which a stream has begun.
    SpentToken,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to the bucket of a rate.
    #[derive(Debug, Clone, Copy)]
    enum Act {
        Take,
        GiveBack { nth: usize },
        Wait { time: u64 },
        Set { number: u32 },
        ForgetFull,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let give_back = any::<usize>().prop_map(|nth| Act::GiveBack { nth });
        let wait = (0..3000_u64).prop_map(|time| Act::Wait { time });
        let set = (1..8_u32).prop_map(|number| Act::Set { number });
        let act = prop_oneof![6 => Just(Act::Take), 4 => give_back, 5 => wait, 1 => set, 1 => Just(Act::ForgetFull)];
        prop::collection::vec(act, 1..60)
    }

    /// Everything that has happened, to compute the bucket again without some of it.
    #[derive(Debug, Default)]
    struct History {
        /// The time, what happened, and for a taken token whether it still counts.
        all: Vec<(u64, Happened)>,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Happened {
        Acquired { counts: bool },
        Set { token: u64 },
    }

    impl History {
        /// Returns what the bucket lacks now if only the tokens that count were taken.
        ///
        /// With `none_given_back`, all tokens count.
        fn lacks(&self, token: u64, now: u64, none_given_back: bool) -> u64 {
            let (mut lacks, mut then, mut token) = (0_u64, 0, token);
            for (time, happened) in &self.all {
                lacks = lacks.saturating_sub(time - then);
                then = *time;
                match happened {
                    Happened::Acquired { counts } => lacks += if *counts || none_given_back { token } else { 0 },
                    Happened::Set { token: new } => lacks = rescaled(lacks, std::mem::replace(&mut token, *new), *new),
                }
            }
            lacks.saturating_sub(now - then)
        }
    }

    fn check(acts: Vec<Act>, burst: u32) {
        const PER: Duration = Duration::from_nanos(5040);
        let (rate, counted, key) = (Rate::new(PER, burst), Counted::default(), LimitKey::from("key"));
        let (mut number, mut now) = (1, 0);
        let first = rate.token(number).unwrap();
        let mut history = History::default();
        let mut outstanding = Vec::new();
        for act in acts {
            match act {
                Act::Take => {
                    if rate.take(&counted, &key, number, now).is_ok() {
                        outstanding.push((now, history.all.len()));
                        history.all.push((now, Happened::Acquired { counts: true }));
                    }
                }
                Act::GiveBack { nth } if !outstanding.is_empty() => {
                    let (taken_at, event) = outstanding.swap_remove(nth % outstanding.len());
                    counted.give_back(&key, taken_at, now);
                    history.all[event].1 = Happened::Acquired { counts: false };
                }
                Act::GiveBack { .. } => {}
                Act::Wait { time } => now += time,
                Act::Set { number: new } => {
                    number = new;
                    rate.set(&counted, number, now);
                    history.all.push((now, Happened::Set { token: rate.token(number).unwrap() }));
                }
                Act::ForgetFull => _ = counted.entries(Some(now)),
            }
            let lacks = lock(&counted.0).entry(&key).map_or(0, |full_at| full_at.saturating_sub(now));
            // Each change of the rate rounds down.
            let rounding = history.all.iter().filter(|(_, it)| matches!(it, Happened::Set { .. })).count() as u64 * 8;
            let least = history.lacks(first, now, false);
            assert!(
                lacks + rounding >= least,
                "more tokens than if none had been taken: lacks {lacks}, at least {least}"
            );
            let most = history.lacks(first, now, true);
            assert!(
                lacks <= most + rounding,
                "fewer tokens than if none was given back: lacks {lacks}, at most {most}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn a_returned_token_adds_no_more_than_was_taken(acts in acts(), burst in 1..6_u32) {
            check(acts, burst);
        }
    }

    #[test]
    fn a_token_returned_at_once_leaves_the_bucket_unchanged() {
        let (rate, counted, key) = (Rate::new(Duration::from_secs(1), 3), Counted::default(), LimitKey::from("key"));
        let full_at = || lock(&counted.0).entry(&key).copied();
        rate.take(&counted, &key, 1, 7).unwrap();
        let before = full_at();
        rate.take(&counted, &key, 1, 500_000_000).unwrap();
        counted.give_back(&key, 500_000_000, 500_000_000);
        assert_eq!(full_at(), before);
    }

    #[test]
    fn a_rate_remembers_a_bounded_number_of_changes() {
        let (rate, counted, key) = (Rate::new(Duration::from_secs(1), 100), Counted::default(), LimitKey::from("key"));
        rate.take(&counted, &key, 1, 0).unwrap();
        (0..1000).for_each(|nth| rate.set(&counted, 1 + nth % 2, 0));
        assert_eq!(lock(&counted.0).periods.len(), PERIODS);
        counted.give_back(&key, 0, 0);
        assert_eq!(counted.entries(Some(0)), 0, "changes at the same time are one change");
    }
}
