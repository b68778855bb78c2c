//! The process in the background, and without permissions.
#![cfg(target_os = "linux")]

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::harness::{ECHO, Proxy, World, connect, exchange, free_port, wait};

/// Ends the processes that have this argument.
struct Daemon(String);

impl Daemon {
    fn ids(&self) -> Vec<String> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let has_argument = |id: &String| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == self.0.as_bytes())
        };
        processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(has_argument).collect()
    }

    fn signal(&self, name: &str) {
        for id in self.ids() {
            let _ = Command::new("kill").args(["-s", name, &id]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

#[test]
fn a_proxy_in_the_background() {
    let world = World::new();
    let port = free_port();
    world.write(&ECHO.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")), "");
    let daemon = Daemon(world.directory().join("proxy.conf").display().to_string());
    // The caller's pipes have no writers any more when this returns.
    let started = Proxy::command(&world).arg("-d").output().unwrap();
    assert!(started.status.success(), "{started:?}");
    assert_eq!(daemon.ids().len(), 1);
    world.wait_for_tunnel();
    assert_eq!(exchange(connect(port), b"hello"), b"hello");
    daemon.signal("TERM");
    wait("the end of the process", || daemon.ids().is_empty());
}

/// A command that runs another one as root without the permission to set marks.
fn without_marks() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps", "-all", "--bounding-set", "-net_admin,-net_raw"]);
    command
}

/// Without the permission to set a mark the proxy works without it.
#[test]
fn a_mark_that_is_not_permitted() {
    let world = World::new();
    world.write(ECHO, "FwMark = 0x2a\n");
    let mut command = Proxy::command(&world);
    if rustix::process::geteuid().is_root() {
        if !without_marks().arg("true").status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no setpriv, which runs it without permissions");
            return;
        }
        let mut limited = without_marks();
        limited.arg(command.get_program()).args(command.get_args());
        command = limited;
    }
    let proxy = Proxy::start(&mut command);
    proxy.wait_for_log("FwMark is ignored");
    world.wait_for_tunnel();
    assert_eq!(exchange(connect(proxy.port(0)), b"hello"), b"hello");
    // A reload keeps it so.
    proxy.signal("HUP");
    proxy.wait_for_log("the configuration was read again");
}
