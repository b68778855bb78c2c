//! Host names of endpoints, which become addresses before the firewall is there: then the system's resolver may not be
//! reachable.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use wg_embed::{
    config::{HostPort, PeerEndpoint, Update},
    error::{Error, ErrorKind, Result},
};

/// How often the names are looked up: at the start of the system the network may not be there yet.
const ATTEMPTS: u32 = 15;

/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(4);

/// Replaces host names by their first address, of IPv4 if there is one.
///
/// `look_up` returns the addresses of a name. `pause` waits for the given time, and returns false if the tunnel is to
/// end.
///
/// # Errors
/// `Closed` if `pause` has returned false; the error of the last attempt, which names the host.
pub fn resolve(
    update: &mut Update,
    look_up: &mut dyn FnMut(&HostPort) -> io::Result<Vec<SocketAddr>>,
    pause: &mut dyn FnMut(Duration) -> bool,
) -> Result<()> {
    for peer in &mut update.peers {
        let Some(PeerEndpoint::Host(host)) = &peer.endpoint else { continue };
        let mut attempt = 1;
        let address = loop {
            match look_up(host).and_then(|addresses| first(&addresses)) {
                Ok(address) => break address,
                Err(error) if attempt == ATTEMPTS => {
                    return Err(Error::io(format!("cannot resolve {}", host.host()), error));
                }
                Err(error) => tracing::info!(host = host.host(), %error, "the name of a peer is looked up again"),
            }
            if !pause(PAUSE) {
                return Err(Error::new(ErrorKind::Closed, "stopped while the names of peers were looked up"));
            }
            attempt += 1;
        };
        peer.endpoint = Some(address.into());
    }
    Ok(())
}

fn first(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied().ok_or_else(none)
}

/// Looks a name up with the system's resolver.
///
/// # Errors
/// Errors of the system.
pub fn look_up(host: &HostPort) -> io::Result<Vec<SocketAddr>> {
    Ok((host.host(), host.port()).to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use wg_embed::config::PeerUpdate;

    use super::*;

    fn update() -> Update {
        let mut peer = PeerUpdate::new(wg_embed::key::PrivateKey::from_bytes([7; 32]).public_key());
        peer.endpoint = Some("vpn.example.com:51820".parse().unwrap());
        Update { peers: vec![peer], ..Update::default() }
    }

    fn address(update: &Update) -> String {
        update.peers[0].endpoint.as_ref().unwrap().to_string()
    }

    #[test]
    fn a_name_is_tried_again_and_ipv4_comes_first() {
        let (mut update, mut tries, mut pauses) = (update(), 0, 0);
        let mut look_up = |host: &HostPort| {
            assert_eq!((host.host(), host.port()), ("vpn.example.com", 51820));
            tries += 1;
            match tries {
                1 => Err(io::Error::from(io::ErrorKind::NetworkUnreachable)),
                2 => Ok(Vec::new()),
                _ => Ok(vec!["[2001:db8::1]:51820".parse().unwrap(), "192.0.2.1:51820".parse().unwrap()]),
            }
        };
        resolve(&mut update, &mut look_up, &mut |_| {
            pauses += 1;
            true
        })
        .unwrap();
        assert_eq!((address(&update).as_str(), tries, pauses), ("192.0.2.1:51820", 3, 2));
        // An address is not looked up.
        resolve(&mut update, &mut |_| panic!("an address"), &mut |_| true).unwrap();
    }

    #[test]
    fn it_ends_after_some_attempts_or_when_the_tunnel_ends() {
        let mut fails = |_: &HostPort| Err(io::Error::from(io::ErrorKind::NotFound));
        let error = resolve(&mut update(), &mut fails, &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("vpn.example.com"), "{error}");
        let error = resolve(&mut update(), &mut fails, &mut |_| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}
