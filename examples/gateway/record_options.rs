//! What the command line says about recordings.

use std::time::Duration;

use http::HeaderName;

use crate::{
    headers::Pattern,
    options::{milliseconds, number, parsed},
};

pub(crate) struct RecordOptions {
    /// The header in which a trusted proxy says who asks.
    pub(crate) owner: Option<HeaderName>,
    /// The memory of all recordings, in bytes.
    pub(crate) bytes: usize,
    pub(crate) keep: Duration,
    /// `None`: half of all requests.
    pub(crate) at_most: Option<u32>,
    pub(crate) unread: Duration,
    is_set: bool,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            owner: None,
            bytes: 64 << 20,
            keep: Duration::from_secs(300),
            at_most: None,
            unread: Duration::from_secs(120),
            is_set: false,
        }
    }
}

impl RecordOptions {
    /// Takes a flag that begins with `--record-`.
    pub(crate) fn set(&mut self, flag: &str, value: &str) -> Result<(), String> {
        self.is_set = true;
        match flag {
            "--record-owner" => self.owner = Some(parsed(flag, value, "the name of a header")?),
            "--record-mb" => self.bytes = (number(flag, value)? as usize).saturating_mul(1 << 20),
            "--record-keep-ms" => self.keep = milliseconds(flag, value)?,
            "--record-at-most" => self.at_most = Some(number(flag, value)?),
            "--record-unread-ms" => self.unread = milliseconds(flag, value)?,
            _ => return Err(format!("unknown argument {flag:?}")),
        }
        Ok(())
    }

    /// Whether the flags go together. Returns the header that no client may send.
    pub(crate) fn check(&self, records: bool, has_trusted_proxies: bool) -> Result<Option<Pattern>, String> {
        if self.is_set && !records {
            return Err("flags that begin with --record- need --record".to_owned());
        }
        let Some(owner) = &self.owner else { return Ok(None) };
        if !has_trusted_proxies {
            return Err("--record-owner needs --trusted-proxy: otherwise any client could say who it is".to_owned());
        }
        parsed("--record-owner", owner.as_str(), "the name of a header").map(Some)
    }
}
