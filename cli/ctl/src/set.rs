//! `set`, with the arguments of wg(8).

use std::path::Path;

use ipnet::IpNet;
use wg_embed::{
    config::{AllowedIpUpdate, PeerUpdate, Update},
    key::{PrivateKey, PublicKey},
};

use crate::{
    arguments::Set,
    failure::{Failure, Result},
    keys, resolve,
    socket::Sockets,
};

pub(crate) fn run(sockets: &Sockets, set: &Set) -> Result<()> {
    let mut update = update_of(&set.settings)?;
    let mut client = sockets.connect(&set.name)?;
    resolve::names(&mut update)?;
    client.set(&update)
}

/// Parses the settings: first the tunnel's, then those of each peer behind its `peer KEY`.
fn update_of(words: &[String]) -> Result<Update> {
    let mut update = Update::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == "remove"
            && let Some(peer) = update.peers.last_mut()
        {
            peer.remove = true;
            continue;
        }
        let is_known = match word {
            "peer" => true,
            "listen-port" | "fwmark" | "private-key" => update.peers.is_empty(),
            "preshared-key" | "endpoint" | "persistent-keepalive" | "allowed-ips" => !update.peers.is_empty(),
            _ => false,
        };
        if !is_known {
            return Err(misplaced(word, update.peers.is_empty()));
        }
        let value = words.next().ok_or_else(|| Failure::usage(format!("{word}: the value is missing")))?;
        let read = match update.peers.last_mut() {
            _ if word == "peer" => PublicKey::from_base64(value)
                .map(|key| update.peers.push(PeerUpdate::new(key)))
                .map_err(|e| Failure::usage(e.to_string())),
            None => of_interface(&mut update, word, value),
            Some(peer) => of_peer(peer, word, value),
        };
        read.map_err(|failure| Failure { text: format!("{word}: {}", failure.text), ..failure })?;
    }
    Ok(update)
}

fn misplaced(word: &str, before_peers: bool) -> Failure {
    let place = match word {
        "listen-port" | "fwmark" | "private-key" => "belongs in front of the first `peer`",
        "preshared-key" | "endpoint" | "persistent-keepalive" | "allowed-ips" | "remove" => {
            "belongs behind a `peer KEY`"
        }
        _ if before_peers => "is not one of listen-port, fwmark, private-key, peer",
        _ => "is not one of remove, preshared-key, endpoint, persistent-keepalive, allowed-ips, peer",
    };
    Failure::usage(format!("{word:?} {place}"))
}

fn of_interface(update: &mut Update, word: &str, value: &str) -> Result<()> {
    match word {
        "listen-port" => update.listen_port = Some(number(value, "a port from 0 to 65535")?),
        "fwmark" => update.fwmark = Some(mark(value)?),
        _ => {
            let key = keys::from_file(Path::new(value))?;
            // Zeros mean "no key", which clamping would hide.
            update.private_key = Some((!key.is_zero()).then(|| PrivateKey::from_bytes(*key.as_bytes())));
        }
    }
    Ok(())
}

fn of_peer(peer: &mut PeerUpdate, word: &str, value: &str) -> Result<()> {
    match word {
        "preshared-key" => peer.preshared_key = Some(Box::new(keys::from_file(Path::new(value))?)),
        "endpoint" => peer.endpoint = Some(value.parse().map_err(|e: wg_embed::Error| Failure::usage(e.to_string()))?),
        "persistent-keepalive" if value == "off" => peer.persistent_keepalive = Some(0),
        "persistent-keepalive" => peer.persistent_keepalive = Some(number(value, "off, or 0 to 65535 seconds")?),
        _ => allowed_ips(peer, value)?,
    }
    Ok(())
}

/// Parses a list that replaces all prefixes, or changes only those with a sign in front.
fn allowed_ips(peer: &mut PeerUpdate, value: &str) -> Result<()> {
    let items = || value.split(',').filter(|_| !value.is_empty());
    peer.replace_allowed_ips |= value.is_empty() || items().any(|item| !item.starts_with(['+', '-']));
    for item in items() {
        let (remove, prefix) = match item.strip_prefix('-') {
            Some(prefix) => (true, prefix),
            None => (false, item.strip_prefix('+').unwrap_or(item)),
        };
        let net: Option<IpNet> = match prefix.parse() {
            Ok(address) => Some(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 })),
            Err(_) => prefix.parse().ok(),
        };
        let net = net.ok_or_else(|| Failure::usage(format!("{item:?} is not address/bits")))?;
        peer.allowed_ips.push(if remove { AllowedIpUpdate::remove(net) } else { AllowedIpUpdate::add(net) });
    }
    Ok(())
}

fn mark(value: &str) -> Result<u32> {
    match value.strip_prefix("0x") {
        _ if value == "off" => Ok(0),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).map_err(|_| Failure::usage("not a hexadecimal number of 32 bits"))
        }
        _ => number(value, "off, a number of 32 bits, or one in hexadecimal behind 0x"),
    }
}

/// Parses digits; `str::parse` also accepts `+1`.
fn number<T: std::str::FromStr>(value: &str, what: &str) -> Result<T> {
    let number = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten();
    number.ok_or_else(|| Failure::usage(format!("{value:?} is not {what}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn read(text: &str) -> Result<Update> {
        update_of(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn prefixes_with_signs_leave_the_others() {
        let peer = |text: &str| read(&format!("peer {KEY} allowed-ips {text}")).unwrap().peers.remove(0);
        let signed = peer("+10.0.0.1/8,-::1");
        assert!(!signed.replace_allowed_ips);
        let list: Vec<_> = signed.allowed_ips.iter().map(|c| (c.prefix.to_string(), c.remove)).collect();
        assert_eq!(list, [("10.0.0.0/8".to_owned(), false), ("::1/128".to_owned(), true)]);
        assert!(peer("10.0.0.0/8,+::1").replace_allowed_ips);
        let cleared = update_of(&["peer", KEY, "allowed-ips", ""].map(str::to_owned)).unwrap();
        assert!(cleared.peers[0].replace_allowed_ips && cleared.peers[0].allowed_ips.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, complaint) in [
            ("foo", "\"foo\" is not one of listen-port"),
            ("remove", "belongs behind"),
            ("listen-port", "the value is missing"),
            ("listen-port +1", "listen-port: \"+1\" is not a port"),
            ("listen-port 65536", "is not a port"),
            ("fwmark 0x1ffffffff", "fwmark: not a hexadecimal number"),
            ("peer x", "peer: a key in base64"),
            (&format!("peer {KEY} listen-port 1"), "in front of the first"),
            (&format!("peer {KEY} endpoint 1.2.3.4"), "endpoint: "),
            (&format!("peer {KEY} allowed-ips 1.2.3.4/33"), "is not address/bits"),
            (&format!("peer {KEY} persistent-keepalive on"), "off, or 0"),
        ] {
            let failure = read(text).unwrap_err();
            assert!(failure.text.contains(complaint) && failure.exit == Exit::Usage, "{text}: {}", failure.text);
        }
        assert_eq!(read("private-key /nowhere").unwrap_err().exit, Exit::NotFound);
    }
}
