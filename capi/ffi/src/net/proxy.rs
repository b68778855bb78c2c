//! SOCKS5 and HTTP proxies: local programs reach the network by them.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};

use super::{Net, failed, turned_off};
use crate::{plumbing::sized::check_flags, types::net::WG_NET_PROXY_REMOTE};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    sync,
};
use wg_embed_proxy::{Address, Connections, Kind, Login, Options, Proxy, Service, ServiceId};

/// The longest name or password in bytes, the limit of SOCKS5.
const MOST: usize = 255;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Socks5,
    Http,
}

/// The arguments of an app, checked.
pub(crate) struct Wanted {
    protocol: Protocol,
    at: SocketAddr,
    login: Option<Login>,
}

impl Wanted {
    pub(crate) fn new(
        protocol: Protocol,
        listen: Option<&str>,
        user: Option<&str>,
        password: Option<&str>,
        flags: u32,
    ) -> Result<Self> {
        check_flags(flags, WG_NET_PROXY_REMOTE as u32)?;
        let listen = listen.unwrap_or("127.0.0.1:0");
        let at: SocketAddr = listen
            .parse()
            .map_err(|_| Error::invalid(format!("cannot listen at \"{listen}\": it is not an address and a port")))?;
        let login = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some(login(protocol, user, password)?),
            _ => return Err(Error::invalid("either user or password is NULL, but not both")),
        };
        if !at.ip().to_canonical().is_loopback() {
            if flags & WG_NET_PROXY_REMOTE as u32 == 0 {
                let text = format!("cannot listen at {at}: without WG_NET_PROXY_REMOTE it must be a loopback address");
                return Err(Error::invalid(text));
            }
            if login.is_none() {
                let text = format!("cannot listen at {at}: with WG_NET_PROXY_REMOTE, user and password are needed");
                return Err(Error::invalid(text));
            }
        }
        Ok(Self { protocol, at, login })
    }
}

fn login(protocol: Protocol, user: &str, password: &str) -> Result<Login> {
    for (text, name) in [(user, "user"), (password, "password")] {
        if text.is_empty() || text.len() > MOST {
            return Err(Error::invalid(format!("{name} has {} bytes, not 1 to {MOST}", text.len())));
        }
    }
    if protocol == Protocol::Http && user.contains(':') {
        return Err(Error::invalid("user contains a colon"));
    }
    Ok(Login::new(user, password))
}

/// The proxies of a network: one thread for all of them, from the first one on.
#[derive(Default)]
pub(super) struct Proxies(Mutex<State>);

#[derive(Default)]
struct State {
    engine: Option<Proxy>,
    /// By number.
    services: Vec<(i32, ServiceId)>,
    last: i32,
}

impl Proxies {
    fn lock(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.0)
    }

    /// Ends all of them. None may be started any more.
    pub(super) fn close(&self) {
        let engine = self.lock().engine.take();
        drop(engine);
    }
}

impl Net {
    /// Starts a proxy. Returns its number, and where it listens.
    pub(crate) fn start_proxy(&self, wanted: Wanted) -> Result<(i32, SocketAddr)> {
        let Wanted { protocol, at, login } = wanted;
        // Held until the service is there: when the tunnel is off, so is each proxy.
        let mut state = self.proxies.lock();
        self.check_open()?;
        let fail = |err: std::io::Error| match err.kind() {
            std::io::ErrorKind::AddrNotAvailable => {
                Error::new(ErrorKind::NotFound, format!("cannot listen at {at}: it is not an address of this system"))
            }
            _ => failed(&format!("cannot listen at {at}"), err),
        };
        let number = state.last.checked_add(1);
        let number = number.ok_or_else(|| Error::new(ErrorKind::Resources, "all numbers of proxies are in use"))?;
        let engine = match state.engine.take() {
            Some(engine) => engine,
            None => Proxy::start(&self.stack, Options::default()).map_err(fail)?,
        };
        let engine = state.engine.insert(engine);
        let at = Address::Tcp(at);
        let id = engine.add(Service::new(match protocol {
            // No program of this system is to open ports of the tunnel: they are the caller's.
            Protocol::Socks5 => Kind::Socks5 { at, login, bind: false },
            Protocol::Http => Kind::Http { at, login },
        }));
        let id = id.map_err(fail)?;
        let Some(Address::Tcp(bound)) = engine.address(id) else { return Err(turned_off()) };
        state.services.push((number, id));
        state.last = number;
        Ok((number, bound))
    }

    /// Ends a proxy: its port is free, and its connections are reset.
    pub(crate) fn stop_proxy(&self, number: i32) -> Result<()> {
        let mut state = self.proxies.lock();
        self.check_open()?;
        let at = state.services.iter().position(|(other, _)| *other == number);
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no proxy with the number {number}"));
        let (_, id) = state.services.swap_remove(at.ok_or_else(missing)?);
        let engine = state.engine.as_ref().ok_or_else(turned_off)?;
        engine.remove(id, Connections::End).map_err(|err| failed("cannot end the proxy", err))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(listen: &str, login: Option<(&str, &str)>, flags: u32) -> String {
        let (user, password) = login.unzip();
        match Wanted::new(Protocol::Http, Some(listen), user, password, flags) {
            Ok(_) => String::new(),
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Invalid);
                err.to_string()
            }
        }
    }

    #[test]
    fn no_proxy_is_open_to_others() {
        let login = Some(("me", "secret"));
        let remote = WG_NET_PROXY_REMOTE as u32;
        for listen in ["127.0.0.1:0", "127.9.9.9:8080", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert_eq!(refused(listen, None, 0), "", "{listen}");
            assert_eq!(refused(listen, login, remote), "", "{listen}");
        }
        for listen in ["0.0.0.0:0", "[::]:1", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
            assert!(refused(listen, login, 0).contains("must be a loopback address"), "{listen}");
            assert!(refused(listen, None, remote).contains("are needed"), "{listen}");
            assert_eq!(refused(listen, login, remote), "", "{listen}");
        }
    }

    #[test]
    fn texts_are_checked() {
        let long = "x".repeat(256);
        for (listen, login, text) in [
            ("localhost:1", None, "is not an address and a port"),
            ("127.0.0.1", None, "is not an address and a port"),
            ("127.0.0.1:65536", None, "is not an address and a port"),
            ("127.0.0.1:0", Some(("", "x")), "user has 0 bytes"),
            ("127.0.0.1:0", Some(("x", "")), "password has 0 bytes"),
            ("127.0.0.1:0", Some((long.as_str(), "x")), "user has 256 bytes"),
            ("127.0.0.1:0", Some(("a:b", "x")), "a colon"),
        ] {
            assert!(refused(listen, login, 0).contains(text), "{listen} {login:?}");
        }
        assert!(refused("127.0.0.1:0", None, 2).contains("flags is 0x2"));
        assert!(Wanted::new(Protocol::Socks5, None, Some("x"), None, 0).is_err());
        assert!(Wanted::new(Protocol::Socks5, None, Some("a:b"), Some("x"), 0).is_ok());
    }
}
