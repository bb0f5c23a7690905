//! Response headers that contain the upstream's address. They are changed to the gateway's, or removed.

use std::net::{IpAddr, Ipv6Addr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ALT_SVC, CONTENT_LOCATION, LINK, LOCATION, PROXY_AUTHENTICATE, REFRESH, SERVER, SET_COOKIE, WARNING,
        WWW_AUTHENTICATE,
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

/// Of IPv6, with an IPv4 address at its end.
const LONGEST_ADDRESS: usize = 45;

/// How URLs of the upstream begin.
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
        // Each char stands for a byte, whatever it means.
        let said: String = value.as_bytes().iter().copied().map(char::from).collect();
        match hidden(name, &said, outside).map(|hidden| hidden.as_deref().map(from_chars)) {
            Ok(None) => {}
            Ok(Some(Some(hidden))) => *value = hidden,
            Ok(Some(None)) | Err(Unnamed) => removed.push(name.clone()),
        }
    }
    for name in removed {
        headers.remove(name);
    }
    hide_hops(headers);
}

/// What a header says instead. `None`: it may stay as it is.
fn hidden(name: &HeaderName, said: &str, outside: &Translation) -> Result<Option<String>, Unnamed> {
    let first = match name {
        name if name == LOCATION || name == CONTENT_LOCATION => outside.path(said),
        name if name == REFRESH => refresh(said, outside),
        name if name == LINK => links(said, outside),
        name if name == SET_COOKIE => cookie(said, outside)?,
        _ => None,
    };
    if name == SET_COOKIE {
        return Ok(first);
    }
    let said = first.as_deref().unwrap_or(said);
    let then = words(said, outside, NAMES_A_SERVER.contains(name))?;
    let said = then.as_deref().unwrap_or(said);
    // A machine may be called as any word is that a header of the standards uses.
    let is_of_its_own = name.as_str().starts_with("x-") || name == SERVER;
    Ok(left(said, outside, is_of_its_own)?.or(then).or(first))
}

fn from_chars(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = text.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

/// `SECONDS; url=REFERENCE`, and all that browsers take for it (HTML, "shared declarative refresh steps").
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

/// A cookie for the upstream's host is one for the host that was asked. Its value is nobody's business.
fn cookie(value: &str, outside: &Translation) -> Result<Option<String>, Unnamed> {
    let mut attributes = Vec::new();
    for (number, attribute) in value.split(';').enumerate() {
        let (name, said) = attribute.split_once('=').unwrap_or((attribute, ""));
        let said = said.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            _ if number == 0 => attributes.push(attribute.to_owned()),
            "domain" if outside.is_in_domain(said) => {}
            "path" => attributes.push(match outside.without_base_path(said) {
                Some("") => " Path=/".to_owned(),
                Some(path) => format!(" Path={path}"),
                None => attribute.to_owned(),
            }),
            _ => attributes.push(left(attribute, outside, true)?.unwrap_or_else(|| attribute.to_owned())),
        }
    }
    let cookie = attributes.join(";");
    Ok((cookie != value).then_some(cookie))
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
    for part in text.split_inclusive([' ', '\t', '"', '\'', ',', ';', '<', '>', '(', ')', '{', '}', '=', '|']) {
        let word = part.trim_end_matches(|last: char| " \t\"',;<>(){}=|.!?*".contains(last));
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

/// What is left of the upstream in a text, whatever stands around it: its host with its port, and its host alone unless that is the
/// beginning of a URL or all machines have that name. `with_machine`: the name of its machine as well.
fn left(text: &str, outside: &Translation, with_machine: bool) -> Result<Option<String>, Unnamed> {
    let is_of_host = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
    let mut said = String::new();
    let mut done = 0;
    let mut at = 0;
    while let Some(begins) = text[at..].find(is_of_host).map(|begins| at + begins) {
        let ends = text[begins..].find(|char| !is_of_host(char)).map_or(text.len(), |length| begins + length);
        let (run, rest) = (&text[begins..ends], &text[ends..]);
        at = ends;
        let port = port_at(rest);
        let is_of_url = ["//", "\\/", "@"].iter().any(|before| text[..begins].ends_with(before));
        let own = match port {
            Some(port) => own_with_port(&text[done..ends], run, &port[port.len() - digits(port)..], outside),
            None if is_of_url => None,
            None => {
                let host = run.trim_end_matches('.');
                // A number alone is a length rather than an address.
                let is_own = host.contains('.') && outside.is_host(host, true);
                (is_own || (with_machine && outside.is_machine(host))).then_some(run.len())
            }
        };
        if let Some(length) = own {
            let has_brackets = rest.starts_with(']') && text[..ends - length].ends_with('[');
            let length = length + usize::from(has_brackets);
            said += &text[done..ends - length];
            said += &outside.asked().ok_or(Unnamed)?.authority;
            done = ends + port.map_or(0, str::len);
            at = done;
        }
    }
    let is_changed = done > 0;
    said += &text[done..];
    Ok(is_changed.then_some(said))
}

/// `:PORT`, or `]:PORT` or `\:PORT`, if a text begins so.
fn port_at(text: &str) -> Option<&str> {
    let colon = text.strip_prefix([']', '\\']).unwrap_or(text).strip_prefix(':')?;
    let length = text.len() - colon.len() + digits_from(colon);
    (digits_from(colon) > 0).then(|| &text[..length])
}

fn digits_from(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// At the end of a text.
fn digits(text: &str) -> usize {
    text.bytes().rev().take_while(u8::is_ascii_digit).count()
}

/// How many bytes before a port are the upstream's host. `text`: up to there, with `run` at its end.
fn own_with_port(text: &str, run: &str, port: &str, outside: &Translation) -> Option<usize> {
    let is_own = |host: &str| outside.is_authority(&format!("{host}:{port}"));
    // An IPv6 address, in brackets or without.
    let is_of_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    let length = text.bytes().rev().take(LONGEST_ADDRESS).take_while(is_of_address).count();
    let mut ends = (text.len() - length..text.len()).filter_map(|from| text.get(from..));
    if let Some(address) = ends.find(|end| end.parse::<Ipv6Addr>().is_ok()) {
        return is_own(&format!("[{address}]")).then_some(address.len());
    }
    // A number of few digits is a time, or a count.
    let is_host = run.len() > 3 || run.contains(|char: char| !char.is_ascii_digit());
    if is_host && is_own(run) {
        return Some(run.len());
    }
    // An address behind something else.
    let ends = run.match_indices(['-', '_']).map(|(at, _)| &run[at + 1..]);
    ends.filter(|end| end.parse::<IpAddr>().is_ok()).find(|end| is_own(end)).map(str::len)
}
