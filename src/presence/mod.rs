//! Presence: who is subscribed to a topic, by keys that the application gives. It knows only the ids of clients.

mod list;
mod members;

pub(crate) use self::list::{GRACE, Presences};
pub use self::list::{Member, Presence, PresenceChange, PresenceChanges};
