//! The system's network around a tunnel that runs.

use std::sync::Arc;

use wg_embed_manager::{manager::merge, messages::NetworkSettingsRequest};

use super::{ConfiguredNetwork, SystemNetwork};

/// A network, and what it is configured with.
pub(super) struct System {
    system: Arc<dyn SystemNetwork>,
    interface: String,
    /// `None` as long as there are no settings: the manager was asked.
    configured: Option<Box<dyn ConfiguredNetwork>>,
    settings: NetworkSettingsRequest,
    /// The configuration's mark, or 0 if it has none.
    mark: u32,
}

impl System {
    /// Nothing is configured yet.
    pub(super) fn new(system: Arc<dyn SystemNetwork>, interface: String, mark: u32) -> Self {
        Self { system, interface, configured: None, settings: NetworkSettingsRequest::default(), mark }
    }

    /// Configures it with a part of its settings, or all of them.
    pub(super) fn change(&mut self, change: &NetworkSettingsRequest) -> Result<(), String> {
        let all = merge(&self.settings, change.clone());
        if all == self.settings {
            return Ok(());
        }
        match &mut self.configured {
            Some(configured) => configured.update(&all, self.mark)?,
            None => self.configured = Some(self.system.configure(&self.interface, &all, self.mark)?),
        }
        self.settings = all;
        Ok(())
    }

    /// The configuration has this mark from now on.
    pub(super) fn change_mark(&mut self, mark: u32) -> Result<(), String> {
        if let Some(configured) = self.configured.as_mut().filter(|_| mark != self.mark) {
            configured.update(&self.settings, mark)?;
        }
        self.mark = mark;
        Ok(())
    }

    /// The mark that the tunnel's own packets are to have: the configuration's, or one that routes need.
    pub(super) fn mark(&self) -> u32 {
        match self.configured.as_ref().map_or(0, |configured| configured.mark()) {
            0 => self.mark,
            mark => mark,
        }
    }
}
