//! Reads the vector files and runs their cases. `tests/vectors/uapi/README.md` describes the format.

use std::{
    collections::HashMap,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
};

use super::Target;
use wg_embed::ErrorKind;

/// Lines that change by themselves, or that every peer has.
const NOT_COMPARED: [&str; 7] = [
    "last_handshake_time_sec=",
    "last_handshake_time_nsec=",
    "tx_bytes=",
    "rx_bytes=",
    "protocol_version=1",
    "persistent_keepalive_interval=0",
    "preshared_key=0000000000000000000000000000000000000000000000000000000000000000",
];

/// Runs the cases of all files, and returns how many there were. Panics with a list of what differs.
pub(crate) fn run_all(who: &str, target: &mut dyn Target) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/uapi");
    let mut files: Vec<PathBuf> = ["ok", "bad"]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.push(root.join("differences.txt"));

    let mut runner =
        Runner { who, target, names: Names::new(&root), given: Vec::new(), answer: Vec::new(), failures: Vec::new() };
    let mut cases = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        check_marks(&file, &text);
        cases += runner.file(&file, &text);
    }
    assert!(runner.failures.is_empty(), "{who} differs:\n{}", runner.failures.join("\n"));
    cases
}

/// Differences are marked in one file only, and each has its reason.
fn check_marks(file: &Path, text: &str) {
    let marked = |case: &str| case.lines().any(|l| l.starts_with("ours:") || l.starts_with("wireguard-go:"));
    let allowed = file.ends_with("differences.txt");
    for case in format!("\n{text}").split("\ncase ").skip(1) {
        let title = case.lines().next().unwrap_or_default();
        assert_eq!(marked(case), allowed, "{}: {title}: marks", file.display());
        assert_eq!(case.contains("\nwhy "), allowed, "{}: {title}: why", file.display());
    }
}

/// What stands in braces.
struct Names {
    values: HashMap<String, String>,
    /// Holds the port {taken}.
    _taker: UdpSocket,
}

impl Names {
    fn new(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("names.txt")).unwrap();
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let mut values: HashMap<String, String> = lines
            .map(|l| l.split_once(' ').unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        for (name, kind) in [
            ("EINVAL", ErrorKind::Invalid),
            ("EPROTO", ErrorKind::Protocol),
            ("EIO", ErrorKind::Io),
            ("EADDRINUSE", ErrorKind::AddrInUse),
        ] {
            values.insert(name.to_owned(), kind.errno().to_string());
        }
        let [taker, freed] = [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap());
        for (name, socket) in [("taken", &taker), ("free", &freed)] {
            values.insert(name.to_owned(), socket.local_addr().unwrap().port().to_string());
        }
        Self { values, _taker: taker }
    }

    /// The bytes that a text of a vector file stands for.
    fn bytes(&self, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\\' => {
                    let (byte, len) = match rest.as_bytes()[0] {
                        b'n' => (b'\n', 1),
                        b'r' => (b'\r', 1),
                        b'0' => (0, 1),
                        b'\\' => (b'\\', 1),
                        b'x' => (u8::from_str_radix(&rest[1..3], 16).unwrap(), 3),
                        other => panic!("unknown escape {}", char::from(other)),
                    };
                    out.push(byte);
                    rest = &rest[len..];
                }
                '{' => {
                    let (name, behind) = rest.split_once('}').unwrap();
                    match name.split_once('*') {
                        Some((text, count)) => out.extend(text.repeat(count.parse().unwrap()).bytes()),
                        None => out.extend(self.values.get(name).unwrap_or_else(|| panic!("no name {name}")).bytes()),
                    }
                    rest = behind;
                }
                c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        out
    }

    /// The number that a `set` is answered with.
    fn status(&self, errno: &str) -> String {
        match errno {
            "0" => "errno=0\n\n".to_owned(),
            name => format!("errno=-{}\n\n", self.values[name]),
        }
    }
}

struct Runner<'a> {
    who: &'a str,
    target: &'a mut dyn Target,
    names: Names,
    given: Vec<Vec<u8>>,
    /// What `send` was answered.
    answer: Vec<u8>,
    failures: Vec<String>,
}

impl Runner<'_> {
    fn file(&mut self, file: &Path, text: &str) -> usize {
        let mut cases = 0;
        let mut lines = text.lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let mut block = Vec::new();
            while let Some((_, inner)) = lines.next_if(|(_, l)| l.starts_with("  ")) {
                block.push(self.names.bytes(&inner[2..]));
            }
            if line.is_empty() || line.starts_with('#') || line.starts_with("why ") {
                continue;
            }
            if line.starts_with("case ") {
                cases += 1;
                self.given.clear();
                self.begin();
                continue;
            }
            let step = match line.split_once(": ") {
                Some((who, step)) if who == self.who => step,
                Some(("ours" | "wireguard-go", _)) => continue,
                _ => line,
            };
            let place = format!("{}:{}: {step}", file.display(), number + 1);
            self.step(&place, step, block);
        }
        cases
    }

    fn begin(&mut self) {
        let zero = "0".repeat(64);
        let reset = format!("set=1\nprivate_key={zero}\nlisten_port=0\nfwmark=0\nreplace_peers=true\n\n");
        assert_eq!(self.target.exchange(reset.as_bytes()), b"errno=0\n\n");
    }

    fn step(&mut self, place: &str, step: &str, block: Vec<Vec<u8>>) {
        let (verb, argument) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "given" => self.given = block,
            "set" => self.set(place, argument, &block),
            "each" => {
                for line in block {
                    let mut request = self.given.clone();
                    request.push(line);
                    self.set(place, argument, &request);
                }
            }
            "get" => {
                let answer = self.target.exchange(b"get=1\n\n");
                let answer = String::from_utf8(answer).unwrap();
                let mut expected = block.into_iter().map(|l| String::from_utf8(l).unwrap() + "\n").collect::<String>();
                expected.push_str("errno=0\n\n");
                match argument {
                    "whole" => self.compare(place, &expected, &answer),
                    _ => {
                        let with_port = expected.contains("listen_port=");
                        self.compare(place, &essence(&expected, with_port), &essence(&answer, with_port));
                    }
                }
            }
            "send" => self.answer = self.target.exchange(&self.names.bytes(argument)),
            "reply" => {
                let expected = String::from_utf8(self.names.bytes(argument)).unwrap();
                let answer = String::from_utf8(self.answer.clone()).unwrap();
                self.compare(place, &expected, &answer);
            }
            other => panic!("{place}: no such step: {other}"),
        }
    }

    fn set(&mut self, place: &str, errno: &str, lines: &[Vec<u8>]) {
        let request = [b"set=1\n".as_slice(), &lines.join(&b'\n'), b"\n\n"].concat();
        let answer = self.target.exchange(&request);
        let last = lines.last().map(|l| String::from_utf8_lossy(l).into_owned()).unwrap_or_default();
        let expected = self.names.status(errno);
        self.compare(&format!("{place} (last line {last:.80?})"), &expected, &String::from_utf8_lossy(&answer));
    }

    fn compare(&mut self, place: &str, expected: &str, answer: &str) {
        if !matches(expected, answer) {
            self.failures.push(format!("{place}\n  expected {expected:?}\n  got      {answer:?}"));
        }
    }
}

/// Whether a text is as expected, where `*` stands for anything.
fn matches(expected: &str, text: &str) -> bool {
    let (first, others) = match expected.split_once('*') {
        None => return expected == text,
        Some(parts) => parts,
    };
    let Some(rest) = text.strip_prefix(first) else {
        return false;
    };
    rest.char_indices().any(|(at, _)| matches(others, &rest[at..])) || matches(others, "")
}

/// What `get` compares: see the README.
fn essence(text: &str, with_port: bool) -> String {
    let mut blocks: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("public_key=") || line.starts_with("errno=") {
            blocks.push(String::new());
        }
        let skipped = NOT_COMPARED.iter().any(|skip| match skip.strip_suffix('=') {
            Some(_) => line.starts_with(skip),
            None => line == *skip,
        });
        if !(skipped || line.starts_with("listen_port=") && !with_port) {
            blocks.last_mut().unwrap().extend([line, "\n"]);
        }
    }
    // The interface stays in front and errno behind; peers have no order.
    let end = blocks.len() - 1;
    blocks[1..end.max(1)].sort();
    blocks.concat()
}
