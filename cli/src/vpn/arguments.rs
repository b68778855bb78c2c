//! The command line and the environment.

use std::{
    ffi::{OsStr, OsString},
    os::fd::RawFd,
};

use lexopt::{Arg, Parser};
use wg_embed_manager::tunnel::Settings;
use wg_embed_tunnel::engine::{Network, Options};

/// The selected command.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Version,
    Run(Run),
}

/// Options of the tunnel.
#[derive(Debug)]
pub(crate) struct Run {
    /// The descriptor that the manager writes to.
    pub(crate) read: RawFd,
    /// The descriptor that the manager reads from.
    pub(crate) write: RawFd,
    pub(crate) network: Network,
    pub(crate) interface: String,
    /// Where the system's network is configured.
    pub(crate) settings: Settings,
}

/// An option, and the corresponding variable.
const READ: (&str, &str) = ("rpc-read-fd", "CODER_VPN_DAEMON_RPC_READ_FD");
const WRITE: (&str, &str) = ("rpc-write-fd", "CODER_VPN_DAEMON_RPC_WRITE_FD");
const NETWORK: (&str, &str) = ("network", "WG_EMBED_VPN_NETWORK");
const INTERFACE: (&str, &str) = ("interface", "WG_EMBED_VPN_INTERFACE");
const SETTINGS: (&str, &str) = ("settings", "WG_EMBED_VPN_SETTINGS");

/// Values with the names of their options or variables.
#[derive(Default)]
struct Values([Option<(String, String)>; 5]);

/// Reads the arguments behind `vpn-daemon`. `environment` returns a variable; options take precedence.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut values = Values::default();
    let options = [READ, WRITE, NETWORK, INTERFACE, SETTINGS];
    for (place, (_, variable)) in values.0.iter_mut().zip(options) {
        if let Some(value) = environment(variable).filter(|value| !value.is_empty()) {
            *place = Some((variable.to_owned(), text(variable, &value)?));
        }
    }
    let mut has_run = false;
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            Arg::Value(word) if !has_run && word == "run" => has_run = true,
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long(name) => {
                let Some(at) = options.iter().position(|(option, _)| *option == name) else {
                    return Err(argument.unexpected().to_string());
                };
                let name = format!("--{name}");
                let value = parser.value().map_err(|e| e.to_string())?;
                let value = text(&name, &value)?;
                if let Some(place) = values.0.get_mut(at) {
                    *place = Some((name, value));
                }
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    if !has_run {
        return Err("the only thing that it does is run".into());
    }
    values.run().map(Command::Run)
}

fn text(name: &str, value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| format!("{name}={}: not UTF-8", value.display()))
}

impl Values {
    fn run(self) -> Result<Run, String> {
        let [read, write, network, interface, settings] = self.0;
        let (read, write) = (descriptor(read, READ)?, descriptor(write, WRITE)?);
        if read == write {
            return Err(format!("the descriptors to read from and to write to are both {read}"));
        }
        let network = match network.as_ref().map(|(name, value)| (name, value.as_str())) {
            None | Some((_, "auto")) => Network::Auto,
            Some((_, "interface")) => Network::Interface,
            Some((_, "userspace")) => Network::Userspace,
            Some((name, value)) => return Err(format!("{name}={value}: not auto, interface or userspace")),
        };
        let settings = match settings.as_ref().map(|(name, value)| (name, value.as_str())) {
            None => Settings::default(),
            Some((_, "ask")) => Settings::ask(),
            Some((_, "own")) => Settings::Own,
            Some((name, value)) => return Err(format!("{name}={value}: neither ask nor own")),
        };
        let interface = interface.map_or_else(|| Options::default().interface, |(_, value)| value);
        Ok(Run { read, write, network, interface, settings })
    }
}

fn descriptor(value: Option<(String, String)>, (option, variable): (&str, &str)) -> Result<RawFd, String> {
    let (name, value) = value.ok_or_else(|| format!("--{option} or {variable} is missing"))?;
    let fd = value.parse::<RawFd>().ok().filter(|fd| *fd >= 0);
    fd.ok_or_else(|| format!("{name}={value}: not the number of a descriptor"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn run(words: &str, variables: &[(&str, &str)]) -> Result<Run, String> {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        match parse(words.split_whitespace().map(OsString::from), environment)? {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_stronger_than_variables() {
        let both = [(READ.1, "3"), (WRITE.1, "4"), (NETWORK.1, "userspace"), (SETTINGS.1, "ask"), (INTERFACE.1, "")];
        let by_environment = run("run", &both).unwrap();
        assert_eq!((by_environment.read, by_environment.write), (3, 4));
        assert_eq!((by_environment.network, by_environment.settings), (Network::Userspace, Settings::ask()));
        assert_eq!(by_environment.interface, "wg-vpn0");
        let by_options =
            run("run --rpc-read-fd 5 --rpc-write-fd=6 --network auto --settings own --interface wg7", &both).unwrap();
        assert_eq!((by_options.read, by_options.write, by_options.interface.as_str()), (5, 6, "wg7"));
        assert_eq!((by_options.network, by_options.settings), (Network::Auto, Settings::Own));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (words, complaint) in [
            ("", "run"),
            ("stop", "stop"),
            ("run", "--rpc-read-fd or CODER_VPN_DAEMON_RPC_READ_FD is missing"),
            ("run --rpc-read-fd 3", "--rpc-write-fd or"),
            ("run --rpc-read-fd -3 --rpc-write-fd 4", "--rpc-read-fd=-3: not the number"),
            ("run --rpc-read-fd 3 --rpc-write-fd x", "--rpc-write-fd=x: not the number"),
            ("run --rpc-read-fd 3 --rpc-write-fd 3", "both 3"),
            ("run --rpc-read-fd 3 --rpc-write-fd 4 --network tap", "--network=tap"),
            ("run --rpc-read-fd 3 --rpc-write-fd 4 --settings us", "--settings=us"),
            ("run --rpc-read-fd 3 --rpc-write-fd 4 --fast", "--fast"),
            ("run run", "run"),
        ] {
            let error = run(words, &[]).unwrap_err();
            assert!(error.contains(complaint), "{words}: {error}");
        }
        assert!(run("run", &[(READ.1, "-1"), (WRITE.1, "4")]).unwrap_err().contains(READ.1));
    }
}
