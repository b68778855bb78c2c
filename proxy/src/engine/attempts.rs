//! Attempts to connect to the addresses of one target on this side. As with a target in the tunnel (RFC 8305), an
//! address that does not answer delays the others only a little: families alternate, and the first connection wins.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::Surroundings;
use crate::{service::Address, socket::Socket};

/// The delay between the starts of two attempts.
const DELAY: Duration = Duration::from_millis(250);
/// The maximum number of attempts in progress: each has a descriptor.
const MAX: usize = 8;

pub(super) struct Attempts {
    /// Addresses that were not yet tried.
    left: VecDeque<Address>,
    /// In the order of their starts.
    begun: Vec<Socket>,
    /// The earliest start of the next attempt.
    next: Instant,
    /// The error of the last one that has failed.
    error: Option<io::Error>,
}

impl Attempts {
    pub(super) fn new(addresses: impl IntoIterator<Item = Address>) -> Self {
        let left = addresses.into_iter().collect();
        Self { left, begun: Vec::new(), next: Instant::now(), error: None }
    }

    /// Makes progress; returns a connected socket when there is one.
    ///
    /// # Errors
    /// That of the last address, if no other one is left.
    pub(super) fn go_on(&mut self, around: &Surroundings<'_>) -> io::Result<Option<Socket>> {
        loop {
            if let Some(socket) = self.connected() {
                return Ok(Some(socket));
            }
            if self.begun.is_empty() && self.left.is_empty() {
                return Err(self.error.take().unwrap_or_else(|| ErrorKind::NotFound.into()));
            }
            let now = Instant::now();
            if self.deadline().is_none_or(|next| next > now) {
                return Ok(None);
            }
            if let Some(to) = self.left.pop_front() {
                match open(&to, around) {
                    Ok(socket) => {
                        self.begun.push(socket);
                        self.next = now + DELAY;
                    }
                    Err(error) => self.error = Some(error),
                }
            }
        }
    }

    /// Returns the time of the next attempt, if there is one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.left.is_empty() && self.begun.len() < MAX).then_some(self.next)
    }

    /// Makes closing them resets.
    pub(super) fn reset_on_close(&self) {
        for socket in &self.begun {
            socket.reset_on_close();
        }
    }

    /// Takes the first connected socket. After a failure the next attempt may begin at once.
    fn connected(&mut self) -> Option<Socket> {
        let mut at = 0;
        while let Some(socket) = self.begun.get(at) {
            match socket.is_connected() {
                Ok(true) => return Some(self.begun.remove(at)),
                Ok(false) => at += 1,
                Err(error) => {
                    self.begun.remove(at);
                    self.error = Some(error);
                    self.next = Instant::now();
                }
            }
        }
        None
    }
}

/// Orders addresses so that families alternate, beginning with that of the first one.
pub(super) fn alternate(found: Vec<IpAddr>, port: u16) -> impl Iterator<Item = Address> {
    let first = found.first().map(IpAddr::is_ipv4);
    let mut counts = [0; 2];
    let numbered = found.into_iter().map(|address| {
        let family = usize::from(Some(address.is_ipv4()) != first);
        counts[family] += 1;
        (counts[family], family, address)
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort_by_key(|(number, family, _)| (*number, *family));
    numbered.into_iter().map(move |(_, _, address)| Address::Tcp(SocketAddr::new(address, port)))
}

fn open(to: &Address, around: &Surroundings<'_>) -> io::Result<Socket> {
    let mut socket = Socket::connect(to)?;
    socket.register(around.registry(), around.token)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let [a, b, c]: [IpAddr; 3] = [1, 2, 3].map(|n| [192, 0, 2, n].into());
        let [d, e]: [IpAddr; 2] = [1, 2].map(|n| [0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into());
        let order = |found: &[IpAddr]| alternate(found.to_vec(), 80).collect::<Vec<_>>();
        let at = |address: &IpAddr| Address::Tcp(SocketAddr::new(*address, 80));
        assert_eq!(order(&[a, b, c, d]), [a, d, b, c].iter().map(at).collect::<Vec<_>>());
        assert_eq!(order(&[d, e, a, b]), [d, a, e, b].iter().map(at).collect::<Vec<_>>());
        assert_eq!(order(&[a, b]), [a, b].iter().map(at).collect::<Vec<_>>());
        assert_eq!(order(&[]), []);
    }
}
