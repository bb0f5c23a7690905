//! What the program is started with.

use std::time::Duration;

use tower_sse::Heartbeat;

use crate::upstream::Upstream;

pub(crate) const USAGE: &str =
    "usage: gateway --upstream http://HOST[:PORT][/PATH] [--listen ADDR:PORT] [--heartbeat-ms MS]

  --upstream      where requests go
  --listen        where clients come; port 0 picks a free one (default: 127.0.0.1:8080)
  --heartbeat-ms  how long a stream is silent before it gets a heartbeat; 0 sends none (default: 15000)";

pub(crate) struct Options {
    pub(crate) listen: String,
    pub(crate) upstream: Upstream,
    pub(crate) heartbeat: Heartbeat,
}

impl Options {
    /// `None`: help is asked for.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut listen = "127.0.0.1:8080".to_owned();
        let mut upstream = None;
        let mut heartbeat = Heartbeat::every(Heartbeat::DEFAULT_INTERVAL);
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--listen" => listen = value()?,
                "--upstream" => upstream = Some(Upstream::parse(&value()?)?),
                "--heartbeat-ms" => {
                    let text = value()?;
                    heartbeat = match text.parse() {
                        Ok(0) => Heartbeat::off(),
                        Ok(ms) => Heartbeat::every(Duration::from_millis(ms)),
                        Err(_) => return Err(format!("--heartbeat-ms takes whole milliseconds, not {text:?}")),
                    };
                }
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        let upstream = upstream.ok_or("--upstream is missing")?;
        Ok(Some(Self { listen, upstream, heartbeat }))
    }
}
