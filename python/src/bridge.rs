//! What tunnels' threads have to tell an asyncio event loop, in batches.
//!
//! A thread of a tunnel only appends to a queue, and writes one byte to a pipe if the loop is not about to look there
//! anyway. It never waits for the interpreter. The loop reads the pipe like a socket, and works off the whole queue: it
//! is woken once for a batch, and costs nothing while nothing happens.

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

/// Those that are not done. Cancelled ones would pile up where nothing arrives.
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

/// Something that a loop is told of.
pub(crate) trait Ready: Send + Sync {
    /// Set while it is in a queue, so that it is there once.
    fn queued(&self) -> &AtomicBool;
    /// Goes on, on the loop's thread. `queued` is unset by then.
    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()>;
    /// The loop has ended, and with it everything that waits. Called on any thread, without the interpreter.
    fn abandon(&self);
    /// Shows the garbage collector the objects that it keeps for as long as its loop is there.
    fn traverse(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

/// What waits for the loop's thread, and how it is woken.
struct Queue {
    items: VecDeque<Arc<dyn Ready>>,
    /// There is one byte in the pipe.
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

/// The way to one event loop, from any thread.
pub(crate) struct Bridge {
    /// `None` when the loop has ended.
    queue: Mutex<Option<Queue>>,
    lingering: Lingerers,
    /// What may be posted, by its address: to be abandoned when the loop ends.
    known: Mutex<HashMap<usize, Weak<dyn Ready>>>,
    /// The loop has this bridge, by way of its [`Drainer`].
    event_loop: Py<PyWeakrefReference>,
    /// `asyncio.Future`, and its subclass for reads.
    future: Py<PyAny>,
    read_future: Py<PyAny>,
    /// Handlers' tasks: the loop itself keeps weak references only. They refer to it, so they go when it has ended.
    tasks: Mutex<Option<Py<PySet>>>,
}

/// The loops that have a bridge: `id(loop)` to its [`Drainer`], which the loop owns.
static LOOPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Bridge {
    /// The bridge of the running event loop.
    ///
    /// # Errors
    /// `RuntimeError` without one.
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

    /// Has `item` abandoned when the loop ends.
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

    /// Has the loop go on with `item`.
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

    /// Puts back what the loop's thread has not come to.
    fn put_back(&self, mut rest: VecDeque<Arc<dyn Ready>>) {
        if let Some(queue) = &mut *lock(&self.queue) {
            rest.append(&mut queue.items);
            queue.items = rest;
            queue.signal();
        }
    }

    /// A future of the loop that is not done.
    ///
    /// # Errors
    /// `RuntimeError` when the loop is gone.
    pub(crate) fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.make(py, &self.future)
    }

    fn make<'py>(&self, py: Python<'py>, class: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let event_loop = self.event_loop(py).ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
        let arguments = PyDict::new(py);
        arguments.set_item(intern!(py, "loop"), event_loop)?;
        class.bind(py).call((), Some(&arguments))
    }

    /// The same for a read: bytes that it has, and that a cancelled task does not take, go to `give_back`.
    pub(crate) fn read_future<'py>(&self, py: Python<'py>, give_back: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.make(py, &self.read_future)?;
        future.setattr(intern!(py, "give_back"), give_back)?;
        Ok(future)
    }

    /// A future that is done.
    pub(crate) fn done<'py>(&self, py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        future.call_method1(intern!(py, "set_result"), (value,))?;
        Ok(future)
    }

    /// A future that has failed.
    pub(crate) fn failed<'py>(&self, py: Python<'py>, error: PyErr) -> PyResult<Bound<'py, PyAny>> {
        let future = self.future(py)?;
        future.call_method1(intern!(py, "set_exception"), (error,))?;
        Ok(future)
    }

    /// The set of handlers' tasks; `None` when the loop has ended.
    pub(crate) fn tasks(&self, py: Python<'_>) -> Option<Py<PySet>> {
        lock(&self.tasks).as_ref().map(|tasks| tasks.clone_ref(py))
    }

    /// The loop; `None` when it is gone.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.bind(py).upgrade()
    }

    /// Reports what went wrong in a callback, as the loop does for its own: a request to exit ends the loop.
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

    /// Keeps a connection until it is over, or has been silent for [`LINGER`].
    pub(crate) fn linger(&self, key: usize, connection: Arc<dyn Lingering>) {
        if lock(&self.queue).is_none() {
            return connection.give_up();
        }
        self.lingering.insert(key, connection);
    }

    /// Forgets a connection that is over.
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

    /// Shows what is kept for as long as the loop is: so a loop that is dropped is freed with all that waits on it, and
    /// while there is a loop nothing of that is garbage, although only a tunnel refers to it. Locks are taken and not
    /// tried: the collector asks twice, and must get one answer.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(tasks) = &*lock(&self.tasks) {
            visit.call(tasks)?;
        }
        let known: Vec<_> = lock(&self.known).values().filter_map(Weak::upgrade).collect();
        known.iter().try_for_each(|item| item.traverse(visit))
    }
}

/// Ends the bridges of loops that are closed: something may keep one, such as the frames of an exception.
fn end_closed_loops(loops: &Bound<'_, PyAny>) -> PyResult<()> {
    for drainer in loops.call_method0("values")?.try_iter()?.collect::<PyResult<Vec<_>>>()? {
        if let Ok(drainer) = drainer.cast_into::<Drainer>() {
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

/// What a loop calls when its pipe is readable. The loop owns it: when the loop is closed it goes, and ends the bridge.
#[pyclass(frozen, weakref, module = "wg_embed._native")]
pub(crate) struct Drainer {
    bridge: Arc<Bridge>,
    process: Mark,
    /// A call of `sweep` is due.
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
