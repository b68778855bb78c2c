//! The state of a tunnel, as reported by a daemon.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use wg_embed::{
    config::snapshot::{InterfaceSnapshot, PeerSnapshot},
    key::{PresharedKey, PrivateKey, PublicKey},
};

use crate::failure::{Failure, Result};

/// The answer of a daemon to `get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) interface: InterfaceSnapshot,
    /// The peers in the daemon's order.
    pub(crate) peers: Vec<PeerSnapshot>,
}

impl State {
    /// Parses an answer. Unknown keys are skipped, as a newer daemon may have more of them.
    pub(crate) fn read(answer: &[u8]) -> Result<Self> {
        let text = str::from_utf8(answer).map_err(|_| Failure::new("bytes that are no text"))?;
        let mut state = Self::default();
        let mut errno = None;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').ok_or_else(|| Failure::new("a line without `=`"))?;
            let unreadable = || Failure::new(format!("{key} with a value that cannot be read"));
            if key == "errno" {
                errno = Some(value.parse::<i32>().map_err(|_| unreadable())?);
                continue;
            }
            state.pair(key, value).ok_or_else(unreadable)?;
        }
        match errno {
            Some(0) => Ok(state),
            Some(errno) => {
                let error = std::io::Error::from_raw_os_error(errno.saturating_abs());
                Err(Failure::io("an error", &error))
            }
            None => Err(Failure::new("only a part of its state")),
        }
    }

    fn pair(&mut self, key: &str, value: &str) -> Option<()> {
        if key == "public_key" {
            self.peers.push(PeerSnapshot::new(PublicKey::from_hex(value).ok()?));
            return Some(());
        }
        let Some(peer) = self.peers.last_mut() else {
            return interface_pair(&mut self.interface, key, value);
        };
        match key {
            "preshared_key" => peer.preshared_key = PresharedKey::from_hex(value).ok()?,
            "endpoint" => peer.endpoint = Some(value.parse().ok()?),
            "last_handshake_time_sec" => {
                peer.last_handshake = Duration::new(value.parse().ok()?, peer.last_handshake.subsec_nanos());
            }
            "last_handshake_time_nsec" => {
                let nanos = value.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
                peer.last_handshake = Duration::new(peer.last_handshake.as_secs(), nanos);
            }
            "tx_bytes" => peer.tx_bytes = value.parse().ok()?,
            "rx_bytes" => peer.rx_bytes = value.parse().ok()?,
            "persistent_keepalive_interval" => peer.persistent_keepalive = value.parse().ok()?,
            "allowed_ip" => peer.allowed_ips.push(value.parse().ok()?),
            _ => {}
        }
        Some(())
    }

    /// Returns the public key of the private key.
    pub(crate) fn public_key(&self) -> Option<PublicKey> {
        self.interface.private_key.as_ref().map(PrivateKey::public_key)
    }
}

fn interface_pair(interface: &mut InterfaceSnapshot, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => {
            // Zeros mean "no key", which clamping would hide.
            let bytes = PresharedKey::from_hex(value).ok()?;
            interface.private_key = (!bytes.is_zero()).then(|| PrivateKey::from_bytes(*bytes.as_bytes()));
        }
        "listen_port" => interface.listen_port = value.parse().ok()?,
        "fwmark" => interface.fwmark = value.parse().ok()?,
        _ => {}
    }
    Some(())
}

/// Returns the preshared key, if it is set.
pub(crate) fn preshared(peer: &PeerSnapshot) -> Option<&PresharedKey> {
    Some(&peer.preshared_key).filter(|key| !key.is_zero())
}

/// Formats a prefix as wg(8) does: `::1.2.3.4` where the C library writes an address in that form.
pub(crate) fn prefix_text(prefix: &IpNet) -> String {
    match prefix.addr() {
        IpAddr::V6(ip) if ip.segments()[..6] == [0; 6] && ip.segments()[6] != 0 => {
            let [.., a, b, c, d] = ip.octets();
            format!("::{a}.{b}.{c}.{d}/{}", prefix.prefix_len())
        }
        ip => format!("{ip}/{}", prefix.prefix_len()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_daemon_are_read() {
        let key = "01".repeat(32);
        let text = format!(
            "private_key={key}\nlisten_port=7\nfwmark=9\nnewer=1\npublic_key={key}\npreshared_key={}\n\
             protocol_version=1\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=6\nendpoint=[fe80::1%eth0]:5\n\
             tx_bytes=18446744073709551615\nrx_bytes=1\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\n\
             public_key={key}\nerrno=0\n\n",
            "0".repeat(64)
        );
        let state = State::read(text.as_bytes()).unwrap();
        assert_eq!((state.interface.listen_port, state.interface.fwmark, state.peers.len()), (7, 9, 2));
        let peer = &state.peers[0];
        assert_eq!((peer.last_handshake, peer.tx_bytes), (Duration::new(5, 6), u64::MAX));
        assert_eq!(preshared(peer), None);
        assert_eq!(peer.endpoint.as_ref().unwrap().to_string(), "[fe80::1%eth0]:5");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (text, complaint) in [
            ("", "only a part"),
            ("listen_port=7\n", "only a part"),
            ("listen_port=x\nerrno=0\n\n", "listen_port"),
            ("hello\n\n", "without `=`"),
            ("errno=22\n\n", "os error 22"),
            ("errno=-22\n\n", "os error 22"),
            ("public_key=00\nerrno=0\n\n", "public_key"),
        ] {
            let failure = State::read(text.as_bytes()).unwrap_err();
            assert!(failure.text.contains(complaint), "{text:?}: {}", failure.text);
        }
        assert!(State::read(b"\xff\n\n").is_err());
    }

    #[test]
    fn prefixes_look_as_the_c_library_writes_them() {
        for text in ["::1.2.3.4/128", "::/0", "::1/128", "::ffff:1.2.3.4/128", "10.0.0.0/8", "2001:db8::/32"] {
            assert_eq!(prefix_text(&text.parse().unwrap()), text);
        }
    }
}
