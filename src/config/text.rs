//! The small grammars that the UAPI and `.conf` files share: numbers, addresses, prefixes.
//!
//! They accept exactly what Go's `strconv` and `net/netip` accept, because wireguard-go uses these, and existing texts
//! are written for it. Errors do not repeat the value: the caller has the line, and it might be a secret.

use std::{
    collections::TryReserveError,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{EndpointAddr, PeerEndpoint, host::is_numeric};
use crate::error::{Error, Result};

/// The longest accepted IPv6 zone, in bytes: `IF_MAX_STRING_SIZE` of Windows, the longest of any system.
pub const MAX_ZONE: usize = 256;

/// Reads an unsigned decimal number, with any number of leading zeros.
///
/// `str::parse` alone would accept `+1`.
///
/// # Errors
/// `Invalid` for any other text, and for numbers that do not fit `T`.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Result<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten();
    value.ok_or_else(|| Error::invalid(format!("not a decimal number from 0 to {}", max_of::<T>())))
}

/// Returns the largest value of an unsigned type, for error messages.
fn max_of<T>() -> u64 {
    u64::MAX >> (64 - 8 * size_of::<T>().min(8))
}

/// Reads `address/bits` and keeps the host bits.
///
/// # Errors
/// `Invalid` for a missing length, a length that is too large or has leading zeros, a zone, or a malformed address.
pub(crate) fn prefix(text: &str) -> Result<IpNet> {
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| Error::invalid("a prefix is address/bits"))?;
    let address: IpAddr = address.parse().map_err(|_| Error::invalid("not an IP address"))?;
    if bits.len() > 1 && bits.starts_with('0') {
        return Err(Error::invalid("a prefix length has no leading zeros"));
    }
    let bits = decimal(bits).map_err(|e| e.at("prefix length"))?;
    IpNet::new(address, bits).map_err(|_| Error::invalid("the prefix length is larger than the address"))
}

/// Appends to a text that may contain keys: if it has to grow, its old memory is wiped.
///
/// # Errors
/// If there is no memory for it; nothing is appended then.
pub(crate) fn push_wiped(text: &mut Zeroizing<String>, more: &str) -> std::result::Result<(), TryReserveError> {
    let needed = text.len() + more.len();
    if needed > text.capacity() {
        let mut larger = Zeroizing::new(String::new());
        larger.try_reserve_exact(needed.next_power_of_two())?;
        larger.push_str(text);
        *text = larger;
    }
    text.push_str(more);
    Ok(())
}

impl FromStr for EndpointAddr {
    type Err = Error;

    /// Reads `1.2.3.4:5`, `[::1]:5` or `[fe80::1%eth0]:5`, as Go's `netip.ParseAddrPort` does: the port may be 0 and
    /// have leading zeros, an IPv4-mapped address remains an IPv6 address, host names are refused.
    ///
    /// It is stricter than Go only for the zone: at most [`MAX_ZONE`] bytes, without spaces and control characters.
    fn from_str(text: &str) -> Result<Self> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| Error::invalid("an endpoint is address:port"))?;
        let port = decimal(port).map_err(|e| e.at("port"))?;
        let Some(inner) = host.strip_prefix('[') else {
            let ip: Ipv4Addr =
                host.parse().map_err(|_| Error::invalid("not a numeric address; IPv6 goes in square brackets"))?;
            return Ok(SocketAddr::from((ip, port)).into());
        };
        let inner = inner.strip_suffix(']').ok_or_else(|| Error::invalid("missing ]"))?;
        let (ip, zone) = match inner.split_once('%') {
            None => (inner, None),
            Some((ip, zone)) => (ip, Some(checked_zone(zone)?)),
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| Error::invalid("not an IPv6 address"))?;
        Ok(Self { addr: SocketAddr::from((ip, port)), zone })
    }
}

impl FromStr for PeerEndpoint {
    type Err = Error;

    /// Reads an endpoint as [`EndpointAddr`] does, or else a host name with a port. A malformed address is not accepted
    /// as a name.
    fn from_str(text: &str) -> Result<Self> {
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        if is_numeric(host) || host.starts_with('[') {
            return Ok(Self::Address(text.parse()?));
        }
        Ok(Self::Host(text.parse()?))
    }
}

/// Returns the zone, if it can be printed and read back.
fn checked_zone(zone: &str) -> Result<Box<str>> {
    let printable = !zone.chars().any(|c| c.is_control() || c.is_whitespace());
    if zone.is_empty() || zone.len() > MAX_ZONE || !printable {
        return Err(Error::invalid("the IPv6 zone is empty, too long or not printable"));
    }
    Ok(zone.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_digits() {
        assert_eq!(decimal::<u16>("65535").unwrap(), 65535);
        assert_eq!(decimal::<u16>("0000000000000000000000007").unwrap(), 7);
        for bad in ["", "+1", "-0", "0x10", "65536", "1 ", " 1", "1_0", "١", "99999999999999999999999"] {
            assert!(decimal::<u16>(bad).is_err(), "{bad}");
        }
        let text = decimal::<u32>("off").unwrap_err().to_string();
        assert_eq!(text, "not a decimal number from 0 to 4294967295");
    }

    #[test]
    fn prefixes_are_those_of_netip() {
        for (text, printed) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1/0", "::/0"),
            ("::1.2.3.4/128", "::102:304/128"),
            ("::ffff:1.2.3.4/96", "::ffff:0.0.0.0/96"),
            ("::FFFF:1.2.3.4/128", "::ffff:1.2.3.4/128"),
            ("1:2:3:4:5:6:7::/112", "1:2:3:4:5:6:7:0/112"),
        ] {
            assert_eq!(prefix(text).unwrap().trunc().to_string(), printed);
        }
        for bad in [
            "",
            "/",
            "10.0.0.1",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "10.0.0.0/+8",
            "10.0.0.0/8 ",
            "10.0.0.0/-1",
            "fe80::%1/64",
            "010.0.0.0/8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "1::2::3/64",
            "::1:2:3:4:5:6:7:8/64",
            "12345::/16",
            "::1.2.3.04/128",
            "10.0.0.0/8/8",
            "--10.0.0.0/8",
        ] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_those_of_netip() {
        for (text, printed) in [
            ("1.2.3.4:5", "1.2.3.4:5"),
            ("1.2.3.4:01", "1.2.3.4:1"),
            ("1.2.3.4:0", "1.2.3.4:0"),
            ("[::1]:65535", "[::1]:65535"),
            ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
            ("[fe80::1%2]:1", "[fe80::1%2]:1"),
            ("[fe80::1%a%b]:1", "[fe80::1%a%b]:1"),
            ("[::ffff:1.2.3.4]:0", "[::ffff:1.2.3.4]:0"),
            ("[::1.2.3.4]:7", "[::102:304]:7"),
        ] {
            assert_eq!(text.parse::<EndpointAddr>().unwrap().to_string(), printed);
        }
        let long = format!("[fe80::1%{}]:1", "x".repeat(MAX_ZONE + 1));
        for bad in [
            "",
            ":",
            ":1",
            "host:1",
            "::1:1",
            "1.2.3.4",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:+5",
            "1.2.3.4: 5",
            "01.2.3.4:5",
            "[1.2.3.4]:5",
            "[::1:5",
            "::1]:5",
            "[]:5",
            "[:5",
            "[::1]5",
            "[::1]",
            "[fe80::1%]:1",
            "[%eth0]:1",
            "1.2.3.4%eth0:1",
            "[fe80::1%e\u{0}]:1",
            "[fe80::1%a b]:1",
            long.as_str(),
        ] {
            assert!(bad.parse::<EndpointAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_an_address_or_a_name() {
        let read = |text: &str| text.parse::<PeerEndpoint>();
        for text in ["1.2.3.4:5", "[fe80::1%eth0]:1"] {
            assert_eq!(read(text).unwrap(), PeerEndpoint::Address(text.parse().unwrap()));
        }
        for text in ["host:1", "vpn.example.com:51820", "1.example:7", "bücher.example:9"] {
            assert_eq!(read(text).unwrap(), PeerEndpoint::Host(text.parse().unwrap()));
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "host", "host:", "host:65536", ":1", "a b:1", "1.2.3:5", "01.2.3.4:5", "::1:1", "[host]:1", "h\0st:1"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn endpoints_survive_printing(ip: IpAddr, port: u16, zone in proptest::option::of("[a-z0-9.%\\]-]{1,20}")) {
            let zone = zone.filter(|_| ip.is_ipv6()).map(String::into_boxed_str);
            let endpoint = EndpointAddr { addr: SocketAddr::new(ip, port), zone };
            prop_assert_eq!(endpoint.to_string().parse::<EndpointAddr>().unwrap(), endpoint);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:.%/\\[\\]]{0,40}|\\PC{0,40}") {
            let _ = text.parse::<EndpointAddr>();
            let _ = prefix(&text);
            let _ = decimal::<u32>(&text);
        }
    }
}
