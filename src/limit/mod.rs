//! How many streams there may be, and what a request gets when there are as many.

mod address;
mod admission;
mod count;
mod key;
mod limits;
mod refusal;

pub(crate) use self::admission::{Admission, Hold};
pub use self::{
    address::ClientAddress,
    key::LimitKey,
    limits::Limit,
    refusal::{Refusal, Refused},
};
