//! TLS with clients, by rustls.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::Arc,
};

use mio::net::TcpStream;
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::service::Tls;

/// The maximum number of bytes that wait to be sent on one connection.
const BUFFER: usize = 64 << 10;

/// The configuration of sessions.
#[derive(Clone)]
pub(crate) struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    pub(crate) fn new(tls: &Tls) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(ErrorKind::InvalidInput, what);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(tls.chain()).collect();
        let chain = chain.map_err(|e| invalid(format!("the certificate: {e}")))?;
        if chain.is_empty() {
            return Err(invalid("the certificate: there is none in the file".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(tls.key()).map_err(|e| invalid(format!("the key: {e}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| invalid(e.to_string()))?;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn accept(&self, socket: TcpStream) -> io::Result<Session> {
        let mut session = ServerConnection::new(self.0.clone()).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(BUFFER));
        Ok(Session { socket, session: Box::new(session), is_ending: false })
    }
}

/// A TLS session.
pub(crate) struct Session {
    pub(crate) socket: TcpStream,
    session: Box<ServerConnection>,
    /// Whether nothing is sent after the waiting bytes.
    is_ending: bool,
}

impl Session {
    pub(crate) fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.socket.local_addr()?, self.socket.peer_addr()?))
    }

    pub(crate) fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut has_ended = false;
        loop {
            match self.session.reader().read_vectored(parts) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !has_ended => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::UnexpectedEof.into()),
                result => return result,
            }
            has_ended = self.session.read_tls(&mut self.socket)? == 0;
            let processed = self.session.process_new_packets();
            // After an error, its alert is sent.
            let flushed = self.flush();
            processed.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
            flushed?;
        }
    }

    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut length = self.session.writer().write_vectored(parts)?;
        let is_flushed = self.flush()?;
        if length == 0 && is_flushed {
            length = self.session.writer().write_vectored(parts)?;
            self.flush()?;
        }
        if length == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(length) }
    }

    /// Sends waiting bytes. Returns whether there are none left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.is_ending {
            // The other side may already have closed it.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(true)
    }

    /// Ends the direction to the client.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.is_ending, true) {
            self.session.send_close_notify();
            // The error is detected again later.
            let _ = self.flush();
        }
    }
}
