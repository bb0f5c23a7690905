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

use crate::uploads::{Upload, Uploads};

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
pub(crate) enum NoPlace {
    /// The gateway has as many requests as it can take.
    InAll,
    /// The address has as many requests as it may have.
    OfAddress,
}

/// The place of one request. It is free again when this is dropped.
pub(crate) struct Place {
    pub(crate) upload: Arc<Upload>,
    _permits: [OwnedSemaphorePermit; 2],
    _address: Arc<Share>,
}

impl Place {
    /// A closure that calls this captures the whole place.
    pub(crate) fn body_has_failed(&self) -> bool {
        self.upload.has_failed()
    }
}

impl Places {
    pub(crate) fn new(all: usize, per_address: usize) -> Self {
        Self { all: Share::new(all), per_address: per_address.min(all), addresses: Mutex::default() }
    }

    /// Takes a place for a request of this address.
    ///
    /// If all places are taken, the request whose body has been arriving for the longest time is ended. If the share of
    /// the address is used up, only a request of the same address is ended.
    pub(crate) async fn take(&self, address: IpAddr, has_body: bool) -> Result<Place, NoPlace> {
        let share = self.share_of(address);
        let upload = Arc::new(Upload::new(has_body));
        let of_address = share.take(&upload).await.ok_or(NoPlace::OfAddress)?;
        let of_all = self.all.take(&upload).await.ok_or(NoPlace::InAll)?;
        Ok(Place { upload, _permits: [of_address, of_all], _address: share })
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

/// Places, and the requests that can be ended to free them.
struct Share {
    free: Arc<Semaphore>,
    uploads: Uploads,
}

impl Share {
    fn new(places: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), uploads: Uploads::default() }
    }

    /// Returns `None` if there is no place, or if this request was ended for another one while it waited.
    async fn take(&self, upload: &Arc<Upload>) -> Option<OwnedSemaphorePermit> {
        if self.free.available_permits() == 0 && !self.uploads.make_room() {
            return None;
        }
        // A request that waits for its place can be ended as well: in a burst, all requests before it have been ended
        // already.
        self.uploads.add(upload);
        tokio::select! {
            biased;
            () = upload.is_ended() => None,
            place = timeout(ROOM_TIMEOUT, Arc::clone(&self.free).acquire_owned()) => place.ok()?.ok(),
        }
    }
}
