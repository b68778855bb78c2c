//! Libraries of others in Rust: one that is built over the core exports only its own functions, and the static library
//! for C can be linked beside one.

use std::{path::Path, process::Command};

use super::{C, build, compiler, root, run, skip::skipped};

fn names(library: &Path, options: &[&str]) -> Option<Vec<String>> {
    let output = match Command::new("nm").args(options).arg(library).output() {
        Ok(output) => output,
        Err(error) => {
            skipped(format!("nm cannot be run: {error}"));
            return None;
        }
    };
    assert!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(2)).map(Into::into).collect();
    names.sort_unstable();
    Some(names)
}

#[test]
fn a_library_over_the_core_exports_its_own_functions_only() {
    let library = build("foreign").join("libforeign.so");
    if let Some(names) = names(&library, &["-D", "--defined-only"]) {
        assert_eq!(names, ["foreign_key_len"]);
    }
}

const PROGRAM: &str = r#"
#include "wg_embed.h"

size_t foreign_key_len(void);

int main(void) {
  if (foreign_key_len() != WG_KEY_LEN) return 1;
  if (wg_turn_on(-1, "") != WG_ERR_INVALID) return 2;
  return wg_last_error()[0] == 0 ? 3 : 0;
}
"#;

#[test]
fn the_static_library_is_linked_beside_another_one_in_rust() {
    let Some(cc) = compiler(C.0, C.1) else {
        return;
    };
    let (ours, theirs) = (build("wg-embed-capi").join("libwg_embed.a"), build("foreign").join("libforeign.a"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program, local) = (out.join("beside.c"), out.join("beside"), out.join("libwg_embed.a"));
    let symbols = root().join("abi/symbols.txt");
    let Some(names) = names(&ours, &["-g", "--defined-only"]) else {
        return;
    };
    run(Command::new(root().join("capi/localize.sh")).args([&ours, &local, &symbols]));
    let listed = std::fs::read_to_string(symbols).unwrap();
    let listed: Vec<_> = listed.lines().collect();
    assert!(names.len() > listed.len(), "there is something to make local");
    assert_eq!(self::names(&local, &["-g", "--defined-only"]).unwrap(), listed);
    std::fs::write(&source, PROGRAM).unwrap();
    run(Command::new(cc)
        .arg("-I")
        .arg(root().join("include"))
        .args([&source, &local, &theirs])
        .args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-o"])
        .arg(&program));
    run(&mut Command::new(program));
}
