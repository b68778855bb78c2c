//! A real device that is up: sockets of the system below, a TUN in memory above.

use std::{
    io::{self, Cursor, Read, Write},
    sync::Arc,
    time::Duration,
};

use super::Target;
use wg_embed::{
    Error,
    bind::{Bind, RecvBatch, SendReport, Transmit, Woken, udp::UdpBind},
    config::{Update, snapshot::Snapshot},
    device::{self, Device},
    tun::mem::{MemHandle, MemTun},
    uapi::{Backend, Options, serve},
};

pub(crate) struct Ours {
    device: Device,
    /// Its other end, kept so that the interface stays.
    _tun: MemHandle,
}

impl Default for Ours {
    fn default() -> Self {
        let (tun, handle) = MemTun::new("vectors", 1420);
        let bind = AnyMark(UdpBind::new().unwrap());
        let device = Device::new(Arc::new(tun), Arc::new(bind), device::Options::default());
        device.up().unwrap();
        Self { device, _tun: handle }
    }
}

/// Sockets that take any mark: the system asks for privileges, which these tests do not.
struct AnyMark(UdpBind);

impl Bind for AnyMark {
    fn open(&self, port: u16) -> io::Result<u16> {
        self.0.open(port)
    }
    fn close(&self) {
        self.0.close();
    }
    fn set_mark(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.0.wait(timeout)
    }
    fn wake(&self) {
        self.0.wake();
    }
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.0.recv(batch)
    }
    /// What the vectors configure must not leave this machine.
    fn send(&self, _: &[Transmit<'_>]) -> SendReport {
        SendReport::default()
    }
    fn zone_index(&self, zone: &str) -> Option<u32> {
        self.0.zone_index(zone)
    }
}

impl Backend for Ours {
    fn apply(&self, update: Update) -> Result<(), Error> {
        self.device.apply(update)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        self.device.snapshot()
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

impl Target for Ours {
    fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        let mut pipe = Pipe { request: Cursor::new(request), answer: Vec::new() };
        let options = Options { zones: Some(|zone| zone == "lo"), ..Options::default() };
        // How a connection ends is no part of the answer.
        let _ = serve(&mut pipe, self, &options);
        pipe.answer
    }
}
