//! Suggestions for errors in a file.

use wg_embed::config::wgquick::{INTERFACE_KEYS, Line, PEER_KEYS};

/// Returns a hint for a line with an error; `is_peer` gives its section.
pub(super) fn of(line: &str, wrong: &str, is_peer: bool, message: &str) -> Option<String> {
    match Line::of(line) {
        Line::Empty => of_missing(message),
        Line::Header(_) if wrong.is_empty() => of_missing(message),
        Line::Header(_) if message.contains("second") => Some("move its keys to the first one".into()),
        Line::Header(header) => Some(of_header(header).into()),
        Line::Other(text) => Some(of_other(text)),
        Line::Pair { key, .. } if message.contains("before the first section") => {
            let section = if is_key(key, &PEER_KEYS) { "[Peer]" } else { "[Interface]" };
            Some(format!("write {section} on a line before it"))
        }
        Line::Pair { key, .. } if message.ends_with("no such key") => of_unknown_key(key, is_peer),
        Line::Pair { key, value } => of_value(key, value, wrong, message),
    }
}

fn of_missing(message: &str) -> Option<String> {
    if message.contains("PublicKey") {
        Some("write PublicKey = KEY: the output of `wg-embedctl pubkey` on the other side".into())
    } else {
        message.contains("[Interface]").then(|| "a file begins with [Interface]".into())
    }
}

fn of_header(header: &str) -> &'static str {
    match header.chars().find(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()) {
        Some('p') => "write [Peer]",
        Some('i') => "write [Interface]",
        _ => "write [Interface] or [Peer]",
    }
}

fn of_other(text: &str) -> String {
    let word: String = text.split([' ', ':', '\t']).next().unwrap_or_default().into();
    let known = INTERFACE_KEYS.iter().chain(&PEER_KEYS).find(|key| key.eq_ignore_ascii_case(&word));
    match known {
        Some(key) => format!("write {key} = ..."),
        None if text.eq_ignore_ascii_case("interface") => "write [Interface]".into(),
        None if text.eq_ignore_ascii_case("peer") => "write [Peer]".into(),
        None => "write KEY = VALUE, or # in front of a comment".into(),
    }
}

fn is_key(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|known| known.eq_ignore_ascii_case(key))
}

/// Keys of other programs, and other common words.
const OTHER_NAMES: [(&str, &str); 10] = [
    ("psk", "PresharedKey"),
    ("ip", "Address"),
    ("ipaddress", "Address"),
    ("nameserver", "DNS"),
    ("port", "ListenPort"),
    ("keepalive", "PersistentKeepalive"),
    ("server", "Endpoint"),
    ("remote", "Endpoint"),
    ("routes", "AllowedIPs"),
    ("mark", "FwMark"),
];

fn of_unknown_key(key: &str, is_peer: bool) -> Option<String> {
    let (own, other, other_section): (&[&str], &[&str], _) =
        if is_peer { (&PEER_KEYS, &INTERFACE_KEYS, "[Interface]") } else { (&INTERFACE_KEYS, &PEER_KEYS, "[Peer]") };
    if is_key(key, other) {
        return Some(format!("it belongs to {other_section}"));
    }
    if key.eq_ignore_ascii_case("name") {
        return Some("write it as a comment: # Name = ...".into());
    }
    if let Some((_, known)) = OTHER_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)) {
        return Some(format!("write {known}"));
    }
    let lower = key.to_ascii_lowercase();
    let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(&known.to_ascii_lowercase(), &lower);
    let nearest = own.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(nearest) > 0.6 {
        Some(format!("write {nearest}"))
    } else {
        Some(format!("the keys are {}", own.join(", ")))
    }
}

fn of_value(key: &str, value: &str, wrong: &str, message: &str) -> Option<String> {
    if message.contains("has no value") {
        if key.len() >= 40 {
            return Some("if this is a key, write PrivateKey =, PublicKey = or PresharedKey = in front of it".into());
        }
        return Some(format!("write a value behind the =, or remove the line: {}", example(key)));
    }
    if message.contains("commas") {
        let items: Vec<_> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        return Some(format!("write {key} = {}", items.join(", ")));
    }
    match key.to_ascii_lowercase().as_str() {
        "privatekey" | "publickey" | "presharedkey" => {
            let length = value.chars().filter(|c| !c.is_whitespace()).count();
            let hex = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
            Some(match length {
                _ if hex => {
                    "this is hexadecimal; .conf files have keys in base64, as `wg-embedctl genkey` makes them".into()
                }
                44 => "some characters are not those of base64, or the last ones are not a key's".into(),
                _ => format!("this has {length} characters; a key has 44. Was a part of it lost in copying?"),
            })
        }
        "address" | "allowedips" => Some(of_prefix(wrong)),
        "endpoint" => Some(of_endpoint(value)),
        _ => Some(example(key)),
    }
}

fn of_prefix(item: &str) -> String {
    let (address, bits) = item.split_once('/').map_or((item, None), |(address, bits)| (address, Some(bits)));
    match (address.parse::<std::net::IpAddr>(), bits) {
        (Ok(ip), Some(_)) => {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            format!("write {ip}/BITS, with BITS from 0 to {most}")
        }
        (Err(_), _) if address.split('.').count() == 3 => format!("an IPv4 address has four numbers: {address}.0"),
        _ => "write an address and the length of its network, like 10.0.0.0/24 or fd00::/64".into(),
    }
}

fn of_endpoint(value: &str) -> String {
    if value.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("write [{value}]:PORT, usually [{value}]:51820");
    }
    if let Some((host, port)) = value.rsplit_once(':').filter(|(host, _)| host.parse::<std::net::Ipv6Addr>().is_ok()) {
        return format!("an IPv6 address goes in square brackets: [{host}]:{port}");
    }
    if let Some(rest) = value.split_once("://").map(|(_, rest)| rest) {
        return format!("write {} without the protocol", rest.trim_end_matches('/'));
    }
    if !value.contains(':') {
        return format!("write {value}:PORT, usually {value}:51820");
    }
    "write HOST:PORT, like vpn.example.com:51820 or [2001:db8::1]:51820".into()
}

fn example(key: &str) -> String {
    let example = match key.to_ascii_lowercase().as_str() {
        "listenport" => "a port from 0 to 65535, like 51820",
        "fwmark" => "off, or a number like 51820 or 0xca6c",
        "address" => "like 10.0.0.2/24, fd00::2/64",
        "dns" => "addresses and search domains, like 10.0.0.1, corp.example",
        "mtu" => "a number from 576 to 65535, usually 1420",
        "table" => "off, auto, main or a number",
        "saveconfig" => "true or false",
        "allowedips" => "like 10.0.0.0/24, fd00::/64, or 0.0.0.0/0, ::/0 for everything",
        "endpoint" => "like vpn.example.com:51820",
        "persistentkeepalive" => "off, or seconds from 0 to 65535, usually 25",
        "preup" | "postup" | "predown" | "postdown" => "a command on one line",
        _ => "see wg-quick(8)",
    };
    example.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_say_what_to_write() {
        for (line, is_peer, message, expected) in [
            ("Adress = 1.2.3.4", false, "[Interface] Adress: no such key", "write Address"),
            ("AllowedIP = ::/0", true, "[Peer] AllowedIP: no such key", "write AllowedIPs"),
            ("MTU = 1", true, "[Peer] MTU: no such key", "it belongs to [Interface]"),
            ("psk = x", true, "[Peer] psk: no such key", "write PresharedKey"),
            ("name = x", true, "[Peer] name: no such key", "# Name"),
            ("zzzzzz = x", true, "[Peer] zzzzzz: no such key", "the keys are PublicKey, "),
            ("Endpoint = vpn.example.com", true, "x", "write vpn.example.com:PORT, usually vpn.example.com:51820"),
            ("Endpoint = 2001:db8::1:51820", true, "x", "in square brackets: [2001:db8::1]:51820"),
            ("Endpoint = udp://a:1/", true, "x", "write a:1 without the protocol"),
            ("AllowedIPs = 10.0.0.0/33", true, "x", "write 10.0.0.0/BITS, with BITS from 0 to 32"),
            ("AllowedIPs = 10.0.0/8", true, "x", "an IPv4 address has four numbers: 10.0.0.0"),
            ("DNS = a,,b", false, "two commas in a row", "write DNS = a, b"),
            ("PublicKey = abc", true, "x", "this has 3 characters; a key has 44"),
            (&format!("{}=", "a".repeat(43)), true, "[Peer] (unknown key): has no value", "PublicKey = or"),
            ("Peer", true, "neither a section nor key = value", "write [Peer]"),
            ("MTU 1420", false, "neither a section nor key = value", "write MTU = ..."),
        ] {
            let wrong = line.split_once("= ").map_or(line, |(_, value)| value);
            let hint = of(line, wrong, is_peer, message).unwrap_or_default();
            assert!(hint.contains(expected), "{line}: {hint}");
        }
    }
}
