//! Delivers the taken events: calls filters, notifies observers, and encodes the frame.

use std::sync::{Arc, atomic::Ordering};

use super::{frame::EventFrame, poll::Reader};
use crate::{
    client::ClientHandle,
    event::Event,
    reading::{Picked, Taken},
    stream::CloseReason,
    sync::lock,
    time::jitter,
};

impl Reader {
    /// Returns the frame for the taken events, if any event passes.
    pub(super) fn frame(&mut self, mut taken: Taken) -> Option<EventFrame> {
        if self.apply_filters(&mut taken).is_some() {
            let delay = jitter::jittered(taken.ends.unwrap_or_default(), self.client.id().spread());
            let retry = Event::empty().retry(delay).encode();
            return Some(EventFrame { gap: None, wire: retry, is_live: false, has_more: true });
        }
        let Taken { gap, events, has_more, seen, .. } = taken;
        // The id of a client that is catching up does not say that the client has caught up.
        let says_so = |last: &Picked| last.progress.is_none() && last.entry.has_id() && last.entry.position == seen;
        self.is_ahead = !events.last().is_some_and(says_so);
        if gap.is_none() && events.is_empty() {
            return None;
        }
        let wire = self.written(&events);
        let mut state = lock(&self.client.state);
        state.sent.events += events.len() as u64;
        state.sent.bytes += wire.len() as u64;
        drop(state);
        Some(EventFrame { gap, wire: wire.into(), is_live: false, has_more })
    }

    /// Encodes these events.
    pub(crate) fn written(&self, events: &[Picked]) -> Vec<u8> {
        match self.style.batching {
            #[cfg(feature = "json")]
            Some(batching) if batching.is_array() => super::array::array(events, self.style.ids_in_arrays),
            _ => {
                let mut wire = Vec::with_capacity(events.iter().map(|picked| picked.entry.wire.len()).sum());
                events
                    .iter()
                    .for_each(|it| it.entry.write(&mut wire, self.style.topic_as_event_type, it.progress.as_deref()));
                wire
            }
        }
    }

    /// Applies the filters, and notifies observers of lost events. Returns the close reason if the topic's policy ends
    /// the stream.
    pub(super) fn apply_filters(&self, taken: &mut Taken) -> Option<CloseReason> {
        let counters = &self.client.shared().counters;
        for (topic, missed) in &taken.fell_behind {
            counters.fell_behind.fetch_add(1, Ordering::Relaxed);
            counters.missed.fetch_add(*missed, Ordering::Relaxed);
            lock(&self.client.state).rare().missed += missed;
            self.client.observe(|observer, client| observer.fell_behind(client, topic, *missed));
        }
        if taken.ends.is_some() {
            self.client.close_after(CloseReason::FellBehind, 0);
            return Some(CloseReason::FellBehind);
        }
        if let Some(missing) = &taken.gap {
            counters.gaps.fetch_add(1, Ordering::Relaxed);
            self.client.observe(|observer, client| observer.gap(client, missing));
        }
        if taken.events.iter().any(|picked| !picked.filters.is_empty() || !picked.unless.is_empty()) {
            let client = ClientHandle::new(Arc::clone(&self.client));
            taken.events.retain(|picked| passes(picked, &client));
        }
        None
    }
}

/// Whether the event's filters let it through.
fn passes(picked: &Picked, client: &ClientHandle) -> bool {
    let delivery = picked.delivery();
    (picked.filters.is_empty() || picked.filters.iter().any(|filter| filter.passes(&delivery, client)))
        && !picked.unless.iter().any(|filter| filter.passes(&delivery, client))
}
