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
