//! A subscription's filter.

use std::{any::Any, fmt, sync::Arc};

use super::delivery::Delivery;
use crate::sync::nothing_is_locked;

/// Decides which events a subscription lets through.
#[derive(Clone)]
pub(crate) struct Filter(Arc<Box<Passes>>); // Boxed for a thin pointer, because each cursor has this field.

/// The second argument is the client's handle. Its type is not known here, because the handle leads to the client, and the client to its
/// cursors.
type Passes = dyn Fn(&Delivery, &dyn Any) -> bool + Send + Sync;

impl Filter {
    pub(crate) fn new<H: Any>(passes: impl Fn(&Delivery, &H) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Box::new(move |event, client| {
            let client = client.downcast_ref();
            debug_assert!(client.is_some(), "a filter is called with the type of handle that it was made for");
            client.is_some_and(|client| passes(event, client))
        })))
    }

    /// Calls the filter. `client`: the client's handle.
    pub(crate) fn passes(&self, event: &Delivery, client: &dyn Any) -> bool {
        nothing_is_locked();
        (self.0)(event, client)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}
