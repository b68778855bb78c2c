//! A tunnel that is not running yet.

use std::sync::Arc;

use wg_embed::{bind::udp::UdpBind, device, sync::lock};
use wg_embed_manager::{
    messages::NetworkSettingsRequest,
    tunnel::{Opened, Running},
};

use super::{Configuration, Current, Options, interface::Interface, running::WireGuardTunnel, system::System};

/// An interface, and the configuration of its tunnel.
pub(super) struct OpenedTunnel {
    /// Before the interface, so that it is restored first.
    pub(super) network: Option<System>,
    pub(super) interface: Interface,
    pub(super) configuration: Configuration,
    pub(super) options: Options,
    /// Set to the tunnel when it runs.
    pub(super) current: Arc<Current>,
}

impl Opened<Configuration> for OpenedTunnel {
    fn configures(&self) -> bool {
        self.network.as_ref().is_none_or(System::is_possible)
    }

    fn configure(&mut self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.network.as_mut().map_or(Ok(()), |network| network.change(settings))
    }

    fn start(self: Box<Self>) -> Result<Arc<dyn Running<Configuration>>, String> {
        let Self { network, interface, configuration, options, current } = *self;
        let mut bind = UdpBind::new().map_err(|e| format!("cannot wait for UDP: {e}"))?;
        if let Some(protect) = options.protect {
            bind = bind.with_socket_hook(Box::new(move |socket, family| protect(socket, family)));
        }
        let resolve = options.resolve;
        let options =
            device::Options { resolve: Some(Box::new(move |host| resolve(host))), ..device::Options::default() };
        let running = WireGuardTunnel::start(interface, network, Arc::new(bind), options, configuration)?;
        let running = Arc::new(running);
        *lock(&current) = Arc::downgrade(&running);
        Ok(running)
    }
}
