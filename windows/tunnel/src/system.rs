//! What a tunnel asks of Windows, other than its adapter and its control pipe.

mod addresses;
mod changes;
mod dpapi;
mod event_log;
mod filters;
mod functions;
mod routes;

use wg_embed::error::Result;

use self::{addresses::Interface, filters::Filters, functions::Functions};
use crate::{applied::System, plan::Step};

pub use self::{
    changes::Changes,
    dpapi::decrypt,
    event_log::{Severity, report},
    routes::default_routes,
};

/// Performs steps on the interface of a tunnel.
pub struct Windows {
    functions: Functions,
    interface: Interface,
    /// The filters of the firewall, if there are any.
    filters: Option<Filters>,
}

impl Windows {
    /// Uses the interface with this LUID.
    ///
    /// # Errors
    /// `Unsupported`, naming what is missing, if this Windows lacks a function.
    pub fn new(luid: u64) -> Result<Self> {
        Ok(Self { functions: Functions::load()?, interface: Interface::new(luid), filters: None })
    }
}

impl System for Windows {
    fn perform(&mut self, step: &Step) -> Result<()> {
        let Self { functions, interface, .. } = self;
        match step {
            Step::Firewall(filters) => {
                self.filters = Some(Filters::add(filters, interface.luid())?);
                Ok(())
            }
            Step::Interface { family, mtu, first } => interface.set(functions, *family, *mtu, *first),
            Step::Address(address) => interface.add_address(functions, *address),
            Step::Route(prefix) => interface.add_route(functions, *prefix),
            Step::Dns { family, servers, search } => interface.set_dns(functions, *family, servers, search),
        }
    }

    fn undo(&mut self, step: &Step) -> Result<()> {
        let Self { functions, interface, .. } = self;
        match step {
            Step::Firewall(_) => {
                self.filters = None;
                Ok(())
            }
            Step::Interface { family, .. } => interface.reset(functions, *family),
            Step::Address(address) => interface.remove_address(functions, *address),
            Step::Route(prefix) => interface.remove_route(functions, *prefix),
            Step::Dns { family, .. } => interface.set_dns(functions, *family, &[], &[]),
        }
    }
}

/// Returns text as Windows has it, with a zero at its end.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}
