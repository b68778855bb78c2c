//! Names of peers in comments, which WireGuard ignores.

/// The maximum length of a name, in bytes.
const MOST: usize = 255;

/// Returns the name of each `[Peer]`, in order: that of the last `# Name = x` in its section, or in the comment lines
/// directly above it. A file in UTF-16 has none.
pub(super) fn names(bytes: &[u8]) -> Vec<Option<String>> {
    let mut names: Vec<Option<String>> = Vec::new();
    // Comment lines with no other line behind them so far: they may be above a section.
    let mut above = None;
    let put = |names: &mut Vec<Option<String>>, in_peer: bool, name: Option<String>| {
        if let (true, Some(last), Some(name)) = (in_peer, names.last_mut(), name) {
            *last = Some(name);
        }
    };
    let mut in_peer = false;
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if let Some(comment) = line.strip_prefix(b"#") {
            above = name(comment).or(above);
            continue;
        }
        if line.starts_with(b"[") {
            let header: Vec<_> = line.split(|byte| *byte == b'#').next().unwrap_or_default().to_vec();
            let header: Vec<_> = header.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let begins_peer = header.eq_ignore_ascii_case(b"[Peer]");
            if begins_peer {
                names.push(above.take());
            } else {
                put(&mut names, in_peer, above.take());
            }
            in_peer = begins_peer;
            continue;
        }
        put(&mut names, in_peer, above.take());
        // Behind a key and its value.
        let behind = line.iter().position(|byte| *byte == b'#').and_then(|at| line.get(at + 1..));
        put(&mut names, in_peer, behind.and_then(name));
    }
    put(&mut names, in_peer, above);
    names
}

/// Returns the name in a comment.
fn name(comment: &[u8]) -> Option<String> {
    let comment = String::from_utf8_lossy(comment);
    let (key, value) = comment.split_once('=')?;
    if !key.trim().eq_ignore_ascii_case("name") {
        return None;
    }
    let name: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let name = name.trim();
    (!name.is_empty() && name.len() <= MOST).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn names_are_in_a_section_or_right_above_it() {
        let text = "# Name = the interface\n[Interface]\n# Name = mine\nPrivateKey = x\n\
            [Peer]\n#name=first\nPublicKey = a\n\
            \n# Name = second \n# and more\n[ peer ] # Name = no\nPublicKey = b\n\
            [Peer]\nPublicKey = c # Name = third\n\n\
            [Peer]\nPublicKey = d\n# Name = \n# Surname = x\n\n\
            [Peer]\n# Name = e\n# Name = last = one\n\
            [Other]\n# Name = x\n";
        let expected = [Some("first"), Some("second"), Some("third"), None, Some("last = one")];
        assert_eq!(names(text.as_bytes()).iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn names_are_one_line_and_any_bytes_are_read() {
        assert_eq!(names(b"[Peer]\r\n# Name = a\x01\xffb\r\n"), [Some("a \u{fffd}b".to_owned())]);
        let long = format!("[Peer]\n# Name = {}", "x".repeat(256));
        assert_eq!(names(long.as_bytes()), [None]);
        assert_eq!(names(b"# Name = a\n\xff\xfe"), []);
    }
}
