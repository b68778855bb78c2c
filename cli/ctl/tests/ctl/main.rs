//! `wg-embedctl`, as people and scripts meet it: against the library's own control socket, and beside wg(8).
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::panic, clippy::unwrap_used)]

#[path = "../../../../control/settings/tests/network/compare.rs"]
mod compare;
mod files;
mod harness;
mod keys;
mod manager;
mod monitor;
#[path = "../../../../tests/netns/mod.rs"]
mod netns;
#[path = "../../../../control/settings/tests/network/harness.rs"]
#[allow(dead_code, reason = "it is another test's")]
mod network;
mod set;
mod show;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
mod trace;
mod up;
mod wireproto;

use harness::{Directory, Tunnel, ctl, fail, succeed};
use netns::in_time;

#[test]
fn help_and_version_are_for_everybody() {
    let help = succeed(&ctl(&["--help"]));
    assert!(help.contains("Exit codes:") && help.contains("monitor"), "{help}");
    assert!(succeed(&ctl(&["--version"])).starts_with("wg-embedctl "));
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    for arguments in [&[][..], &["shew"], &["show", "wg0", "colour"], &["set", "wg0"], &["--color=x", "show"]] {
        fail(2, &ctl(arguments));
    }
}

#[test]
fn shells_complete_and_the_manual_is_a_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(&ctl(&["completions", shell]));
        for word in ["wg-embedctl", "add-peer", "userspace", "no-settings", "wireproto"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = succeed(&ctl(&["man"]));
    for text in [
        ".TH wg-embedctl 8",
        "\"WG-EMBEDCTL CONF CHECK\"",
        "\"WG-EMBEDCTL MANAGER RUN\"",
        "\\-\\-strict",
        "Exit codes:",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
}

#[test]
fn the_doctor_tells_what_it_found() {
    let directory = Directory::new();
    let _tunnel = Tunnel::start(&directory, "answers", "listen_port=7\n");
    // A socket whose process has gone.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("gone.sock")).unwrap());
    let output = directory.ctl(&["doctor", "--json", "--endpoint", "127.0.0.1:9"]);
    // What is missing depends on the machine.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let of = |check: &str| findings.iter().filter(|f| f["check"] == check).map(ToString::to_string).collect::<String>();
    for check in ["TUN device", "CAP_NET_ADMIN", "UDP offload", "UDP port", "IPv6", "clock", "resolver tools"] {
        assert!(!of(check).is_empty(), "{check}");
    }
    assert!(of("path").contains("a tunnel's MTU may be"), "{}", of("path"));
    let daemons = of("daemons");
    assert!(
        daemons.contains("answers answers, with 0 peers") && daemons.contains("gone: a socket without"),
        "{daemons}"
    );
    let text = directory.ctl(&["doctor"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("rm "), "{text:?}");
}
