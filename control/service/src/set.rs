//! The command `set`. Typed fields correspond to lines of the UAPI, with the same order and meaning; they are passed to
//! the same parser, so that there is one set of rules.

use wg_embed::{
    config::Update,
    error::{Error, ErrorKind, Result},
    key::KEY_LEN,
    uapi::{Limits, Parser, parse_set},
};
use wg_embed_wireproto::{Pair, Pairs};
use zeroize::Zeroizing;

use crate::{
    bytes::WipedBytes,
    command::{ID, fields, flag, number, shown},
};

/// Returns the whole change that a record requests, or an error.
pub(crate) fn update(pairs: Pairs<'_>, limits: Limits) -> Result<Update> {
    let is_uapi = |pair: &Pair<'_>| pair.name == "uapi";
    let Some(uapi) = fields(pairs).find(is_uapi) else {
        return typed(pairs, limits);
    };
    if fields(pairs).any(|pair| !is_uapi(&pair) && pair.name != ID) || fields(pairs).filter(is_uapi).count() > 1 {
        return Err(Error::invalid("uapi: no other field but \"id\" may stand beside it"));
    }
    let text = str::from_utf8(uapi.value).map_err(|_| Error::invalid("uapi: not UTF-8"))?;
    parse_set(text, limits).map_err(|error| error.at("uapi"))
}

/// Converts typed fields.
fn typed(pairs: Pairs<'_>, limits: Limits) -> Result<Update> {
    let mut parser = Parser::new(limits);
    let mut count = 0;
    for (place, pair) in (1..).zip(fields(pairs)) {
        let at = |error: Error| error.at(format_args!("field {place}"));
        if pair.name == ID {
            continue;
        }
        count += 1;
        if let Some(line) = line(pair).map_err(at)? {
            parser.line(&line).map_err(without_line).map_err(at)?;
        }
    }
    if count == 0 {
        return Err(Error::invalid("there is nothing to set"));
    }
    parser.finish()
}

/// The parser counts lines, which do not exist here.
fn without_line(error: Error) -> Error {
    let text = error.to_string();
    match text.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, reason)) => Error::new(error.kind(), reason.to_owned()),
        None => error,
    }
}

/// Returns the line for a field; `None` for a flag that is not set.
fn line(Pair { name, value }: Pair<'_>) -> Result<Option<WipedBytes>> {
    let mut line = WipedBytes::default();
    let no_memory = |_| Error::new(ErrorKind::Resources, "there is not enough memory");
    let mut put = |bytes: &[u8]| line.push(bytes).map_err(no_memory);
    put(name.as_bytes())?;
    put(b"=")?;
    match name {
        "private_key" | "public_key" | "preshared_key" => {
            let key = Zeroizing::new(number::<KEY_LEN>(name, value)?);
            for byte in key.iter() {
                put(&[hex(byte >> 4), hex(byte & 15)])?;
            }
        }
        "listen_port" | "persistent_keepalive_interval" => {
            put(u16::from_be_bytes(number(name, value)?).to_string().as_bytes())?;
        }
        "fwmark" => put(u32::from_be_bytes(number(name, value)?).to_string().as_bytes())?,
        "replace_peers" | "update_only" | "remove" | "replace_allowed_ips" => {
            if !flag(name, value)? {
                return Ok(None);
            }
            put(b"true")?;
        }
        "endpoint" | "allowed_ip" => {
            if value.iter().any(u8::is_ascii_control) {
                return Err(Error::invalid(format!("{name}: a control character")));
            }
            put(value)?;
        }
        _ => return Err(Error::invalid(format!("{}: there is no such field", shown(name)))),
    }
    Ok(Some(line))
}

/// Returns a digit, without a table, whose use would be visible in the processor's cache.
const fn hex(nibble: u8) -> u8 {
    // 'a' is 39 above the character after '9'.
    b'0' + nibble + (nibble.wrapping_add(118) >> 7) * 39
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};
    use wg_embed::{
        config::{AllowedIpUpdate, PeerEndpoint, PeerUpdate},
        key::{PresharedKey, PrivateKey, PublicKey},
    };
    use wg_embed_wireproto::{Builder, Kind, Message, ReadOptions, WriteOptions};

    const LIMITS: fn() -> Limits = || Limits { host_names: true, ..Limits::default() };

    type Field = (&'static str, Vec<u8>);

    fn read(fields: &[Field]) -> Result<Update> {
        let mut builder = Builder::new(Kind::Request, WriteOptions::default());
        builder.group().unwrap().record().unwrap().pair("cmd", b"set").unwrap();
        for (name, value) in fields {
            builder.pair(name, value).unwrap();
        }
        let bytes = builder.finish().unwrap();
        let message = Message::parse(&bytes, &ReadOptions::default()).unwrap();
        update(message.records().next().unwrap().pairs(), LIMITS())
    }

    fn fields(update: &Update) -> Vec<Field> {
        let mut all: Vec<Field> = vec![("id", b"any".to_vec())];
        let mut put = |name, value: &[u8]| all.push((name, value.to_vec()));
        if let Some(key) = &update.private_key {
            put("private_key", key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
        }
        update.listen_port.iter().for_each(|port| put("listen_port", &port.to_be_bytes()));
        update.fwmark.iter().for_each(|mark| put("fwmark", &mark.to_be_bytes()));
        put("replace_peers", &[update.replace_peers.into()]);
        for peer in &update.peers {
            put("public_key", peer.public_key.as_bytes());
            put("update_only", &[peer.update_only.into()]);
            peer.preshared_key.iter().for_each(|key| put("preshared_key", key.as_bytes()));
            peer.endpoint.iter().for_each(|endpoint| put("endpoint", endpoint.to_string().as_bytes()));
            peer.persistent_keepalive
                .iter()
                .for_each(|seconds| put("persistent_keepalive_interval", &seconds.to_be_bytes()));
            put("replace_allowed_ips", &[peer.replace_allowed_ips.into()]);
            for AllowedIpUpdate { prefix, remove, .. } in &peer.allowed_ips {
                put("allowed_ip", format!("{}{prefix}", if *remove { "-" } else { "" }).as_bytes());
            }
            put("remove", &[peer.remove.into()]);
        }
        all
    }

    #[test]
    fn digits() {
        let all: Vec<u8> = (0..16).map(hex).collect();
        assert_eq!(all, b"0123456789abcdef");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field_and_without_its_value() {
        let key = vec![7; 32];
        for (fields, complaint) in [
            (vec![], "there is nothing to set"),
            (vec![("id", vec![])], "there is nothing to set"),
            (vec![("private_key", b"secret".to_vec())], "field 1: private_key: 6 bytes, not 32"),
            (vec![("listen_port", vec![1])], "field 1: listen_port: 1 bytes, not 2"),
            (vec![("listen_port", vec![0, 1]), ("fwmark", vec![0, 1])], "field 2: fwmark: 2 bytes, not 4"),
            (vec![("replace_peers", vec![2])], "field 1: replace_peers: neither the byte 00 nor the byte 01"),
            (vec![("endpoint", b"1.2.3.4:5".to_vec())], "field 1: endpoint: no such key before the first public_key"),
            (vec![("public_key", key.clone()), ("endpoint", b"x".to_vec())], "field 2: endpoint: "),
            (vec![("public_key", key.clone()), ("endpoint", b"1.2.3.4:5\r".to_vec())], "endpoint: a control character"),
            (vec![("public_key", key.clone()), ("allowed_ip", b"1.2.3.4".to_vec())], "a prefix is address/bits"),
            (vec![("public_key", key.clone()), ("allowed_ip", vec![0xff])], "the value is not UTF-8"),
            (vec![("public_key", key), ("listen_port", vec![0, 1])], "no such key behind a public_key"),
            (vec![("cmd", b"set".to_vec())], "field 1: cmd: there is no such field"),
            (vec![("SECRET=", vec![])], "field 1: (unknown field): there is no such field"),
            (vec![("uapi", b"".to_vec()), ("listen_port", vec![0, 1])], "uapi: no other field"),
            (vec![("uapi", b"".to_vec()), ("uapi", b"".to_vec())], "uapi: no other field"),
            (vec![("uapi", vec![0xff])], "uapi: not UTF-8"),
            (vec![("uapi", b"fwmark=1\nfwmark=x".to_vec())], "uapi: line 2: fwmark: not a decimal number"),
        ] {
            let error = read(&fields).unwrap_err().to_string();
            assert!(error.contains(complaint), "{fields:?}: {error}");
            assert!(!error.contains("secret") && !error.contains("SECRET"), "{error}");
        }
    }

    fn changes() -> impl Strategy<Value = AllowedIpUpdate> {
        (any::<std::net::IpAddr>(), any::<u8>(), any::<bool>()).prop_map(|(ip, bits, remove)| {
            AllowedIpUpdate::new(ip, u32::from(bits) % if ip.is_ipv4() { 33 } else { 129 }, remove).unwrap()
        })
    }

    fn endpoints() -> impl Strategy<Value = PeerEndpoint> {
        let address = (any::<std::net::IpAddr>(), any::<u16>()).prop_map(|to| std::net::SocketAddr::from(to).into());
        prop_oneof![address, "[a-z][a-z0-9.-]{0,20}:[1-9][0-9]{0,3}".prop_map(|host| host.parse().unwrap())]
    }

    prop_compose! {
        fn peers()(key: [u8; 32], flags: [bool; 3], psk: Option<[u8; 32]>, endpoint in option::of(endpoints()),
                   persistent_keepalive: Option<u16>, allowed_ips in vec(changes(), 0..6)) -> PeerUpdate {
            let [update_only, remove, replace_allowed_ips] = flags;
            PeerUpdate {
                public_key: PublicKey::from_bytes(key),
                preshared_key: psk.map(|key| Box::new(PresharedKey::from_bytes(key))),
                update_only, remove, endpoint, persistent_keepalive, replace_allowed_ips, allowed_ips,
            }
        }
    }

    prop_compose! {
        fn updates()(key: Option<Option<[u8; 32]>>, listen_port: Option<u16>, fwmark: Option<u32>,
                     replace_peers: bool, peers in vec(peers(), 0..4)) -> Update {
            let private_key = key.map(|key| key.map(PrivateKey::from_bytes));
            Update { private_key, listen_port, fwmark, replace_peers, peers }
        }
    }

    proptest! {
        #[test]
        fn typed_fields_and_text_say_the_same(update in updates()) {
            let text = wg_embed::uapi::set_text(&update).unwrap();
            prop_assert_eq!(&read(&fields(&update)).unwrap(), &update);
            prop_assert_eq!(&read(&[("uapi", text.as_bytes().to_vec())]).unwrap(), &update);
        }
    }
}
