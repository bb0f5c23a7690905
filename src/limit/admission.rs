//! What one request takes of all limits that are about it.

use std::{mem, sync::Arc};

use http::request::Parts;

use super::{count::Taken, key::LimitKey, limits::Limit, refused_reason::RefusedReason};
use crate::{
    collections::SmallList,
    sync::{Mutex, lock},
};

/// The slots that one request needs and has. The layers that it passes share it.
///
/// It has them as long as somebody [holds](Hold) it: first each layer that the request is passing, then the stream.
#[derive(Debug, Default)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claims: SmallList<Claim>,
    holders: usize,
    /// Its stream has begun.
    has_begun: bool,
    /// It takes nothing any more, though it may still be held.
    is_released: bool,
}

/// A place that a request needs, and whether it has it.
#[derive(Debug)]
pub(crate) struct Claim {
    limit: Limit,
    key: LimitKey,
    taken: Taken,
}

/// Whoever keeps a request's slots.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Admission>);

impl Admission {
    /// Of a request that needs what these limits say. What a layer further out has asked for already is one and the same.
    pub(crate) fn of(request: &Parts, limits: [&[Limit]; 2], further_out: Option<Arc<Self>>) -> Arc<Self> {
        // Before anything is locked, as this asks the program for the keys.
        let claims: SmallList<Claim> = limits.into_iter().flatten().filter_map(|limit| limit.ask(request)).collect();
        if further_out.is_none() && claims.len() <= 1 {
            // So it mostly is.
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
        // No more than that, as each open stream keeps them.
        all.reserve_exact(claims.len());
        for claim in claims.into_vec() {
            match all.iter_mut().find(|known| known.limit.is(&claim.limit)) {
                None => all.push(claim),
                // It has been learnt on the way whom it counts for.
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

    /// Acquires all slots that it needs and has not; or none, if there is no room for one of them.
    ///
    /// Where nobody holds it, they are given back at once.
    pub(crate) fn acquire_slot(&self) -> Result<(), RefusedReason> {
        lock(&self.0).acquire_slot()
    }

    /// Its stream begins, if it has its slots or there is room: what counts beginnings has counted it.
    pub(crate) fn begin(&self) -> Result<(), RefusedReason> {
        let mut state = lock(&self.0);
        state.acquire_slot()?;
        state.has_begun = true;
        state.claims.iter_mut().for_each(Claim::spend);
        Ok(())
    }

    /// Gives back all slots, and takes none any more, though somebody who is not heard of may hold it for long.
    pub(crate) fn release(&self) {
        let mut state = lock(&self.0);
        state.is_released = true;
        state.claims.iter_mut().for_each(Claim::give_back);
    }
}

impl State {
    fn acquire_slot(&mut self) -> Result<(), RefusedReason> {
        // It takes all or none, so what it lacks has been asked for since.
        let has = self.claims.iter().take_while(|claim| claim.taken != Taken::Nothing).count();
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
        Self { limit, key, taken: Taken::Nothing }
    }

    fn take(&mut self) -> Result<(), RefusedReason> {
        self.taken = self.limit.take(&self.key)?;
        Ok(())
    }

    /// A stream begins, and with that its token is spent. What is left is given back when the stream is over.
    fn spend(&mut self) {
        if matches!(self.taken, Taken::Token(_)) {
            self.taken = Taken::SpentToken;
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
