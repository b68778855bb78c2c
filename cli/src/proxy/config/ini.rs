//! Parses INI text into sections, which may be repeated, and their keys.

use zeroize::Zeroizing;

/// A `[Name]` and its contents. The first section has no name: it is the part before any header.
#[derive(Default)]
pub(super) struct Section {
    /// In lower case.
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) keys: Vec<Key>,
}

pub(super) struct Key {
    /// In lower case.
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) value: Zeroizing<String>,
}

/// Reads a text. Errors have a line, but no value.
pub(super) fn parse(text: &str) -> Result<Vec<Section>, Vec<(usize, String)>> {
    let mut sections = vec![Section::default()];
    let mut errors = Vec::new();
    for (line, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((name, rest)) if rest.trim().is_empty() || rest.trim().starts_with(['#', ';']) => {
                    let name = name.trim().to_ascii_lowercase();
                    sections.push(Section { name, line, keys: Vec::new() });
                }
                _ => errors.push((line, "a section's header is not [Name]".into())),
            }
        } else if let Some((name, value)) = text.split_once(['=', ':']) {
            let key =
                Key { name: name.trim().to_ascii_lowercase(), line, value: plain(value.trim()).to_owned().into() };
            if let Some(section) = sections.last_mut() {
                section.keys.push(key);
            }
        } else {
            errors.push((line, "neither [Section] nor Key = Value".into()));
        }
    }
    if errors.is_empty() { Ok(sections) } else { Err(errors) }
}

/// Returns a value without its comment, or the text between its quotes.
fn plain(text: &str) -> &str {
    for quote in ['"', '\'', '`'] {
        if let Some((inside, rest)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote))
            && (rest.trim_start().is_empty() || rest.trim_start().starts_with(['#', ';']))
        {
            return inside;
        }
    }
    if text.starts_with(['#', ';']) {
        return "";
    }
    let comment = text.match_indices(['#', ';']).find(|(at, _)| text[..*at].ends_with([' ', '\t']));
    comment.map_or(text, |(at, _)| text[..at].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_repeat_and_comments_go() {
        let sections = parse("A = 1\n[ Http ]\nB=\"x # y\" # z\nc = d#e ;f\n[HTTP]\n").ok().unwrap_or_default();
        let names: Vec<_> = sections.iter().map(|section| (&*section.name, section.line)).collect();
        assert_eq!(names, [("", 0), ("http", 2), ("http", 5)]);
        let values: Vec<_> = sections[1].keys.iter().map(|key| (&*key.name, key.value.as_str())).collect();
        assert_eq!(values, [("b", "x # y"), ("c", "d#e")]);
    }

    /// As go-ini, which wireproxy uses.
    #[test]
    fn quotes_and_colons() {
        for (line, name, value) in [
            ("a = 'b c' # d", "a", "b c"),
            ("a = 'b' c'", "a", "'b' c'"),
            ("a = it's", "a", "it's"),
            ("a = 'b", "a", "'b"),
            ("a = \"b\"c", "a", "\"b\"c"),
            ("a = ''", "a", ""),
            ("Address: fd00::2/128", "address", "fd00::2/128"),
            ("a::1080", "a", ":1080"),
            ("a: b = c", "a", "b = c"),
            ("a = [::]:51820", "a", "[::]:51820"),
            ("a=b:c", "a", "b:c"),
        ] {
            let sections = parse(line).ok().unwrap_or_default();
            let keys: Vec<_> = sections[0].keys.iter().map(|key| (&*key.name, key.value.as_str())).collect();
            assert_eq!(keys, [(name, value)], "{line}");
        }
        let sections = parse("[a:b=c]\n").ok().unwrap_or_default();
        assert_eq!(sections[1].name, "a:b=c");
    }

    #[test]
    fn all_bad_lines_are_reported() {
        let lines: Vec<_> =
            parse("nothing\n[open\n[a] b\n").err().into_iter().flatten().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 3]);
    }
}
