//! What the program is started with.

use std::{net::IpAddr, time::Duration};

use tower_sse::Heartbeat;

use crate::{names::Name, sockets::Patience, upstream::Upstream};

pub(crate) const USAGE: &str =
    "usage: gateway --upstream http://HOST[:PORT][/PATH] [--listen ADDR:PORT] [--host NAME[:PORT]]...
               [--upstream-host] [--trusted-proxy ADDR]... [--heartbeat-ms MS] [--gone-after-ms MS]
               [--body-ms MS] [--answer-ms MS] [--finish-ms MS]

  --upstream       where requests go
  --listen         where clients come; port 0 picks a free one (default: 127.0.0.1:8080)
  --host           a name that clients may ask for, with a port or with any; others get a 421 (default: all)
  --upstream-host  tells the upstream its own host instead of the one that was asked for. This takes away what the
                   upstream does against pages of other sites (DNS rebinding), so it needs --host
  --trusted-proxy  the address of a proxy before this one: what it says of its clients goes on
  --heartbeat-ms   how long a stream is silent before it gets a heartbeat; 0 sends none (default: 15000)
  --gone-after-ms  how long a peer may answer nothing, or send no request, before its connection is closed
                   (default: 30000, at least 1000)
  --body-ms        how long the body of a request may be waited for, and a second more for each 500 bytes of it
                   (default: 30000)
  --answer-ms      the same of an answer that is no event stream, and how long one may take to begin
                   (default: 600000)
  --finish-ms      how long answers may go on when the gateway is told to end (default: 30000)";

pub(crate) struct Options {
    pub(crate) listen: String,
    pub(crate) upstream: Upstream,
    pub(crate) rules: Rules,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) patience: Patience,
    pub(crate) finish: Duration,
}

/// What holds for each request.
pub(crate) struct Rules {
    /// Empty: all.
    pub(crate) hosts: Vec<Name>,
    pub(crate) sends_upstream_host: bool,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    pub(crate) body: Duration,
    pub(crate) answer: Duration,
}

impl Options {
    /// `None`: help is asked for.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut listen = "127.0.0.1:8080".to_owned();
        let mut upstream = None;
        let mut rules = Rules {
            hosts: Vec::new(),
            sends_upstream_host: false,
            trusted_proxies: Vec::new(),
            body: Duration::from_secs(30),
            answer: Duration::from_secs(600),
        };
        let mut heartbeat = Heartbeat::every(Heartbeat::DEFAULT_INTERVAL);
        let mut patience = Patience::default();
        let mut finish = Duration::from_secs(30);
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--listen" => listen = value()?,
                "--upstream" => upstream = Some(Upstream::parse(&value()?)?),
                "--host" => rules.hosts.push(parsed(&flag, &value()?, "NAME or NAME:PORT")?),
                "--upstream-host" => rules.sends_upstream_host = true,
                "--trusted-proxy" => rules.trusted_proxies.push(parsed(&flag, &value()?, "an IP address")?),
                "--heartbeat-ms" => {
                    heartbeat = match milliseconds(&flag, &value()?)? {
                        Duration::ZERO => Heartbeat::off(),
                        interval => Heartbeat::every(interval),
                    };
                }
                "--gone-after-ms" => patience = Patience::of(milliseconds(&flag, &value()?)?),
                "--body-ms" => rules.body = milliseconds(&flag, &value()?)?,
                "--answer-ms" => rules.answer = milliseconds(&flag, &value()?)?,
                "--finish-ms" => finish = milliseconds(&flag, &value()?)?,
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        let upstream = upstream.ok_or("--upstream is missing")?;
        if rules.sends_upstream_host && rules.hosts.is_empty() {
            return Err(
                "--upstream-host needs --host: nobody else would look at the host that was asked for".to_owned()
            );
        }
        Ok(Some(Self { listen, upstream, rules, heartbeat, patience, finish }))
    }
}

fn parsed<T: std::str::FromStr>(flag: &str, text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{flag} takes {what}, not {text:?}"))
}

fn milliseconds(flag: &str, text: &str) -> Result<Duration, String> {
    parsed(flag, text, "whole milliseconds").map(Duration::from_millis)
}
