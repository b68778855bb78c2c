//! Runs `tests/vectors/conf` against ours and, where they are installed, against wg(8) and wg-quick(8).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[cfg(target_os = "linux")]
#[path = "../common/in_time.rs"]
mod in_time;
#[path = "../common/skip.rs"]
mod skip;
#[cfg(target_os = "linux")]
mod wireguard_tools;

use std::{
    fs,
    path::{Path, PathBuf},
};

use wg_embed::config::wgquick::Conf;

fn files(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/conf").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.sort();
    files
}

fn read(file: &Path) -> Result<Conf, wg_embed::Error> {
    Conf::from_bytes(&fs::read(file).unwrap())
}

/// What a comment in the file says behind `# NAME: `.
fn note(file: &Path, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    let mark = format!("# {name}: ");
    let found = text.lines().find_map(|line| line.split_once(&mark));
    found.map(|(_, note)| note.to_owned())
}

#[test]
fn ours_reads_what_is_ok() {
    for file in files("ok") {
        let conf = read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let text = conf.to_text().unwrap();
        assert_eq!(text.parse::<Conf>().unwrap(), conf, "{}", file.display());
    }
}

#[test]
fn ours_says_what_is_bad() {
    for file in files("bad") {
        let expected = note(&file, "error").unwrap();
        let error = read(&file).map(|_| ()).unwrap_err().to_string();
        assert_eq!(error, expected, "{}", file.display());
        assert!(error.starts_with("line "), "{}: no line is named", file.display());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn wireguard_tools_agree() {
    let judge = match wireguard_tools::Judge::start() {
        Ok(judge) => judge,
        Err(reason) => return skip::skipped(reason),
    };
    let mut failures = Vec::new();
    for file in files("ok").iter().chain(&files("bad")) {
        let place = file.display();
        let ours = read(file);
        let theirs = judge.read(file);
        let accepts = match note(file, "wg") {
            Some(note) if note.starts_with("either") => theirs.is_ok(),
            Some(note) => note.starts_with("accepts"),
            None => ours.is_ok(),
        };
        if theirs.is_ok() != accepts {
            failures.push(format!("{place}: {theirs:?}"));
        }
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            theirs.assert_same(&ours, &place.to_string());
        }
    }
    assert!(failures.is_empty(), "wg thinks otherwise of\n{}", failures.join("\n"));
}
