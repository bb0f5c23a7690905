//! What one request takes of all limits that are about it.

use std::{mem, sync::Arc};

use super::{Limit, LimitKey, Permit, Refused};
use crate::sync::{Mutex, lock};

/// The places that one request needs and has. The layers that it passes share it.
///
/// It has them as long as somebody [holds](Hold) it: first each layer that the request is passing, then the stream.
#[derive(Debug, Default)]
pub(crate) struct Admission(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    asks: Vec<Ask>,
    permits: Vec<Permit>,
    holders: usize,
    /// Its stream has begun.
    has_begun: bool,
}

/// A place that a request needs.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(super) limit: Limit,
    pub(super) key: LimitKey,
}

/// Whoever keeps a request's places.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Admission>);

impl Admission {
    /// It needs these as well. What a layer further out has asked for already is one and the same.
    pub(crate) fn need(&self, asks: Vec<Ask>) {
        let mut state = lock(&self.0);
        if state.asks.is_empty() && asks.len() == 1 {
            // So it mostly is.
            state.asks = asks;
            return;
        }
        state.asks.reserve_exact(asks.len());
        for ask in asks {
            if !state.asks.iter().any(|known| known.limit.is(&ask.limit)) {
                state.asks.push(ask);
            }
        }
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        lock(&self.0).holders += 1;
        Hold(Arc::clone(self))
    }

    /// Takes all places that it needs and has not; or none, if there is no room for one of them.
    ///
    /// Where nobody holds it, they are given back at once.
    pub(crate) fn admit(&self) -> Result<(), Refused> {
        let mut state = lock(&self.0);
        let has = |ask: &&Ask| !state.permits.iter().any(|permit| permit.is_of(&ask.limit));
        // With no more capacity than that, as each open stream keeps them.
        let mut taken = Vec::with_capacity(state.asks.len() - state.permits.len());
        for ask in state.asks.iter().filter(has) {
            taken.push(ask.limit.acquire(&ask.key)?);
        }
        if state.holders > 0 {
            if state.has_begun {
                taken.iter_mut().for_each(Permit::spend);
            }
            if state.permits.is_empty() {
                state.permits = taken;
            } else {
                state.permits.reserve_exact(taken.len());
                state.permits.append(&mut taken);
            }
        }
        Ok(())
    }

    /// Its stream begins, if it has its places or there is room: what counts beginnings has counted it.
    pub(crate) fn begin(&self) -> Result<(), Refused> {
        self.admit()?;
        let mut state = lock(&self.0);
        state.has_begun = true;
        state.permits.iter_mut().for_each(Permit::spend);
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.holders -= 1;
        let permits = if state.holders == 0 { mem::take(&mut state.permits) } else { Vec::new() };
        drop(state);
        drop(permits);
    }
}
