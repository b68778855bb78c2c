//! Host names of endpoints.

use std::{fmt, str::FromStr};

use super::text;
use crate::error::{Error, Result};

/// A host name and a port, not yet resolved.
///
/// ```
/// use wg_embed::config::HostPort;
///
/// let at: HostPort = "vpn.example.org:51820".parse()?;
/// assert_eq!((at.host(), at.port()), ("vpn.example.org", 51820));
/// assert!("192.0.2.1:51820".parse::<HostPort>().is_err()); // an address
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

impl HostPort {
    /// Returns the name: letters and digits of any script, `-`, `_` and `.`; at most 253 bytes; not a numeric address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for HostPort {
    type Err = Error;

    /// Reads `host:port`, with a decimal port.
    fn from_str(text: &str) -> Result<Self> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| Error::invalid("the port is missing"))?;
        if !is_name(host) {
            return Err(Error::invalid("not a host name"));
        }
        let port = text::decimal(port).map_err(|e| e.at("port"))?;
        Ok(Self { host: host.into(), port })
    }
}

/// Returns whether a text may be a host or domain name, and certainly is not an address.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=253).contains(&text.len()) && text.chars().all(allowed) && !is_numeric(text)
}

/// Returns whether a text is intended as an address: the test of wg-quick.
pub(super) fn is_numeric(text: &str) -> bool {
    let digits_and_dots = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.contains(':') || (digits_and_dots && !text.is_empty())
}
