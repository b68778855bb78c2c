//! The tunnel that the tests of control sockets and pipes serve.

use std::sync::Mutex;

use super::EndHook;
use crate::{
    config::{
        Update,
        snapshot::{InterfaceSnapshot, Snapshot},
    },
    error::Result,
    uapi::Backend,
};

/// Keeps the marks that were set.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<u32>>);

impl Backend for Recorder {
    fn apply(&self, update: Update) -> Result<()> {
        assert_ne!(update.fwmark, Some(666), "a bug");
        self.0.lock().unwrap().extend(update.fwmark);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let interface = InterfaceSnapshot { listen_port: 7, ..Default::default() };
        Snapshot { interface, peers: Box::new(std::iter::empty()) }
    }
}

/// For a server that does not end by itself.
pub(super) fn no_hook() -> EndHook {
    Box::new(|reason| panic!("ended by itself: {reason}"))
}
