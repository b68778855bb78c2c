//! The command line.

use std::{ffi::OsString, path::PathBuf};

use lexopt::{Arg, Parser};

/// The selected command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Run(Run),
}

/// Options of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) interface: String,
    pub(crate) foreground: bool,
    /// The directory of the control socket.
    pub(crate) socket_directory: Option<PathBuf>,
    /// The path of the control socket for WireProto messages, if there is one.
    pub(crate) wireproto_socket: Option<PathBuf>,
    /// The `USER[:GROUP]` to run as.
    pub(crate) user: Option<String>,
}

/// Reads the arguments. `foreground` and `socket_directory` are the values without the options.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    mut foreground: bool,
    mut socket_directory: Option<PathBuf>,
) -> Result<Command, String> {
    let (mut interface, mut user, mut wireproto_socket) = (None, None, None);
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            Arg::Short('f') | Arg::Long("foreground") => foreground = true,
            Arg::Long("socket-dir") => {
                let directory = PathBuf::from(parser.value().map_err(|e| e.to_string())?);
                if directory.as_os_str().is_empty() {
                    return Err("--socket-dir names no directory".into());
                }
                socket_directory = Some(directory);
            }
            Arg::Long("wireproto-socket") => {
                let path = PathBuf::from(parser.value().map_err(|e| e.to_string())?);
                if path.as_os_str().is_empty() {
                    return Err("--wireproto-socket names no file".into());
                }
                wireproto_socket = Some(path);
            }
            Arg::Long("user") => {
                let name = parser.value().map_err(|e| e.to_string())?;
                user = Some(name.into_string().map_err(|name| format!("the user {name:?} is not UTF-8"))?);
            }
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
    Ok(Command::Run(Run { interface, foreground, socket_directory, wireproto_socket, user }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(OsString::from), false, None)
    }

    fn run(interface: &str, foreground: bool) -> Result<Command, String> {
        Ok(Command::Run(Run {
            interface: interface.into(),
            foreground,
            socket_directory: None,
            wireproto_socket: None,
            user: None,
        }))
    }

    #[test]
    fn one_interface_and_maybe_the_foreground() {
        assert_eq!(parse_words("wg0"), run("wg0", false));
        for text in ["-f wg0", "--foreground wg0", "wg0 -f", "-f -- wg0"] {
            assert_eq!(parse_words(text), run("wg0", true), "{text}");
        }
        assert_eq!(parse_words("-- -f"), run("-f", false));
        assert_eq!(parse([OsString::from("wg0")].into_iter(), true, None), run("wg0", true));
    }

    #[test]
    fn the_sockets_directory_can_be_chosen() {
        for text in ["--socket-dir /a/b wg0", "wg0 --socket-dir=/a/b"] {
            let Ok(Command::Run(run)) = parse_words(text) else {
                unreachable!("{text}");
            };
            assert_eq!(run.socket_directory, Some(PathBuf::from("/a/b")));
        }
    }

    #[test]
    fn a_second_socket_can_be_asked_for() {
        for text in ["--wireproto-socket /a/b wg0", "wg0 --wireproto-socket=/a/b"] {
            let Ok(Command::Run(run)) = parse_words(text) else {
                unreachable!("{text}");
            };
            assert_eq!(run.wireproto_socket, Some(PathBuf::from("/a/b")));
        }
    }

    #[test]
    fn a_user_can_be_named() {
        for text in ["--user a:b wg0", "wg0 --user=a:b"] {
            let Ok(Command::Run(run)) = parse_words(text) else {
                unreachable!("{text}");
            };
            assert_eq!(run.user.as_deref(), Some("a:b"));
        }
    }

    #[test]
    fn help_and_version_need_nothing_else() {
        assert_eq!(parse_words("--version"), Ok(Command::Version));
        assert_eq!(parse_words("--help"), Ok(Command::Help));
        assert_eq!(parse_words("-h wg0"), Ok(Command::Help));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "-f",
            "wg0 wg1",
            "-x wg0",
            "--foreground=yes wg0",
            "--fore wg0",
            "wg0 --socket-dir",
            "wg0 --socket-dir=",
            "wg0 --user",
            "wg0 --wireproto-socket",
            "wg0 --wireproto-socket=",
        ] {
            assert!(parse_words(text).is_err(), "{text:?}");
        }
    }
}
