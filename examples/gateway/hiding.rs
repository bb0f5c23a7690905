//! Response headers that contain the upstream's address. They are changed to the gateway's, or removed.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ALT_SVC, CONTENT_LOCATION, LINK, LOCATION, PROXY_AUTHENTICATE, REFRESH, SET_COOKIE, WARNING, WWW_AUTHENTICATE,
    },
};

use crate::{translation::Translation, via::hide_hops};

/// Headers that only contain information about the inside.
const OF_THE_INSIDE: [&str; 8] =
    ["proxy-status", "x-host", "x-hostname", "x-instance", "x-proxy-host", "x-served-by", "x-server", "x-server-name"];
const OF_THE_INSIDE_PREFIXES: [&str; 6] =
    ["forwarded", "x-backend", "x-envoy-", "x-forwarded", "x-real-", "x-upstream"];

/// Headers that contain a server's name where other headers contain words.
const NAMES_A_SERVER: [HeaderName; 4] =
    [WWW_AUTHENTICATE, PROXY_AUTHENTICATE, WARNING, HeaderName::from_static("server-timing")];

/// The beginnings of the upstream's URLs.
const SCHEMES: [&str; 4] = ["http:", "https:", "ws:", "wss:"];

/// Hides the upstream in all headers of a response, or in its trailers.
pub(crate) fn hide(headers: &mut HeaderMap, outside: &Translation) {
    let is_of_the_inside = |name: &&HeaderName| {
        // It has other ports of the upstream.
        *name == ALT_SVC
            || OF_THE_INSIDE.contains(&name.as_str())
            || OF_THE_INSIDE_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    let mut removed: Vec<_> = headers.keys().filter(is_of_the_inside).cloned().collect();
    for (name, value) in headers.iter_mut() {
        let said = String::from_utf8_lossy(value.as_bytes());
        let first = match name {
            name if name == LOCATION || name == CONTENT_LOCATION => outside.path(&said),
            name if name == REFRESH => refresh(&said, outside),
            name if name == LINK => links(&said, outside),
            name if name == SET_COOKIE => cookie(&said, outside),
            _ => None,
        };
        let then = match first.as_deref().unwrap_or(&said) {
            // The value of a cookie passes unchanged.
            _ if name == SET_COOKIE => Ok(None),
            said => words(said, outside, NAMES_A_SERVER.contains(name)),
        };
        match then.map(|then| then.or(first).map(HeaderValue::try_from)) {
            Ok(None) => {}
            Ok(Some(Ok(hidden))) => *value = hidden,
            Ok(Some(Err(_))) | Err(Unnamed) => removed.push(name.clone()),
        }
    }
    for name in removed {
        headers.remove(name);
    }
    hide_hops(headers);
}

/// `SECONDS; url=REFERENCE`, and all other forms that browsers accept (HTML, "shared declarative refresh steps").
fn refresh(value: &str, outside: &Translation) -> Option<String> {
    let value = value.trim_start();
    let (seconds, rest) = value.split_at(value.find(|char: char| !char.is_ascii_digit() && char != '.')?);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix([';', ',']).unwrap_or(rest).trim_start();
    let named = rest.get(..3).filter(|name| name.eq_ignore_ascii_case("url"));
    let reference = named.and_then(|_| rest[3..].trim_start().strip_prefix('=')).unwrap_or(rest).trim();
    let reference = match reference.chars().next() {
        Some(quote @ ('"' | '\'')) => reference[1..].split(quote).next()?,
        _ => reference,
    };
    Some(format!("{seconds}; url={}", outside.path(reference)?))
}

/// `<REFERENCE>; rel=next, <REFERENCE>`.
fn links(value: &str, outside: &Translation) -> Option<String> {
    let mut is_changed = false;
    let links = value.split_inclusive('<').map(|part| {
        let Some((reference, rest)) = part.split_once('>') else { return part.to_owned() };
        let path = outside.path(reference);
        is_changed |= path.is_some();
        format!("{}>{rest}", path.as_deref().unwrap_or(reference))
    });
    let links: String = links.collect();
    is_changed.then_some(links)
}

/// A cookie for the upstream's host becomes a cookie for the requested host.
fn cookie(value: &str, outside: &Translation) -> Option<String> {
    let attributes = value.split(';').enumerate().filter_map(|(number, attribute)| {
        let (name, said) = attribute.split_once('=').unwrap_or((attribute, ""));
        let said = said.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "domain" if number > 0 && outside.is_in_domain(said) => None,
            "path" if number > 0 => Some(match outside.without_base_path(said) {
                Some("") => " Path=/".to_owned(),
                Some(path) => format!(" Path={path}"),
                None => attribute.to_owned(),
            }),
            _ => Some(attribute.to_owned()),
        }
    });
    let cookie = attributes.collect::<Vec<_>>().join(";");
    (cookie != value).then_some(cookie)
}

/// The client named no host, so the gateway has no name to replace the upstream's with.
struct Unnamed;

/// Replaces the upstream in any text that may contain URLs, hosts with ports, and hosts. `None` if the text does not
/// name the upstream.
fn words(text: &str, outside: &Translation, names_a_server: bool) -> Result<Option<String>, Unnamed> {
    // A client computes the response to Digest authentication with the realm.
    let names_a_server = names_a_server && !text.to_ascii_lowercase().contains("digest ");
    let mut is_changed = false;
    let mut said = String::with_capacity(text.len());
    for part in text.split_inclusive([' ', '"', '\'', ',', ';', '<', '>', '(', ')', '{', '}', '=', '|']) {
        let word = part.trim_end_matches(|last: char| " \"',;<>(){}=|.!?*".contains(last));
        let word = if word.contains('[') { word } else { word.trim_end_matches(']') };
        match instead(word, outside, names_a_server)? {
            Some(instead) => {
                is_changed = true;
                said += &instead;
            }
            None => said += word,
        }
        said += &part[word.len()..];
    }
    Ok(is_changed.then_some(said))
}

/// The replacement of a word. `None` if the word does not name the upstream.
fn instead(word: &str, outside: &Translation, names_a_server: bool) -> Result<Option<String>, Unnamed> {
    let lower = word.to_ascii_lowercase();
    let scheme = SCHEMES.iter().filter_map(|scheme| lower.find(scheme)).min();
    let is_without_scheme = word.starts_with(['/', '\\']) && word[1..].starts_with(['/', '\\']);
    if let Some(at) = scheme.or(is_without_scheme.then_some(0)) {
        let (before, url) = word.split_at(at);
        // A quoted string, or JSON, may contain backslashes without a meaning.
        let path = outside.path_of_url(url).or_else(|| outside.path_of_url(&url.replace('\\', "")));
        let Some(path) = path else { return Ok(None) };
        let origin = &outside.asked().ok_or(Unnamed)?.origin;
        return Ok(Some(format!("{before}{origin}{path}")));
    }
    let (word, path) = word.split_at(word.find(['/', '?', '#', '\\']).unwrap_or(word.len()));
    let (user, host) = word.split_at(word.rfind('@').map_or(0, |at| at + 1));
    let port = host.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
    let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_own = match has_port {
        true => outside.is_authority(host),
        false => (names_a_server || host.contains(['.', ':'])) && outside.is_host(host, !names_a_server),
    };
    if !is_own {
        return Ok(None);
    }
    Ok(Some(format!("{user}{}{path}", outside.asked().ok_or(Unnamed)?.authority)))
}
