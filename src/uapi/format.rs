//! Writes a [`Snapshot`] as the reply to `get`, and an [`Update`] as a `set`.
//!
//! Peers are written one by one as the snapshot yields them. Keys pass through one buffer of fixed size, which is wiped
//! each time it has been written out.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    net::IpAddr,
};

use zeroize::{Zeroize, Zeroizing};

use crate::{
    config::{
        EndpointAddr, Update,
        snapshot::{PeerSnapshot, Snapshot},
        text::push_wiped,
    },
    error::{Error, Result},
    key::PresharedKey,
};

/// Returns whether an IPv6 zone, like `eth0`, is the name of an interface of this host.
pub type ZoneExists = fn(&str) -> bool;

/// Writes the body of the reply to `get`: all lines in wireguard-go's order, without `errno`.
///
/// The reader is often wg(8), which passes every endpoint to `getaddrinfo` and gives up on the whole interface (some
/// versions crash) if that fails. So with `zones` set, a zone is omitted unless it is a number, or the address is
/// link-local and `zones` returns true for the name. With `None`, zones are printed as configured.
///
/// # Errors
/// Errors of `out`.
pub fn write_snapshot(snapshot: Snapshot<'_>, zones: Option<ZoneExists>, out: &mut dyn Write) -> io::Result<()> {
    write_state(snapshot, zones, true, &mut Lines::new(out)?)
}

fn write_state(
    snapshot: Snapshot<'_>,
    zones: Option<ZoneExists>,
    secrets: bool,
    lines: &mut Lines<'_>,
) -> io::Result<()> {
    let interface = snapshot.interface;
    if let Some(key) = interface.private_key.as_ref().filter(|_| secrets) {
        lines.key("private_key", |text| key.push_hex(text))?;
    }
    if interface.listen_port != 0 {
        lines.pair("listen_port", interface.listen_port)?;
    }
    if interface.fwmark != 0 {
        lines.pair("fwmark", interface.fwmark)?;
    }
    for peer in snapshot.peers {
        write_peer(&peer.map_err(|_| io::ErrorKind::OutOfMemory)?, zones, secrets, lines)?;
    }
    lines.flush()
}

fn write_peer(peer: &PeerSnapshot, zones: Option<ZoneExists>, secrets: bool, lines: &mut Lines<'_>) -> io::Result<()> {
    lines.key("public_key", |text| peer.public_key.push_hex(text))?;
    if secrets {
        lines.key("preshared_key", |text| peer.preshared_key.push_hex(text))?;
    }
    lines.pair("protocol_version", 1)?;
    match &peer.endpoint {
        Some(endpoint) if is_readable(endpoint, zones) => lines.pair("endpoint", endpoint)?,
        Some(endpoint) => lines.pair("endpoint", endpoint.addr)?,
        None => {}
    }
    lines.pair("last_handshake_time_sec", peer.last_handshake.as_secs())?;
    lines.pair("last_handshake_time_nsec", peer.last_handshake.subsec_nanos())?;
    lines.pair("tx_bytes", peer.tx_bytes)?;
    lines.pair("rx_bytes", peer.rx_bytes)?;
    lines.pair("persistent_keepalive_interval", peer.persistent_keepalive)?;
    peer.allowed_ips.iter().try_for_each(|prefix| lines.pair("allowed_ip", prefix))
}

/// Returns whether `getaddrinfo` would accept the endpoint with its zone: names are valid only with link-local
/// addresses.
fn is_readable(endpoint: &EndpointAddr, zones: Option<ZoneExists>) -> bool {
    let (Some(zone), Some(exists)) = (&endpoint.zone, zones) else {
        return true;
    };
    let link_local = match endpoint.addr.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[0] & 0xff0f == 0xff02,
    };
    let is_number = zone.bytes().all(|b| b.is_ascii_digit()) && zone.parse::<u32>().is_ok();
    is_number || (link_local && exists(zone))
}

/// Writes the lines of a `set` in wg(8)'s order, without `set=1` and the empty line.
///
/// [`parse_set`](super::parse_set) reads the same [`Update`] back, except for the effects of order described in
/// [`parse`](super::parse): changes are written before `remove`.
///
/// # Errors
/// Errors of `out`.
pub fn write_update(update: &Update, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines::new(out)?;
    let zero = PresharedKey::default();
    match &update.private_key {
        Some(Some(key)) => lines.key("private_key", |text| key.push_hex(text))?,
        Some(None) => lines.key("private_key", |text| zero.push_hex(text))?,
        None => {}
    }
    lines.option("listen_port", update.listen_port.as_ref())?;
    lines.option("fwmark", update.fwmark.as_ref())?;
    lines.flag("replace_peers", update.replace_peers)?;
    for peer in &update.peers {
        lines.key("public_key", |text| peer.public_key.push_hex(text))?;
        lines.flag("update_only", peer.update_only)?;
        if let Some(key) = &peer.preshared_key {
            lines.key("preshared_key", |text| key.push_hex(text))?;
        }
        lines.option("endpoint", peer.endpoint.as_ref())?;
        lines.option("persistent_keepalive_interval", peer.persistent_keepalive.as_ref())?;
        lines.flag("replace_allowed_ips", peer.replace_allowed_ips)?;
        for change in &peer.allowed_ips {
            let sign = if change.remove { "-" } else { "" };
            lines.pair("allowed_ip", format_args!("{sign}{}", change.prefix))?;
        }
        lines.flag("remove", peer.remove)?;
    }
    lines.flush()
}

/// Returns the reply to `get` as one text, without `errno`, with zones as configured. It is wiped when dropped.
///
/// # Errors
/// `Resources` without memory for it.
pub fn get_text(snapshot: Snapshot<'_>) -> Result<Zeroizing<String>> {
    text_of(|out| write_snapshot(snapshot, None, out))
}

/// Returns the text of [`get_text`] without the private key and the preshared keys.
///
/// # Errors
/// `Resources` without memory for it.
pub fn get_public_text(snapshot: Snapshot<'_>) -> Result<Zeroizing<String>> {
    text_of(|out| write_state(snapshot, None, false, &mut Lines::new(out)?))
}

/// Returns the lines of a `set` as one text, without `set=1` and the empty line. It is wiped when dropped.
///
/// # Errors
/// `Resources` without memory for it.
pub fn set_text(update: &Update) -> Result<Zeroizing<String>> {
    text_of(|out| write_update(update, out))
}

fn text_of(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Zeroizing<String>> {
    let mut out = WipedText(Zeroizing::default());
    write(&mut out).map_err(|e| Error::io("cannot write the text", e))?;
    Ok(out.0)
}

/// A writer to memory. It always receives whole lines, so text is never cut inside a character.
struct WipedText(Zeroizing<String>);

impl Write for WipedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        push_wiped(&mut self.0, str::from_utf8(bytes).map_err(io::Error::other)?)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of bytes that are written out at once.
const CHUNK: usize = 16 * 1024;

/// Room behind a chunk for one more line; the longest line is an endpoint with its zone.
const LINE: usize = 1024;

/// A writer of lines through a buffer that neither grows, which would leave keys behind, nor splits a line.
struct Lines<'a> {
    out: &'a mut dyn Write,
    text: Zeroizing<String>,
}

impl<'a> Lines<'a> {
    fn new(out: &'a mut dyn Write) -> io::Result<Self> {
        let mut text = Zeroizing::new(String::new());
        text.try_reserve_exact(CHUNK + LINE)?;
        Ok(Self { out, text })
    }

    fn key(&mut self, name: &str, push: impl FnOnce(&mut String)) -> io::Result<()> {
        self.text.push_str(name);
        self.text.push('=');
        push(&mut self.text);
        self.end_line()
    }

    fn pair(&mut self, name: &str, value: impl fmt::Display) -> io::Result<()> {
        write!(self.text, "{name}={value}").map_err(io::Error::other)?;
        self.end_line()
    }

    fn option(&mut self, name: &str, value: Option<&impl fmt::Display>) -> io::Result<()> {
        value.map_or(Ok(()), |value| self.pair(name, value))
    }

    fn flag(&mut self, name: &str, set: bool) -> io::Result<()> {
        if set { self.pair(name, true) } else { Ok(()) }
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.text.push('\n');
        if self.text.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Writes out the buffer and wipes it. The inner writer is not flushed.
    #[inline(never)] // Once in hundreds of lines, and there are a dozen places that end one.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.out.write_all(self.text.as_bytes());
        self.text.zeroize();
        written
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::{AllowedIpUpdate, PeerEndpoint, PeerUpdate, snapshot::InterfaceSnapshot},
        key::{PrivateKey, PublicKey},
        uapi::parse_set,
    };
    use ipnet::IpNet;
    use proptest::{collection::vec, option, prelude::*};
    use std::time::Duration;

    fn peer() -> PeerSnapshot {
        PeerSnapshot {
            public_key: PublicKey::from_bytes([0xb8; 32]),
            preshared_key: PresharedKey::default(),
            endpoint: Some("[fe80::1%eth0]:5".parse().unwrap()),
            last_handshake: Duration::new(1_700_000_000, 42),
            tx_bytes: u64::MAX,
            rx_bytes: 2224,
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "::ffff:0.0.0.0/96".parse().unwrap()],
        }
    }

    fn snapshot(peers: Vec<PeerSnapshot>) -> Snapshot<'static> {
        Snapshot { interface: InterfaceSnapshot::default(), peers: Box::new(peers.into_iter().map(Ok)) }
    }

    #[test]
    fn every_line_in_its_order() {
        let mut all = snapshot(vec![peer()]);
        all.interface =
            InterfaceSnapshot { private_key: Some(PrivateKey::from_bytes([0x48; 32])), listen_port: 12912, fwmark: 7 };
        let expected = format!(
            "private_key={}\nlisten_port=12912\nfwmark=7\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
             endpoint=[fe80::1%eth0]:5\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=42\n\
             tx_bytes=18446744073709551615\nrx_bytes=2224\npersistent_keepalive_interval=25\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=::ffff:0.0.0.0/96\n",
            "48".repeat(32),
            "b8".repeat(32),
            "0".repeat(64)
        );
        assert_eq!(*get_text(all).unwrap(), expected);
    }

    #[test]
    fn the_public_text_is_the_same_without_the_lines_of_secrets() {
        let all = || {
            let interface =
                InterfaceSnapshot { private_key: Some(PrivateKey::from_bytes([0x48; 32])), ..Default::default() };
            let other = PeerSnapshot { preshared_key: PresharedKey::from_bytes([0x49; 32]), ..peer() };
            Snapshot { interface, ..snapshot(vec![peer(), other]) }
        };
        let text = get_text(all()).unwrap();
        let is_secret = |line: &&str| line.starts_with("private_key=") || line.starts_with("preshared_key=");
        assert_eq!(text.lines().filter(is_secret).count(), 3);
        let public = get_public_text(all()).unwrap();
        assert!(public.lines().eq(text.lines().filter(|line| !is_secret(line))));
    }

    #[test]
    fn an_empty_tunnel_is_an_empty_text() {
        assert_eq!(*get_text(snapshot(Vec::new())).unwrap(), "");
    }

    #[test]
    fn zones_that_getaddrinfo_would_refuse_are_left_out() {
        for (endpoint, printed) in [
            ("[fe80::1%lo]:5", "[fe80::1%lo]:5"),
            ("[fe80::1%gone]:5", "[fe80::1]:5"),
            ("[fe80::1%77]:5", "[fe80::1%77]:5"),
            ("[fe80::1%4294967296]:5", "[fe80::1]:5"),
            ("[2001:db8::1%lo]:5", "[2001:db8::1]:5"),
            ("[2001:db8::1%7]:5", "[2001:db8::1%7]:5"),
            ("[ff02::1%lo]:5", "[ff02::1%lo]:5"),
            ("1.2.3.4:5", "1.2.3.4:5"),
        ] {
            let peer = PeerSnapshot { endpoint: Some(endpoint.parse().unwrap()), ..peer() };
            let mut out = Vec::new();
            write_snapshot(snapshot(vec![peer]), Some(|zone| zone == "lo"), &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(&format!("\nendpoint={printed}\n")), "{text}");
        }
    }

    #[test]
    fn the_buffer_never_grows_and_holds_nothing_back() {
        struct Out(usize);
        impl Write for Out {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                assert!(bytes.len() <= CHUNK + LINE && bytes.ends_with(b"\n"));
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut large = peer();
        large.allowed_ips = vec!["abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd/128".parse().unwrap(); 5000];
        let peers = vec![large; 3];
        let mut out = Out(0);
        write_snapshot(snapshot(peers.clone()), None, &mut out).unwrap();
        assert_eq!(out.0, get_text(snapshot(peers)).unwrap().len());
    }

    #[test]
    fn a_broken_writer_ends_the_text() {
        let full = &mut [0; 10][..];
        assert!(write_snapshot(snapshot(vec![peer()]), None, &mut { full }).is_err());
    }

    fn changes() -> impl Strategy<Value = AllowedIpUpdate> {
        (any::<std::net::IpAddr>(), any::<u8>(), any::<bool>()).prop_map(|(ip, bits, remove)| {
            let bits = bits % if ip.is_ipv4() { 33 } else { 129 };
            let prefix = IpNet::new(ip, bits).unwrap().trunc();
            AllowedIpUpdate { prefix, remove }
        })
    }

    fn endpoints() -> impl Strategy<Value = PeerEndpoint> {
        let addresses = (any::<std::net::SocketAddr>(), option::of("[a-z0-9]{1,15}")).prop_map(|(addr, zone)| {
            let addr = std::net::SocketAddr::new(addr.ip(), addr.port());
            let zone = zone.filter(|_| addr.is_ipv6()).map(String::into_boxed_str);
            PeerEndpoint::Address(EndpointAddr { addr, zone })
        });
        prop_oneof![addresses, "[a-z][a-z0-9.-]{0,20}:[1-9][0-9]{0,3}".prop_map(|host| host.parse().unwrap())]
    }

    prop_compose! {
        fn peers()(key: [u8; 32], flags: [bool; 3], psk: Option<[u8; 32]>, endpoint in option::of(endpoints()),
                   persistent_keepalive: Option<u16>, allowed_ips in vec(changes(), 0..6)) -> PeerUpdate {
            let [update_only, remove, replace_allowed_ips] = flags;
            PeerUpdate {
                public_key: PublicKey::from_bytes(key),
                preshared_key: psk.map(|k| Box::new(PresharedKey::from_bytes(k))),
                update_only, remove, endpoint, persistent_keepalive, replace_allowed_ips, allowed_ips,
            }
        }
    }

    prop_compose! {
        fn updates()(key: Option<Option<[u8; 32]>>, listen_port: Option<u16>, fwmark: Option<u32>,
                     replace_peers: bool, peers in vec(peers(), 0..5)) -> Update {
            Update {
                private_key: key.map(|k| k.map(PrivateKey::from_bytes)),
                listen_port, fwmark, replace_peers, peers,
            }
        }
    }

    proptest! {
        #[test]
        fn an_update_survives_text(update in updates()) {
            let limits = crate::uapi::Limits { host_names: true, ..Default::default() };
            prop_assert_eq!(parse_set(&set_text(&update).unwrap(), limits).unwrap(), update);
        }
    }
}
