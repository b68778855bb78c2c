//! Two tunnels whose connections are descriptors.

#[cfg(windows)]
pub use std::net::TcpStream as Stream;
#[cfg(unix)]
pub use std::os::unix::net::UnixStream as Stream;
use std::{
    io::{self, Read},
    thread,
    time::{Duration, Instant},
};

use wg_embed_netstack::{
    TcpStream,
    pump::{self, Accepted, AsFd, OwnedFd, Pump, accept},
};

use super::tunnels::{self, Tunnelled};

pub const LIMIT: Duration = Duration::from_secs(300);

/// Two tunnels, and a pump on each side.
pub struct Pumps {
    pub a: Tunnelled,
    pub b: Tunnelled,
    pub pump_a: Pump,
    pub pump_b: Pump,
}

pub fn pumps() -> Pumps {
    let (a, b) = tunnels::pair(|_| {});
    Pumps { a, b, pump_a: Pump::new().unwrap(), pump_b: Pump::new().unwrap() }
}

pub fn stream(descriptor: OwnedFd) -> Stream {
    let stream = Stream::from(descriptor);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

impl Pumps {
    /// A connection: a descriptor here, a stream there.
    pub fn connect(&self, port: u16) -> (Stream, TcpStream) {
        let at = format!("10.0.0.2:{port}").parse().unwrap();
        let listener = self.b.stack.listen_tcp(at, 8).unwrap();
        let client = self.a.stack.start_tcp(at).unwrap();
        client.wait_established(Some(LIMIT)).unwrap();
        let server = listener.accept(Some(LIMIT)).unwrap();
        server.set_read_timeout(Some(LIMIT));
        server.set_write_timeout(Some(LIMIT));
        (stream(self.pump_a.tcp_descriptor(client).unwrap()), server)
    }

    /// A connection: descriptors on both sides.
    pub fn connect_both(&self, port: u16) -> (Stream, Stream) {
        let (client, server) = self.connect(port);
        (client, stream(self.pump_b.tcp_descriptor(server).unwrap()))
    }
}

/// Waits for a connection.
pub fn accept_one(listener: &OwnedFd) -> Accepted {
    loop {
        match accept(listener.as_fd()) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => pump::wait(listener.as_fd(), Some(LIMIT)).unwrap(),
            accepted => return accepted.unwrap(),
        }
    }
}

/// Waits for what other threads do.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn read_all(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}
