//! Which hosts an axum program answers for.
//!
//! A web page can make its own name, `page.test`, point to this machine (DNS rebinding). For a browser, the program then belongs to
//! the page's site: the page may read and change everything here, and `Origin` and `Sec-Fetch-Site` say "same origin". Only the host
//! that the browser asks for shows the attack. Other hosts are refused with a 421:
//!
//! ```text
//! .layer(middleware::from_fn_with_state(Hosts::named("app.example.com"), hosts::check))
//! ```
//!
//! `localhost`, names below it, and loopback addresses are always allowed, with any port. Names are not case-sensitive.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header::HOST, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// The hosts that a program answers for.
#[derive(Clone)]
pub(crate) struct Hosts(Arc<[String]>);

impl Hosts {
    /// The hosts of this machine, and these: names or IP addresses without a port, separated by commas.
    pub(crate) fn named(names: &str) -> Self {
        let names = names.split(',').map(|name| plain(name.trim()));
        Self(names.filter(|name| !name.is_empty()).collect())
    }

    fn include(&self, host: &str) -> bool {
        let host = plain(host);
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_some_and(|address| address.to_canonical().is_loopback())
            || self.0.contains(&host)
    }
}

/// In lower case, and without the dot at the end of a full name.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Refuses requests for all other hosts. A request that names no host does not come from a browser.
pub(crate) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    // Over HTTP/2, the host is in the target.
    let asked = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(asked), _) => Some(asked.host().to_owned()),
        (None, Some(header)) => {
            let asked = header.to_str().ok().and_then(|asked| asked.parse::<Authority>().ok());
            Some(asked.map(|asked| asked.host().to_owned()).unwrap_or_default())
        }
        (None, None) => None,
    };
    if asked.is_some_and(|host| !hosts.include(&host)) {
        return (StatusCode::MISDIRECTED_REQUEST, "this server does not answer for that host\n").into_response();
    }
    next.run(request).await
}
