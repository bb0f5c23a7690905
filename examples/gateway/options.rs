//! What the program is started with.

use std::time::Duration;

use tower_sse::Heartbeat;

use crate::{sockets::Patience, upstream::Upstream};

pub(crate) const USAGE: &str =
    "usage: gateway --upstream http://HOST[:PORT][/PATH] [--listen ADDR:PORT] [--heartbeat-ms MS]
               [--gone-after-ms MS] [--finish-ms MS]

  --upstream       where requests go
  --listen         where clients come; port 0 picks a free one (default: 127.0.0.1:8080)
  --heartbeat-ms   how long a stream is silent before it gets a heartbeat; 0 sends none (default: 15000)
  --gone-after-ms  how long a peer may answer nothing before its connection is closed (default: 30000, at least 1000)
  --finish-ms      how long answers may go on when the gateway is told to end (default: 30000)";

pub(crate) struct Options {
    pub(crate) listen: String,
    pub(crate) upstream: Upstream,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) patience: Patience,
    pub(crate) finish: Duration,
}

impl Options {
    /// `None`: help is asked for.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut listen = "127.0.0.1:8080".to_owned();
        let mut upstream = None;
        let mut heartbeat = Heartbeat::every(Heartbeat::DEFAULT_INTERVAL);
        let mut patience = Patience::default();
        let mut finish = Duration::from_secs(30);
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--listen" => listen = value()?,
                "--upstream" => upstream = Some(Upstream::parse(&value()?)?),
                "--heartbeat-ms" => {
                    heartbeat = match milliseconds(&flag, &value()?)? {
                        Duration::ZERO => Heartbeat::off(),
                        interval => Heartbeat::every(interval),
                    };
                }
                "--gone-after-ms" => patience = Patience::of(milliseconds(&flag, &value()?)?),
                "--finish-ms" => finish = milliseconds(&flag, &value()?)?,
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        let upstream = upstream.ok_or("--upstream is missing")?;
        Ok(Some(Self { listen, upstream, heartbeat, patience, finish }))
    }
}

fn milliseconds(flag: &str, text: &str) -> Result<Duration, String> {
    let ms = text.parse().map_err(|_| format!("{flag} takes whole milliseconds, not {text:?}"))?;
    Ok(Duration::from_millis(ms))
}
