//! The slots that one request takes in all limits that apply to it.

use std::{mem, sync::Arc};

use http::request::Parts;

use super::{count::Acquired, key::LimitKey, limits::Limit, refused_reason::RefusedReason};
use crate::{
    collections::SmallList,
    sync::{Mutex, lock},
};

/// The slots that one request needs and has.
///
/// All layers that the request passes share it. The request keeps its slots as long as a [`Hold`] of it exists. Each
/// layer holds it while the request passes, and then the stream holds it.
#[derive(Debug, Default)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claims: SmallList<Claim>,
    holders: usize,
    /// The stream of the request has begun.
    has_begun: bool,
    /// The slots were released for good, although a [`Hold`] may still exist.
    is_released: bool,
}

/// A slot that a request needs, and what the request has of it.
#[derive(Debug)]
pub(crate) struct Claim {
    limit: Limit,
    key: LimitKey,
    taken: Acquired,
}

/// Keeps the slots of a request until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Admission>);

impl Admission {
    /// Collects the slots that a request needs in these limits.
    ///
    /// A limit that an outer layer has claimed already is claimed only once.
    pub(crate) fn of(request: &Parts, limits: [&[Limit]; 2], further_out: Option<Arc<Self>>) -> Arc<Self> {
        // No lock is held here, because the program's functions are called for the keys.
        let claims: SmallList<Claim> = limits.into_iter().flatten().filter_map(|limit| limit.ask(request)).collect();
        if further_out.is_none() && claims.len() <= 1 {
            // The usual case.
            return Arc::new(Self(Mutex::new(State { claims, ..State::default() })));
        }
        let admission = further_out.unwrap_or_default();
        admission.need(claims);
        admission
    }

    fn need(&self, claims: SmallList<Claim>) {
        if claims.is_empty() {
            return;
        }
        let mut state = lock(&self.0);
        let mut all = mem::take(&mut state.claims).into_vec();
        // Exactly as many, because each open stream keeps the list.
        all.reserve_exact(claims.len());
        for claim in claims.into_vec() {
            match all.iter_mut().find(|known| known.limit.is(&claim.limit)) {
                None => all.push(claim),
                // The outer layer had no key for this limit, and this layer has one.
                Some(known) if known.key.is_missing() => *known = claim,
                Some(_) => {}
            }
        }
        state.claims = SmallList::Many(all);
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        lock(&self.0).holders += 1;
        Hold(Arc::clone(self))
    }

    /// Acquires all slots that the request needs and does not have yet.
    ///
    /// If one limit has no room, the request gets none of them. Without a [`Hold`], the slots are given back at once.
    pub(crate) fn acquire_slot(&self) -> Result<(), RefusedReason> {
        lock(&self.0).acquire_slot()
    }

    /// Begins the stream, if the request has its slots or the limits have room.
    ///
    /// The tokens of rates are spent then.
    pub(crate) fn begin(&self) -> Result<(), RefusedReason> {
        let mut state = lock(&self.0);
        state.acquire_slot()?;
        state.has_begun = true;
        state.claims.iter_mut().for_each(Claim::spend);
        Ok(())
    }

    /// Gives back all slots. The request gets no slots any more.
    ///
    /// A [`Hold`] that exists for long, for example in a body that a server keeps, has no effect then.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.0);
        state.is_released = true;
        state.claims.iter_mut().for_each(Claim::give_back);
    }
}

impl State {
    fn acquire_slot(&mut self) -> Result<(), RefusedReason> {
        // A request has all slots that it has asked for, or none. So the missing slots are at the end of the list.
        let has = self.claims.iter().take_while(|claim| claim.taken != Acquired::Nothing).count();
        let lacks = &mut self.claims[has..];
        let result = lacks.iter_mut().try_for_each(Claim::take);
        if result.is_err() || self.holders == 0 || self.is_released {
            lacks.iter_mut().for_each(Claim::give_back);
        } else if self.has_begun {
            lacks.iter_mut().for_each(Claim::spend);
        }
        result
    }
}

impl Claim {
    #[inline]
    pub(super) fn new(limit: Limit, key: LimitKey) -> Self {
        Self { limit, key, taken: Acquired::Nothing }
    }

    fn take(&mut self) -> Result<(), RefusedReason> {
        self.taken = self.limit.take(&self.key)?;
        Ok(())
    }

    /// Spends the token of a rate, because a stream begins.
    ///
    /// A spent token is not given back when the stream ends.
    fn spend(&mut self) {
        if matches!(self.taken, Acquired::Token(_)) {
            self.taken = Acquired::SpentToken;
        }
    }

    fn give_back(&mut self) {
        self.limit.give_back(&self.key, mem::take(&mut self.taken));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.holders -= 1;
        if state.holders == 0 {
            state.claims.iter_mut().for_each(Claim::give_back);
        }
    }
}
