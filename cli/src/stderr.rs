//! Standard error, written by a thread of its own: a reader that has stopped delays only the log.
//!
//! The descriptor remains in blocking mode, which it shares with other processes of the caller.

#[cfg(unix)]
mod unix;

use std::{
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

#[cfg(unix)]
use unix::write;

/// The maximum size of waiting lines. Further lines are dropped and counted.
const ROOM: usize = 64 * 1024;

/// The total time that [`flush`] waits for the reader, regardless of the amount of data. A reader that has exceeded it
/// is not waited for again until it has read something.
const PATIENCE: Duration = Duration::from_secs(2);

static WRITER: OnceLock<Writer> = OnceLock::new();

/// A function that returns the line about the number of dropped lines.
type Notice = Box<dyn Fn(u64) -> String + Send + Sync>;

/// A function that writes a line like [`write()`].
type Sink = Box<dyn Fn(&[u8], Option<Instant>) -> bool + Send + Sync>;

struct Writer {
    backlog: Mutex<Backlog>,
    changed: Condvar,
    notice: Notice,
    sink: Sink,
}

/// Lines that were not yet written.
#[derive(Default)]
struct Backlog {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that were dropped since the last notice.
    dropped: u64,
    /// Whether the thread is writing a line that it has removed.
    writing: bool,
    /// Whether the reader has read nothing since it exceeded the time.
    stuck: bool,
    /// Whether there is a writing thread.
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

    /// Returns the next line to write, which is the notice after the last line before dropped ones.
    fn pop(&mut self, notice: impl Fn(u64) -> String) -> Option<String> {
        let line = self.lines.pop_front();
        self.bytes -= line.as_ref().map_or(0, String::len);
        line.or_else(|| (self.dropped > 0).then(|| notice(std::mem::take(&mut self.dropped))))
    }

    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && !self.writing
    }
}

/// Makes lines wait for the thread from now on. To be called once.
pub(crate) fn keep(notice: Notice) {
    WRITER.get_or_init(|| Writer::new(notice, Box::new(write)));
}

/// Starts the thread, unless there is one. To be called when no more processes are forked.
pub(crate) fn start() -> io::Result<()> {
    let Some(writer) = WRITER.get() else {
        return Ok(());
    };
    let mut backlog = writer.backlog();
    if !backlog.started {
        // The thread is not joined: the process ends with the main thread.
        thread::Builder::new().name("log".into()).stack_size(64 * 1024).spawn(|| writer.run())?;
        backlog.started = true;
    }
    Ok(())
}

/// Writes a line, or drops it if the reader is far behind. Before [`keep`] it is written at once.
pub(crate) fn line(line: String) {
    let Some(writer) = WRITER.get() else {
        write(line.as_bytes(), None);
        return;
    };
    writer.push(line);
}

/// Waits until all lines are written, but no longer than [`PATIENCE`].
pub(crate) fn flush() {
    let Some(writer) = WRITER.get() else {
        return;
    };
    if start().is_ok() {
        writer.wait(PATIENCE);
    } else {
        writer.write_all(Instant::now() + PATIENCE);
    }
}

impl Writer {
    fn new(notice: Notice, sink: Sink) -> Self {
        Self { backlog: Mutex::default(), changed: Condvar::new(), notice, sink }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // No code that holds the lock can leave the backlog half changed.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        self.backlog().push(line, &self.notice);
        self.changed.notify_all();
    }

    /// Waits until the thread has written all lines.
    fn wait(&self, patience: Duration) {
        let is_behind = |backlog: &mut Backlog| !backlog.stuck && !backlog.is_written();
        let waited = self.changed.wait_timeout_while(self.backlog(), patience, is_behind);
        let (mut backlog, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        backlog.stuck |= timeout.timed_out();
    }

    /// Writes all lines on this thread, if there is no other.
    fn write_all(&self, until: Instant) {
        loop {
            // Not locked during the write: others would wait for the reader as well.
            let next = self.backlog().pop(&self.notice);
            if !next.is_some_and(|line| (self.sink)(line.as_bytes(), Some(until))) {
                return;
            }
        }
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
            (self.sink)(line.as_bytes(), None);
            backlog = self.backlog();
            (backlog.writing, backlog.stuck) = (false, false);
            self.changed.notify_all();
        }
    }
}

/// Writes everything. It cannot be stopped: a reader that reads nothing keeps the thread that calls this.
#[cfg(not(unix))]
fn write(bytes: &[u8], _: Option<Instant>) -> bool {
    use std::io::Write;

    // If it fails, there is no reader any more.
    let _ = io::stderr().write_all(bytes);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Weak, mpsc};

    const LONG: Duration = Duration::from_secs(3600);
    /// Only bounds a hang.
    const LIMIT: Duration = Duration::from_secs(300);

    /// Starts the thread of a writer. Its end is that of the tests.
    fn runs(writer: &Arc<Writer>) {
        let writer = writer.clone();
        thread::spawn(move || writer.run());
    }

    /// Calls on a thread of its own, and returns whether that came back.
    fn returns(call: impl FnOnce() + Send + 'static) -> bool {
        let (returned, returns) = mpsc::channel();
        thread::spawn(move || {
            call();
            returned.send(())
        });
        returns.recv_timeout(LIMIT).is_ok()
    }

    /// As each line is soon followed by another, a limit for each line would never be reached.
    #[test]
    fn a_reader_that_takes_line_after_line_is_not_waited_for_without_an_end() {
        let test = Arc::new(());
        let lasts = Arc::downgrade(&test);
        let writer = Arc::new_cyclic(|this: &Weak<Writer>| {
            let this = this.clone();
            let sink = move |_: &[u8], _| {
                thread::sleep(Duration::from_millis(1));
                if let (Some(_), Some(writer)) = (lasts.upgrade(), this.upgrade()) {
                    writer.push("another".into());
                }
                true
            };
            Writer::new(Box::new(notice), Box::new(sink))
        });
        writer.push("one".into());
        runs(&writer);
        assert!(returns(move || writer.wait(Duration::from_millis(100))));
        drop(test);
    }

    #[test]
    fn a_reader_that_is_stuck_is_waited_for_once_until_it_takes_something() {
        let ((takes, taken), (written, writes)) = (mpsc::channel::<()>(), mpsc::channel());
        let taken = Mutex::new(taken);
        let sink = move |line: &[u8], _| {
            taken.lock().is_ok_and(|taken| taken.recv().is_ok()) && written.send(line.to_vec()).is_ok()
        };
        let writer = Arc::new(Writer::new(Box::new(notice), Box::new(sink)));
        runs(&writer);
        let push = |line: &str| writer.push(line.into());
        let wait = |patience| {
            let writer = writer.clone();
            returns(move || writer.wait(patience))
        };
        push("a");
        push("b");
        assert!(wait(Duration::from_millis(10)));
        assert!(wait(LONG), "it is known");
        assert!(takes.send(()).is_ok());
        assert_eq!(writes.recv_timeout(LIMIT).as_deref(), Ok(&b"a"[..]));
        assert!(takes.send(()).is_ok());
        assert_eq!(writes.recv_timeout(LIMIT).as_deref(), Ok(&b"b"[..]));
        assert!(wait(LONG), "all is written");
        push("c");
        // It is waited for again: until the line is written.
        assert!(takes.send(()).is_ok());
        assert!(wait(LONG));
        assert_eq!(writes.try_recv().as_deref(), Ok(&b"c"[..]));
    }

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
