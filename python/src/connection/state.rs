//! The state of a connection, under its lock. No function here calls Python.

use std::{collections::VecDeque, io, net::Shutdown};

use pyo3::{prelude::*, pybacked::PyBackedBytes, types::PyBytes};
use wg_embed_netstack::{TcpStream, UdpFlow};

use crate::convert;

/// The object that carries the bytes.
pub(crate) enum Carrier {
    Tcp(TcpStream),
    Udp(UdpFlow),
}

#[derive(Default)]
pub(super) struct State {
    /// `None` after the end.
    pub(super) carrier: Option<Carrier>,
    /// Waiting reads in order, with their sizes.
    pub(super) reads: VecDeque<(Py<PyAny>, usize)>,
    /// Bytes that were passed to a read whose task was cancelled before it continued.
    pub(super) returned: VecDeque<Py<PyBytes>>,
    pub(super) drains: Vec<Py<PyAny>>,
    /// Written data that has not reached the stack, each with the number of bytes that have.
    pub(super) backlog: VecDeque<(PyBackedBytes, usize)>,
    pub(super) backlog_bytes: usize,
    /// `write_eof` was called.
    pub(super) eof: bool,
    /// `close` was called.
    pub(super) closed: bool,
    pub(super) fin_sent: bool,
    /// Nothing can be sent any more: it was reset, timed out, or closed by the stack.
    pub(super) failed: bool,
    /// The end was read.
    pub(super) end_told: bool,
}

/// The result of reading.
pub(super) enum Taken<'py> {
    Data(Bound<'py, PyBytes>),
    /// The other side sends no more.
    End,
    /// The connection has failed.
    Gone,
    Wait,
}

impl State {
    pub(super) fn take<'py>(&mut self, py: Python<'py>, most: usize) -> Taken<'py> {
        if let Some(bytes) = self.returned.pop_front() {
            let bytes = bytes.into_bound(py);
            let all = bytes.as_bytes();
            if all.len() <= most || matches!(self.carrier, Some(Carrier::Udp(_))) {
                return Taken::Data(bytes);
            }
            self.returned.push_front(PyBytes::new(py, &all[most..]).unbind());
            return Taken::Data(PyBytes::new(py, &all[..most]));
        }
        let result = match &self.carrier {
            None => return Taken::Gone,
            Some(Carrier::Tcp(stream)) => convert::received(py, stream, most),
            Some(Carrier::Udp(flow)) => {
                let mut data = None;
                flow.try_recv_with(&mut |datagram| data = Some(PyBytes::new(py, datagram))).map(|_| data)
            }
        };
        match result {
            Ok(Some(data)) => Taken::Data(data),
            Ok(None) => Taken::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Taken::Wait,
            Err(_) => {
                self.failed = true;
                Taken::Gone
            }
        }
    }

    /// Passes on waiting data, then the end.
    pub(super) fn flush(&mut self) {
        let Some(carrier) = &self.carrier else { return self.drop_backlog() };
        while !self.failed
            && let Some((data, sent)) = self.backlog.front_mut()
        {
            let result = match carrier {
                Carrier::Tcp(stream) => stream.try_write(&data[*sent..]),
                Carrier::Udp(flow) => flow.try_send(data).map(|_| data.len()),
            };
            match result {
                Ok(count) => {
                    *sent += count;
                    self.backlog_bytes -= count;
                    if *sent >= data.len() {
                        self.backlog.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) if matches!(carrier, Carrier::Udp(_)) => {
                    // This datagram cannot be sent; the next one may.
                    self.backlog_bytes -= data.len();
                    self.backlog.pop_front();
                }
                Err(_) => self.failed = true,
            }
        }
        if self.failed {
            return self.drop_backlog();
        }
        if (self.eof || self.closed) && !self.fin_sent {
            self.fin_sent = true;
            if let Carrier::Tcp(stream) = carrier {
                // It fails if the connection is gone, which the next read reports.
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }

    pub(super) fn drop_backlog(&mut self) {
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    /// Returns the number of bytes that wait here, or in the stack for their acknowledgement. The stack asks for more
    /// only when a good part of its buffer is free, which takes minutes if the other side is slow.
    pub(super) fn undelivered(&self) -> usize {
        let unacknowledged = match &self.carrier {
            Some(Carrier::Tcp(stream)) => stream.unacknowledged(),
            _ => 0,
        };
        self.backlog_bytes.saturating_add(unacknowledged)
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.reads.is_empty() || !self.drains.is_empty()
    }

    /// Returns whether both directions have ended.
    pub(super) fn is_gone(&self) -> bool {
        match &self.carrier {
            None => true,
            Some(_) if self.failed => true,
            Some(Carrier::Udp(_)) => false,
            Some(Carrier::Tcp(stream)) => {
                let readiness = stream.readiness();
                readiness.read_closed && readiness.write_closed
            }
        }
    }

    /// After `close`: discards received data. Returns whether the connection has ended.
    pub(super) fn discard(&mut self) -> bool {
        match &self.carrier {
            None => true,
            Some(Carrier::Udp(_)) => self.backlog.is_empty(),
            Some(Carrier::Tcp(stream)) => loop {
                match stream.try_read_with(&mut |first, second| first.len() + second.len()) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Ok(_) => return self.fin_sent || self.failed,
                    Err(_) => return true,
                }
            },
        }
    }
}
