//! Objects of the stack that a Python class holds, until they are closed, converted to another object, or found in a
//! child of the process that created them.

use std::{
    io,
    sync::{Arc, Mutex},
};

use pyo3::{exceptions::PyOSError, prelude::*};
use wg_embed::sync::lock;

use crate::{errors, notify::Callback, process::Mark};

pub(crate) fn io_error(error: io::Error) -> PyErr {
    errors::from_io(&error)
}

/// `None` if it would have to wait.
pub(crate) fn now<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn closed() -> PyErr {
    PyOSError::new_err((libc::EBADF, "it is closed"))
}

/// An object with a notifier, until it is taken out.
pub(crate) struct Held<T> {
    value: Mutex<Option<Arc<T>>>,
    pub(crate) callback: Callback,
    process: Mark,
}

impl<T> Held<T> {
    pub(crate) fn new(value: T, set_notify: impl FnOnce(&T, Arc<dyn wg_embed_netstack::Notify>)) -> Self {
        let callback = Callback::default();
        set_notify(&value, callback.notifier());
        Self { value: Mutex::new(Some(Arc::new(value))), callback, process: Mark::new() }
    }

    pub(crate) fn get(&self) -> PyResult<Arc<T>> {
        self.process.check()?;
        lock(&self.value).clone().ok_or_else(closed)
    }

    pub(crate) fn take(&self) -> Option<Arc<T>> {
        if self.process.is_current() { lock(&self.value).take() } else { None }
    }

    /// Takes out the value, to be converted to another object. The callback is called a last time, and finds it closed.
    ///
    /// # Errors
    /// `OSError` with EBADF if it is closed, with EBUSY if a thread waits for it: it stays unchanged then.
    pub(crate) fn take_alone(&self, forget_notify: impl FnOnce(&T)) -> PyResult<T> {
        self.process.check()?;
        let mut held = lock(&self.value);
        let value = Arc::try_unwrap(held.take().ok_or_else(closed)?);
        let value = value.map_err(|shared| {
            *held = Some(shared);
            PyOSError::new_err((libc::EBUSY, "it is in use"))
        })?;
        drop(held);
        forget_notify(&value);
        self.callback.tell();
        Ok(value)
    }

    /// Tries until there is a result, and releases the interpreter while it waits; `None` after the time limit, or if
    /// the value was taken out.
    pub(crate) fn wait<R: Send>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        attempt: impl Fn(&T) -> io::Result<R> + Sync,
    ) -> PyResult<io::Result<Option<R>>>
    where
        T: Send + Sync,
    {
        let value = self.get()?;
        let outcome = Mutex::new(None);
        self.callback.wait(py, timeout, || {
            let result = now(attempt(&value)).transpose();
            let is_over = result.is_some() || lock(&self.value).is_none();
            *lock(&outcome) = result;
            is_over
        })?;
        let outcome = lock(&outcome).take();
        Ok(outcome.transpose())
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            if let Ok(value) = self.value.get_mut() {
                std::mem::forget(value.take());
            }
            self.callback.leave();
        }
    }
}
