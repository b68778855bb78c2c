//! Notifications from the threads of tunnels to an asyncio event loop, in batches.
//!
//! A thread of a tunnel only appends to a queue, and writes one byte to a pipe unless the loop is about to read the
//! queue anyway. It never waits for the interpreter. The loop reads the pipe like a socket, and handles the whole
//! queue: it wakes once for a batch, and never while idle.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit},
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PySet, PyWeakrefMethods, PyWeakrefReference},
};
use wg_embed::sync::lock;

use crate::{
    errors,
    linger::{LINGER, Lingerers, Lingering},
    process::{self, Mark},
};

pub(crate) fn is_done(py: Python<'_>, future: &Py<PyAny>) -> PyResult<bool> {
    future.bind(py).call_method0(intern!(py, "done"))?.extract()
}

/// Removes futures that are done. Cancelled ones would otherwise accumulate while nothing arrives.
pub(crate) fn still_waiting<T>(
    py: Python<'_>,
    all: impl IntoIterator<Item = T>,
    future: impl Fn(&T) -> &Py<PyAny>,
) -> PyResult<Vec<T>> {
    let mut kept = Vec::new();
    for one in all {
        if !is_done(py, future(&one))? {
            kept.push(one);
        }
    }
    Ok(kept)
}

/// An object that is notified on a loop.
pub(crate) trait Ready: Send + Sync {
    /// Set while it is in a queue, so that it is queued once.
    fn queued(&self) -> &AtomicBool;
    /// Continues on the loop's thread. `queued` has been cleared by then.
    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()>;
    /// Handles the end of the loop, and of everything that waits on it. Called on any thread, without the interpreter.
    fn abandon(&self);
    /// Reports the objects that it keeps to the garbage collector, as long as its loop exists.
    fn traverse(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

/// The queue for the loop's thread, and how the thread is woken.
struct Queue {
    items: VecDeque<Arc<dyn Ready>>,
    /// There is a byte in the pipe.
    signalled: bool,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Queue {
    fn signal(&mut self) {
        if !self.signalled {
            match self.writer.write_all(&[0]) {
                Ok(()) => self.signalled = true,
                Err(error) => tracing::error!(%error, "cannot wake an event loop"),
            }
        }
    }

    fn take(&mut self) -> io::Result<VecDeque<Arc<dyn Ready>>> {
        if std::mem::take(&mut self.signalled) {
            self.reader.read_exact(&mut [0])?;
        }
        Ok(std::mem::take(&mut self.items))
    }
}

/// Posts objects to one event loop, from any thread.
pub(crate) struct Bridge {
    /// `None` after the end of the loop.
    queue: Mutex<Option<Queue>>,
    lingering: Lingerers,
    /// The objects that may be posted, by address, which are abandoned when the loop ends.
    known: Mutex<HashMap<usize, Weak<dyn Ready>>>,
    /// The loop refers to this bridge by its [`Drainer`].
    event_loop: Py<PyWeakrefReference>,
    /// `asyncio.Future`, and its subclass for reads.
    future: Py<PyAny>,
    read_future: Py<PyAny>,
    /// The tasks of handlers, as the loop keeps weak references only. They refer to the loop, so they are released at
    /// its end.
    tasks: Mutex<Option<Py<PySet>>>,
}

/// The loops that have a bridge: `id(loop)` and the [`Drainer`], which the loop owns.
static LOOPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Bridge {
    /// Returns the bridge of the running event loop.
    ///
    /// # Errors
    /// `RuntimeError` without a running loop.
    pub(crate) fn current(py: Python<'_>) -> PyResult<Arc<Self>> {
        let asyncio = py.import("asyncio")?;
        let event_loop = asyncio.getattr("get_running_loop")?.call0()?;
        let loops = LOOPS.get_or_try_init(py, || -> PyResult<_> {
            Ok(py.import("weakref")?.getattr("WeakValueDictionary")?.call0()?.unbind())
        })?;
        let loops = loops.bind(py);
        let id = event_loop.as_ptr() as usize;
        if let Ok(known) = loops.call_method1("get", (id,))?.cast_into::<Drainer>() {
            let bridge = &known.get().bridge;
            let is_its = bridge.event_loop(py).is_some_and(|its| its.is(&event_loop));
            if is_its && known.get().process.is_current() {
                return Ok(bridge.clone());
            }
        }
        end_closed_loops(loops)?;
        let (reader, writer) = io::pipe().map_err(|error| errors::from_io(&error))?;
        let descriptor = reader.as_raw_fd();
        let bridge = Arc::new(Self {
            queue: Mutex::new(Some(Queue { items: VecDeque::new(), signalled: false, reader, writer })),
            lingering: Lingerers::default(),
            known: Mutex::default(),
            future: asyncio.getattr("Future")?.unbind(),
            read_future: py.import("wg_embed._tasks")?.getattr("ReadFuture")?.unbind(),
            tasks: Mutex::new(Some(PySet::empty(py)?.unbind())),
            event_loop: PyWeakrefReference::new(&event_loop)?.unbind(),
        });
        process::register(&bridge);
        let drainer = Drainer { bridge: bridge.clone(), process: Mark::new(), sweeps: AtomicBool::new(false) };
        let drainer = Bound::new(py, drainer)?;
        event_loop.call_method1("add_reader", (descriptor, &drainer))?;
        loops.set_item(id, &drainer)?;
        Ok(bridge)
    }

    /// Registers `item` to be abandoned when the loop ends.
    pub(crate) fn introduce(&self, item: Weak<dyn Ready>) {
        let mut known = lock(&self.known);
        // When it is full: so each item is looked at a few times in all.
        if known.len() == known.capacity() {
            known.retain(|_, item| item.strong_count() > 0);
            let more = known.len().max(16);
            known.reserve(more);
        }
        known.insert(item.as_ptr().cast::<()>() as usize, item);
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.queue).is_none()
    }

    /// Posts `item`, which then continues on the loop.
    pub(crate) fn post(&self, item: Arc<dyn Ready>) {
        {
            let mut queue = lock(&self.queue);
            if let Some(queue) = &mut *queue {
                if !item.queued().swap(true, Ordering::AcqRel) {
                    queue.items.push_back(item);
                    queue.signal();
                }
                return;
            }
        }
        item.abandon();
    }

    /// Returns unhandled items of the loop's thread to the queue.
    fn put_back(&self, mut rest: VecDeque<Arc<dyn Ready>>) {
        if let Some(queue) = &mut *lock(&self.queue) {
            rest.append(&mut queue.items);
            queue.items = rest;
            queue.signal();
        }
    }

    /// Returns a pending future of the loop.
    ///
    /// # Errors
    /// `RuntimeError` after the end of the loop.
    pub(crate) fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.make(py, &self.future)
    }

    fn make<'py>(&self, py: Python<'py>, class: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let event_loop = self.event_loop(py).ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
        let arguments = PyDict::new(py);
        arguments.set_item(intern!(py, "loop"), event_loop)?;
        class.bind(py).call((), Some(&arguments))
    }

    /// Returns a pending future for a read: bytes that a cancelled task does not take are passed to `give_back`.
    pub(crate) fn read_future<'py>(&self, py: Python<'py>, give_back: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.make(py, &self.read_future)?;
        future.setattr(intern!(py, "give_back"), give_back)?;
        Ok(future)
    }

    /// Returns a completed future.
    pub(crate) fn done<'py>(&self, py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        future.call_method1(intern!(py, "set_result"), (value,))?;
        Ok(future)
    }

    /// Returns a failed future.
    pub(crate) fn failed<'py>(&self, py: Python<'py>, error: PyErr) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        future.call_method1(intern!(py, "set_exception"), (error,))?;
        Ok(future)
    }

    /// Returns the set of handlers' tasks; `None` after the end of the loop.
    pub(crate) fn tasks(&self, py: Python<'_>) -> Option<Py<PySet>> {
        lock(&self.tasks).as_ref().map(|tasks| tasks.clone_ref(py))
    }

    /// Returns the loop; `None` after its end.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.bind(py).upgrade()
    }

    /// Reports an exception of a callback, as the loop does for its own callbacks: a request to exit ends the loop.
    pub(crate) fn report(&self, py: Python<'_>, message: &str, error: PyErr) -> PyResult<()> {
        if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
            return Err(error);
        }
        let context = PyDict::new(py);
        context.set_item("message", message)?;
        context.set_item("exception", error.value(py))?;
        if let Some(event_loop) = self.event_loop(py) {
            event_loop.call_method1("call_exception_handler", (context,))?;
        }
        Ok(())
    }

    /// Keeps a connection until it has ended, or has made no progress for [`LINGER`].
    pub(crate) fn linger(&self, key: usize, connection: Arc<dyn Lingering>) {
        if lock(&self.queue).is_none() {
            return connection.give_up();
        }
        self.lingering.insert(key, connection);
    }

    /// Removes a connection that has ended.
    pub(crate) fn forget(&self, key: usize) {
        self.lingering.remove(key);
    }

    fn end(&self) {
        let queue = lock(&self.queue).take();
        queue.iter().flat_map(|queue| &queue.items).for_each(|item| item.abandon());
        let known = std::mem::take(&mut *lock(&self.known));
        known.values().filter_map(Weak::upgrade).for_each(|item| item.abandon());
        self.lingering.end();
        let tasks = lock(&self.tasks).take();
        drop(tasks);
    }

    /// Reports the objects that are kept as long as the loop exists. So a loop without references is freed with
    /// everything that waits on it, and while the loop exists nothing of that is garbage, although only a tunnel refers
    /// to it. Locks are not merely tried, because the collector asks twice and must get the same answer.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(tasks) = &*lock(&self.tasks) {
            visit.call(tasks)?;
        }
        let known: Vec<_> = lock(&self.known).values().filter_map(Weak::upgrade).collect();
        known.iter().try_for_each(|item| item.traverse(visit))
    }
}

/// Ends the bridges of closed loops, which may still be referenced, for example by the frames of an exception.
fn end_closed_loops(loops: &Bound<'_, PyAny>) -> PyResult<()> {
    // Not `values`, which fails if another thread adds a loop meanwhile.
    for reference in loops.call_method0("valuerefs")?.try_iter()? {
        if let Ok(drainer) = reference?.call0()?.cast_into::<Drainer>() {
            let this = drainer.get();
            if !this.process.is_current() {
                continue;
            }
            let is_closed = match this.bridge.event_loop(loops.py()) {
                Some(event_loop) => event_loop.call_method0("is_closed")?.extract()?,
                None => true,
            };
            if is_closed {
                this.bridge.end();
            }
        }
    }
    Ok(())
}

impl process::Inherited for Bridge {
    fn descriptors(&self) -> Vec<RawFd> {
        let queue = lock(&self.queue);
        queue.iter().flat_map(|queue| [queue.reader.as_raw_fd(), queue.writer.as_raw_fd()]).collect()
    }
}

/// The callback of a loop for its readable pipe. The loop owns it: closing the loop drops it, which ends the bridge.
#[pyclass(frozen, weakref, module = "wg_embed._native")]
pub(crate) struct Drainer {
    bridge: Arc<Bridge>,
    process: Mark,
    /// A call of `sweep` is scheduled.
    sweeps: AtomicBool,
}

#[pymethods]
impl Drainer {
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if !this.process.is_current() {
            return Ok(());
        }
        let bridge = &this.bridge;
        let batch = lock(&bridge.queue).as_mut().map(Queue::take).transpose();
        let mut batch = batch.map_err(|error| errors::from_io(&error))?.unwrap_or_default();
        while let Some(item) = batch.pop_front() {
            item.queued().store(false, Ordering::Release);
            let done = item.ready(py);
            let reported = done.or_else(|error| bridge.report(py, "Exception in a WireGuard callback", error));
            if reported.is_err() {
                bridge.put_back(batch);
                return reported;
            }
        }
        Self::sweep_later(slf)
    }

    /// Ends connections that have lingered for too long.
    fn sweep(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.sweeps.store(false, Ordering::Relaxed);
        if this.bridge.lingering.sweep() { Self::sweep_later(slf) } else { Ok(()) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.process.is_current() { self.bridge.traverse(&visit) } else { Ok(()) }
    }

    fn __clear__(&self) {
        if self.process.is_current() {
            self.bridge.end();
        }
    }
}

impl Drainer {
    fn sweep_later(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if this.bridge.lingering.is_empty() || this.sweeps.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(event_loop) = this.bridge.event_loop(py) {
            event_loop.call_method1("call_later", (LINGER.as_secs() / 2, slf.getattr("sweep")?))?;
        }
        Ok(())
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.bridge.end();
        } else {
            process::leave(&self.bridge);
        }
    }
}
