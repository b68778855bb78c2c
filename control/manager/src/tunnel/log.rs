//! The values of the fields of log lines, as text.

use std::fmt::Write;

/// Formats a text as the value of a field: unchanged, or [`quote`]d if it is empty, has white space or needs escapes.
/// Bytes are always quoted; an absent value is `<nil>`, and a value with fields of its own is JSON, unchanged.
#[must_use]
pub fn value(text: &str) -> String {
    let is_bare = !text.is_empty()
        && !text.chars().any(|char| char.is_whitespace() || matches!(char, '"' | '\\') || !is_printable(char));
    if is_bare { text.to_owned() } else { quote(text.as_bytes()) }
}

fn is_printable(char: char) -> bool {
    // Marks are escaped as well, although they can be printed.
    char.escape_debug().next() != Some('\\')
        || matches!(char, '"' | '\'' | '\\')
        || !char.is_ascii() && char.is_alphanumeric()
}

/// Formats bytes between quotation marks, with the escapes of a string in Go.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            let escape = match char {
                '\u{7}' => 'a',
                '\u{8}' => 'b',
                '\u{c}' => 'f',
                '\n' => 'n',
                '\r' => 'r',
                '\t' => 't',
                '\u{b}' => 'v',
                '\\' | '"' => char,
                _ => {
                    // A String takes everything.
                    let _ = match (u32::from(char), is_printable(char)) {
                        (_, true) => write!(quoted, "{char}"),
                        (code @ ..0x80, false) => write!(quoted, "\\x{code:02x}"),
                        (code @ ..0x1_0000, false) => write!(quoted, "\\u{code:04x}"),
                        (code, false) => write!(quoted, "\\U{code:08x}"),
                    };
                    continue;
                }
            };
            quoted.push('\\');
            quoted.push(escape);
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::{quote, value};

    #[test]
    fn values_are_bare_or_quoted() {
        for (text, expected) in [
            ("", r#""""#),
            ("1280", "1280"),
            ("https://coder.example.com", "https://coder.example.com"),
            ("two words", r#""two words""#),
            ("a\u{1}b", r#""a\x01b""#),
            ("<nil>", "<nil>"),
            ("a\"b", r#""a\"b""#),
            ("gr\u{fc}n", "gr\u{fc}n"),
            ("\u{200b}", r#""\u200b""#),
            ("\u{e0001}", r#""\U000e0001""#),
            ("line\nnext\t\\", r#""line\nnext\t\\""#),
        ] {
            assert_eq!(value(text), expected);
        }
        assert_eq!(quote(b"\xff\x00\x7fa"), r#""\xff\x00\x7fa""#);
    }
}
