//! Files of wg-quick: the reader and the one that reports every problem agree, and what was read is, written again as a
//! file or as a `set`, read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    Conf, Update,
    config::wgquick::check,
    uapi::{Limits, parse_set, set_text},
};

fuzz_target!(|input: &[u8]| {
    let read = Conf::from_bytes(input);
    let Ok(checked) = check(input) else {
        return assert!(read.is_err());
    };
    assert_eq!(checked.problems.is_empty(), read.is_ok());
    assert_eq!(checked.peer_lines.len(), checked.conf.update.peers.len());
    let lines: Vec<_> = checked.text.split('\n').collect();
    assert!(checked.peer_lines.iter().all(|line| (1..=lines.len()).contains(line)));
    assert!(checked.problems.is_sorted_by_key(|problem| problem.line));
    for problem in &checked.problems {
        // The text that is marked.
        let _: &str = &lines[problem.line - 1][problem.span.clone()];
    }
    let Ok(conf) = read else { return };
    assert_eq!(conf, checked.conf);

    let text = conf.to_text().unwrap();
    assert_eq!(text.parse::<Conf>().unwrap(), conf);
    let limits = Limits { host_names: true, ..Limits::default() };
    assert_eq!(parse_set(&set_text(&conf.update).unwrap(), limits).unwrap(), conf.update);
    assert_eq!(conf.update.since(&conf.update), Update::default());
});
