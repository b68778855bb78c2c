//! Steps that were performed, and their changes and removal.

use std::collections::HashSet;

use wg_embed::error::Result;

use crate::plan::Step;

/// The system on which steps are performed.
pub trait System {
    /// Performs a step. A step that replaces another one is performed over it. What is there already is no error.
    ///
    /// # Errors
    /// Errors of the system. The step may be performed in part: it is then undone.
    fn perform(&mut self, step: &Step) -> Result<()>;

    /// Undoes a step. No-op for what does not exist.
    ///
    /// # Errors
    /// Errors of the system.
    fn undo(&mut self, step: &Step) -> Result<()>;
}

/// The steps in force. Dropping this undoes them; [`undo`](Self::undo) also returns errors.
#[derive(Debug)]
pub struct Applied<S: System> {
    system: S,
    /// In the order in which they were performed, also those that could not be undone.
    steps: Vec<Step>,
    /// The last of them if it has failed: a part of it may be in force.
    failed: Option<Step>,
}

impl<S: System> Applied<S> {
    /// Performs the steps. If one fails, it and the earlier ones are undone.
    ///
    /// # Errors
    /// The error of the step, which it names.
    pub fn new(system: S, steps: Vec<Step>) -> Result<Self> {
        let mut applied = Self { system, steps: Vec::with_capacity(steps.len()), failed: None };
        applied.change(steps)?;
        Ok(applied)
    }

    /// Changes the steps in force to these: those that are missing are performed, those that are not among them undone.
    ///
    /// # Errors
    /// The first error. The next call tries again what has failed, and performs the steps that were not reached.
    pub fn change(&mut self, to: Vec<Step>) -> Result<()> {
        let undone = self.undo_all_but(&to);
        let missing: Vec<_> = {
            let in_force: HashSet<_> = self.steps.iter().filter(|step| self.failed.as_ref() != Some(*step)).collect();
            to.iter().filter(|step| !in_force.contains(step)).collect()
        };
        for step in missing {
            // Even if it fails: a part of it may have to be undone.
            if step.replaces(step) || self.failed.as_ref() == Some(step) {
                self.steps.retain(|other| other != step && !step.replaces(other));
            }
            self.steps.push(step.clone());
            self.failed = Some(step.clone());
            self.system.perform(step)?;
            self.failed = None;
        }
        let wanted: HashSet<_> = to.iter().collect();
        self.steps.retain(|step| !wanted.contains(step));
        self.steps.extend(to);
        undone
    }

    /// Undoes the steps in force that are neither among these nor replaced by one of them. Each is tried; those that
    /// fail stay in force.
    fn undo_all_but(&mut self, to: &[Step]) -> Result<()> {
        let wanted: HashSet<_> = to.iter().collect();
        // What replaces others replaces its equal. There are a few of them.
        let replacing: Vec<_> = to.iter().filter(|step| step.replaces(step)).collect();
        let mut left = Vec::with_capacity(self.steps.len());
        let mut outcome = Ok(());
        while let Some(step) = self.steps.pop() {
            if !wanted.contains(&step) && !replacing.iter().any(|new| new.replaces(&step)) {
                match self.system.undo(&step) {
                    Ok(()) => continue,
                    failure => outcome = outcome.and(failure),
                }
            }
            left.push(step);
        }
        left.reverse();
        self.steps = left;
        outcome
    }

    /// Returns the steps in force: those that could not be undone, then those of the plan in its order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the system.
    pub fn system(&mut self) -> &mut S {
        &mut self.system
    }

    /// Undoes everything, the last step first.
    ///
    /// # Errors
    /// The first error; all other steps are undone nevertheless.
    pub fn undo(mut self) -> Result<()> {
        self.undo_all()
    }

    fn undo_all(&mut self) -> Result<()> {
        // Each step is tried.
        let steps = std::mem::take(&mut self.steps);
        let errors: Vec<_> = steps.iter().rev().filter_map(|step| self.system.undo(step).err()).collect();
        errors.into_iter().next().map_or(Ok(()), Err)
    }
}

impl<S: System> Drop for Applied<S> {
    fn drop(&mut self) {
        if let Err(error) = self.undo_all() {
            tracing::warn!(%error, "network settings could not be undone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use wg_embed::{bind::Family, error::Error};

    use super::*;

    /// Records what it is asked to do, and refuses to perform one step, or to undo one.
    #[derive(Default)]
    struct Recorder {
        calls: Rc<RefCell<Vec<String>>>,
        refuses: Option<Step>,
        keeps: Option<Step>,
    }

    impl System for Recorder {
        fn perform(&mut self, step: &Step) -> Result<()> {
            self.calls.borrow_mut().push(format!("+ {step}"));
            if self.refuses.as_ref() == Some(step) { Err(Error::invalid("refused")) } else { Ok(()) }
        }

        fn undo(&mut self, step: &Step) -> Result<()> {
            self.calls.borrow_mut().push(format!("- {step}"));
            if self.keeps.as_ref() == Some(step) { Err(Error::invalid("kept")) } else { Ok(()) }
        }
    }

    fn steps() -> [Step; 3] {
        [
            Step::Interface { family: Family::V4, mtu: 1420, first: true },
            Step::Address("10.0.0.2/24".parse().unwrap()),
            Step::Route("0.0.0.0/0".parse().unwrap()),
        ]
    }

    fn recorder(refuses: Option<Step>) -> (Recorder, Rc<RefCell<Vec<String>>>) {
        let recorder = Recorder { refuses, ..Recorder::default() };
        let calls = recorder.calls.clone();
        (recorder, calls)
    }

    #[test]
    fn everything_is_undone_in_reverse() {
        let (recorder, calls) = recorder(None);
        Applied::new(recorder, steps().into()).unwrap().undo().unwrap();
        let [interface, address, route] = steps().map(|step| step.to_string());
        let expected = [
            format!("+ {interface}"),
            format!("+ {address}"),
            format!("+ {route}"),
            format!("- {route}"),
            format!("- {address}"),
            format!("- {interface}"),
        ];
        assert_eq!(*calls.borrow(), expected);
    }

    #[test]
    fn a_step_that_fails_is_undone_with_the_earlier_ones() {
        let [interface, address, route] = steps();
        let (recorder, calls) = recorder(Some(address.clone()));
        assert_eq!(Applied::new(recorder, steps().into()).err().unwrap().to_string(), "refused");
        let expected =
            [format!("+ {interface}"), format!("+ {address}"), format!("- {address}"), format!("- {interface}")];
        assert_eq!(*calls.borrow(), expected);
        assert!(!calls.borrow().iter().any(|call| call.contains(&route.to_string())));
    }

    #[test]
    fn a_change_that_has_failed_is_tried_again() {
        let (recorder, calls) = recorder(None);
        let [_, address, route] = steps();
        let smaller = Step::Interface { family: Family::V4, mtu: 1200, first: true };
        let mut applied = Applied::new(recorder, steps().into()).unwrap();
        let changed = vec![smaller.clone(), address, route];
        applied.system().refuses = Some(smaller.clone());
        applied.change(changed.clone()).unwrap_err();
        applied.system().refuses = None;
        calls.borrow_mut().clear();
        applied.change(changed.clone()).unwrap();
        assert_eq!(*calls.borrow(), [format!("+ {smaller}")]);
        applied.change(changed).unwrap();
        assert_eq!(calls.borrow().len(), 1);
    }

    #[test]
    fn a_step_that_cannot_be_undone_is_tried_again_and_holds_up_no_other() {
        let (mut recorder, calls) = recorder(None);
        let [interface, address, route] = steps();
        recorder.keeps = Some(route.clone());
        let mut applied = Applied::new(recorder, steps().into()).unwrap();
        let other = Step::Address("10.0.0.3/24".parse().unwrap());
        let changed = vec![interface.clone(), other.clone()];
        calls.borrow_mut().clear();
        assert_eq!(applied.change(changed.clone()).unwrap_err().to_string(), "kept");
        assert_eq!(*calls.borrow(), [format!("- {route}"), format!("- {address}"), format!("+ {other}")]);
        assert_eq!(applied.steps(), [route.clone(), interface, other]);
        applied.system().keeps = None;
        calls.borrow_mut().clear();
        applied.change(changed.clone()).unwrap();
        assert_eq!(*calls.borrow(), [format!("- {route}")]);
        assert_eq!(applied.steps(), changed);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let (recorder, calls) = recorder(None);
        let mut applied = Applied::new(recorder, steps().into()).unwrap();
        calls.borrow_mut().clear();
        let [_, address, route] = steps();
        let smaller = Step::Interface { family: Family::V4, mtu: 1200, first: true };
        applied.change(vec![smaller.clone(), address]).unwrap();
        assert_eq!(*calls.borrow(), [format!("- {route}"), format!("+ {smaller}")]);
        assert_eq!(applied.steps().len(), 2);
        calls.borrow_mut().clear();
        drop(applied);
        assert_eq!(calls.borrow().len(), 2);
    }
}
