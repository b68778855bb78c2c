//! What tests do with both kinds of connections.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    net::{Shutdown, TcpStream as KernelStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use wg_embed_netstack::TcpStream;

/// Bounds a hang, and nothing else.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn patient(stream: KernelStream) -> KernelStream {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

pub(crate) fn patient_stream(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT));
    stream.set_write_timeout(Some(LIMIT));
    stream
}

/// One side of a connection.
pub(crate) trait End: Sync {
    fn reader(&self) -> Box<dyn Read + '_>;
    fn writer(&self) -> Box<dyn Write + '_>;
    fn end(&self) -> io::Result<()>;
}

impl End for TcpStream {
    fn reader(&self) -> Box<dyn Read + '_> {
        Box::new(self)
    }

    fn writer(&self) -> Box<dyn Write + '_> {
        Box::new(self)
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl End for KernelStream {
    fn reader(&self) -> Box<dyn Read + '_> {
        Box::new(self)
    }

    fn writer(&self) -> Box<dyn Write + '_> {
        Box::new(self)
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Everything up to the end.
pub(crate) fn read_all(end: &dyn End) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    end.reader().read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn write_and_end(end: &dyn End, bytes: &[u8]) {
    end.writer().write_all(bytes).unwrap();
    end.end().unwrap();
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(what: &str, got: &[u8], wanted: &[u8]) {
    let place = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
    assert!(
        place.is_none() && got.len() == wanted.len(),
        "{what}: {} of {} bytes, the first wrong one at {place:?}",
        got.len(),
        wanted.len()
    );
}

/// Both sides send at once, and end.
pub(crate) fn exchange(ours: &dyn End, theirs: &dyn End, up: &[u8], down: &[u8]) {
    thread::scope(|scope| {
        for (end, sent, wanted, what) in [(ours, up, down, "to the stack"), (theirs, down, up, "to the kernel")] {
            scope.spawn(move || write_and_end(end, sent));
            scope.spawn(move || assert_same(what, &read_all(end).unwrap(), wanted));
        }
    });
}

/// The kernel's next close is a reset.
pub(crate) fn reset_by_close(stream: KernelStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Ends a kernel's connection with a reset while other threads use it.
pub(crate) fn disconnect(stream: &KernelStream) {
    // SAFETY: all zeros are a sockaddr; AF_UNSPEC is 0.
    let none: libc::sockaddr = unsafe { mem::zeroed() };
    // Not libc's function, of which ThreadSanitizer believes that it makes a new descriptor.
    // SAFETY: `none` is live, and as long as is said. It fails on a connection that has ended, which is as well.
    unsafe { libc::syscall(libc::SYS_connect, stream.as_raw_fd(), &raw const none, size_of::<libc::sockaddr>()) };
}

/// What the kernel knows about a connection.
pub(crate) fn tcp_info(stream: &KernelStream) -> libc::tcp_info {
    // SAFETY: all zeros are a tcp_info.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let place = (&raw mut info).cast();
    // SAFETY: `place` has `len` bytes.
    let result =
        unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut len) };
    assert_eq!(result, 0);
    info
}

/// Whether this is how a connection that was reset fails.
pub(crate) fn is_reset(err: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(err.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected)
}

/// Writes as much as is taken until nothing was for a while; returns how much.
pub(crate) fn fill(mut write: impl FnMut(&[u8]) -> std::io::Result<usize>, data: &[u8]) -> usize {
    let (mut written, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_secs(1) {
        match write(&data[written..(written + (64 << 10)).min(data.len())]) {
            Ok(bytes) => {
                written += bytes;
                last = Instant::now();
                assert!(written < data.len(), "nothing stops the writer");
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    written
}

/// Reads so many bytes, in small and in large steps.
pub(crate) fn read_slowly(end: &dyn End, len: usize) -> Vec<u8> {
    let (mut data, mut got) = (vec![0; len], 0);
    let mut step = 1;
    while got < len {
        let end_of_step = (got + step).min(len);
        got += end.reader().read(&mut data[got..end_of_step]).unwrap();
        // Of a byte to half a megabyte: the window opens in small and in large steps.
        step = (step * 3) % (1 << 19) + 1;
        if step < 4096 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    data
}

/// Sets a number of TCP's options.
pub(crate) fn set_option(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) {
    let (place, len) = ((&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `place` has `len` bytes.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, place, len) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
