//! The browser client, which a program serves itself: the module and its types.
//!
//! The files are in `js/`, where its own tests are too. So the client and the server are of one version.

mod service;

pub use self::service::{ScriptService, script};
