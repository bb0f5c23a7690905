//! Presence: who is subscribed to a topic, by keys that the application gives.
//!
//! A list has the members that are subscribed to one name, and wakes the tasks that watch it. This folder knows the ids of clients. It must
//! not know clients themselves: they report to it when their streams begin and end.

mod list;
mod members;

pub(crate) use self::list::{GRACE, Presences};
pub use self::list::{Member, Presence, PresenceChange, PresenceChanges};
