//! How to build with this crate, chapter by chapter. Every snippet is compiled, and those that can be are run.
//!
//! 1. [Getting started](getting_started)
//! 2. [Wrapping an existing stream](wrapping)
//! 3. [Topics and resume](topics)
//! 4. [Limits and shutdown](limits)
//! 5. [Layer order](layers): auth, CORS, compression, timeouts, traces
//! 6. [Clients](clients): what each can do and cannot
//! 7. [Proxies](proxies)
//! 8. [MCP](mcp)
//! 9. [A proxy before MCP and model servers](mcp_proxies): names, origins, addresses
//! 10. [Testing your handlers](testing)
//! 11. [Before you go live](before_you_go_live): retention, limits, the server, shutdown, what to watch
//! 12. [Performance](performance): what it costs, and how that was measured
//! 13. [Several machines](several_machines), to come

#[doc = include_str!("getting_started.md")]
pub mod getting_started {}

#[doc = include_str!("wrapping.md")]
pub mod wrapping {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("layers.md")]
pub mod layers {}

#[doc = include_str!("clients.md")]
pub mod clients {}

#[doc = include_str!("proxies.md")]
pub mod proxies {}

#[doc = include_str!("mcp.md")]
pub mod mcp {}

#[doc = include_str!("mcp_proxies.md")]
pub mod mcp_proxies {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("before_you_go_live.md")]
pub mod before_you_go_live {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("several_machines.md")]
pub mod several_machines {}
