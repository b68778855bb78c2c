//! What the command line asks for.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Run { interface: String, foreground: bool },
}

/// Reads the arguments. `foreground` is what holds without the option.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>, mut foreground: bool) -> Result<Command, String> {
    let mut interface = None;
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            Arg::Short('f') | Arg::Long("foreground") => foreground = true,
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Value(name) if interface.is_none() => {
                let name = name.into_string().map_err(|name| format!("the interface name {name:?} is not UTF-8"))?;
                interface = Some(name);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    let interface = interface.ok_or("an interface name is missing")?;
    Ok(Command::Run { interface, foreground })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(OsString::from), false)
    }

    fn run(interface: &str, foreground: bool) -> Result<Command, String> {
        Ok(Command::Run { interface: interface.into(), foreground })
    }

    #[test]
    fn one_interface_and_maybe_the_foreground() {
        assert_eq!(parse_words("wg0"), run("wg0", false));
        for text in ["-f wg0", "--foreground wg0", "wg0 -f", "-f -- wg0"] {
            assert_eq!(parse_words(text), run("wg0", true), "{text}");
        }
        assert_eq!(parse_words("-- -f"), run("-f", false));
        assert_eq!(parse([OsString::from("wg0")].into_iter(), true), run("wg0", true));
    }

    #[test]
    fn help_and_version_need_nothing_else() {
        assert_eq!(parse_words("--version"), Ok(Command::Version));
        assert_eq!(parse_words("--help"), Ok(Command::Help));
        assert_eq!(parse_words("-h wg0"), Ok(Command::Help));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "-f", "wg0 wg1", "-x wg0", "--foreground=yes wg0", "--fore wg0"] {
            assert!(parse_words(text).is_err(), "{text:?}");
        }
    }
}
