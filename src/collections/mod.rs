//! Lists and queues that know nothing of what is in them.

mod capacity;
mod few;
mod lanes;
mod ledger;
mod waiters;

pub(crate) use self::{
    capacity::spacious,
    few::Few,
    lanes::{Apart, Lanes},
    ledger::{Ledger, Ticket},
    waiters::{Slot, Waiters},
};
