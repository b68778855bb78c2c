//! Connections and flows from the tunnel without a socket of the stack.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use wg_embed_netstack::{Intercept, InterceptOptions, PendingTcp, TcpStream, UdpFlow};

use super::{
    Engine, Entry, Serving,
    incoming::{Fate, Incoming},
};
use crate::{
    mailbox::{Command, Mailbox},
    service::{Allow, Kind, Target},
    stats::Place,
    udp::flow::Flow,
};

/// How long a handshake may be delayed: longer than the time limit of any target.
const HOLD: Duration = Duration::from_secs(600);
/// The maximum number of flows of datagrams.
const MAX_FLOWS: usize = 8192;

/// Passes intercepted connections and flows to the engine.
struct Interceptor(Arc<Mailbox>);

impl Intercept for Interceptor {
    fn dialled(&self, pending: PendingTcp) {
        self.0.push(Command::Dialled(pending));
    }

    fn connected(&self, stream: TcpStream) {
        self.0.push(Command::Connected(stream));
    }

    fn flow(&self, flow: UdpFlow) {
        self.0.push(Command::Flow(flow));
    }
}

impl Engine {
    /// Takes a port of the tunnel for an entry; 0 is any port.
    pub(super) fn take_port(&mut self, port: u16, token: usize) -> io::Result<()> {
        if port != 0 && self.ports.contains_key(&port) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.ports.entry(port).or_default().push(token);
        Ok(())
    }

    pub(super) fn forget_tunnelled(&mut self, gone: &[usize]) {
        self.accepting.retain(|_, token| !gone.contains(token));
        let count = |ports: &HashMap<u16, Vec<usize>>| ports.values().map(Vec::len).sum::<usize>();
        let before = count(&self.ports);
        self.ports.retain(|_, tokens| {
            tokens.retain(|token| !gone.contains(token));
            !tokens.is_empty()
        });
        if count(&self.ports) != before {
            self.intercept();
        }
    }

    pub(super) fn end_tunnelled(&mut self) {
        if !self.ports.is_empty() {
            self.ports.clear();
            self.intercept();
        }
    }

    /// Sets the stack's interception according to the current services.
    pub(super) fn intercept(&self) {
        let idle = self.forwarding().filter_map(|serving| match serving.service.kind {
            Kind::UdpForward { idle, .. } => Some(idle),
            _ => None,
        });
        let options = InterceptOptions {
            udp_idle: idle.max().unwrap_or(InterceptOptions::default().udp_idle),
            max_flows: MAX_FLOWS,
            answer_echo: false,
            hold: HOLD,
        };
        let handler =
            (!self.ports.is_empty()).then(|| Arc::new(Interceptor(self.common.mailbox.clone())) as Arc<dyn Intercept>);
        self.common.stack.intercept(options, handler);
    }

    /// Returns the services for all ports.
    fn forwarding(&self) -> impl Iterator<Item = &Arc<Serving>> {
        let tokens = self.ports.get(&0).into_iter().flatten();
        tokens.filter_map(|token| self.entries.get(token)).map(|(_, serving)| serving)
    }

    /// Returns the service for this destination, and its target.
    fn wanted(&self, to: SocketAddr, is_tcp: bool) -> Option<(Arc<Serving>, Target)> {
        if self.is_own(to.ip()) {
            let token = self.ports.get(&to.port()).filter(|_| is_tcp)?.first()?;
            let (_, serving) = self.entries.get(token)?;
            let Kind::TcpServer { target, .. } = &serving.service.kind else {
                return None;
            };
            return Some((serving.clone(), target.clone()));
        }
        let serving = self.forwarding().find(|serving| match &serving.service.kind {
            Kind::TcpForward { allow } => is_tcp && is_allowed(allow, to),
            Kind::UdpForward { allow, .. } => !is_tcp && is_allowed(allow, to),
            _ => false,
        })?;
        Some((serving.clone(), Target::Host(to.to_string())))
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.common.stack.options().addresses.contains(&address)
    }

    /// Handles an incoming connection of the tunnel.
    pub(super) fn dialled(&mut self, pending: PendingTcp) {
        let to = pending.destination();
        let Some((serving, target)) = self.wanted(to, true) else {
            // As without interception: addresses that are not the stack's own get no response.
            if self.is_own(to.ip()) || self.ports.contains_key(&0) {
                pending.refuse();
            } else {
                pending.ignore();
            }
            return;
        };
        if self.is_full(&serving) {
            serving.counters.refused();
            return pending.refuse();
        }
        let token = self.common.token();
        let place = Place::take(&serving.counters);
        let fate = Incoming::start(pending, &target, place, &self.common.around(&serving, token));
        self.incoming_fate(fate, token, serving);
    }

    pub(super) fn incoming_fate(&mut self, fate: Fate, token: usize, serving: Arc<Serving>) {
        match fate {
            Fate::Keep(incoming) => {
                self.deadlines.set(token, incoming.deadline());
                self.entries.insert(token, (Entry::Incoming(Box::new(incoming)), serving));
            }
            Fate::Accept(incoming, addresses) => {
                self.deadlines.set(token, incoming.deadline());
                // A peer that dials again from the same port has given up the earlier connection.
                if let Some(before) = self.accepting.insert(addresses, token)
                    && let Some((entry, _)) = self.entries.remove(&before)
                {
                    self.deadlines.clear(before);
                    entry.end();
                }
                self.entries.insert(token, (Entry::Incoming(Box::new(incoming)), serving));
            }
            Fate::Done => self.deadlines.clear(token),
        }
    }

    /// Handles an accepted connection that is now established.
    pub(super) fn connected(&mut self, stream: TcpStream) {
        let token = self.accepting.remove(&(stream.local_addr(), stream.peer_addr()));
        let found = token.and_then(|token| Some((token, self.entries.remove(&token)?)));
        match found {
            Some((token, (Entry::Incoming(incoming), serving))) => match incoming.established(stream) {
                Some(link) => self.link(link, token, serving),
                None => self.deadlines.clear(token),
            },
            Some((token, other)) => {
                self.entries.insert(token, other);
                stream.reset();
            }
            None => stream.reset(),
        }
    }

    /// Handles the first datagram of a flow.
    pub(super) fn flow(&mut self, flow: UdpFlow) {
        let to = flow.destination();
        let Some((serving, _)) = self.wanted(to, false) else {
            if self.is_own(to.ip()) || self.ports.contains_key(&0) {
                flow.refuse();
            }
            return;
        };
        if self.is_full(&serving) {
            return serving.counters.refused();
        }
        let token = self.common.token();
        match Flow::new(&self.common.around(&serving, token), flow, to) {
            Ok(flow) => {
                self.entries.insert(token, (Entry::Flow(Box::new(flow)), serving));
                self.again.push(token);
            }
            Err(error) => tracing::debug!(%error, "datagrams cannot leave on this side"),
        }
    }
}

/// Returns whether connections from the tunnel may go to this address.
fn is_allowed(allow: &[Allow], to: SocketAddr) -> bool {
    if !allow.is_empty() {
        return allow.iter().any(|allow| allow.has(to));
    }
    match to.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let is_none = ip.octets()[0] == 0 || ip.is_broadcast() || ip.is_multicast();
            !(ip.is_loopback() || ip.is_link_local() || is_none)
        }
        IpAddr::V6(ip) => {
            let is_none = ip.is_unspecified() || ip.is_multicast();
            !(ip.is_loopback() || ip.is_unicast_link_local() || is_none)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_this_machine_is_out_of_reach() {
        let to = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("{text}"));
        for text in ["127.0.0.1:1", "[::1]:1", "169.254.169.254:80", "[fe80::1]:1", "0.0.0.0:1", "224.0.0.1:1"] {
            assert!(!is_allowed(&[], to(text)), "{text}");
        }
        assert!(is_allowed(&[], to("192.0.2.1:1")) && is_allowed(&[], to("[2001:db8::1]:1")));
        let one: Vec<Allow> = "127.0.0.1:80".parse().into_iter().collect();
        assert!(is_allowed(&one, to("127.0.0.1:80")) && !is_allowed(&one, to("192.0.2.1:80")));
    }
}
