//! A pool of unused clients.

use std::sync::Arc;

use super::{shared::Shared, state::Client};
use crate::{limit::Admission, sync::Mutex};

/// Unused clients of requests that had no stream. The next requests get them.
///
/// So a request without a stream allocates no client, although every request has one.
#[derive(Debug, Default)]
pub(crate) struct ClientPool(Mutex<Vec<Arc<Client>>>);

impl ClientPool {
    /// The pool keeps at most this many clients: about as many as there are requests at the same time.
    const MOST: usize = 64;

    /// Returns a client for a request.
    pub(crate) fn client(
        &self,
        shared: &Arc<Shared>,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) -> Arc<Client> {
        // Does not wait for the lock, because a new client costs no more than the wait.
        let client_pool = self.0.try_lock().ok().and_then(|mut clients| clients.pop());
        let mut client = client_pool.unwrap_or_else(|| Arc::new(Client::new(Arc::clone(shared), true)));
        if last_event_id.is_some() || admission.is_some() || is_head {
            if let Some(client) = Arc::get_mut(&mut client) {
                client.comes_with(last_event_id, admission, is_head);
            }
        }
        client
    }

    /// Keeps a client for another request. Returns it if it has been used, or if something still refers to it.
    pub(crate) fn keep(&self, mut client: Arc<Client>) -> Option<Arc<Client>> {
        if !Arc::get_mut(&mut client).is_some_and(Client::make_blank) {
            return Some(client);
        }
        if let Ok(mut clients) = self.0.try_lock() {
            if clients.len() < Self::MOST {
                clients.push(client);
            }
        }
        None
    }
}

/// A clone has a pool of its own.
impl Clone for ClientPool {
    fn clone(&self) -> Self {
        Self::default()
    }
}
