//! Starts whose directory for the control socket, or whose umask, is unusual.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};

use crate::{
    harness::{BINARY, Directory, Interface, answers, command, fail, mode, run_command, succeed},
    netns::{Netns, as_root},
};

/// A daemon in a mount namespace of its own, in which `directory` cannot be written.
fn beside_a_read_only(directory: &Path, option: &str, interface: &Interface, sockets: &Path) -> Command {
    let (directory, sockets) = (directory.display(), sockets.display());
    let run = format!("exec {BINARY} {option} --socket-dir {sockets} {}", interface.name());
    let mut start = command("unshare");
    start.args(["--mount", "sh", "-c", &format!("mount -t tmpfs -o ro none {directory} && {run}")]);
    start
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    as_root(|| {
        for option in ["", "-f"] {
            let netns = Netns::new();
            let interface = Interface::new();
            let directory = Directory::new(interface.name());
            let file = directory.0.join("file");
            fs::write(&file, "").unwrap();
            let long = directory.0.join("x".repeat(120));
            let usual = |sockets: &Path| {
                let mut start = command(BINARY);
                start.args(Some(option).filter(|option| !option.is_empty())).arg(interface.name());
                start.arg("--socket-dir").arg(sockets);
                start
            };
            let read_only = |sockets: &Path| beside_a_read_only(&directory.0, option, &interface, sockets);
            let missing = directory.0.join("a/b");
            for (what, start, complaint) in [
                ("read-only", read_only(&directory.0), "cannot listen on"),
                ("in a read-only one", read_only(&missing), "cannot make the directory"),
                ("a file", usual(&file), "cannot make the directory"),
                ("below a file", usual(&file.join("a")), "cannot make the directory"),
                ("too long", usual(&long), "longer than 107 bytes"),
            ] {
                let error = fail(what, &run_command(&netns, start));
                assert!(error.starts_with("wg-embed: ") && error.contains(complaint), "{what}: {error}");
                assert_eq!(error.lines().count(), 1, "{what}: {error}");
                interface.await_end(&netns);
                assert!(!long.exists() && !missing.exists(), "{what}");
            }
        }
    });
}

#[test]
fn the_longest_path_is_one_that_the_system_takes() {
    as_root(|| {
        let netns = Netns::new();
        let interface = Interface::new();
        let directory = Directory::new(interface.name());
        let name = format!("{}.sock", interface.name());
        // A slash stands before and after what is added.
        let room = 107 - directory.0.as_os_str().len() - name.len() - 2;
        for (longer, works) in [(1, false), (0, true)] {
            let sockets = directory.0.join("x".repeat(room + longer));
            let mut start = command(BINARY);
            start.arg(interface.name()).arg("--socket-dir").arg(&sockets);
            let output = run_command(&netns, start);
            if works {
                succeed("107 bytes", &output);
                interface.running().stop();
            } else {
                assert!(fail("108 bytes", &output).contains("longer than 107 bytes"));
            }
            interface.await_end(&netns);
            assert_eq!(sockets.exists(), works);
            assert!(!sockets.join(&name).exists());
        }
    });
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    as_root(|| {
        for user in [&[][..], &["--user", "nobody"]] {
            for umask in [0, 0o022, 0o077, 0o177, 0o777] {
                let netns = Netns::new();
                let interface = Interface::new();
                let directory = Directory::new(interface.name());
                fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).unwrap();
                let sockets = directory.0.join("a/b");
                let mut start = command(BINARY);
                start.arg(interface.name()).args(user).arg("--socket-dir").arg(&sockets);
                let set = move || {
                    // SAFETY: umask(2) takes a number, and may be called between fork and exec.
                    unsafe { libc::umask(umask) };
                    Ok(())
                };
                // SAFETY: as above.
                unsafe { start.pre_exec(set) };
                succeed("start", &run_command(&netns, start));
                let socket = sockets.join(format!("{}.sock", interface.name()));
                assert_eq!(mode(&socket), 0o600, "{umask:o}");
                assert_eq!([mode(&sockets), mode(&directory.0.join("a"))], [0o755; 2], "{umask:o}");
                assert!(!answers(&interface), "that is another directory");
                netns.ip(&format!("link del {}", interface.name()));
                interface.await_end(&netns);
                crate::harness::wait_until("the socket is removed", || !socket.exists());
            }
        }
    });
}
