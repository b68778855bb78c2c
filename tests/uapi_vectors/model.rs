//! A device without a tunnel: keeps what it is told, and holds a real port.

use std::{
    io::{self, Cursor, Read, Write},
    net::UdpSocket,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::Target;
use wg_embed::{
    Error,
    config::{
        PeerUpdate, Update,
        snapshot::{InterfaceSnapshot, PeerSnapshot, Snapshot},
    },
    key::{PresharedKey, PublicKey},
    uapi::{Backend, Options, serve},
};

#[derive(Default)]
pub(crate) struct Model {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    interface: InterfaceSnapshot,
    peers: Vec<PeerSnapshot>,
    socket: Option<UdpSocket>,
}

impl State {
    fn own_key(&self) -> Option<PublicKey> {
        self.interface.private_key.as_ref().map(|k| k.public_key())
    }

    fn apply(&mut self, update: Update) -> Result<(), Error> {
        // The one step that can fail comes first.
        if let Some(port) = update.listen_port
            && (port == 0 || port != self.interface.listen_port)
        {
            let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(|e| Error::io("cannot bind", e))?;
            self.interface.listen_port = socket.local_addr().map_err(|e| Error::io("no address", e))?.port();
            self.socket = Some(socket);
        }
        if let Some(key) = update.private_key {
            self.interface.private_key = key;
            let own = self.own_key();
            self.peers.retain(|p| Some(p.public_key) != own);
        }
        if let Some(mark) = update.fwmark {
            self.interface.fwmark = mark;
        }
        if update.replace_peers {
            self.peers.clear();
        }
        let own = self.own_key();
        for change in update.peers {
            if Some(change.public_key) != own {
                self.apply_peer(change);
            }
        }
        Ok(())
    }

    fn apply_peer(&mut self, change: PeerUpdate) {
        let position = self.peers.iter().position(|p| p.public_key == change.public_key);
        let at = match position {
            Some(at) => at,
            None if change.update_only => return,
            None => {
                self.peers.push(new_peer(change.public_key));
                self.peers.len() - 1
            }
        };
        let peer = &mut self.peers[at];
        peer.preshared_key = change.preshared_key.unwrap_or(peer.preshared_key.clone());
        peer.endpoint = change.endpoint.or(peer.endpoint.take());
        peer.persistent_keepalive = change.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
        if change.replace_allowed_ips {
            peer.allowed_ips.clear();
        }
        for ip in change.allowed_ips {
            if ip.remove {
                self.peers[at].allowed_ips.retain(|p| *p != ip.prefix);
            } else {
                self.peers.iter_mut().for_each(|p| p.allowed_ips.retain(|p| *p != ip.prefix));
                self.peers[at].allowed_ips.push(ip.prefix);
            }
        }
        if change.remove {
            self.peers.remove(at);
        }
    }
}

fn new_peer(public_key: PublicKey) -> PeerSnapshot {
    PeerSnapshot {
        public_key,
        preshared_key: PresharedKey::default(),
        endpoint: None,
        last_handshake: Duration::ZERO,
        tx_bytes: 0,
        rx_bytes: 0,
        persistent_keepalive: 0,
        allowed_ips: Vec::new(),
    }
}

impl Model {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Backend for Model {
    fn apply(&self, update: Update) -> Result<(), Error> {
        self.state().apply(update)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let state = self.state();
        Snapshot { interface: state.interface.clone(), peers: Box::new(state.peers.clone().into_iter()) }
    }
}

/// A connection in memory.
struct Pipe<'a> {
    request: Cursor<&'a [u8]>,
    answer: Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.request.read(into)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Model {
    fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        let mut pipe = Pipe { request: Cursor::new(request), answer: Vec::new() };
        let options = Options { zones: Some(|zone| zone == "lo"), ..Options::default() };
        // How a connection ends is no part of the answer.
        let _ = serve(&mut pipe, self, &options);
        pipe.answer
    }
}
