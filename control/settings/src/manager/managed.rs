//! Configures a Linux system's network as a tunnel of the manager protocol requests it.

use wg_embed::error::Result;
use wg_embed_manager::messages::NetworkSettingsRequest;

use super::settings;
use crate::{Applied, Linux, Programs, free_mark};

/// The network settings of one interface. Dropping this undoes them.
///
/// It serves both sides: a manager that receives requests (`wg_embed_manager::manager::Host::configure`), and a tunnel
/// that configures the system by itself. A manager cannot pass a mark to its tunnel: then only the request's excluded
/// routes keep the tunnel's own packets out of the tunnel.
#[derive(Debug)]
pub struct Managed {
    interface: String,
    programs: Programs,
    applied: Option<Applied<Linux>>,
    /// The mark of the settings in force, or 0 if they have none.
    mark: u32,
}

impl Managed {
    /// Creates it for an interface in the calling thread's network namespace, in which all functions must be called.
    /// Nothing is configured yet.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self { interface: interface.into(), programs: Programs::default(), applied: None, mark: 0 }
    }

    /// Uses these programs instead of those in the `PATH` of the process.
    #[must_use]
    pub fn with_programs(mut self, programs: Programs) -> Self {
        self.programs = programs;
        self
    }

    /// Applies a complete request, or its differences from the previous one. `mark` is that of the tunnel's own
    /// packets; with 0, an unused one is chosen if one is needed.
    ///
    /// # Errors
    /// Errors of [`settings()`] and [`apply`](crate::apply). The previous settings are then restored.
    pub fn configure(&mut self, request: &NetworkSettingsRequest, mark: u32) -> Result<()> {
        let mut settings = settings(request)?;
        settings.fwmark = match mark {
            0 if !settings.needs_mark() => 0,
            // The current one is kept.
            0 if self.mark != 0 => self.mark,
            0 => free_mark()?,
            mark => mark,
        };
        match &mut self.applied {
            Some(applied) => applied.update(&settings)?,
            None => {
                let linux = Linux::new(&self.interface)?.with_programs(self.programs.clone());
                self.applied = Some(Applied::new(linux, &settings)?);
            }
        }
        self.mark = settings.fwmark;
        Ok(())
    }

    /// Returns the mark that the tunnel's own packets must have; 0 if they need none.
    #[must_use]
    pub const fn mark(&self) -> u32 {
        self.mark
    }

    /// Undoes all settings.
    ///
    /// # Errors
    /// The first error; all other steps are undone nevertheless.
    pub fn undo(&mut self) -> Result<()> {
        self.mark = 0;
        self.applied.take().map_or(Ok(()), Applied::undo)
    }
}
