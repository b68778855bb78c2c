//! A Linux system's network as a tunnel of the manager protocol asks for it.

use wg_embed::error::Result;
use wg_embed_manager::messages::NetworkSettingsRequest;

use super::settings;
use crate::{Applied, Linux, Programs, free_mark};

/// The network around one interface. Dropped, what was set up is undone.
///
/// It serves both sides: a manager that is asked (`wg_embed_manager::manager::Host::configure`), and a tunnel that
/// configures the system by itself. A manager cannot give its tunnel a mark: there, the tunnel's own packets stay out
/// of the tunnel by the request's excluded routes alone.
#[derive(Debug)]
pub struct Managed {
    interface: String,
    programs: Programs,
    applied: Option<Applied<Linux>>,
    /// The mark of the settings in force, or 0 if they have none.
    mark: u32,
}

impl Managed {
    /// For an interface of the calling thread's network namespace, in which all methods are to be called. Nothing is
    /// set up yet.
    #[must_use]
    pub fn new(interface: &str) -> Self {
        Self { interface: interface.into(), programs: Programs::default(), applied: None, mark: 0 }
    }

    /// Runs these programs in place of those in the `PATH` of the process.
    #[must_use]
    pub fn with_programs(mut self, programs: Programs) -> Self {
        self.programs = programs;
        self
    }

    /// Sets up what the request asks for, which has all that is to hold, or changes what differs from the request
    /// before. `mark` is that of the tunnel's own packets; with 0, one that is free is taken where one is needed.
    ///
    /// # Errors
    /// As [`settings()`] and [`apply`](crate::apply). What held before holds again.
    pub fn configure(&mut self, request: &NetworkSettingsRequest, mark: u32) -> Result<()> {
        let mut settings = settings(request)?;
        settings.fwmark = match mark {
            0 if !settings.needs_mark() => 0,
            // The one that is in use stays.
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

    /// The mark that the tunnel's own packets are to have; 0 if they need none.
    #[must_use]
    pub const fn mark(&self) -> u32 {
        self.mark
    }

    /// Undoes all of it.
    ///
    /// # Errors
    /// The first error; what can be undone is undone all the same.
    pub fn undo(&mut self) -> Result<()> {
        self.mark = 0;
        self.applied.take().map_or(Ok(()), Applied::undo)
    }
}
