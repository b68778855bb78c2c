//! The C tests of the userspace network and of control calls, with a library that has both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::{C, build_in, compiler, program_with, root};

/// Where the library with the network is: not where the other one is, which has the same name.
fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("netstack");
        build_in(&target, "wg-embed-capi", &["--features", "netstack,control"])
    })
}

pub(super) fn c_program(source: &Path, standard: &str) {
    program_with(libraries(), C, source, standard, &[]);
}

fn c_test(name: &str, standard: &str) {
    c_program(Path::new(&format!("tests/c/{name}.c")), standard);
}

#[test]
fn the_layout_is_fixed_with_a_network_as_well() {
    c_test("layout", "c11");
}

#[test]
fn connections_are_descriptors() {
    c_test("net", "c99");
}

#[test]
fn connections_to_any_address_are_intercepted() {
    c_test("net_intercept", "c99");
}

#[test]
fn what_does_not_come_about_has_a_code_and_leaves_nothing() {
    c_test("net_errors", "c99");
}

#[test]
fn a_network_ends_with_its_tunnel() {
    c_test("net_ends", "c99");
}

#[test]
fn what_apps_and_systems_lack_has_a_code() {
    c_test("net_faults", "c99");
}

#[test]
fn what_a_network_keeps_is_limited() {
    c_test("net_limits", "c99");
}

#[test]
fn networks_come_and_go_without_a_trace() {
    c_test("net_cycles", "c99");
}

#[test]
fn other_programs_use_a_network_by_proxies() {
    c_test("net_proxies", "c99");
}

#[test]
fn options_work_as_without_a_network() {
    c_test("options", "c99");
}

#[test]
fn descriptors_are_as_many_as_documented() {
    c_test("descriptors", "c99");
}

#[test]
fn structs_may_be_older_or_newer() {
    c_test("sizes", "c99");
}

#[test]
fn calls_from_inside_callbacks_are_refused() {
    c_test("reentry", "c99");
}

#[test]
fn a_child_cannot_reach_the_networks_of_its_parent() {
    c_test("fork", "c99");
}

#[test]
fn control_calls_are_messages() {
    c_test("wireproto", "c99");
}

#[test]
fn a_program_manages_tunnels() {
    c_test("manager", "c99");
}

#[test]
fn the_examples_run() {
    for name in ["net_http_get", "net_echo", "net_proxy", "net_managed"] {
        c_program(Path::new(&format!("examples/c/{name}.c")), "c99");
    }
}

/// The names in a file of `abi/`.
fn names(file: &str) -> Vec<String> {
    fs::read_to_string(root().join("abi").join(file)).unwrap().lines().map(Into::into).collect()
}

#[test]
fn nonsense_does_no_harm() {
    let table = fs::read_to_string(root().join("tests/c/net_fuzz.c")).unwrap();
    let names = names("symbols-netstack.txt");
    assert!(names.len() > 8, "these are the functions");
    for name in names {
        assert!(table.contains(&format!("FUZZED({name},")), "tests/c/net_fuzz.c does not call {name}");
    }
    program_with(libraries(), C, &root().join("tests/c/net_fuzz.c"), "c11", &["20261129", "8"]);
}

#[test]
fn only_the_known_symbols_are_exported() {
    let Some(nm) = compiler("NM", &["nm", "llvm-nm"]) else {
        return;
    };
    let library = libraries().join("libwg_embed.so");
    let output = Command::new(nm).args(["-D", "--defined-only"]).arg(library).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut exported: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    exported.sort_unstable();
    let mut known = [names("symbols.txt"), names("symbols-netstack.txt"), names("symbols-control.txt")].concat();
    known.sort_unstable();
    assert_eq!(exported, known);
    let header = fs::read_to_string(root().join("include/wg_embed.h")).unwrap();
    for name in [names("symbols-netstack.txt"), names("symbols-control.txt")].concat() {
        assert!(header.contains(&format!(" {name}(")), "{name} is not in the header");
    }
}
