//! The layers of the core as a test: which module may import which, where `unsafe` may be, and where systems are named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each module, and those that it may import. Imports run one way: a module names only modules above it.
const MODULES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("time", &[]),
    ("random", &[]),
    ("log", &[]),
    ("sync", &[]),
    ("process", &[]),
    ("reserve", &["error"]),
    ("thread", &["reserve"]),
    ("key", &["error", "random"]),
    ("config", &["error", "key", "reserve"]),
    ("uapi", &["error", "key", "config", "reserve"]),
    ("noise", &["error", "key", "time", "random", "sync"]),
    ("queue", &["sync"]),
    ("poll", &[]),
    ("netlink", &["error"]),
    ("bind", &["error", "reserve", "sync", "queue", "poll", "netlink"]),
    ("tun", &["error", "reserve", "sync", "queue", "poll", "thread", "netlink"]),
    (
        "device",
        &["error", "reserve", "sync", "key", "time", "random", "process", "thread", "config", "noise", "bind", "tun"],
    ),
    ("ipc", &["error", "reserve", "sync", "thread", "config", "uapi", "device"]),
];

/// The files where `unsafe` is opened: what speaks to an operating system or a processor.
const UNSAFE: &[&str] = &[
    "process.rs",
    "reserve.rs",
    "time.rs",
    "thread/processors.rs",
    "thread/signals.rs",
    "netlink.rs",
    "sync/event.rs",
    "key/stack.rs",
    "bind/apple.rs",
    "bind/bsd.rs",
    "bind/interface/linux.rs",
    "bind/linux.rs",
    "bind/linux",
    "bind/windows.rs",
    "bind/windows/timer.rs",
    "tun/apple.rs",
    "tun/packet_fd.rs",
    "tun/linux.rs",
    "tun/linux",
    "tun/windows/wintun.rs",
    "tun/windows/session.rs",
    "tun/windows/interface.rs",
    "ipc/named_pipe/instance.rs",
    "ipc/sys.rs",
    "ipc/watch.rs",
];

/// Names of one system's files, which only the module that they are in may use.
const PLATFORM: &[&str] = &["linux", "apple", "windows", "fallback"];

struct Line {
    file: PathBuf,
    number: usize,
    text: String,
}

/// Every line of code below `src/`, comments and tests left out.
fn code() -> Vec<Line> {
    code_below("src")
}

fn code_below(folder: &str) -> Vec<Line> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    walk(&src, &mut files);
    assert!(files.len() > 20, "the sources were found");
    let mut lines = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(&src).unwrap();
        lines.extend(without_tests(&text).map(|(number, text)| Line { file: file.into(), number, text: text.into() }));
    }
    lines
}

/// The lines of code in a file, with their numbers: without comments, and without items that only tests have.
fn without_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut item: Option<usize> = None;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        if code == "#[cfg(test)]" {
            item = Some(depth);
        } else if item == Some(depth) && code.ends_with(['}', ';', ',']) {
            item = None;
            return false;
        }
        item.is_none() && !code.starts_with("//")
    })
}

fn module(file: &Path) -> String {
    file.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The first identifiers of what is imported or named after `crate::`, braces opened.
fn targets(text: &str) -> Vec<String> {
    let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    text.split("crate::").skip(1).map(ident).filter(|t| !t.is_empty()).collect()
}

/// What breaks the plan in these lines.
fn wrong_imports(lines: &[Line]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut inside_use: Option<usize> = None;
    for line in lines {
        let from = module(&line.file);
        let Some((_, allowed)) = MODULES.iter().find(|(m, _)| *m == from) else {
            if from != "lib" {
                wrong.push(format!("{}: no such module in the plan", line.file.display()));
            }
            continue;
        };
        let mut named = targets(&line.text);
        // `use crate::{` goes on over lines, each of which begins with a module at the first depth.
        if let Some(depth) = &mut inside_use {
            if *depth == 1 {
                named.extend(targets(&format!("crate::{}", line.text.trim_start())));
            }
            *depth += line.text.matches('{').count();
            *depth -= line.text.matches('}').count().min(*depth);
            if *depth == 0 {
                inside_use = None;
            }
        } else if line.text.trim_end().ends_with("use crate::{") {
            inside_use = Some(1);
        }
        for target in named {
            // A lower-case first letter: an item re-exported at the root is not a module.
            let is_module = MODULES.iter().any(|(m, _)| *m == target);
            if is_module && target != from && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}:{}: {from} imports {target}", line.file.display(), line.number));
            }
        }
    }
    wrong
}

#[test]
fn imports_run_one_way() {
    let wrong = wrong_imports(&code());
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (i, (module, allowed)) in MODULES.iter().enumerate() {
        let above: Vec<_> = MODULES[..i].iter().map(|m| m.0).collect();
        assert!(allowed.iter().all(|a| above.contains(a)), "{module} names a module that is not above it");
    }
}

#[test]
fn a_wrong_import_would_be_noticed() {
    let line = |file: &str, text: &str| Line { file: file.into(), number: 1, text: text.into() };
    assert_eq!(wrong_imports(&[line("noise/x.rs", "use crate::device::Device;")]).len(), 1);
    assert_eq!(wrong_imports(&[line("uapi/x.rs", "    crate::bind::Bind::wait(b)")]).len(), 1);
    let block = ["use crate::{", "    error::Error,", "    tun::{", "        device,", "    },", "};"];
    let lines: Vec<_> = block.iter().map(|t| line("bind/x.rs", t)).collect();
    assert_eq!(wrong_imports(&lines).len(), 1, "tun, and not what is inside its braces");
    assert_eq!(wrong_imports(&[line("other/x.rs", "")]).len(), 1, "a module that is not in the plan");
}

#[test]
fn unsafe_code_is_where_the_plan_has_it() {
    let opened: Vec<_> = code()
        .into_iter()
        .filter(|l| l.text.contains("unsafe {") || l.text.contains("unsafe_code)"))
        .filter(|l| !UNSAFE.iter().any(|u| l.file.starts_with(u)) && !l.text.contains("deny"))
        .map(|l| format!("{}:{}", l.file.display(), l.number))
        .collect();
    assert!(opened.is_empty(), "{opened:#?}");
}

#[test]
fn a_platform_is_named_only_in_its_own_module() {
    let mut wrong = Vec::new();
    for line in code() {
        let from = module(&line.file);
        if matches!(from.as_str(), "bind" | "tun") {
            continue;
        }
        for name in PLATFORM {
            if line.text.contains(&format!("bind::{name}")) || line.text.contains(&format!("tun::{name}")) {
                wrong.push(format!("{}:{}: names {name}", line.file.display(), line.number));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What lies above the drivers in `bind`: what chooses one, and what has one.
const ABOVE_DRIVERS: &[&str] = &["system", "udp", "batch"];

/// Whether this line of code names a module: in a path, or as the end of one.
fn names(text: &str, module: &str) -> bool {
    text.match_indices(module).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + module.len()..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        begins && (after.starts_with("::") || before.ends_with("super::") || before.ends_with("bind::"))
    })
}

fn upward_from_drivers(lines: &[Line]) -> Vec<String> {
    let is_above = |file: &Path| {
        let bind = Path::new("bind");
        let of = |name: &&str| file == bind.join(name).with_extension("rs") || file.starts_with(bind.join(name));
        file == bind.join("mod.rs") || ABOVE_DRIVERS.iter().any(of)
    };
    let below = lines.iter().filter(|l| module(&l.file) == "bind" && !is_above(&l.file));
    below
        .filter(|l| ABOVE_DRIVERS.iter().any(|above| names(&l.text, above)))
        .map(|l| format!("{}:{}: {}", l.file.display(), l.number, l.text))
        .collect()
}

#[test]
fn drivers_know_nothing_of_what_has_them() {
    let wrong = upward_from_drivers(&code());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let line = |file: &str, text: &str| Line { file: file.into(), number: 1, text: text.into() };
    for text in ["use super::udp;", "    udp::{BUFFER, pair::Pair},", "let x = crate::bind::system::set_up;"] {
        assert_eq!(upward_from_drivers(&[line("bind/linux/x.rs", text)]).len(), 1, "{text}");
        assert_eq!(upward_from_drivers(&[line("bind/udp/x.rs", text)]).len(), 0, "{text}");
    }
    for text in ["use mio::net::UdpSocket;", "use quinn_udp::Transmit;", "let udp = batch(system);"] {
        assert_eq!(upward_from_drivers(&[line("bind/fallback.rs", text)]).len(), 0, "{text}");
    }
}

/// A pause waits for all of them.
#[test]
fn the_device_sends_and_writes_in_one_place() {
    let calls = ["bind.send(", "tun.write(", "tun.read("];
    let wrong: Vec<_> = code()
        .into_iter()
        .filter(|l| module(&l.file) == "device" && !l.file.ends_with("in_flight.rs"))
        .filter(|l| calls.iter().any(|call| l.text.contains(call)))
        .map(|l| format!("{}:{}", l.file.display(), l.number))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Those of the C functions as well. The daemon's process is its own.
#[test]
fn threads_are_started_in_one_place() {
    // Ours begins with the thread's name. On a thread that is ending std's handle of it cannot be had.
    let starts = [
        "thread::current(",
        "thread::Builder",
        "thread::spawn(move",
        "thread::spawn(|",
        "thread::scope(",
        "spawn_scoped(",
    ];
    let wrong: Vec<_> = code()
        .into_iter()
        .chain(code_below("capi/ffi/src"))
        .filter(|l| module(&l.file) != "thread" && !l.file.ends_with("tests.rs"))
        .filter(|l| starts.iter().any(|start| l.text.contains(start)))
        .map(|l| format!("{}:{}", l.file.display(), l.number))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `try_lock` of `sync` tells a lock that is held from one whose holder has panicked.
#[test]
fn a_lock_that_outlived_a_panic_is_not_taken_for_a_busy_one() {
    let calls = [".try_lock()", ".try_read()", ".try_write()"];
    let wrong: Vec<_> = code()
        .into_iter()
        .filter(|l| module(&l.file) != "sync" && !l.file.ends_with("tests.rs"))
        .filter(|l| calls.iter().any(|call| l.text.contains(call)))
        .map(|l| format!("{}:{}", l.file.display(), l.number))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_what_tests_have_is_left_out() {
    let text = "a();\n    #[cfg(test)]\n    #[allow(x)]\n    fn b() {\n        c();\n    }\n    // d\n    e();\n#[cfg(test)]\nmod tests {\n    f();\n}\ng();";
    assert_eq!(without_tests(text).collect::<Vec<_>>(), [(1, "a();"), (8, "    e();"), (13, "g();")]);
}

#[test]
fn no_symbol_is_exported() {
    let wrong: Vec<_> = code()
        .into_iter()
        .filter(|l| {
            (l.text.contains("no_mangle") || l.text.contains("extern \"C\" fn")) && module(&l.file) != "process"
        })
        .map(|l| format!("{}:{}", l.file.display(), l.number))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_engine_has_no_time_or_randomness_of_its_own() {
    let wrong: Vec<_> = code()
        .into_iter()
        .filter(|l| module(&l.file) == "noise")
        .filter(|l| {
            ["std::net::Udp", "std::thread", "SystemTime", "time::Instant::now", "SystemRandom", "std::fs"]
                .iter()
                .any(|w| l.text.contains(w))
        })
        .map(|l| format!("{}:{}: {}", l.file.display(), l.number, l.text))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
