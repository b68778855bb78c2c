//! Waiting reads and drains of a connection, which continue when the loop is notified.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use pyo3::{PyTraverseError, PyVisit, intern, prelude::*, types::PyBytes};
use wg_embed::sync::lock;

use super::{Connection, LOW_WATER, closed, state::Taken};
use crate::{
    bridge::{Ready, is_done, still_waiting},
    linger::Lingering,
    process,
};

fn resolve(py: Python<'_>, future: &Py<PyAny>, result: PyResult<Bound<'_, PyAny>>) -> PyResult<()> {
    if is_done(py, future)? {
        return Ok(());
    }
    match result {
        Ok(value) => future.bind(py).call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => future.bind(py).call_method1(intern!(py, "set_exception"), (error,))?,
    };
    Ok(())
}

impl Connection {
    pub(super) fn queue_read<'py>(self: &Arc<Self>, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyAny>> {
        let give_back = match self.give_back.get() {
            Some(give_back) => give_back,
            None => {
                let made = Py::new(py, GiveBack(Arc::downgrade(self)))?.into_any();
                self.give_back.get_or_init(|| made)
            }
        };
        let future = self.bridge.read_future(py, give_back)?;
        let reads = std::mem::take(&mut lock(&self.state).reads);
        let mut kept: VecDeque<_> = still_waiting(py, reads, |read| &read.0)?.into();
        kept.push_back((future.clone().unbind(), most));
        let mut state = lock(&self.state);
        kept.append(&mut state.reads);
        state.reads = kept;
        Ok(future)
    }

    pub(super) fn queue_drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.bridge.future(py)?;
        let drains = std::mem::take(&mut lock(&self.state).drains);
        let mut kept = still_waiting(py, drains, |drain| drain)?;
        kept.push(future.clone().unbind());
        lock(&self.state).drains.append(&mut kept);
        Ok(future)
    }

    /// Continues calls that wait for room.
    fn serve_drains(&self, py: Python<'_>) -> PyResult<()> {
        let (drains, failed) = {
            let mut state = lock(&self.state);
            state.flush();
            if state.backlog_bytes > LOW_WATER {
                return Ok(());
            }
            let failed = state.failed || state.carrier.is_none() && !state.closed;
            (std::mem::take(&mut state.drains), failed)
        };
        for drain in drains {
            let result = if failed { Err(closed()) } else { self.info.manner.nothing(py) };
            resolve(py, &drain, result)?;
        }
        Ok(())
    }

    /// Passes received bytes to the read that waits longest.
    fn serve_reads(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        loop {
            let Some(read) = lock(&self.state).reads.pop_front() else { return Ok(()) };
            if is_done(py, &read.0)? {
                continue;
            }
            let (result, more) = {
                let mut state = lock(&self.state);
                let taken = if state.closed { Taken::End } else { state.take(py, read.1) };
                let result = match taken {
                    Taken::Data(data) => Ok(data.into_any()),
                    Taken::End => self.end(py, &mut state, read.1, false),
                    Taken::Gone => self.end(py, &mut state, read.1, true),
                    Taken::Wait => {
                        state.reads.push_front(read);
                        return Ok(());
                    }
                };
                (result, !state.reads.is_empty())
            };
            resolve(py, &read.0, result)?;
            if more {
                // Only when this one's task had its turn, and with it the chance to give its bytes back.
                self.post();
            }
            return Ok(());
        }
    }
}

impl Ready for Connection {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        self.at_once.store(0, Ordering::Relaxed);
        self.serve_drains(py)?;
        self.serve_reads(py)?;
        let is_over = {
            let mut state = lock(&self.state);
            state.closed && state.carrier.is_some() && state.discard()
        };
        if is_over {
            self.over();
        }
        Ok(())
    }

    fn abandon(&self) {
        self.over();
        let waiting = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.reads), std::mem::take(&mut state.drains))
        };
        drop(waiting);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let state = lock(&self.state);
        state.reads.iter().map(|read| &read.0).chain(&state.drains).try_for_each(|future| visit.call(future))
    }
}

impl Lingering for Connection {
    fn undelivered(&self) -> usize {
        lock(&self.state).undelivered()
    }

    fn give_up(&self) {
        self.over();
    }
}

/// Takes bytes back from a read whose task was cancelled.
#[pyclass(frozen, module = "wg_embed._native")]
struct GiveBack(Weak<Connection>);

#[pymethods]
impl GiveBack {
    fn __call__(&self, bytes: Bound<'_, PyBytes>) {
        // An empty datagram is one; an end is there for the next read anyway, but was not told.
        let Some(connection) = self.0.upgrade() else { return };
        if !connection.process.is_current() {
            return process::leave(&connection);
        }
        if connection.info.is_udp || !bytes.as_bytes().is_empty() {
            lock(&connection.state).returned.push_front(bytes.unbind());
            connection.post();
        } else {
            lock(&connection.state).end_told = false;
        }
    }
}
