//! Standard error, written by a thread of its own: a reader that has stopped delays nothing but the log.
//!
//! The descriptor is left in blocking mode, which it shares with the caller's other processes.
#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

/// Bytes of lines that may wait for the reader. What comes then is dropped and counted.
const ROOM: usize = 64 * 1024;

/// How long the end waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

static WRITER: OnceLock<Writer> = OnceLock::new();

/// Makes the line that says how many were dropped.
type Notice = Box<dyn Fn(u64) -> String + Send + Sync>;

struct Writer {
    backlog: Mutex<Backlog>,
    changed: Condvar,
    notice: Notice,
}

/// Lines that were not written yet.
#[derive(Default)]
struct Backlog {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that were dropped since the last notice.
    dropped: u64,
    /// The thread is writing a line that it has taken out.
    writing: bool,
    /// Lines that were written, or could not be.
    done: u64,
    /// There is a thread that writes.
    started: bool,
}

impl Backlog {
    fn push(&mut self, line: String, notice: impl Fn(u64) -> String) {
        if !self.lines.is_empty() && self.bytes + line.len() > ROOM {
            self.dropped += 1;
            return;
        }
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            self.keep(notice(dropped));
        }
        self.keep(line);
    }

    fn keep(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// The next line to write: behind the last one before something was dropped, the notice.
    fn pop(&mut self, notice: impl Fn(u64) -> String) -> Option<String> {
        let line = self.lines.pop_front();
        self.bytes -= line.as_ref().map_or(0, String::len);
        line.or_else(|| (self.dropped > 0).then(|| notice(std::mem::take(&mut self.dropped))))
    }

    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && !self.writing
    }
}

/// From now on, lines wait for the thread. To be called once.
pub(crate) fn keep(notice: Notice) {
    WRITER.get_or_init(|| Writer { backlog: Mutex::default(), changed: Condvar::new(), notice });
}

/// Starts the thread, unless there is one. To be called when no more processes are forked.
pub(crate) fn start() -> io::Result<()> {
    let Some(writer) = WRITER.get() else {
        return Ok(());
    };
    let mut backlog = writer.backlog();
    if !backlog.started {
        // It is not waited for: the process ends with the main thread.
        thread::Builder::new().name("log".into()).stack_size(64 * 1024).spawn(|| writer.run())?;
        backlog.started = true;
    }
    Ok(())
}

/// Writes a line, or drops it if the reader is far behind. Before [`keep`] it is written at once.
pub(crate) fn line(line: String) {
    let Some(writer) = WRITER.get() else {
        write(line.as_bytes());
        return;
    };
    writer.backlog().push(line, &writer.notice);
    writer.changed.notify_all();
}

/// Waits until all lines are written, unless the reader takes none for a second.
pub(crate) fn flush() {
    let Some(writer) = WRITER.get() else {
        return;
    };
    let started = start();
    let mut backlog = writer.backlog();
    if started.is_err() {
        // There is nothing left to delay.
        while let Some(line) = backlog.pop(&writer.notice) {
            write(line.as_bytes());
        }
    }
    while !backlog.is_written() {
        let before = backlog.done;
        let same = |backlog: &mut Backlog| !backlog.is_written() && backlog.done == before;
        let waited = writer.changed.wait_timeout_while(backlog, PATIENCE, same);
        let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return;
        }
        backlog = now;
    }
}

impl Writer {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // No code that holds the lock can leave the backlog half changed.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut backlog = self.backlog();
        loop {
            let Some(line) = backlog.pop(&self.notice) else {
                backlog = self.changed.wait(backlog).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            backlog.writing = true;
            drop(backlog);
            write(line.as_bytes());
            backlog = self.backlog();
            backlog.writing = false;
            backlog.done += 1;
            self.changed.notify_all();
        }
    }
}

/// Writes all of it, however long that takes. If it fails there is no reader left.
fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the bytes live, and their length is given.
        let written = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(written) => bytes = &bytes[written..],
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                // Another process has made the descriptor non-blocking.
                io::ErrorKind::WouldBlock => wait_until_writable(),
                _ => return,
            },
        }
    }
}

fn wait_until_writable() {
    let mut poll = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll(2) writes to one `pollfd`, which lives.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(dropped: u64) -> String {
        format!("{dropped} dropped")
    }

    fn written(backlog: &mut Backlog) -> Vec<String> {
        std::iter::from_fn(|| backlog.pop(notice)).collect()
    }

    #[test]
    fn lines_come_in_their_order_and_once() {
        let mut backlog = Backlog::default();
        for line in ["a", "b"] {
            backlog.push(line.into(), notice);
        }
        assert_eq!(written(&mut backlog), ["a", "b"]);
        assert!(backlog.is_written() && backlog.bytes == 0);
    }

    #[test]
    fn what_was_dropped_is_counted_where_it_is_missing() {
        let mut backlog = Backlog::default();
        let long = "x".repeat(ROOM);
        for line in [&*long, "b", "c"] {
            backlog.push(line.into(), notice);
        }
        // The reader has taken one.
        assert_eq!(backlog.pop(notice), Some(long.clone()));
        backlog.push("d".into(), notice);
        assert_eq!(written(&mut backlog), ["2 dropped", "d"]);
        // It is told also if nothing follows.
        for line in [&*long, "f"] {
            backlog.push(line.into(), notice);
        }
        assert_eq!(written(&mut backlog), [&*long, "1 dropped"]);
        assert!(backlog.is_written() && backlog.bytes == 0);
    }
}
