//! A stream over two descriptors: pipes, sockets, or the same socket twice.

use super::transport::{Stop, Transport};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// The number of bytes that a writable pipe accepts without waiting: a page on Linux, 512 bytes elsewhere.
const PIPE: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 4096 } else { 512 };

impl Transport {
    /// Creates a transport that reads from one descriptor and writes to another. They may be duplicates of one socket.
    ///
    /// Neither is switched to another mode, because other processes may share it. Both are closed when the stream ends;
    /// a socket is shut down first, so that the stream also ends for its duplicates.
    ///
    /// # Errors
    /// The errors of `pipe(2)`: there are too many descriptors.
    pub fn from_descriptors(read: OwnedFd, write: OwnedFd) -> io::Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe()?;
        for end in [&stopped, &stop] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        rustix::io::ioctl_fionbio(&stop, true)?;
        let stopped = Arc::new(stopped);
        Ok(Self {
            reader: Box::new(Half::new(read, Shutdown::Read, stopped.clone())),
            writer: Box::new(Half::new(write, Shutdown::Write, stopped)),
            stop: Arc::new(Bell(stop)),
        })
    }
}

/// A pipe whose other end is polled by both directions, and never read.
struct Bell(OwnedFd);

impl Stop for Bell {
    fn stop(&self) {
        // A full pipe is readable already.
        let _ = rustix::io::write(&self.0, &[0]);
    }
}

/// One direction.
struct Half {
    descriptor: OwnedFd,
    is_socket: bool,
    /// The direction in which a socket is shut down. Not both: the other direction may use the same socket.
    direction: Shutdown,
    stopped: Arc<OwnedFd>,
}

impl Half {
    fn new(descriptor: OwnedFd, direction: Shutdown, stopped: Arc<OwnedFd>) -> Self {
        let is_socket = rustix::net::sockopt::socket_type(&descriptor).is_ok();
        Self { descriptor, is_socket, direction, stopped }
    }

    /// Waits until the descriptor is ready. Fails once the stream is to end.
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let mut both =
                [PollFd::from_borrowed_fd(self.stopped.as_fd(), PollFlags::IN), PollFd::new(&self.descriptor, flags)];
            match poll(&mut both, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [stopped, ready] = both.map(|descriptor| descriptor.revents());
            if !stopped.is_empty() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if !ready.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            let result = if self.is_socket {
                rustix::net::recv(&self.descriptor, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, len)| len)
            } else {
                rustix::io::read(&self.descriptor, &mut *buffer)
            };
            match result {
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::OUT)?;
            let result = if self.is_socket {
                rustix::net::send(&self.descriptor, bytes, SendFlags::DONTWAIT)
            } else {
                rustix::io::write(&self.descriptor, bytes.get(..PIPE).unwrap_or(bytes))
            };
            match result {
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if self.is_socket {
            // It fails if the other side was faster.
            let _ = rustix::net::shutdown(&self.descriptor, self.direction);
        }
    }
}
