//! Translates the upstream's names for itself into the name that a client asked for.

use std::{
    net::{IpAddr, UdpSocket},
    sync::Arc,
};

use http::HeaderMap;
use hyper_util::client::legacy::connect::HttpInfo;
use url::{Host, Position, Url};

use crate::names::{Name, is_below};

/// The names of the upstream in responses, mainly in URLs. They are parsed as browsers parse them (the URL standard of
/// the WHATWG).
pub(crate) struct UpstreamNames {
    host: String,
    port: u16,
    base_path: String,
    aliases: Vec<Name>,
    /// How this machine calls itself: its whole name, and the first part of it.
    machine: Vec<String>,
    /// Those of a page outside: what a reference means depends on the scheme of its page.
    pages: [Url; 2],
}

impl UpstreamNames {
    /// `base_path` has no slash at its end. `aliases` are further names of the upstream.
    pub(crate) fn new(upstream: &Url, base_path: &str, aliases: Vec<Name>) -> Result<Self, url::ParseError> {
        Ok(Self {
            host: host_of(upstream).ok_or(url::ParseError::EmptyHost)?,
            port: upstream.port_or_known_default().unwrap_or(80),
            base_path: base_path.to_owned(),
            aliases,
            machine: names_of_this_machine(),
            pages: [Url::parse("http://outside.invalid/")?, Url::parse("https://outside.invalid/")?],
        })
    }
}

/// The translation for one response: where it came from, and the name that its client asked for.
pub(crate) struct Translation {
    names: Arc<UpstreamNames>,
    /// The upstream's address.
    address: Option<IpAddr>,
    /// The upstream is on this machine, which has many names.
    is_here: bool,
    asked: Option<Asked>,
}

/// What a client asked for.
#[derive(Clone)]
pub(crate) struct Asked {
    /// `http://HOST[:PORT]`, or with `https`.
    pub(crate) origin: String,
    pub(crate) authority: String,
}

impl Asked {
    /// Reads what the request tells the upstream. Behind a trusted proxy, that is what the proxy was asked for.
    pub(crate) fn of(request: &HeaderMap) -> Option<Self> {
        let first = |name| Some(request.get(name)?.to_str().ok()?.split(',').next()?.trim());
        let authority = first("x-forwarded-host")?;
        let is_secure = first("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let scheme = if is_secure { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{authority}/")).ok().filter(|url| url.path() == "/")?;
        let is_host = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        is_host.then(|| Self { origin: format!("{scheme}://{authority}"), authority: authority.to_owned() })
    }
}

impl Translation {
    /// `asked` is `None` for a client that named no host.
    pub(crate) fn new(names: &Arc<UpstreamNames>, connection: Option<&HttpInfo>, asked: Option<Asked>) -> Self {
        let address = connection.map(|it| it.remote_addr().ip().to_canonical());
        let own = connection.map(|it| it.local_addr().ip().to_canonical());
        let is_here = is_loopback(&names.host) || address.is_some_and(|it| it.is_loopback() || Some(it) == own);
        Self { names: Arc::clone(names), address, is_here, asked }
    }

    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.asked.as_ref()
    }

    /// Translates a reference to the upstream into a path on the outside. `None` if the reference needs no change.
    pub(crate) fn path(&self, reference: &str) -> Option<String> {
        let reference = cleaned(reference);
        let urls: Vec<_> = self.names.pages.iter().filter_map(|page| page.join(&reference).ok()).collect();
        if let Some(url) = urls.iter().find(|url| self.is(url)) {
            return Some(self.path_of(url));
        }
        let is_outside = |url: &&Url| url.host_str() == self.names.pages[0].host_str();
        let url = urls.first().filter(is_outside).filter(|_| reference.starts_with(['/', '\\']))?;
        self.without_base(url).map(|_| self.path_of(url))
    }

    /// Translates a URL of the upstream into its path on the outside. `None` if the URL is not the upstream's.
    pub(crate) fn path_of_url(&self, text: &str) -> Option<String> {
        let url = self.names.pages[0].join(&cleaned(text)).ok().filter(|url| self.is(url))?;
        let has_path = url.path() != "/" || text.ends_with(['/', '\\']) || url.query().is_some();
        Some(if has_path { self.path_of(&url) } else { String::new() })
    }

    /// Whether this is `HOST:PORT` of the upstream.
    pub(crate) fn is_authority(&self, text: &str) -> bool {
        Url::parse(&format!("http://{text}/")).is_ok_and(|url| self.is(&url))
    }

    /// Whether a host without a port is the upstream's. With `but_loopback`, a name that every machine has does not
    /// count.
    pub(crate) fn is_host(&self, text: &str, but_loopback: bool) -> bool {
        let host = Url::parse(&format!("http://{text}/")).ok().and_then(|url| host_of(&url));
        host.is_some_and(|host| {
            let counts = !but_loopback || (!is_loopback(&host) && host.contains(['.', ':']));
            let is_alias = || self.names.aliases.iter().any(|name| name.is_of(&host, self.names.port));
            counts && (self.is_own(&host) || is_alias())
        })
    }

    /// Whether this is how the upstream's machine calls itself.
    pub(crate) fn is_machine(&self, text: &str) -> bool {
        self.is_here && self.names.machine.iter().any(|name| name.eq_ignore_ascii_case(text))
    }

    /// Whether cookies of this domain are for the upstream, or for all below a domain that it is in.
    pub(crate) fn is_in_domain(&self, domain: &str) -> bool {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        is_below(&self.names.host, &domain)
            || self.names.aliases.iter().any(|name| name.is_below(&domain))
            || self.is_host(&domain, false)
    }

    /// A path of the upstream without the base path. `None` if it has another base path.
    pub(crate) fn without_base_path<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&self.names.base_path).filter(|_| !self.names.base_path.is_empty())?;
        (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
    }

    fn without_base<'a>(&self, url: &'a Url) -> Option<&'a str> {
        self.without_base_path(&url[Position::BeforePath..])
    }

    fn path_of(&self, url: &Url) -> String {
        let path = self.without_base(url).unwrap_or(&url[Position::BeforePath..]);
        // Two slashes would begin the name of a host.
        format!("/{}", path.trim_start_matches(['/', '\\']))
    }

    fn is(&self, url: &Url) -> bool {
        let is_known_scheme = ["http", "https", "ws", "wss"].contains(&url.scheme());
        let (Some(host), Some(port)) = (host_of(url), url.port_or_known_default()) else { return false };
        let is_alias = || self.names.aliases.iter().any(|name| name.is_of(&host, port));
        is_known_scheme && ((port == self.names.port && self.is_own(&host)) || is_alias())
    }

    fn is_own(&self, host: &str) -> bool {
        let address = || host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        host == self.names.host
            || (self.address.is_some() && address() == self.address)
            || (self.is_here && (is_loopback(host) || address().is_some_and(is_of_this_machine)))
            || self.is_machine(host)
    }
}

/// Without what browsers skip, and with two slashes where they take more, or others, for two. The `url` crate does not.
///
/// Each char stands for a byte. What is not ASCII is percent-encoded as it is: it need not be UTF-8.
fn cleaned(reference: &str) -> String {
    let mut cleaned = String::with_capacity(reference.len());
    for char in reference.trim_matches(|it| it <= ' ').chars().filter(|it| !"\t\r\n".contains(*it)) {
        match u32::from(char) {
            0..0x80 => cleaned.push(char),
            byte => cleaned.push_str(&format!("%{byte:02X}")),
        }
    }
    let reference = cleaned;
    let rest = reference.trim_start_matches(['/', '\\']);
    if reference.len() - rest.len() < 2 { reference } else { format!("//{rest}") }
}

/// The host in one spelling: without the dot at the end of a full name, and an IPv4 address in its usual form.
fn host_of(url: &Url) -> Option<String> {
    Some(match url.host()? {
        Host::Domain(name) => name.trim_end_matches('.').to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.to_string(),
            None => format!("[{address}]"),
        },
    })
}

/// Whether every machine has this name.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

fn names_of_this_machine() -> Vec<String> {
    #[cfg(unix)]
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok();
    let name = name.unwrap_or_default().to_ascii_lowercase();
    let first = name.split('.').next().unwrap_or_default().to_owned();
    [name, first].into_iter().filter(|name| !name.is_empty()).collect()
}

/// A system lets a program take no other address.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
