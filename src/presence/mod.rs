//! Who is subscribed to a topic, by the keys that the program gives. It knows no client but its id.

mod list;
mod members;

pub(crate) use self::list::{GRACE, Presences};
pub use self::list::{Member, Presence, PresenceChange, PresenceChanges};
