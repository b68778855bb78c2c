//! Datagrams of mitmproxy_wireguard, which are passed to a function one by one.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak, atomic::AtomicBool},
};

use pyo3::{prelude::*, types::PyBytes};
use wg_embed::sync::lock;
use wg_embed_netstack::UdpFlow;

use super::shared::Shared;
use crate::{bridge::Ready, convert};

/// A flow whose datagrams are passed to a function one by one.
pub(super) struct Datagrams {
    server: Weak<Shared>,
    flow: Mutex<Option<UdpFlow>>,
    from: SocketAddr,
    to: SocketAddr,
    queued: AtomicBool,
}

/// The number of datagrams of one flow that are passed on before other flows have their turn.
const DATAGRAMS_AT_ONCE: usize = 64;

impl Datagrams {
    pub(super) fn begin(server: &Arc<Shared>, flow: UdpFlow) {
        let (from, to) = (flow.source(), flow.destination());
        let queued = AtomicBool::new(false);
        let this = Arc::new(Self { server: Arc::downgrade(server), flow: Mutex::default(), from, to, queued });
        // The flow owns this by way of its notifier, until it ends.
        let notified = this.clone();
        flow.set_notify(Some(Arc::new(move || notified.clone().post())));
        *lock(&this.flow) = Some(flow);
        this.post();
    }

    fn post(self: Arc<Self>) {
        match self.server.upgrade() {
            Some(server) => server.bridge.post(self),
            None => self.abandon(),
        }
    }

    fn end(&self) {
        let flow = lock(&self.flow).take();
        if let Some(flow) = flow {
            flow.set_notify(None);
        }
    }
}

impl Ready for Datagrams {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let server = self.server.upgrade();
        let functions = server.as_ref().and_then(|server| server.functions());
        let (Some(server), Some(functions)) = (server, functions) else {
            // It was closed: nobody else lets go of the flow.
            self.end();
            return Ok(());
        };
        let (from, to) = (convert::to_tuple(py, self.from)?, convert::to_tuple(py, self.to)?);
        for _ in 0..DATAGRAMS_AT_ONCE {
            let mut data = None;
            let received = match &*lock(&self.flow) {
                Some(flow) => flow.try_recv_with(&mut |datagram| data = Some(PyBytes::new(py, datagram))),
                None => return Ok(()),
            };
            match (data, received) {
                (Some(data), _) => {
                    let arguments = (&functions.handlers.udp, data, &from, &to);
                    if let Err(error) = functions.context.bind(py).call_method1("run", arguments) {
                        let reported = server.bridge.report(py, "Exception in receive_datagram", error);
                        if reported.is_err() {
                            // The others are for the next time that the loop runs.
                            self.clone().post();
                            return reported;
                        }
                    }
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                (None, _) => {
                    self.end();
                    return Ok(());
                }
            }
        }
        self.post();
        Ok(())
    }

    fn abandon(&self) {
        self.end();
    }
}
