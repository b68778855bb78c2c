//! Addresses, DNS servers and the MTU of a network, from text.

use std::net::IpAddr;

use crate::tunnel::check_mtu;
use wg_embed::error::{Error, ErrorKind, Result};

/// The settings in the texts of a [`wg_net_options_t`](crate::wg_net_options_t).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns: Vec<IpAddr>,
    pub(super) mtu: Option<u16>,
}

impl Settings {
    /// Parses the texts.
    pub(super) fn read(settings: Option<&str>, addresses: Option<&str>, dns: Option<&str>) -> Result<Self> {
        let mut read = Self::default();
        for (number, line) in settings.unwrap_or_default().lines().enumerate() {
            read.line(line).map_err(|err| err.at(format_args!("settings: line {}", number + 1)))?;
        }
        for text in items(addresses) {
            read.addresses.push(address(text).map_err(|err| err.at("addresses"))?);
        }
        for text in items(dns) {
            read.dns.push(ip(text).map_err(|err| err.at("dns"))?);
        }
        Ok(read)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let Some((key, value)) = line.split_once('=') else {
            return Err(Error::new(ErrorKind::Protocol, "it is not of the form key=value"));
        };
        match key {
            "address" => self.addresses.push(address(value)?),
            "dns" => self.dns.push(ip(value)?),
            "mtu" => {
                let mtu = value.parse().map_err(|_| Error::invalid("mtu is not a number"))?;
                self.mtu = Some(check_mtu(mtu)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The parts between commas.
fn items(text: Option<&str>) -> impl Iterator<Item = &str> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    text.into_iter().flat_map(|text| text.split(',')).map(str::trim)
}

/// An address with or without the length of a prefix.
fn address(text: &str) -> Result<IpAddr> {
    let Some((address, len)) = text.split_once('/') else {
        return ip(text);
    };
    let address = ip(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match len.parse::<u8>() {
        Ok(len) if len <= most => Ok(address),
        _ => Err(Error::invalid(format!("\"{text}\" has an invalid prefix length"))),
    }
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("\"{text}\" is not an IP address")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn settings_of_a_conf_file_are_read_as_they_are() {
        let text = "address=10.0.0.2/24\naddress=fd00::2/64\ndns=10.0.0.1\nsearch=example.com\nmtu=1380\n\
                    pre_up=ip link=x\ntable=off\n";
        let read = Settings::read(Some(text), None, None).unwrap();
        let expected = Settings { addresses: ips(&["10.0.0.2", "fd00::2"]), dns: ips(&["10.0.0.1"]), mtu: Some(1380) };
        assert_eq!(read, expected);
    }

    #[test]
    fn lists_are_added_to_them() {
        let read =
            Settings::read(Some("address=10.0.0.2\n"), Some(" 10.0.0.3/32,fd00::3/128 , ::4"), Some("::1")).unwrap();
        assert_eq!(read.addresses, ips(&["10.0.0.2", "10.0.0.3", "fd00::3", "::4"]));
        assert_eq!((read.dns, read.mtu), (ips(&["::1"]), None));
        assert_eq!(Settings::read(None, Some(" "), Some("")).unwrap(), Settings::default());
    }

    #[test]
    fn bad_text_is_refused_and_named() {
        for (settings, addresses, dns, text) in [
            (Some("address"), None, None, "settings: line 1: it is not of the form key=value"),
            (
                Some("dns=::1\naddress=10.0.0.0/33"),
                None,
                None,
                "settings: line 2: \"10.0.0.0/33\" has an invalid prefix length",
            ),
            (Some("mtu=500"), None, None, "settings: line 1: mtu is 500, not in 576 to 65535"),
            (Some("mtu=x"), None, None, "settings: line 1: mtu is not a number"),
            (None, Some("10.0.0.1,"), None, "addresses: \"\" is not an IP address"),
            (None, Some("host"), None, "addresses: \"host\" is not an IP address"),
            (None, None, Some("10.0.0.1/32"), "dns: \"10.0.0.1/32\" is not an IP address"),
        ] {
            assert_eq!(Settings::read(settings, addresses, dns).unwrap_err().to_string(), text);
        }
    }
}
