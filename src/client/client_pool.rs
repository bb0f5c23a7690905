//! Clients to be used again.

use std::sync::Arc;

use super::{shared::Shared, state::Client};
use crate::{limit::Admission, sync::Mutex};

/// Clients whose requests had no stream, and that nobody has done anything with or still knows: the next requests get them.
///
/// So a request that is no stream allocates no client, though each has one.
#[derive(Debug, Default)]
pub(crate) struct ClientPool(Mutex<Vec<Arc<Client>>>);

impl ClientPool {
    /// About as many requests as are being answered at once; more are made anew.
    const MOST: usize = 64;

    /// A client for a request.
    pub(crate) fn client(
        &self,
        shared: &Arc<Shared>,
        last_event_id: Option<Box<str>>,
        admission: Option<Arc<Admission>>,
        is_head: bool,
    ) -> Arc<Client> {
        // Nobody waits for the lock: to make one takes no longer.
        let client_pool = self.0.try_lock().ok().and_then(|mut clients| clients.pop());
        let mut client = client_pool.unwrap_or_else(|| Arc::new(Client::new(Arc::clone(shared), true)));
        if last_event_id.is_some() || admission.is_some() || is_head {
            if let Some(client) = Arc::get_mut(&mut client) {
                client.comes_with(last_event_id, admission, is_head);
            }
        }
        client
    }

    /// Keeps a client for another request; or gives it back, if somebody still knows it or it has been used.
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

/// Each has its own.
impl Clone for ClientPool {
    fn clone(&self) -> Self {
        Self::default()
    }
}
