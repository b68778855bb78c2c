//! Passes the library's log to Python's `logging`.
//!
//! Lines are logged by any thread, sometimes while locks are held, so they are only queued there. A separate thread,
//! which starts with the first tunnel, passes them on, and sleeps while the queue is empty.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, Once,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pyo3::{prelude::*, sync::PyOnceLock};
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::Interest};
use wg_embed::{
    log,
    process::PerProcess,
    sync::{lock, wait_timeout_while, wait_while},
    thread::Owner,
};

use crate::errors;

/// The maximum number of queued lines.
const MOST: usize = 4096;

/// The time that the exit of the program waits for handlers of `logging`.
const PATIENCE: Duration = Duration::from_secs(5);

struct Line {
    level: Level,
    target: &'static str,
    text: String,
}

#[derive(Default)]
struct Lines {
    waiting: VecDeque<Line>,
    /// The interpreter ends: later lines are not passed on.
    ended: bool,
    /// The thread has returned, or needs the interpreter no more.
    gone: bool,
}

#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    /// There are more lines, or the thread must end.
    more: Condvar,
    /// The thread has ended.
    gone: Condvar,
    /// The number of lines that did not fit.
    lost: AtomicU64,
    started: AtomicBool,
}

static QUEUE: PerProcess<Queue> = PerProcess::new();

/// The level: 0 for nothing, 1 for errors, to 5 for everything. It follows the level of the logger `wg_embed`.
static DETAIL: AtomicUsize = AtomicUsize::new(2);

const fn detail(level: Level) -> usize {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Converts to a level of `logging`, which has no names below DEBUG.
const fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

struct Forwarder;

impl Subscriber for Forwarder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        detail(*metadata.level()) <= DETAIL.load(Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>) {
        let queue = QUEUE.get();
        let line = Line { level: *event.metadata().level(), target: event.metadata().target(), text: log::text(event) };
        let mut lines = lock(&queue.lines);
        if lines.ended || lines.waiting.len() >= MOST {
            queue.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            lines.waiting.push_back(line);
            queue.more.notify_one();
        }
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Starts logging, unless it was started before, and follows the level of the logger `wg_embed`.
pub(crate) fn start(py: Python<'_>) -> PyResult<()> {
    static FORWARD: Once = Once::new();
    FORWARD.call_once(|| {
        // This crate's copy of tracing belongs to the extension alone: nothing else can have set it.
        let _ = tracing::subscriber::set_global_default(Forwarder);
    });
    follow_level(py)?;
    let queue = QUEUE.get();
    if !queue.started.swap(true, Ordering::AcqRel) {
        let started = wg_embed::thread::spawn("wg-python-log", Owner::unique(), move || pass_on(queue));
        started.map_err(|error| {
            queue.started.store(false, Ordering::Release);
            errors::from_io(&error)
        })?;
    }
    Ok(())
}

/// Reads the level of the logger `wg_embed`. It is also read with each line and each new tunnel; call this after a
/// change while a tunnel runs.
#[pyfunction]
pub(crate) fn follow_level(py: Python<'_>) -> PyResult<()> {
    let level: u32 = logger(py, "wg_embed")?.call_method0("getEffectiveLevel")?.extract()?;
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    DETAIL.store(levels.into_iter().filter(|one| number(*one) >= level).count(), Ordering::Relaxed);
    Ok(())
}

fn logger<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static GET_LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let get = GET_LOGGER
        .get_or_try_init(py, || -> PyResult<_> { Ok(py.import("logging")?.getattr("getLogger")?.unbind()) })?;
    get.bind(py).call1((name,))
}

/// Converts a target: `wg_embed::device::receive` to `wg_embed.device.receive`, `wg_embed_netstack::udp` to
/// `wg_embed.netstack.udp`.
fn logger_name(target: &str) -> String {
    let name = target.replace("::", ".");
    match name.strip_prefix("wg_embed_").or_else(|| name.strip_prefix('_')) {
        Some(rest) => format!("wg_embed.{rest}"),
        None => name,
    }
}

/// Passes on the queued lines, and ends the thread, which must not request an interpreter that is shutting down. Called
/// at the exit of the program.
#[pyfunction]
pub(crate) fn end_log(py: Python<'_>) {
    let queue = QUEUE.get();
    if !queue.started.load(Ordering::Acquire) {
        return;
    }
    py.detach(|| {
        let mut lines = lock(&queue.lines);
        lines.ended = true;
        queue.more.notify_all();
        drop(wait_timeout_while(&queue.gone, lines, PATIENCE, |lines| !lines.gone));
    });
}

/// Reports that the thread has ended, also by a panic.
struct Gone<'a>(&'a Queue);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        lock(&self.0.lines).gone = true;
        self.0.gone.notify_all();
    }
}

fn pass_on(queue: &Queue) {
    let gone = Gone(queue);
    pass_on_to_the_end(queue);
    drop(gone);
}

fn pass_on_to_the_end(queue: &Queue) {
    loop {
        let lines = {
            let idle = |lines: &mut Lines| lines.waiting.is_empty() && !lines.ended;
            let mut lines = wait_while(&queue.more, lock(&queue.lines), idle);
            std::mem::take(&mut lines.waiting)
        };
        if lines.is_empty() {
            return;
        }
        let lost = queue.lost.swap(0, Ordering::Relaxed);
        let passed = Python::try_attach(|py| {
            let log = || -> PyResult<()> {
                for line in &lines {
                    logger(py, &logger_name(line.target))?
                        .call_method1("log", (number(line.level), "%s", &line.text))?;
                }
                if lost > 0 {
                    logger(py, "wg_embed")?.call_method1("warning", ("%d lines of the log were lost", lost))?;
                }
                follow_level(py)
            };
            if let Err(error) = log() {
                error.write_unraisable(py, None);
            }
        });
        if passed.is_none() {
            return; // The interpreter is at its end.
        }
    }
}
