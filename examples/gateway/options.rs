//! The command line.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use tower_sse::Heartbeat;

use crate::{headers::Pattern, names::Name, record_options::RecordOptions, sockets::Patience, upstream::Upstream};

pub(crate) const USAGE: &str =
    "usage: gateway --upstream http://HOST[:PORT][/PATH] [--listen ADDR:PORT] [--host NAME[:PORT]]...
               [--upstream-host] [--upstream-name NAME[:PORT]]... [--trusted-proxy ADDR]...
               [--remove NAME|PREFIX*]... [--requests-per-address N] [--requests-per-connection N]
               [--heartbeat-ms MS] [--single-line-heartbeats] [--open-after-ms MS] [--retry-upstream]
               [--retry-for-ms MS] [--record] [--record-owner HEADER] [--record-mb MB] [--record-keep-ms MS]
               [--record-at-most N] [--record-unread-ms MS]
               [--gone-after-ms MS] [--body-ms MS] [--answer-ms MS] [--finish-ms MS]

  --upstream       where requests go
  --listen         where clients come; port 0 picks a free one (default: 127.0.0.1:8080)
  --host           a name that clients may ask for, with a port or with any; others get a 421 (default: all)
  --upstream-host  tells the upstream its own host instead of the one that was asked for. This takes away what the
                   upstream does against pages of other sites (DNS rebinding), so it needs --host
  --upstream-name  another name that the upstream has for itself, with a port or with any: its answers shall not tell it
  --trusted-proxy  the address of a proxy before this one: what it says of its clients goes on, and a request counts
                   for the address that it says
  --remove         a header that the server believes and that no client may send, or with `*` all whose names begin
                   so. Many such names are known (headers.rs); give those that your server and your login proxy use
  --requests-per-address
                   how many requests and open streams one client address may have at once; the next gets a 429. Of
                   IPv6 addresses, a /64 network is one (default: a quarter of all that the limit on open files
                   allows, at most 1000)
  --requests-per-connection
                   the same of one HTTP/2 connection; the next stream is refused (default: half of what an address
                   may have, at most 100; with --trusted-proxy: 100)
  --heartbeat-ms   how long a stream is silent before it gets a heartbeat; 0 sends none (default: 15000)
  --single-line-heartbeats
                   heartbeats are a comment without a blank line after it, for clients that take the blank line for an
                   event (openai-go before 3.43). Other clients lose the next event after such a line (@google/genai).
                   Recordings always have this form
  --open-after-ms  how long a request that accepts nothing but an event stream waits for the upstream's head; then its
                   stream opens with a 200 and heartbeats, and an error comes as an event (default: for ever)
  --retry-upstream a GET's event stream that breaks is asked for again with the id of its last event, if it has one.
                   Its client sees heartbeats meanwhile, and no break. If the upstream begins again instead, what the
                   client has is left out, by its ids
  --retry-for-ms   how long a stream may be broken until its client is told (default: 60000). An upstream that is not
                   reached, or that answers 429, 502, 503 or 504, is asked until then, and not before its `retry-after`
  --record         records event streams of requests with an `Idempotency-Key`: the same request again gets the rest
                   after its `Last-Event-ID`, or all, and the upstream is asked once. Whose a key is, `authorization`,
                   `x-api-key`, `api-key` and `x-goog-api-key` say, together with all cookies. A request without any of
                   the four is not recorded, as anybody who guesses its key would get its answer
  --record-owner   a header in which a trusted proxy says who asks, instead of that. No client may send it. It needs
                   --trusted-proxy
  --record-mb      how much memory all recordings take, in MB; of one, a quarter and at most 16 MB are kept,
                   besides events that have not arrived as a whole
                   (default: 64)
  --record-keep-ms how long a recording is kept after its end (default: 300000)
  --record-at-most how many recordings are made at once; the next one gets a 503. Each of them has a connection to the
                   upstream and counts for the address that began it, also when its client is gone (default: half of
                   the requests that the limit on open files allows)
  --record-unread-ms
                   how long a recording is made that nobody reads (default: 120000)
  --gone-after-ms  how long a peer may answer nothing, or send no request, before its connection is closed
                   (default: 30000, at least 1000)
  --body-ms        how long the body of a request may be waited for, and a second more for each 500 bytes of it
                   (default: 30000)
  --answer-ms      the same of an answer that is no event stream, and how long one may take to begin
                   (default: 600000)
  --finish-ms      how long answers may go on when the gateway is told to end (default: 30000). Then an event stream
                   that answers a GET ends cleanly, and any other one with an error";

/// The minimum that HTTP/2 recommends, if the total allows it (RFC 9113, 6.5.2).
const MOST_PER_CONNECTION: u32 = 100;

const RETRY_FOR: Duration = Duration::from_secs(60);

pub(crate) struct Options {
    pub(crate) listen: String,
    pub(crate) upstream: Upstream,
    pub(crate) rules: Rules,
    pub(crate) heartbeat: Heartbeat,
    /// `Duration::MAX`: never.
    pub(crate) open_after: Duration,
    /// `None`: nothing is recorded.
    pub(crate) record: Option<RecordOptions>,
    pub(crate) patience: Patience,
    pub(crate) finish: Duration,
    pub(crate) per_address: Option<u32>,
    pub(crate) per_connection: Option<u32>,
}

/// The settings that apply to each request.
pub(crate) struct Rules {
    /// Empty: all hosts.
    pub(crate) hosts: Vec<Name>,
    pub(crate) sends_upstream_host: bool,
    pub(crate) trusted_proxies: Vec<IpAddr>,
    /// What else only a proxy may say.
    pub(crate) removed: Arc<[Pattern]>,
    pub(crate) body: Duration,
    pub(crate) answer: Duration,
    /// How long a stream of the upstream may be broken. `None`: it is not asked for again.
    pub(crate) retry_upstream: Option<Duration>,
}

impl Options {
    /// Returns `None` if the user asks for help.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut listen = "127.0.0.1:8080".to_owned();
        let mut upstream = None;
        let mut upstream_names = Vec::new();
        let mut removed = Vec::new();
        let (mut per_address, mut per_connection) = (None, None);
        let mut rules = Rules {
            hosts: Vec::new(),
            sends_upstream_host: false,
            trusted_proxies: Vec::new(),
            removed: Arc::new([]),
            body: Duration::from_secs(30),
            answer: Duration::from_secs(600),
            retry_upstream: None,
        };
        let (mut single_line, mut open_after) = (false, Duration::MAX);
        let (mut retries, mut retry_for) = (false, None);
        let (mut records, mut record) = (false, RecordOptions::default());
        let mut heartbeat = Heartbeat::every(Heartbeat::DEFAULT_INTERVAL);
        let mut patience = Patience::default();
        let mut finish = Duration::from_secs(30);
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--listen" => listen = value()?,
                "--upstream" => upstream = Some(value()?),
                "--host" => rules.hosts.push(parsed(&flag, &value()?, "NAME or NAME:PORT")?),
                "--upstream-host" => rules.sends_upstream_host = true,
                "--upstream-name" => upstream_names.push(parsed(&flag, &value()?, "NAME or NAME:PORT")?),
                "--trusted-proxy" => {
                    let address: IpAddr = parsed(&flag, &value()?, "an IP address")?;
                    rules.trusted_proxies.push(address.to_canonical());
                }
                "--remove" => removed.push(parsed(&flag, &value()?, "NAME or PREFIX*")?),
                "--requests-per-address" => per_address = Some(number(&flag, &value()?)?),
                "--requests-per-connection" => per_connection = Some(number(&flag, &value()?)?),
                "--heartbeat-ms" => {
                    heartbeat = match milliseconds(&flag, &value()?)? {
                        Duration::ZERO => Heartbeat::off(),
                        interval => Heartbeat::every(interval),
                    };
                }
                "--single-line-heartbeats" => single_line = true,
                "--open-after-ms" => open_after = milliseconds(&flag, &value()?)?,
                "--retry-upstream" => retries = true,
                "--retry-for-ms" => retry_for = Some(milliseconds(&flag, &value()?)?),
                "--record" => records = true,
                flag if flag.starts_with("--record-") => record.set(flag, &value()?)?,
                "--gone-after-ms" => patience = Patience::of(milliseconds(&flag, &value()?)?),
                "--body-ms" => rules.body = milliseconds(&flag, &value()?)?,
                "--answer-ms" => rules.answer = milliseconds(&flag, &value()?)?,
                "--finish-ms" => finish = milliseconds(&flag, &value()?)?,
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        let upstream = Upstream::parse(&upstream.ok_or("--upstream is missing")?, upstream_names)?;
        if rules.sends_upstream_host && rules.hosts.is_empty() {
            return Err("--upstream-host needs --host: otherwise no program checks the requested host".to_owned());
        }
        if retry_for.is_some() && !retries {
            return Err("--retry-for-ms needs --retry-upstream".to_owned());
        }
        rules.retry_upstream = retries.then_some(retry_for.unwrap_or(RETRY_FOR));
        if let Some(owner) = record.check(records, !rules.trusted_proxies.is_empty())? {
            removed.push(owner);
        }
        rules.removed = removed.into();
        Ok(Some(Self {
            listen,
            upstream,
            rules,
            heartbeat: if single_line { heartbeat.single_line() } else { heartbeat },
            open_after,
            record: records.then_some(record),
            patience,
            finish,
            per_address,
            per_connection,
        }))
    }

    /// How many requests an address may have at once, and how many a connection, if the total is `all`.
    pub(crate) fn shares(&self, all: u32) -> (u32, u32) {
        let per_address = self.per_address.unwrap_or((all / 4).clamp(1, 1000));
        // The connection of a proxy carries requests of many addresses.
        let of_one = if self.rules.trusted_proxies.is_empty() { per_address / 2 } else { MOST_PER_CONNECTION };
        (per_address, self.per_connection.unwrap_or(of_one.clamp(1, MOST_PER_CONNECTION)))
    }
}

pub(crate) fn parsed<T: std::str::FromStr>(flag: &str, text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{flag} takes {what}, not {text:?}"))
}

pub(crate) fn number(flag: &str, text: &str) -> Result<u32, String> {
    Ok(parsed::<NonZeroU32>(flag, text, "a whole number from 1 on")?.get())
}

pub(crate) fn milliseconds(flag: &str, text: &str) -> Result<Duration, String> {
    parsed(flag, text, "whole milliseconds").map(Duration::from_millis)
}
