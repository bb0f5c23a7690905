//! How to build with this crate. Every Rust snippet is compiled, and each that can run is run in a test.
//!
//! 1. [Getting started](getting_started): a whole program, and what happens by default
//! 2. [Wrapping an existing stream](wrapping): your handler already answers with an event stream
//! 3. [Topics and resume](topics): [topic names](topics#topic-names), retention, reconnects, answers that survive a reload
//! 4. [Recording any handler's stream](recording): a handler that stays as it is, and whose answers survive a reload
//! 5. [Limits and shutdown](limits): limits, the age of streams, drain, the server
//! 6. [Layer order](layers): authentication, CORS, compression, timeouts, traces
//! 7. [Clients](clients): what each client can and cannot do
//! 8. [The browser client](browser_client): a page in five lines, with React, Vue, Svelte and others
//! 9. [Proxies](proxies): nginx, load balancers and the gateway
//! 10. [MCP](mcp): the layer around an MCP server
//! 11. [A proxy before MCP and model servers](mcp_proxies): host names, origins, addresses
//! 12. [A gateway before a model or an MCP server](model_gateways): answers that survive their client, without a change in the server
//! 13. [Testing your handlers](testing): with the feature `test-util`
//! 14. [Before you go live](before_you_go_live): retention, limits, the server, shutdown, what to watch
//! 15. [Performance](performance): what a stream costs, and what to set
//! 16. [Performance, measured](performance_measured): how the figures were measured
//! 17. [Several machines](several_machines): what works without a backplane
//! 18. [gRPC](grpc): the same topics for tonic

#[doc = include_str!("getting_started.md")]
pub mod getting_started {}

#[doc = include_str!("wrapping.md")]
pub mod wrapping {}

#[doc = include_str!("topics.md")]
pub mod topics {}

#[doc = include_str!("recording.md")]
pub mod recording {}

#[doc = include_str!("limits.md")]
pub mod limits {}

#[doc = include_str!("layers.md")]
pub mod layers {}

#[doc = include_str!("clients.md")]
pub mod clients {}

#[cfg_attr(feature = "script", doc = include_str!("browser_client.md"))]
#[cfg_attr(
    not(feature = "script"),
    doc = "# The browser client\n\nThis chapter is about the feature `script`. To read it here, run `cargo doc --features tower-sse/script`."
)]
pub mod browser_client {}

#[doc = include_str!("proxies.md")]
pub mod proxies {}

#[doc = include_str!("mcp.md")]
pub mod mcp {}

#[doc = include_str!("mcp_proxies.md")]
pub mod mcp_proxies {}

#[doc = include_str!("model_gateways.md")]
pub mod model_gateways {}

#[cfg_attr(feature = "test-util", doc = include_str!("testing.md"))]
#[cfg_attr(
    not(feature = "test-util"),
    doc = "# Testing your handlers\n\nThis chapter is about the feature `test-util`. To read it here, run `cargo doc --features tower-sse/test-util`."
)]
pub mod testing {}

#[doc = include_str!("before_you_go_live.md")]
pub mod before_you_go_live {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("performance_measured.md")]
pub mod performance_measured {}

#[doc = include_str!("several_machines.md")]
pub mod several_machines {}

// Its program needs tonic, so it is compiled with the example `chat`.
#[cfg_attr(not(doctest), doc = include_str!("grpc.md"))]
pub mod grpc {}
