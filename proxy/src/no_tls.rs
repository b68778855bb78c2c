//! A substitute for TLS, without the feature `tls`.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::SocketAddr,
};

use mio::net::TcpStream;

use crate::service::Tls;

/// There are no acceptors.
#[derive(Clone)]
pub(crate) enum Acceptor {}

impl Acceptor {
    pub(crate) fn new(tls: &Tls) -> io::Result<Self> {
        let _ = (tls.chain(), tls.key());
        Err(io::Error::new(ErrorKind::Unsupported, "built without TLS"))
    }

    pub(crate) fn accept(&self, _socket: TcpStream) -> io::Result<Session> {
        match *self {}
    }
}

/// There are no sessions.
pub(crate) struct Session {
    pub(crate) socket: TcpStream,
    never: std::convert::Infallible,
}

impl Session {
    pub(crate) fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        match self.never {}
    }

    pub(crate) fn read(&mut self, _parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self.never {}
    }

    pub(crate) fn write(&mut self, _parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.never {}
    }

    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self.never {}
    }

    pub(crate) fn end(&mut self) {
        match self.never {}
    }
}
