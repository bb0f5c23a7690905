//! What a client has to read: its cursors into the logs of its topics.
//!
//! A client has one cursor for each subscription. The cursors take the next events in position order, and find out which events were evicted
//! before the client could read them. This folder knows topics and logs. It must not know clients: it gets a client's id and its
//! `Last-Event-ID`, and it keeps the filters of subscriptions without calling them.

mod cursor;
mod cursors;
mod delivery;
mod filter;
mod identity;
mod merging;
mod missing;
mod picked;
mod taking;

pub use self::delivery::Delivery;
pub(crate) use self::{
    cursor::IdleMark,
    cursors::Cursors,
    filter::Filter,
    identity::Identity,
    picked::{Missing, Picked, Plain, Taken, Taking},
    taking::Taker,
};
