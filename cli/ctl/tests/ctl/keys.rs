//! Keys, as wg(8) makes and reads them.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    process::{Output, Stdio},
};

use crate::{
    harness::{BINARY, Directory, PRIVATE, PUBLIC, beside_wg, command, ctl, fail, succeed},
    in_time::end_of,
};

fn with_input(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that has seen enough may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    end_of(child)
}

#[test]
fn keys_are_made_and_read() {
    for what in ["genkey", "genpsk"] {
        let (first, second) = (succeed(&ctl(&[what])), succeed(&ctl(&[what])));
        assert!(first.len() == 45 && first.ends_with("=\n") && first != second, "{first}");
    }
    let key = succeed(&ctl(&["genkey"]));
    assert_eq!(succeed(&with_input(BINARY, &["pubkey"], key.as_bytes())).len(), 45);
    assert_eq!(succeed(&with_input(BINARY, &["pubkey"], PRIVATE.as_bytes())), format!("{PUBLIC}\n"));
}

#[test]
fn what_is_no_key_is_refused_as_by_wg() {
    let inputs =
        ["", "abc", &format!("{PRIVATE}\n"), &format!("{PRIVATE}x"), &format!("{PRIVATE} \n\nx"), &PRIVATE[1..]];
    for input in inputs {
        let ours = with_input(BINARY, &["pubkey"], input.as_bytes());
        if input.trim() == PRIVATE {
            assert_eq!(succeed(&ours), format!("{PUBLIC}\n"));
        } else {
            fail(1, &ours);
        }
        beside_wg(|_| {
            let theirs = with_input("wg", &["pubkey"], input.as_bytes());
            assert_eq!((ours.status.code(), &ours.stdout), (theirs.status.code(), &theirs.stdout), "{input:?}");
            let reason = |output: &Output| {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                text.trim_end().rsplit(": ").next().map(|text| text.trim_start_matches("error ").to_owned())
            };
            assert_eq!(reason(&ours), reason(&theirs), "{input:?}");
        });
    }
}

#[test]
fn a_file_for_all_is_warned_of() {
    let directory = Directory::new();
    for (mode, warned) in [(0o600, false), (0o604, true)] {
        let path = directory.path().join(format!("{mode:o}"));
        let file = File::options().write(true).create(true).truncate(true).mode(mode).open(&path).unwrap();
        let child = command(BINARY).arg("genkey").stdout(file).stderr(Stdio::piped()).spawn().unwrap();
        let output = end_of(child);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(error.starts_with("Warning: writing to world accessible file.\n"), warned, "{error}");
        assert_eq!(std::fs::read(path).unwrap().len(), 45);
    }
}
