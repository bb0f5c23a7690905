//! What a program can do with a client: the methods of its handle, and the event stream as a response.
//!
//! The handle itself is declared in `client`, because filters, observers and the presence key get one. Each method is a few lines here, and
//! its work is done in `client` or `reader`. This folder must not know the layer or the registry.

mod event_stream;
mod stream;
mod topics;

pub use self::event_stream::EventStream;
pub(crate) use self::{event_stream::StreamOf, topics::bounded};
