//! `--settings own`: configures the system's network for the tunnel.

use wg_embed_manager::messages::NetworkSettingsRequest;
use wg_embed_settings::manager::Managed;
use wg_embed_tunnel::engine::{ConfiguredNetwork, SystemNetwork};

/// Configures Linux.
pub(super) struct LinuxNetwork;

/// The settings of one interface.
struct Configured(Managed);

impl SystemNetwork for LinuxNetwork {
    fn configure(
        &self,
        interface: &str,
        settings: &NetworkSettingsRequest,
        mark: u32,
    ) -> Result<Box<dyn ConfiguredNetwork>, String> {
        let mut configured = Configured(Managed::new(interface));
        configured.update(settings, mark)?;
        Ok(Box::new(configured))
    }
}

impl ConfiguredNetwork for Configured {
    fn update(&mut self, settings: &NetworkSettingsRequest, mark: u32) -> Result<(), String> {
        self.0.configure(settings, mark).map_err(|e| e.to_string())
    }

    fn mark(&self) -> u32 {
        self.0.mark()
    }
}
