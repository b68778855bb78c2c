//! Dialling, listening, names and echo requests.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    Net, failed,
    inbox::{Inbox, Link},
    wait::{Limit, wait_for},
};
use socket2::SockRef;

use crate::plumbing::fd::above_standard;
use wg_embed::{
    bind,
    error::{Error, ErrorKind, Result},
    sync,
};
use wg_embed_netstack::{
    TcpListener, UdpSocket,
    dial::parse_host_port,
    dns::Family,
    pump::{AsFd, FdId, OwnedFd},
};

/// The time for which a port in use may still become free, in milliseconds.
const PATIENCE_MS: i32 = 200;

/// "tcp", "udp4" and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    is_tcp: bool,
    family: Family,
}

impl Network {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (protocol, family) = match text.strip_suffix(['4', '6']) {
            Some(protocol) if text.ends_with('4') => (protocol, Family::Ipv4),
            Some(protocol) => (protocol, Family::Ipv6),
            None => (text, Family::Any),
        };
        match protocol {
            "tcp" => Ok(Self { is_tcp: true, family }),
            "udp" => Ok(Self { is_tcp: false, family }),
            _ => Err(Error::invalid(format!("network is \"{text}\", not one of tcp, tcp4, tcp6, udp, udp4, udp6"))),
        }
    }

    /// Where to listen: an address and a port, or ":port" for all addresses of the network.
    fn parse_local(self, text: &str) -> Result<SocketAddr> {
        let invalid = |what| Err(Error::invalid(format!("cannot listen at \"{text}\": {what}")));
        let any = if self.family == Family::Ipv4 { "0.0.0.0" } else { "[::]" };
        let parsed = match text.strip_prefix(':') {
            Some(_) => format!("{any}{text}").parse(),
            None => text.parse(),
        };
        let Ok(at) = parsed else {
            return invalid("it is not an address and a port");
        };
        let at: SocketAddr = at;
        match self.family {
            Family::Ipv4 if !at.is_ipv4() => invalid("it is not IPv4"),
            Family::Ipv6 if !at.is_ipv6() => invalid("it is not IPv6"),
            // To the stack `[::]` stands for both families.
            Family::Ipv6 if at.ip().is_unspecified() => invalid("for IPv6 alone, name an address"),
            _ => Ok(at),
        }
    }
}

impl Net {
    /// Connects, and returns the app's descriptor.
    pub(crate) fn dial(&self, network: Network, target: &str, limit: Limit) -> Result<OwnedFd> {
        self.check_open()?;
        let context = format!("cannot connect to {target}");
        let fail = |err| failed(&context, err);
        if network.is_tcp {
            let dial = self.stack.start_dial(target, network.family, limit.left_for_stack()).map_err(fail)?;
            let set_notify = |notify| dial.set_notify(Some(notify));
            let stream = wait_for(limit, set_notify, || dial.try_finish()).map_err(fail)?;
            return self.descriptor(Link::Tcp(stream));
        }
        let (host, port) = parse_host_port(target).map_err(fail)?;
        if port == 0 {
            return Err(Error::invalid(format!("{context}: port 0")));
        }
        let socket = self.find(&host, network.family, limit).and_then(|found| self.bind_to(&found, port));
        let socket = socket.map_err(fail)?;
        self.with_pump("cannot make a descriptor", |pump| above_standard(pump.udp_descriptor(socket)?))
    }

    /// A socket for datagrams to the first of the addresses that one can be sent to.
    fn bind_to(&self, addresses: &[IpAddr], port: u16) -> io::Result<UdpSocket> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in addresses {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            match self.stack.bind_udp(SocketAddr::new(any, 0), Some(SocketAddr::new(*address, port))) {
                Ok(socket) => return Ok(socket),
                Err(err) => last = err,
            }
        }
        Err(last)
    }

    fn find(&self, name: &str, family: Family, limit: Limit) -> io::Result<Vec<IpAddr>> {
        let lookup = self.stack.start_resolve(name, family, limit.left_for_stack())?;
        wait_for(limit, |notify| lookup.set_notify(Some(notify)), || lookup.try_finish())
    }

    /// Looks up a name.
    pub(crate) fn resolve(&self, name: &str, family: Option<bind::Family>, limit: Limit) -> Result<Vec<IpAddr>> {
        self.check_open()?;
        let family = match family {
            None => Family::Any,
            Some(bind::Family::V4) => Family::Ipv4,
            Some(bind::Family::V6) => Family::Ipv6,
        };
        self.find(name, family, limit).map_err(|err| failed(&format!("cannot look up {name}"), err))
    }

    /// Sends an echo request and waits for the reply.
    pub(crate) fn ping(&self, host: &str, size: usize, limit: Limit) -> Result<Duration> {
        self.check_open()?;
        let fail = |err| failed(&format!("cannot ping {host}"), err);
        let found = self.find(host, Family::Any, limit).map_err(fail)?;
        let to = *found.first().ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        let ping = self.stack.start_ping(to, size).map_err(fail)?;
        wait_for(limit, |notify| ping.set_notify(Some(notify)), || ping.try_reply()).map_err(fail)
    }

    /// Listens, and returns the app's descriptor.
    pub(crate) fn listen(self: &Arc<Self>, network: Network, address: &str, backlog: u32) -> Result<OwnedFd> {
        let at = network.parse_local(address)?;
        let backlog = if backlog == 0 { 128 } else { backlog as usize };
        self.check_open()?;
        let outcome = if network.is_tcp { self.listen_tcp(at, backlog) } else { self.listen_udp(at, backlog) };
        outcome.map_err(|err| match err.kind() {
            io::ErrorKind::AddrNotAvailable => {
                let text = format!("cannot listen at {at}: it is not an address of the network");
                Error::new(ErrorKind::NotFound, text)
            }
            _ => failed(&format!("cannot listen at {at}"), err),
        })
    }

    fn listen_tcp(&self, at: SocketAddr, backlog: usize) -> io::Result<OwnedFd> {
        let listener = self.free_port(at, backlog)?;
        let at = listener.local_addr();
        // The pump's lock is let go of before that of the listeners is taken: `watch` takes them the other way round.
        let of_app = {
            let pump = sync::read(&self.pump);
            let pump = pump.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            above_standard(pump.listener_descriptor(listener)?)?
        };
        // The library waits by poll() before it takes what another thread may have taken by then.
        SockRef::from(&of_app).set_nonblocking(true)?;
        let id = FdId::of(of_app.as_fd())?;
        let mut listeners = sync::lock(&self.listeners);
        listeners.of_pump.retain(|(_, other)| *other != at);
        if listeners.of_pump.len() >= listeners.many_of_pump {
            listeners.of_pump.retain(|(_, at)| self.stack.is_listening(*at));
            listeners.many_of_pump = 2 * listeners.of_pump.len() + 64;
        }
        listeners.of_pump.push((id, at));
        Ok(of_app)
    }

    /// Begins to listen. The pump may not have seen yet that the app has closed another listener of this port.
    fn free_port(&self, at: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
        let patience = Limit::after(PATIENCE_MS);
        loop {
            match self.stack.listen_tcp(at, backlog) {
                Err(err) if err.kind() == io::ErrorKind::AddrInUse && !patience.is_over() => {
                    thread::sleep(Duration::from_millis(1));
                }
                outcome => return outcome,
            }
        }
    }

    /// Each source of datagrams is a connection of its own.
    fn listen_udp(self: &Arc<Self>, at: SocketAddr, backlog: usize) -> io::Result<OwnedFd> {
        let mut listeners = sync::lock(&self.listeners);
        self.forget_closed_listeners(&mut listeners);
        // One address beside all of them is told apart by the address, as with TCP.
        let (inbox, of_app) = Inbox::listening(self.stack.reserve_udp(at)?, backlog)?;
        self.watch(&inbox)?;
        listeners.inboxes.push(inbox);
        self.tell_stack(&listeners);
        Ok(of_app)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_named_as_documented() {
        let network = |is_tcp, family| Network { is_tcp, family };
        assert_eq!(Network::parse("tcp").unwrap(), network(true, Family::Any));
        assert_eq!(Network::parse("udp4").unwrap(), network(false, Family::Ipv4));
        assert_eq!(Network::parse("tcp6").unwrap(), network(true, Family::Ipv6));
        for text in ["", "4", "tcp5", "tcp44", "TCP", "icmp", "udp "] {
            assert_eq!(Network::parse(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn places_to_listen_are_of_the_family_that_was_named() {
        let at = |network: &str, text: &str| Network::parse(network).unwrap().parse_local(text).ok();
        let address = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        assert_eq!(at("tcp", ":80"), address("[::]:80"));
        assert_eq!(at("udp4", ":80"), address("0.0.0.0:80"));
        assert_eq!(at("tcp6", "[fd00::1]:0"), address("[fd00::1]:0"));
        assert_eq!(at("tcp", "10.0.0.1:80"), address("10.0.0.1:80"));
        for (network, text) in [
            ("tcp", ""),
            ("tcp", "80"),
            ("tcp", ":"),
            ("tcp", ":65536"),
            ("tcp", "host:80"),
            ("tcp6", ":80"),
            ("tcp6", "10.0.0.1:80"),
            ("udp4", "[::1]:80"),
        ] {
            assert_eq!(at(network, text), None, "{network} {text}");
        }
    }
}
