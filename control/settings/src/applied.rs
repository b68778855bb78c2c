//! Steps that were done, and what becomes of them.

use ipnet::IpNet;
use wg_embed::error::{Error, ErrorKind, Result};

use crate::{
    plan::{State, Step, plan},
    settings::Settings,
};

/// What steps are done to.
pub trait System {
    /// Reads what a plan for these settings depends on.
    ///
    /// # Errors
    /// What the system says.
    fn state(&mut self, settings: &Settings) -> Result<State>;

    /// Does a step, all of it or nothing.
    ///
    /// # Errors
    /// `Exists` if what is to be made is there; what else the system says.
    fn perform(&mut self, step: &Step) -> Result<()>;

    /// Undoes a step. What is not there any more needs no undoing.
    ///
    /// # Errors
    /// What the system says.
    fn undo(&mut self, step: &Step) -> Result<()>;
}

/// What was set up. Dropped, it is undone; [`undo`](Self::undo) tells as well whether that went well.
#[derive(Debug)]
pub struct Applied<S: System> {
    system: S,
    /// As it was before the first step.
    before: State,
    /// What holds now, in the order in which it was done.
    steps: Vec<Step>,
    /// Whether the kernel may have taken back what goes with an address that was removed.
    lacks: bool,
}

impl<S: System> Applied<S> {
    /// Does what the settings ask for. If a step fails, those before it are undone.
    ///
    /// # Errors
    /// As [`plan()`], and what the system says.
    pub fn new(system: S, settings: &Settings) -> Result<Self> {
        let (mut applied, steps) = Self::prepare(system, settings)?;
        applied.carry_out(&steps)?;
        Ok(applied)
    }

    /// Plans, and does nothing yet.
    pub(crate) fn prepare(mut system: S, settings: &Settings) -> Result<(Self, Vec<Step>)> {
        let before = system.state(settings)?;
        let steps = plan(settings, &before)?;
        Ok((Self { system, before, steps: Vec::new(), lacks: false }, steps))
    }

    /// Does these steps, or none.
    pub(crate) fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let result = self.change(steps);
        result.map_err(|error| and_also(error, self.undo_all()))
    }

    /// Does what differs between the settings before and these. If that fails, the settings before hold again.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn update(&mut self, settings: &Settings) -> Result<()> {
        let path_mtu = self.system.state(settings)?.path_mtu;
        let steps = plan(settings, &State { path_mtu, ..self.before.clone() })?;
        let before = self.steps.clone();
        self.change(&steps).map_err(|error| and_also(error, self.change(&before)))
    }

    /// What holds, in the order in which it was done.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Undoes everything, the last step first.
    ///
    /// # Errors
    /// The first error; what can be undone is undone all the same.
    pub fn undo(mut self) -> Result<()> {
        self.undo_all()
    }

    /// Leaves everything as it is. [`undo()`] takes these steps back.
    #[cfg(target_os = "linux")]
    pub(crate) fn keep(mut self) {
        self.steps.clear();
    }

    fn undo_all(&mut self) -> Result<()> {
        undo(&mut self.system, &std::mem::take(&mut self.steps))
    }

    /// From what holds now to these steps.
    fn change(&mut self, to: &[Step]) -> Result<()> {
        let is_gone = |step: &&Step| !to.contains(step) || self.comes_too_early(step, to);
        let gone: Vec<_> = self.steps.iter().filter(is_gone).cloned().collect();
        for step in gone.iter().rev().filter(|step| !to.iter().any(|new| new.replaces(step))) {
            self.lacks |= matches!(step, Step::Address(_));
            self.system.undo(step)?;
            self.steps.retain(|other| other != step);
        }
        for step in to {
            if !self.steps.contains(step) {
                self.system.perform(step)?;
                self.steps.retain(|other| !step.replaces(other));
                self.steps.push(step.clone());
            } else if self.lacks && step.goes_with_addresses() {
                match self.system.perform(step) {
                    Err(error) if error.kind() != ErrorKind::Exists => return Err(error),
                    _ => {}
                }
            }
        }
        self.steps = to.to_vec();
        self.lacks = false;
        Ok(())
    }

    /// Whether it is an IPv4 address that is to come after others of its network which are not there yet. The first is
    /// the one that the kernel sends from.
    fn comes_too_early(&self, step: &Step, to: &[Step]) -> bool {
        let Step::Address(address @ IpNet::V4(_)) = step else { return false };
        let mut before = to.iter().take_while(|other| *other != step).filter(|other| !self.steps.contains(other));
        before.any(|other| matches!(other, Step::Address(other) if other.trunc() == address.trunc()))
    }
}

impl<S: System> Drop for Applied<S> {
    fn drop(&mut self) {
        if let Err(error) = self.undo_all() {
            tracing::warn!(%error, "network settings could not be undone");
        }
    }
}

/// Undoes steps, the last one first. Steps that were not done, or are undone already, do no harm.
///
/// # Errors
/// The first error; what can be undone is undone all the same.
pub fn undo(system: &mut impl System, steps: &[Step]) -> Result<()> {
    // Each is tried.
    let errors: Vec<_> = steps.iter().rev().filter_map(|step| system.undo(step).err()).collect();
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// An error, and what went wrong in putting it right.
pub(crate) fn and_also(error: Error, repair: Result<()>) -> Error {
    match repair {
        Ok(()) => error,
        Err(second) => error.at(format_args!("{second}, while undoing what was done before this")),
    }
}

#[cfg(test)]
mod tests;
