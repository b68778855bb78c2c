//! Builds the C tests against the header and the shared library, and runs them.
//!
//! Without a C compiler they are skipped, and say so. `tests/c/check.sh` does the same under sanitizers.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(target_os = "linux")]
mod beside;
#[cfg(target_os = "linux")]
mod net;
#[path = "../../../../tests/common/skip.rs"]
mod skip;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A compiler: `variable` if it is set, else the first of `names` that can be run.
fn compiler(variable: &str, names: &[&str]) -> Option<String> {
    let named = env::var(variable).ok();
    let mut candidates = named.into_iter().chain(names.iter().map(ToString::to_string));
    let found = candidates.find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()));
    if found.is_none() {
        skip::skipped(format!("there is no {}, and {variable} is not set", names.join(", ")));
    }
    found
}

/// Where the libraries of a package are, once Cargo has built them.
fn build(package: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    build_in(target, package, &[])
}

fn build_in(target: &Path, package: &str, options: &[&str]) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", package, "--target-dir"]).arg(target).args(options);
    run(cargo.current_dir(root()));
    target.join("debug")
}

/// Where the library for C is.
fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("wg-embed-capi"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    assert!(err.is_empty(), "{command:?} wrote to stderr:\n{err}");
}

/// Builds one of the C tests and runs it.
fn c_test(name: &str, standard: &str) {
    c_program(Path::new(&format!("tests/c/{name}.c")), standard);
}

/// Builds a C program and runs it. It ends with 0 if all is well.
fn c_program(source: &Path, standard: &str) {
    program(C, source, standard, &[]);
}

/// A variable that names a compiler, and names to try else.
type Compiler = (&'static str, &'static [&'static str]);
const C: Compiler = ("CC", &["cc", "gcc", "clang"]);
const CPP: Compiler = ("CXX", &["c++", "g++", "clang++"]);

/// Whether a program needs a library with the userspace network.
fn needs_network(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("net_"))
}

/// Builds a program with a compiler, and runs it with some arguments.
fn program(compiler: Compiler, source: &Path, standard: &str, arguments: &[&str]) {
    program_with(libraries(), compiler, source, standard, arguments);
}

/// As [`program`], with the library in `dir`.
fn program_with(dir: &Path, (variable, names): Compiler, source: &Path, standard: &str, arguments: &[&str]) {
    let Some(cc) = compiler(variable, names) else {
        return;
    };
    let name = source.file_stem().unwrap();
    // Programs with another library are other programs.
    let has_network = dir != libraries();
    let (suffix, defines): (_, &[_]) =
        if has_network { ("-net", &["-DWG_EMBED_NETSTACK", "-DWG_EMBED_CONTROL"]) } else { ("", &[]) };
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}{suffix}", name.display()));
    run(Command::new(cc)
        .arg(format!("-std={standard}"))
        .args(WARNINGS)
        .args(defines)
        .args(["-g", "-pthread", "-I"])
        .arg(root().join("include"))
        .arg(root().join(source))
        .arg("-o")
        .arg(&out)
        .arg("-L")
        .arg(dir)
        .arg("-lwg_embed")
        .arg(format!("-Wl,-rpath,{}", dir.display())));
    // Cargo's own search path has the library of another build in front.
    run(Command::new(out)
        .args(arguments)
        .current_dir(root())
        .env("LD_LIBRARY_PATH", dir)
        .env("DYLD_LIBRARY_PATH", dir));
}

#[test]
fn the_layout_is_fixed() {
    c_test("layout", "c11");
}

// The rest opens descriptors and looks at /proc.
#[cfg(target_os = "linux")]
#[test]
fn tunnels_work_from_c() {
    c_test("tunnel", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn sockets_work_from_c() {
    c_test("sockets", "c11");
}

#[cfg(target_os = "linux")]
#[test]
fn options_work_from_c() {
    c_test("options", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn interfaces_are_created_from_c() {
    c_test("interface", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn callers_of_other_versions_are_served_and_wrong_ones_refused() {
    c_test("sizes", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn events_work_from_c() {
    c_test("events", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn events_wait_until_they_are_asked_for() {
    c_test("event_queue", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn conf_files_work_from_c() {
    c_test("conf", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn each_code_has_a_text() {
    c_test("results", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn a_tunnel_ends_for_all_at_once() {
    c_test("ends", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn callbacks_that_ended_do_not_run() {
    c_test("callbacks", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn it_is_a_guest_of_its_process() {
    c_test("threads", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_sent_or_written_during_a_pause() {
    c_test("pause", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_cannot_reach_the_tunnels_of_its_parent() {
    c_test("fork", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn no_function_of_the_app_is_called_at_the_end() {
    c_test("exit", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn an_app_that_keeps_the_rule_about_locks_goes_on() {
    c_test("locks", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn a_descriptor_is_replaced_while_the_tunnel_runs() {
    c_test("replace", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_are_as_many_as_documented() {
    c_test("descriptors", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn stats_work_from_c() {
    c_test("stats", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded_from_c() {
    c_test("memory", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn calls_from_inside_callbacks_work_or_are_refused() {
    c_test("reentry", "c99");
    // None that takes a handle may be missing there.
    let header = fs::read_to_string(root().join("include/wg_embed.h")).unwrap();
    let test = fs::read_to_string(root().join("tests/c/calls.h")).unwrap();
    // What the first parameter of a function for tunnels is called, of one for binds, and of one for managers.
    for (parameter, at_least) in [("handle", 24), ("bind", 8), ("manager", 3)] {
        let takes_handle = |line: &str| {
            let name = line.split_once(&format!("(int32_t {parameter}"))?.0.rsplit(' ').next()?;
            name.starts_with("wg_").then(|| name.to_owned())
        };
        let names: Vec<_> = header.lines().filter_map(takes_handle).collect();
        assert!(names.len() >= at_least, "{names:?}");
        for name in names {
            let calls = ["REFUSED", "INSIDE"].map(|answer| test.contains(&format!("{answer}({name}({parameter}")));
            assert!(calls[0] != calls[1], "tests/c/calls.h does not call {name}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn peers_work_from_c() {
    c_test("peers", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn what_may_be_shown_has_no_secret() {
    c_test("public_config", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn host_names_work_from_c() {
    c_test("resolve", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn look_ups_that_hang_keep_nothing_from_ending() {
    c_test("lookup", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn keys_work_from_c() {
    c_test("keys", "c99");
}

#[test]
fn no_key_is_left_on_the_callers_stack() {
    c_test("secrets", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn the_log_works_from_c() {
    c_test("log", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn endpoints_work_from_c() {
    c_test("endpoint", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn custom_io_works_from_c() {
    c_test("custom_io", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn udp_works_from_c() {
    c_test("udp", "c99");
}

#[cfg(target_os = "linux")]
#[test]
fn nonsense_does_no_harm() {
    // None may be missing there.
    let known = fs::read_to_string(root().join("abi/symbols.txt")).unwrap();
    let table = fs::read_to_string(root().join("tests/c/fuzz.c")).unwrap();
    assert!(known.lines().count() > 50, "these are the functions");
    for name in known.lines() {
        assert!(table.contains(&format!("FUZZED({name},")), "tests/c/fuzz.c does not call {name}");
    }
    program(C, &root().join("tests/c/fuzz.c"), "c11", &["20261122", "25"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_times_on_and_off_leaves_nothing_behind() {
    program(C, &root().join("tests/c/cycles.c"), "c99", &["1000"]);
}

#[cfg(target_os = "linux")]
#[test]
fn tunnels_work_from_cpp() {
    program(CPP, &root().join("tests/c/cpp_use.cpp"), "c++17", &[]);
}

/// What docs/C_API.md shows is what works.
#[cfg(target_os = "linux")]
#[test]
fn the_document_is_true() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("snippets");
    let output = Command::new(root().join("tests/c/snippets.sh")).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let programs = String::from_utf8(output.stdout).unwrap();
    assert!(programs.lines().count() >= 4, "these are the programs: {programs}");
    let (with_network, others): (Vec<_>, Vec<_>) =
        programs.lines().map(Path::new).partition(|path| needs_network(path));
    assert!(!with_network.is_empty());
    others.into_iter().for_each(|source| c_program(source, "gnu11"));
    with_network.into_iter().for_each(|source| net::c_program(source, "gnu11"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_lossy_network_from_c_loses_nothing_else() {
    c_test("lossy", "c99");
}

#[test]
fn the_examples_run() {
    let mut examples: Vec<_> = fs::read_dir(root().join("examples/c")).unwrap().map(|e| e.unwrap().path()).collect();
    examples.retain(|path| path.extension().is_some_and(|e| e == "c") && !needs_network(path));
    assert!(examples.len() >= 3, "there are examples");
    examples.iter().for_each(|example| c_program(example, "c99"));
}

#[test]
fn the_header_stands_alone() {
    let header = "#include \"wg_embed.h\"\nint main(void) { return (int)wg_version_number() == 0; }\n";
    for ((variable, names), language, standard) in
        [(C, "c", "c99"), (C, "c", "c11"), (CPP, "c++", "c++11"), (CPP, "c++", "c++17"), (CPP, "c++", "c++20")]
    {
        let Some(compiler) = compiler(variable, names) else {
            continue;
        };
        let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("alone-{standard}"));
        fs::write(&source, header).unwrap();
        run(Command::new(compiler)
            .args(["-x", language, "-fsyntax-only", &format!("-std={standard}")])
            .args(WARNINGS)
            .arg("-I")
            .arg(root().join("include"))
            .arg(source));
    }
}

/// Swift imports clang's C, where `__swift__` is defined: an enum must be a type of its own there, of its fixed size,
/// which is what functions return.
#[test]
fn enums_are_types_for_swift() {
    let text = "#include \"wg_embed.h\"\n\
        _Static_assert(_Generic(wg_turn_off(0), enum wg_result_t: 1, default: 0), \"the result is an enum\");\n\
        _Static_assert(sizeof(enum wg_result_t) == 4 && sizeof(enum wg_event_kind_t) == 4, \"of four bytes\");\n";
    match compiler("CLANG", &["clang"]) {
        None => println!("skipped: there is no clang, which Swift reads headers with"),
        Some(clang) => {
            let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("swift.c");
            fs::write(&source, text).unwrap();
            // Swift sets no standard that has such enums, and clang warns of them under -Wpedantic alone.
            run(Command::new(clang)
                .args(["-fsyntax-only", "-std=gnu11", "-D__swift__=60000", "-Wall", "-Wextra", "-Werror", "-I"])
                .arg(root().join("include"))
                .arg(source));
        }
    }
    match compiler("SWIFTC", &["swiftc"]) {
        None => println!("skipped: there is no swiftc"),
        Some(swiftc) => {
            let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header.swift");
            fs::write(
                &source,
                "let off: Bool = wg_turn_off(1) == WG_OK\nprint(off, WG_EVENT_ENDED.rawValue as UInt32)\n",
            )
            .unwrap();
            run(Command::new(swiftc)
                .args(["-typecheck", "-import-objc-header"])
                .arg(root().join("include/wg_embed.h"))
                .arg(source));
        }
    }
}

/// The symbols that `nm` lists with `which`, without their versions.
#[cfg(target_os = "linux")]
fn symbols(which: &str) -> Option<Vec<String>> {
    let nm = compiler("NM", &["nm", "llvm-nm"])?;
    let output = Command::new(nm).args(["-D", which]).arg(libraries().join("libwg_embed.so")).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| Some(line.split_whitespace().last()?.split('@').next()?.to_owned());
    let mut names: Vec<_> = text.lines().filter_map(name).collect();
    names.sort_unstable();
    Some(names)
}

/// The names that C can link against, as they are written down.
#[cfg(target_os = "linux")]
#[test]
fn only_the_known_symbols_are_exported() {
    let Some(exported) = symbols("--defined-only") else {
        return;
    };
    let known = fs::read_to_string(root().join("abi/symbols.txt")).unwrap();
    assert_eq!(exported, known.lines().collect::<Vec<_>>());
    // And each of them is in the header.
    let header = fs::read_to_string(root().join("include/wg_embed.h")).unwrap();
    for name in known.lines() {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
}

/// A program that drives the kernel's WireGuard by wireguard-tools' embeddable-wg-library can have both.
#[test]
fn no_name_is_one_of_embeddable_wg_library() {
    c_test("wireguard_tools", "c99");
    let source = fs::read_to_string(root().join("tests/c/wireguard_tools.c")).unwrap();
    let known = fs::read_to_string(root().join("abi/symbols.txt")).unwrap();
    let declared = |line: &str| {
        let name = line.strip_suffix(");")?.split_once('(')?.0.rsplit([' ', '*']).next()?;
        (!line.starts_with(' ') && name.starts_with("wg_")).then(|| name.to_owned())
    };
    let theirs: Vec<_> = source.lines().filter_map(declared).collect();
    assert_eq!(theirs.len(), 12, "{theirs:?}");
    let same: Vec<_> = known.lines().filter(|ours| theirs.iter().any(|name| name == ours)).collect();
    assert!(same.is_empty(), "these are names of embeddable-wg-library: {same:?}");
}

/// The library does not even know how to end the process, start another or handle a signal.
#[cfg(target_os = "linux")]
#[test]
fn the_process_is_the_hosts() {
    let Some(used) = symbols("--undefined-only") else {
        return;
    };
    assert!(used.contains(&"recvmmsg".into()), "these are the symbols of the system");
    for name in
        ["exit", "_exit", "fork", "execve", "execvp", "posix_spawn", "sigaction", "signal", "sigprocmask", "kill"]
    {
        assert!(!used.contains(&name.into()), "the library uses {name}");
    }
}
