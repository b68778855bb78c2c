//! Steps that were applied, and their changes and removal.

use ipnet::IpNet;
use wg_embed::error::{Error, ErrorKind, Result};

use crate::{
    plan::{State, Step, plan},
    settings::Settings,
};

/// The system to which steps are applied.
pub trait System {
    /// Returns the state on which a plan for these settings depends.
    ///
    /// # Errors
    /// Errors of the system.
    fn state(&mut self, settings: &Settings) -> Result<State>;

    /// Performs a step, completely or not at all.
    ///
    /// # Errors
    /// `Exists` if the object of the step already exists; other errors of the system.
    fn perform(&mut self, step: &Step) -> Result<()>;

    /// Undoes a step. No-op for objects that no longer exist.
    ///
    /// # Errors
    /// Errors of the system.
    fn undo(&mut self, step: &Step) -> Result<()>;
}

/// The applied settings. Dropping this undoes them; [`undo`](Self::undo) also returns errors.
#[derive(Debug)]
pub struct Applied<S: System> {
    system: S,
    /// The state before the first step.
    before: State,
    /// The steps in force, in the order in which they were performed.
    steps: Vec<Step>,
    /// Whether the kernel may have removed objects together with an address.
    lacks: bool,
}

impl<S: System> Applied<S> {
    /// Applies the settings. If a step fails, the earlier ones are undone.
    ///
    /// # Errors
    /// Errors of [`plan()`] and of the system.
    pub fn new(system: S, settings: &Settings) -> Result<Self> {
        let (mut applied, steps) = Self::prepare(system, settings)?;
        applied.carry_out(&steps)?;
        Ok(applied)
    }

    /// Makes a plan, without performing it.
    pub(crate) fn prepare(mut system: S, settings: &Settings) -> Result<(Self, Vec<Step>)> {
        let before = system.state(settings)?;
        let steps = plan(settings, &before)?;
        Ok((Self { system, before, steps: Vec::new(), lacks: false }, steps))
    }

    /// Performs these steps, or none.
    pub(crate) fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let result = self.change(steps);
        result.map_err(|error| and_also(error, self.undo_all()))
    }

    /// Applies the differences between the previous settings and these. If that fails, the previous settings are
    /// restored.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn update(&mut self, settings: &Settings) -> Result<()> {
        let path_mtu = self.system.state(settings)?.path_mtu;
        let steps = plan(settings, &State { path_mtu, ..self.before.clone() })?;
        let before = self.steps.clone();
        self.change(&steps).map_err(|error| and_also(error, self.change(&before)))
    }

    /// Returns the steps in force, in the order in which they were performed.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Undoes everything, the last step first.
    ///
    /// # Errors
    /// The first error; all other steps are undone nevertheless.
    pub fn undo(mut self) -> Result<()> {
        self.undo_all()
    }

    /// Leaves everything unchanged. [`undo()`] undoes these steps.
    #[cfg(target_os = "linux")]
    pub(crate) fn keep(mut self) {
        self.steps.clear();
    }

    fn undo_all(&mut self) -> Result<()> {
        undo(&mut self.system, &std::mem::take(&mut self.steps))
    }

    /// Changes the steps in force to these.
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

    /// Returns whether a step adds an IPv4 address before other addresses of its network. The kernel uses the first one
    /// as source.
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

/// Undoes steps, the last one first. Steps that were not performed, or are already undone, do no harm.
///
/// # Errors
/// The first error; all other steps are undone nevertheless.
pub fn undo(system: &mut impl System, steps: &[Step]) -> Result<()> {
    // Each step is tried.
    let errors: Vec<_> = steps.iter().rev().filter_map(|step| system.undo(step).err()).collect();
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Combines an error with the error of undoing its effects.
pub(crate) fn and_also(error: Error, repair: Result<()>) -> Error {
    match repair {
        Ok(()) => error,
        Err(second) => error.at(format_args!("{second}, while undoing what was done before this")),
    }
}

#[cfg(test)]
mod tests;
