//! The daemon, as its users meet it: a program, wg(8), wg-quick(8) and ip(8). Most of it needs root.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used)]

mod descriptors;
mod handover;
mod harness;
mod lifecycle;
mod log;
#[path = "../../../tests/netns/mod.rs"]
mod netns;
mod service;
mod signals;
#[path = "../../../tests/common/skip.rs"]
mod skip;
mod start;
mod tools;
mod user;
mod wireproto;

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use harness::{BINARY, NOBODY, command, fail, succeed, wait_until};
use netns::in_time::{self, end_of};

fn daemon(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    end_of(command(BINARY).args(arguments).envs(environment.iter().copied()).spawn().unwrap())
}

#[test]
fn what_hangs_fails_and_is_killed() {
    let hangs = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
    let id = hangs.id();
    assert!(std::panic::catch_unwind(|| in_time::end_within(Duration::from_millis(10), hangs)).is_err());
    wait_until("it was killed", || !Path::new(&format!("/proc/{id}/exe")).exists());
}

#[test]
fn help_and_version_are_for_everybody() {
    let help = succeed("help", &daemon(&["--help"], &[]));
    assert!(help.starts_with("Usage: wg-embed [-f|--foreground] [--user USER[:GROUP]] [--socket-dir DIR]\n"), "{help}");
    let version = succeed("version", &daemon(&["--version"], &[]));
    assert!(version.starts_with(&format!("wg-embed {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, complaint) in [
        (&[][..], "an interface name is missing"),
        (&["-f"], "an interface name is missing"),
        (&["wg0", "wg1"], "wg1"),
        (&["--frontground", "wg0"], "--frontground"),
        (&["a/b"], "has a '/'"),
        (&[""], "is empty"),
        (&["wg%d"], "'%'"),
        (&["sixteen-bytes-xx"], "longer than 15 bytes"),
        (&["-f", ".."], "\"..\""),
    ] {
        let error = fail(&format!("{arguments:?}"), &daemon(arguments, &[]));
        assert!(error.starts_with("wg-embed: ") && error.contains(complaint), "{arguments:?}: {error}");
    }
}

#[test]
fn memory_that_cannot_be_is_named() {
    for value in ["x", "-4", "+4", "4 ", "1", "1025", "4M", "99999999999999999999"] {
        for option in [&[][..], &["-f"]] {
            let error = fail(value, &daemon(&[option, &["wgx"]].concat(), &[("WG_EMBED_MEMORY", value)]));
            assert!(error.starts_with(&format!("wg-embed: WG_EMBED_MEMORY={value}: ")), "{error}");
        }
    }
}

#[test]
fn workers_that_cannot_be_are_named() {
    for value in ["x", "-1", "9", " 1"] {
        let error = fail(value, &daemon(&["wgx"], &[("WG_EMBED_WORKERS", value)]));
        assert!(error.starts_with(&format!("wg-embed: WG_EMBED_WORKERS={value}: ")), "{error}");
    }
}

#[test]
fn queues_that_cannot_be_are_named() {
    for value in ["x", "-1", "0", "9"] {
        let error = fail(value, &daemon(&["wgx"], &[("WG_EMBED_TUN_QUEUES", value)]));
        assert!(error.starts_with(&format!("wg-embed: WG_EMBED_TUN_QUEUES={value}: ")), "{error}");
    }
}

#[test]
fn descriptors_that_cannot_be_are_named() {
    for variable in ["WG_TUN_FD", "WG_UAPI_FD"] {
        for value in ["x", "-1", "+3", "3 ", "0", "2", "999", "99999999999"] {
            for option in [&[][..], &["-f"]] {
                let error = fail(value, &daemon(&[option, &["wgx"]].concat(), &[(variable, value)]));
                assert!(error.starts_with(&format!("wg-embed: {variable}={value}: ")), "{error}");
            }
        }
    }
}

#[test]
fn whoever_may_not_make_interfaces_is_told() {
    for option in [&[][..], &["-f"]] {
        let mut command = command(BINARY);
        command.args(option).arg("wgx");
        // SAFETY: geteuid(2) takes nothing.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = end_of(command.spawn().unwrap());
        if output.status.code() == Some(126) {
            return skip::skipped(format!("others may not execute {BINARY}"));
        }
        let error = fail("without permission", &output);
        // The device's mode stops us, or the kernel does.
        assert!(error.contains("ermission denied") || error.contains("without CAP_NET_ADMIN"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
