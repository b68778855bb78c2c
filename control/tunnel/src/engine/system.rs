//! The system's network of a running tunnel.

use std::sync::Arc;

use wg_embed_manager::messages::NetworkSettingsRequest;

use super::{ConfiguredNetwork, SystemNetwork};

/// A network, and its settings.
pub(super) struct System {
    /// `None`: the manager configures it.
    system: Option<Arc<dyn SystemNetwork>>,
    interface: String,
    /// `None` without settings: the manager was requested to configure them.
    configured: Option<Box<dyn ConfiguredNetwork>>,
    settings: NetworkSettingsRequest,
    /// The mark in the configuration, or 0.
    mark: u32,
}

impl System {
    /// Creates one without settings.
    pub(super) fn new(system: Option<Arc<dyn SystemNetwork>>, interface: String, mark: u32) -> Self {
        Self { system, interface, configured: None, settings: NetworkSettingsRequest::default(), mark }
    }

    /// Returns whether it can be configured here.
    pub(super) const fn is_possible(&self) -> bool {
        self.system.is_some()
    }

    /// Configures it with these settings, which are complete.
    pub(super) fn change(&mut self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        if *settings == self.settings {
            return Ok(());
        }
        match (&mut self.configured, &self.system) {
            (Some(configured), _) => configured.update(settings, self.mark)?,
            (None, Some(system)) => self.configured = Some(system.configure(&self.interface, settings, self.mark)?),
            (None, None) => {
                let interface = &self.interface;
                return Err(format!(
                    "this program does not configure the network of {interface}: that is left to the manager"
                ));
            }
        }
        self.settings.clone_from(settings);
        Ok(())
    }

    /// Sets the mark of the configuration.
    pub(super) fn change_mark(&mut self, mark: u32) -> Result<(), String> {
        if let Some(configured) = self.configured.as_mut().filter(|_| mark != self.mark) {
            configured.update(&self.settings, mark)?;
        }
        self.mark = mark;
        Ok(())
    }

    /// Returns the mark of the tunnel's own packets: that of the configuration, or one that routes need.
    pub(super) fn mark(&self) -> u32 {
        match self.configured.as_ref().map_or(0, |configured| configured.mark()) {
            0 => self.mark,
            mark => mark,
        }
    }
}
