//! The command line of `wg-embed proxy`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use lexopt::{Arg, Parser};

use super::config;

/// The selected command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Version,
    Run(Run),
}

/// Options of the proxy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// The path of the configuration; `None` for a default path.
    pub(crate) config: Option<PathBuf>,
    pub(crate) silent: bool,
    pub(crate) daemon: bool,
    /// The address that serves `/metrics` and `/readyz`.
    pub(crate) info: Option<SocketAddr>,
    /// Whether to only check the configuration.
    pub(crate) test: bool,
}

/// Reads the arguments after `proxy`.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut run = Run::default();
    let mut parser = Parser::from_args(arguments);
    let say = |error: lexopt::Error| error.to_string();
    while let Some(argument) = parser.next().map_err(say)? {
        match argument {
            Arg::Short('c') | Arg::Long("config") => run.config = Some(parser.value().map_err(say)?.into()),
            Arg::Short('s') | Arg::Long("silent") => run.silent = true,
            Arg::Short('d') | Arg::Long("daemon") => run.daemon = true,
            Arg::Short('i') | Arg::Long("info") => {
                let text = parser.value().map_err(say)?;
                let address = text.to_str().and_then(config::socket_address);
                run.info = Some(address.ok_or_else(|| format!("--info {}: not ADDRESS:PORT", text.display()))?);
            }
            Arg::Short('n') | Arg::Long("configtest") => run.test = true,
            Arg::Short('v') | Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Command::Run(run))
}

/// Returns the path of the configuration: the requested one, or the first default path that exists.
pub(crate) fn path(asked: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(path) = asked {
        return Ok(path);
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/wireproxy.conf"));
    let paths = std::iter::once(PathBuf::from("/etc/wireproxy/wireproxy.conf")).chain(home);
    paths.into_iter().find(|path| path.exists()).ok_or_else(|| "no configuration: use -c FILE".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_of_wireproxy() {
        let run = Run {
            config: Some("a".into()),
            silent: true,
            daemon: true,
            info: Some(([127, 0, 0, 1], 9080).into()),
            test: true,
        };
        assert_eq!(words("-c a -s -d -i localhost:9080 -n"), Ok(Command::Run(run)));
        assert_eq!(words("-v"), Ok(Command::Version));
        let info = |text: &str| match words(text) {
            Ok(Command::Run(run)) => run.info,
            _ => None,
        };
        assert!(info("-i :9080").is_some_and(|at| at.ip().is_unspecified() && at.port() == 9080));
        assert_eq!(info("-i [::1]:9080"), "[::1]:9080".parse().ok());
        for text in ["-c", "-x", "-i nowhere", "-i 1.2.3.4", "-i :", "-i :+1", "-i localhost:x", "a"] {
            assert!(words(text).is_err(), "{text}");
        }
    }
}
