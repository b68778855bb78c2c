use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::plan::{Family, Firewall, Resolver, RouteKind, Rule};

/// A system in memory: the steps that hold, in their order, and the number of the step that fails.
#[derive(Clone, Debug, Default)]
struct Memory(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    held: Vec<Step>,
    /// How many calls succeed before one fails.
    left: Option<usize>,
    /// Whether undoing fails.
    stuck: bool,
}

impl Memory {
    fn held(&self) -> Vec<Step> {
        self.0.borrow().held.clone()
    }

    fn fail_after(&self, calls: usize) {
        self.0.borrow_mut().left = Some(calls);
    }

    fn call(&self) -> Result<()> {
        let left = &mut self.0.borrow_mut().left;
        match left.as_mut() {
            Some(0) => {
                *left = None;
                Err(Error::new(ErrorKind::Permission, "no"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl System for Memory {
    fn state(&mut self, _: &Settings) -> Result<State> {
        Ok(State {
            mtu: 1420,
            path_mtu: 1500,
            rules_v4: vec![0, 32_766, 32_767],
            rules_v6: vec![0, 32_766],
            resolver: Some(Resolver::Resolvconf(String::new())),
            firewall: Some(Firewall::Nft),
            ..State::default()
        })
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        self.call()?;
        let mut inner = self.0.borrow_mut();
        if inner.held.contains(step) {
            return Err(Error::new(ErrorKind::Exists, "there"));
        }
        inner.held.retain(|other| !step.replaces(other));
        inner.held.push(step.clone());
        Ok(())
    }

    fn undo(&mut self, step: &Step) -> Result<()> {
        self.call()?;
        let mut inner = self.0.borrow_mut();
        if inner.stuck {
            return Err(Error::new(ErrorKind::Busy, "stuck"));
        }
        inner.held.retain(|other| other != step);
        // As the kernel does without addresses.
        if matches!(step, Step::Address(_)) {
            inner.held.retain(|other| !other.goes_with_addresses());
        }
        Ok(())
    }
}

fn settings() -> Settings {
    Settings {
        addresses: vec!["10.0.0.1/24".parse().unwrap()],
        routes: vec!["0.0.0.0/0".parse().unwrap(), "192.0.2.0/24".parse().unwrap()],
        mtu: Some(1400),
        dns: crate::Dns { servers: vec!["10.0.0.53".parse().unwrap()], ..Default::default() },
        fwmark: 7,
        ..Settings::default()
    }
}

fn sorted(mut steps: Vec<Step>) -> Vec<String> {
    steps.dedup();
    let mut texts: Vec<_> = steps.iter().map(|step| format!("{step:?}")).collect();
    texts.sort();
    texts
}

#[test]
fn a_step_that_fails_leaves_nothing() {
    let system = Memory::default();
    let applied = Applied::new(system.clone(), &settings()).unwrap();
    let count = applied.steps().len();
    assert_eq!(system.held(), applied.steps());
    drop(applied);
    assert_eq!(system.held(), []);
    for calls in 0..count {
        system.fail_after(calls);
        assert_eq!(Applied::new(system.clone(), &settings()).unwrap_err().kind(), ErrorKind::Permission);
        assert_eq!(system.held(), [], "after {calls}");
    }
}

#[test]
fn what_cannot_be_undone_is_said() {
    let system = Memory::default();
    let applied = Applied::new(system.clone(), &settings()).unwrap();
    system.0.borrow_mut().stuck = true;
    assert_eq!(applied.undo().unwrap_err().kind(), ErrorKind::Busy);
    let system = Memory::default();
    system.0.borrow_mut().stuck = true;
    system.fail_after(2);
    let error = Applied::new(system, &settings()).unwrap_err();
    assert_eq!(error.to_string(), "stuck, while undoing what was done before this: no");
}

#[test]
fn an_update_does_the_difference_or_nothing() {
    let others = [
        Settings { mtu: Some(1300), ..settings() },
        Settings { routes: vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()], ..settings() },
        Settings { addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::1/64".parse().unwrap()], ..settings() },
        Settings { dns: crate::Dns::default(), fwmark: 8, ..settings() },
        Settings::default(),
    ];
    for other in others {
        let system = Memory::default();
        let mut applied = Applied::new(system.clone(), &settings()).unwrap();
        let before = applied.steps().to_vec();
        let mut calls = 0;
        // Each of the calls that it takes fails in turn.
        loop {
            system.fail_after(calls);
            if applied.update(&other).is_ok() {
                break;
            }
            assert_eq!(sorted(system.held()), sorted(before.clone()), "{other:?} after {calls}");
            calls += 1;
        }
        assert!(calls > 0);
        system.0.borrow_mut().left = None;
        let expected = plan(&other, &applied.before).unwrap();
        assert_eq!(applied.steps(), expected, "{other:?}");
        assert_eq!(sorted(system.held()), sorted(expected), "{other:?}");
        applied.undo().unwrap();
        assert_eq!(system.held(), []);
    }
}

#[test]
fn an_update_without_a_difference_touches_nothing() {
    let system = Memory::default();
    let mut applied = Applied::new(system.clone(), &settings()).unwrap();
    system.fail_after(0);
    applied.update(&settings()).unwrap();
    assert!(applied.steps().contains(&Step::Rule { family: Family::V4, priority: 32_765, rule: Rule::NotMarked(7) }));
    let prefix = "0.0.0.0/0".parse().unwrap();
    assert!(applied.steps().contains(&Step::Route { prefix, table: 7, kind: RouteKind::Tunnel }));
}
