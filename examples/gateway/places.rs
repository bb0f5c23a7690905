//! The number of requests at once: in total, and per client address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::exchanges::{Exchange, Exchanges};

/// How long a request waits for the place of a request that was ended.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// The places of all requests. Each request takes a connection to the upstream. Over HTTP/2 a client can send many
/// requests on one connection, so the limit on clients' connections does not limit them.
pub(crate) struct Places {
    all: Share,
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, Weak<Share>>>,
}

/// Why there is no place for a request.
#[derive(Clone, Copy)]
pub(crate) enum NoPlace {
    /// The gateway has as many requests as it can take.
    InAll,
    /// The address has as many requests as it may have.
    OfAddress,
}

/// The place of one request. It is free again when this is dropped.
pub(crate) struct Place {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) permits: Permits,
}

/// One of the address, and one of all.
pub(crate) type Permits = [OwnedSemaphorePermit; 2];

impl Places {
    pub(crate) fn new(all: usize, per_address: usize) -> Self {
        Self { all: Share::new(all), per_address: per_address.min(all), addresses: Mutex::default() }
    }

    /// Takes a place for a request of this address.
    ///
    /// When all are taken, a request that waits for its client makes room. An address whose share is used up takes the place
    /// of such a request of its own only.
    pub(crate) async fn take(&self, address: IpAddr, has_body: bool) -> Result<Place, NoPlace> {
        let share = self.share_of(address);
        let exchange = Arc::new(Exchange::new(Arc::clone(&share), has_body));
        let of_address = share.take(&exchange, usize::MAX).await.ok_or(NoPlace::OfAddress)?;
        let of_all = self.all.take(&exchange, share.taken()).await.ok_or(NoPlace::InAll)?;
        Ok(Place { exchange, permits: [of_address, of_all] })
    }

    fn share_of(&self, address: IpAddr) -> Arc<Share> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = addresses.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        if addresses.len() == addresses.capacity() {
            addresses.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share::new(self.per_address));
        addresses.insert(address, Arc::downgrade(&share));
        share
    }
}

/// Places, and the requests that have them.
pub(crate) struct Share {
    most: usize,
    free: Arc<Semaphore>,
    exchanges: Exchanges,
}

impl Share {
    fn new(places: usize) -> Self {
        Self { most: places, free: Arc::new(Semaphore::new(places)), exchanges: Exchanges::default() }
    }

    /// How many requests have a place.
    pub(crate) fn taken(&self) -> usize {
        self.most - self.free.available_permits()
    }

    /// `None`: there is no place, or this request made room for another one while it waited.
    async fn take(&self, exchange: &Arc<Exchange>, requests_of_its_address: usize) -> Option<OwnedSemaphorePermit> {
        if self.free.available_permits() == 0 && !self.exchanges.make_room(requests_of_its_address) {
            return None;
        }
        // A request that waits for its place can make room as well: in a burst, all those before it have done so already.
        self.exchanges.add(exchange);
        tokio::select! {
            biased;
            () = exchange.is_ended() => None,
            place = timeout(ROOM_TIMEOUT, Arc::clone(&self.free).acquire_owned()) => place.ok()?.ok(),
        }
    }
}
