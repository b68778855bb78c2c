//! The examples of docs/WIREPROTO.md are what the service does. `WRITE=1 cargo test -p wg-embed-wireproto-service
//! --test document` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::{fmt::Write, fs, path::Path, sync::Arc};

use common::{Command, PEER, json, one, result, tunnel};
use wg_embed::device::Event;
use wg_embed_wireproto_service::{Hub, Options, Session};

const BEGIN: &str = "<!-- examples: tests/document.rs writes them -->\n";
const END: &str = "<!-- end of the examples -->\n";

/// Sixteen bytes a line, and their text.
fn dump(bytes: &[u8]) -> String {
    bytes.chunks(16).fold(String::new(), |mut out, row| {
        let hex: Vec<String> =
            row.chunks(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        let text: String = row
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        writeln!(out, "{:36} {}", hex.join(" "), text.trim_end()).unwrap();
        out
    })
}

fn examples() -> String {
    let tunnel = tunnel();
    let hub = Arc::new(Hub::default());
    let session = Session::new(Options::default(), Some(hub.clone()));
    let mut out = String::new();
    let mut example = |what: &str, command: Command<'_>, shows: bool| {
        let request = one(command);
        let response = session.call(&tunnel, &request);
        let name = String::from_utf8_lossy(command[0].1);
        write!(out, "`{name}`{what}:\n\n```\n{}```\n\n", dump(&request)).unwrap();
        if shows {
            write!(out, "```\n{}```\n\n", dump(&response)).unwrap();
        }
        response
    };
    let set: Command<'_> =
        &[("cmd", b"set"), ("listen_port", &[0xca, 0x6c]), ("public_key", &PEER), ("allowed_ip", b"10.0.0.2/32")];
    example(" with typed fields: a port, and a peer with one address", set, true);
    example(", text", &[("cmd", b"get")], true);
    example(" of all", &[("cmd", b"peers")], true);
    session_begins(&mut example);
    hub.note(&Event::SocketsRecovered(51820));
    example(", after the sockets were opened again", &[("cmd", b"events")], true);
    example("", &[("cmd", b"version")], true);
    example(" that fails, as the key is too short", &[("cmd", b"peers"), ("public_key", b"short")], true);
    let stats =
        example("; the names of its result, whose numbers differ, are listed below", &[("cmd", b"stats")], false);
    let stats = json(&result(&stats));
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let mut lines = String::new();
    let listed =
        format!("{}\nmemory: {}\ncounters: {}", names(&stats), names(&stats["memory"]), names(&stats["counters"]));
    for line in listed.lines() {
        let mut column = 0;
        for word in line.split(' ') {
            if column + word.len() > 100 {
                lines.push_str("\n   ");
                column = 3;
            }
            let space = if column == 0 { "" } else { " " };
            column += space.len() + word.len();
            lines.push_str(space);
            lines.push_str(word);
        }
        lines.push('\n');
    }
    write!(out, "```\n{lines}```\n\n").unwrap();
    out
}

/// Events are kept from the first question on.
fn session_begins<T>(example: &mut impl FnMut(&str, Command<'_>, bool) -> T) {
    example(", the first of a client, from which on events are kept for it", &[("cmd", b"events")], true);
}

#[test]
fn the_document_has_these_examples() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/WIREPROTO.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let expected = format!("\n{}", examples());
    if std::env::var_os("WRITE").is_some() {
        return fs::write(&path, [before, BEGIN, &expected, END, after].concat()).unwrap();
    }
    assert!(shown == expected, "WRITE=1 cargo test -p wg-embed-wireproto-service --test document\n{expected}");
}
